"""The http prober against scripted sites: reasons, phases, durations, redirects, cleanup.

Side by side with the original stand the values (tests/peers); here stands what only ours has, and why it happens.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.network import address_choice, lookup
from probe_exporter.prober.failure import Reason
from probe_exporter.probers import http
from probe_exporter.probers.http import HttpSettings, prober, with_hostname
from probe_exporter.protocols.dialogue.steps import FAILED_BY_REGEXP
from probe_exporter.runner import Result, run
from probe_exporter.tls import metrics
from tests.outcomes import seconds_of_phases, why
from tests.targets import Answer, End, Pause, Pki, Repeat, Site, Tls, chunked, raw, redirect, reply, silence

OK = reply(200, b"ok")


def module(**settings: Any) -> Module:
    return Module("m", prober, HttpSettings.model_validate(settings), 0.0, Place("test.yml"))


async def probe(site: Site, target: str = "http://127.0.0.1:{port}/", timeout: float = 20.0, **settings: Any) -> Result:
    """Probe a page of a running site."""
    return await run(module(**settings), site.fill(target), timeout)


async def one(pages: Answer | Mapping[str, Answer], timeout: float = 20.0, **settings: Any) -> Result:
    """Probe the first page of a new site."""
    async with Site({"/": pages} if isinstance(pages, Answer) else pages) as site:
        return await probe(site, timeout=timeout, **settings)


def seconds(result: Result) -> dict[str, float]:
    """Return the seconds of each phase."""
    return seconds_of_phases(result, http.DURATION)


def spent(result: Result) -> set[str]:
    """Return the phases with a duration above 0."""
    return {phase for phase, value in seconds(result).items() if value > 0}


ALL = {"resolve", "connect", "tls", "processing", "transfer"}


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give loopback addresses some names."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost www.example.test\n::1 six.test\n127.0.0.77 other.test\n127.0.0.1 other.test\n")
    monkeypatch.setattr(lookup, "HOSTS", path)


# --- success -----------------------------------------------------------------------------------------------


async def test_valid_page_passes() -> None:
    result = await one(OK)
    assert why(result) is None
    assert set(seconds(result)) == ALL
    assert spent(result) == ALL - {"tls"}


@pytest.mark.usefixtures("hosts")
async def test_valid_page_over_tls_passes(pki: Pki) -> None:
    async with Site({"/": OK}, Tls(), pki.directory) as site:
        tls_config = {"ca_file": str(pki.directory / "root.pem")}
        result = await probe(site, "https://localhost:{tls_port}/", tls_config=tls_config)
        assert why(result) is None
        assert spent(result) == ALL
        assert site.requests[0].server_name == "localhost"
    assert result.probe.samples.get(http.SSL) == 1
    assert metrics.CERTIFICATE_INFO in result.probe.samples.labelled


@pytest.mark.usefixtures("clock")
async def test_durations_count_the_server_s_delay_in_its_phase() -> None:
    """A pause of the server counts in the phase that it falls into and in no other."""
    page = raw(Pause(4), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", Pause(12), b"ok")
    result = await one(page)
    found = seconds(result)
    assert 3.9 < found["processing"] < 10
    assert found["transfer"] > 11.9
    assert found["connect"] < 3
    assert found["resolve"] < 3
    assert sum(found.values()) <= result.duration


@pytest.mark.usefixtures("clock")
async def test_durations_are_summed_over_redirects() -> None:
    late = (Pause(4),)
    pages = {
        "/": raw(*late, *redirect(302, "/1").parts),
        "/1": raw(*late, *redirect(302, "/2").parts),
        "/2": raw(*late, *OK.parts),
    }
    result = await one(pages)
    assert why(result) is None
    assert 11.9 < seconds(result)["processing"] <= result.duration
    assert seconds(result)["transfer"] < 4


# --- failures, each with its reason and its phases ---------------------------------------------------------

NOT_EVEN_RESOLVED = {
    "a control character": ("http://a\n/", Reason.TARGET_INVALID),
    "a bad escape": ("http://127.0.0.1/%zz", Reason.TARGET_INVALID),
}


@pytest.mark.parametrize(("target", "reason"), NOT_EVEN_RESOLVED.values(), ids=NOT_EVEN_RESOLVED)
async def test_invalid_url_has_no_phases(target: str, reason: Reason) -> None:
    result = await run(module(), target, 20.0)
    assert why(result) == (reason, "")
    assert seconds(result) == {}


ONLY_RESOLVED: dict[str, tuple[str, dict[str, Any], tuple[Reason, str]]] = {
    "invalid host name": ("http://a..b/", {}, (Reason.DNS_RESOLUTION, "resolve")),
    "address of the wrong family": (
        "http://127.0.0.1/",
        {"preferred_ip_protocol": "ip6", "ip_protocol_fallback": False},
        (Reason.DNS_NO_ADDRESS, "resolve"),
    ),
    "invalid method": ("http://127.0.0.1/", {"method": "GE T"}, (Reason.SETTINGS_UNUSABLE, "")),
    "missing body_file": ("http://127.0.0.1/", {"body_file": "none"}, (Reason.SETTINGS_UNUSABLE, "")),
    "missing ca_file": ("http://127.0.0.1/", {"tls_config": {"ca_file": "none"}}, (Reason.SETTINGS_UNUSABLE, "")),
    "secret manager": (
        "http://127.0.0.1/",
        {"authorization": {"credentials_ref": "x"}},
        (Reason.SETTINGS_UNUSABLE, ""),
    ),
}


@pytest.mark.parametrize(("target", "settings", "expected"), ONLY_RESOLVED.values(), ids=ONLY_RESOLVED)
async def test_failure_before_the_request_has_only_the_resolve_phase(
    target: str, settings: dict[str, Any], expected: tuple[Reason, str]
) -> None:
    result = await run(module(**settings), target, 20.0)
    assert why(result) == expected
    assert set(seconds(result)) == {"resolve"}


async def test_body_file_that_is_a_pipe_fails_the_probe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = await run(module(body_file=str(tmp_path / "pipe")), "http://127.0.0.1/", 20.0)
    assert why(result) == (Reason.SETTINGS_UNUSABLE, "")
    assert "it is a pipe" in str(result.failure)


@pytest.mark.parametrize("settings", [{"headers": {"X A": "1"}}, {"bearer_token_file": "none"}])
async def test_unusable_request_has_all_phases_without_time(
    settings: dict[str, Any],
) -> None:
    result = await run(module(**settings), "http://127.0.0.1/", 20.0)
    assert why(result) == (Reason.SETTINGS_UNUSABLE, "")
    assert set(seconds(result)) == ALL
    assert spent(result) == {"resolve"}


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
NO_ANSWER = {"resolve", "connect"}
BEGUN = {"resolve", "connect", "processing"}
WHOLE = ALL - {"tls"}

ANSWERS: dict[str, tuple[Answer, tuple[Reason, str], set[str]]] = {
    "closed at once": (raw(), (Reason.CONNECT_CLOSED, "processing"), NO_ANSWER),
    "reset at once": (raw(end=End.RESET), (Reason.CONNECT_RESET, "processing"), NO_ANSWER),
    "no response": (silence(), (Reason.TIMEOUT_RESPONSE, "processing"), NO_ANSWER),
    "not HTTP": (raw(b"SSH-2.0-x\r\n"), (Reason.HTTP_PROTOCOL_ERROR, "processing"), BEGUN),
    "not HTTP and kept open": (silence(b"220 x ESMTP\r\n"), (Reason.HTTP_PROTOCOL_ERROR, "processing"), BEGUN),
    "stops in the headers": (silence(b"HTTP/1.1 200 OK\r\n"), (Reason.TIMEOUT_RESPONSE, "processing"), BEGUN),
    "closed in the headers": (raw(b"HTTP/1.1 200 OK\r\n"), (Reason.HTTP_PROTOCOL_ERROR, "processing"), BEGUN),
    "100 Continue alone": (
        silence(b"HTTP/1.1 100 Continue\r\n\r\n"),
        (Reason.TIMEOUT_RESPONSE, "processing"),
        BEGUN,
    ),
    "endless headers": (
        raw(b"HTTP/1.1 200 OK\r\n", Repeat(b"X-A: %s\r\n" % (b"a" * 65536), 170)),
        (Reason.HTTP_HEADERS_TOO_LARGE, "processing"),
        BEGUN,
    ),
    "stops in the body": (silence(HEAD, b"five!"), (Reason.TIMEOUT_TRANSFER, "transfer"), WHOLE),
    "closed in the body": (raw(HEAD, b"five!"), (Reason.HTTP_BODY_TRUNCATED, "transfer"), WHOLE),
    "reset in the body": (raw(HEAD, b"five!", Pause(2), end=End.RESET), (Reason.CONNECT_RESET, "transfer"), WHOLE),
    "invalid chunk": (
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfive!oops"),
        (Reason.HTTP_PROTOCOL_ERROR, "transfer"),
        WHOLE,
    ),
}


@pytest.mark.parametrize(("answer", "expected", "phases"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.usefixtures("clock")
async def test_response_fault_has_its_reason_and_phases(
    answer: Answer, expected: tuple[Reason, str], phases: set[str]
) -> None:
    """The status and the bytes received before the failure are reported."""
    result = await one(answer)
    assert why(result) == expected
    assert set(seconds(result)) == ALL
    assert spent(result) == phases
    samples = result.probe.samples
    assert samples.get(http.STATUS_CODE) == (200 if phases == WHOLE else 0)
    assert samples.get(http.BODY_LENGTH) == (5 if phases == WHOLE else 0)


async def test_closed_port_is_refused() -> None:
    async with Site({}) as site:
        result = await probe(site, "http://127.0.0.1:{dead}/")
    assert why(result) == (Reason.CONNECT_REFUSED, "connect")
    assert spent(result) == {"resolve"}


async def test_port_out_of_range_is_an_invalid_target() -> None:
    result = await run(module(), "http://127.0.0.1:99999/", 20.0)
    assert result.failure is not None
    assert result.failure.reason is Reason.TARGET_INVALID
    assert spent(result) == {"resolve"}


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ("expired", Reason.CERTIFICATE_EXPIRED),
        ("wrong_name", Reason.CERTIFICATE_WRONG_NAME),
        ("unknown_root", Reason.CERTIFICATE_UNKNOWN_AUTHORITY),
    ],
)
async def test_untrusted_certificate_is_reported_without_durations(pki: Pki, certificate: str, reason: Reason) -> None:
    async with Site({"/": OK}, Tls(certificate), pki.directory) as site:
        tls_config = {"ca_file": str(pki.directory / "root.pem")}
        result = await probe(site, "https://127.0.0.1:{tls_port}/", tls_config=tls_config)
    assert why(result) == (reason, "tls")
    assert spent(result) == {"resolve"}
    assert metrics.VERIFY_ERROR_INFO in result.probe.samples.labelled
    assert metrics.EARLIEST_EXPIRY in result.probe.samples.plain
    assert result.probe.samples.get(http.SSL) == 0


@pytest.mark.usefixtures("clock")
async def test_unfinished_tls_handshake_times_out_in_the_tls_phase(pki: Pki) -> None:
    async with Site({"/": OK}, silence(), pki.directory) as site:
        settings = {"tls_config": {"insecure_skip_verify": True}}
        result = await probe(site, "https://127.0.0.1:{tls_port}/", timeout=8.0, **settings)
    assert why(result) == (Reason.TLS_TIMEOUT, "tls")


# --- demands -----------------------------------------------------------------------------------------------

MATCHES_OK = [{"header": "X-A", "regexp": "ok"}]
DEMANDS: dict[str, tuple[dict[str, Any], Answer, Reason | None]] = {
    "status": ({}, reply(500, b"no"), Reason.HTTP_STATUS),
    "listed status": ({"valid_status_codes": [500]}, reply(500, b"no"), None),
    "HTTP version": ({"valid_http_versions": ["HTTP/1.0"]}, OK, Reason.HTTP_VERSION),
    "forbidden header": (
        {"fail_if_header_matches": MATCHES_OK},
        reply(200, b"", ("X-A", "ok")),
        Reason.HTTP_HEADER_MISMATCH,
    ),
    "missing header": ({"fail_if_header_not_matches": MATCHES_OK}, OK, Reason.HTTP_HEADER_MISMATCH),
    "forbidden body": ({"fail_if_body_matches_regexp": ["^ok$"]}, OK, Reason.HTTP_BODY_MISMATCH),
    "missing body": ({"fail_if_body_not_matches_regexp": ["absent"]}, OK, Reason.HTTP_BODY_MISMATCH),
    "body that matches": ({"fail_if_body_not_matches_regexp": ["ok"]}, chunked(b"o", b"k"), None),
    "body that is not JSON": ({"fail_if_body_json_matches_cel": "true"}, OK, Reason.HTTP_BODY_MISMATCH),
    "forbidden JSON": (
        {"fail_if_body_json_matches_cel": "body.n == 1"},
        reply(200, b'{"n": 1}'),
        Reason.HTTP_BODY_MISMATCH,
    ),
    "JSON that matches": ({"fail_if_body_json_not_matches_cel": "body.n == 1"}, reply(200, b'{"n": 1}'), None),
    "text and JSON that match": (
        {"fail_if_body_not_matches_regexp": ["n"], "fail_if_body_json_not_matches_cel": "body.n == 1"},
        reply(200, b'{"n": 1}'),
        None,
    ),
    "no TLS": ({"fail_if_not_ssl": True}, OK, Reason.TLS_REQUIRED),
    "body size": ({"body_size_limit": "1B"}, OK, Reason.HTTP_BODY_TOO_LARGE),
    "missing gzip": ({"compression": "gzip"}, OK, Reason.HTTP_CONTENT_ENCODING),
    "gzip as demanded": ({"compression": "gzip"}, reply(200, gzip.compress(b"ok")), None),
    "unknown coding": ({"compression": "zip"}, OK, Reason.SETTINGS_UNUSABLE),
}


@pytest.mark.parametrize(("settings", "answer", "reason"), DEMANDS.values(), ids=DEMANDS)
async def test_failed_check_is_the_reason(settings: dict[str, Any], answer: Answer, reason: Reason | None) -> None:
    result = await one(answer, **settings)
    assert (result.failure.reason if result.failure else None) is reason
    regexp = any("match" in key and "cel" not in key for key in settings)
    cel = any("cel" in key for key in settings)
    failed = reason in (Reason.HTTP_HEADER_MISMATCH, Reason.HTTP_BODY_MISMATCH)
    assert result.probe.samples.get(FAILED_BY_REGEXP) == (1 if failed and regexp else 0)
    if cel:
        assert result.probe.samples.get(http.FAILED_BY_CEL) == (1 if failed and not regexp else 0)
    else:
        assert http.FAILED_BY_CEL not in result.probe.samples.plain


async def test_first_failed_check_is_the_reason_and_all_is_measured() -> None:
    settings: dict[str, Any] = {
        "valid_http_versions": ["HTTP/2.0"],
        "fail_if_body_matches_regexp": ["no"],
        "body_size_limit": "1B",
    }
    result = await one(reply(404, b"no such page"), **settings)
    assert why(result) == (Reason.HTTP_STATUS, "validation")
    assert result.probe.samples.get(http.BODY_LENGTH) == 1
    assert result.probe.samples.get(FAILED_BY_REGEXP) == 0


@pytest.mark.usefixtures("hosts")
async def test_fail_if_ssl_forbids_tls(pki: Pki) -> None:
    async with Site({"/": OK}, Tls(), pki.directory) as site:
        settings: dict[str, Any] = {"fail_if_ssl": True, "tls_config": {"insecure_skip_verify": True}}
        result = await probe(site, "https://127.0.0.1:{tls_port}/", **settings)
    assert why(result) == (Reason.TLS_FORBIDDEN, "validation")


# --- redirects ---------------------------------------------------------------------------------------------


async def test_redirects_are_followed_ten_times() -> None:
    pages = {"/": redirect(302, "/1"), **{f"/{number}": redirect(302, f"/{number + 1}") for number in range(1, 20)}}
    result = await one({**pages, "/10": OK})
    assert why(result) is None
    assert result.probe.samples.get(http.REDIRECTS) == 10
    result = await one(pages)
    assert why(result) == (Reason.HTTP_REDIRECT, "validation")
    assert result.probe.samples.get(http.REDIRECTS) == 11
    assert result.probe.samples.get(http.STATUS_CODE) == 302
    assert why(await one(pages, valid_status_codes=[302])) is None


async def test_redirect_that_is_not_followed_is_the_response() -> None:
    async with Site({"/": redirect(301, "/x"), "/x": OK}) as site:
        result = await probe(site, follow_redirects=False, valid_status_codes=[301])
        assert len(site.requests) == 1
    assert why(result) is None
    assert result.probe.samples.get(http.REDIRECTS) == 1
    assert result.probe.samples.get(http.BODY_LENGTH) == 0


async def test_redirect_body_is_read_for_checks_if_not_followed() -> None:
    """The original always fails such a check."""
    settings: dict[str, Any] = {
        "follow_redirects": False,
        "valid_status_codes": [301],
        "fail_if_body_not_matches_regexp": ["moved"],
    }
    assert why(await one(redirect(301, "/x", body=b"moved"), **settings)) is None


@pytest.mark.parametrize("location", ["ftp://a.test/", "/%zz", "http://a.test:x/"])
async def test_redirect_to_invalid_location_fails_and_keeps_the_response(location: str) -> None:
    result = await one(redirect(302, location))
    assert result.failure is not None
    assert result.failure.reason is Reason.HTTP_REDIRECT
    assert result.probe.samples.get(http.STATUS_CODE) == 302
    assert result.probe.samples.get(http.REDIRECTS) == 1


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://127.0.0.1:{dead}/", (Reason.CONNECT_REFUSED, "connect")),
        ("http://a..b/", (Reason.DNS_RESOLUTION, "resolve")),
        ("http://127.0.0.1:{port}/silent", (Reason.TIMEOUT_RESPONSE, "processing")),
        ("https://127.0.0.1:{port}/", (Reason.TLS_TIMEOUT, "tls")),  # the plain site waits for the end of a request
    ],
)
@pytest.mark.usefixtures("clock")
async def test_redirect_to_failing_target_fails_and_keeps_the_response(
    location: str, expected: tuple[Reason, str]
) -> None:
    pages = {"/": redirect(302, location), "/silent": silence()}
    result = await one(pages, timeout=8.0, tls_config={"insecure_skip_verify": True})
    assert why(result) == expected
    assert result.probe.samples.get(http.STATUS_CODE) == 302
    assert set(seconds(result)) == ALL


@pytest.mark.usefixtures("hosts")
async def test_redirect_to_the_same_host_keeps_address_name_and_credentials(pki: Pki) -> None:
    """This holds for a location with a host, too. The certificate must have the configured name at each hop."""
    pages = {"/": redirect(302, "https://localhost:{tls_port}/x"), "/x": OK}
    async with Site(pages, Tls(), pki.directory) as site:
        settings: dict[str, Any] = {
            "basic_auth": {"username": "alice", "password": "secret"},
            "tls_config": {"ca_file": str(pki.directory / "root.pem"), "server_name": "www.example.test"},
        }
        result = await probe(site, "https://localhost:{tls_port}/", **settings)
        assert why(result) is None
        assert [request.server_name for request in site.requests] == ["www.example.test"] * 2
        assert [len(request.all("Authorization")) for request in site.requests] == [1, 1]


@pytest.mark.usefixtures("hosts")
async def test_redirect_to_another_host_drops_name_and_credentials(pki: Pki) -> None:
    pages = {"/": redirect(302, "https://localhost:{tls_port}/x"), "/x": OK}
    async with Site(pages, Tls(), pki.directory) as site:
        settings: dict[str, Any] = {
            "headers": {"Host": "www.example.test", "Cookie": "a=b"},
            "basic_auth": {"username": "alice", "password": "secret"},
            "tls_config": {"ca_file": str(pki.directory / "root.pem")},
        }
        result = await probe(site, "https://127.0.0.1:{tls_port}/", **settings)
        assert why(result) is None
        assert [request.server_name for request in site.requests] == ["www.example.test", "localhost"]
        assert [request.all("Host") for request in site.requests] == [
            ["www.example.test"],
            [site.fill("localhost:{tls_port}")],
        ]
        assert site.requests[1].all("Authorization") == []
        assert site.requests[1].all("Cookie") == []
        assert site.requests[1].all("Referer") == [site.fill("https://127.0.0.1:{tls_port}/")]


@pytest.mark.usefixtures("hosts")
async def test_redirect_to_another_host_tries_its_addresses_in_turn() -> None:
    async with Site({"/": redirect(302, "http://other.test:{port}/x"), "/x": OK}) as site:
        assert why(await probe(site)) is None
        assert [request.all("Host") for request in site.requests] == [
            [site.fill("127.0.0.1:{port}")],
            [site.fill("other.test:{port}")],
        ]


async def test_cookies_are_kept_for_one_probe() -> None:
    pages = {"/": redirect(302, "/x", ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2; Path=/y")), "/x": OK}
    async with Site(pages) as site:
        for _ in range(2):
            assert why(await probe(site)) is None
        assert [request.all("Cookie") for request in site.requests] == [[], ["a=1"], [], ["a=1"]]


# --- uploads -----------------------------------------------------------------------------------------------


async def test_large_file_is_uploaded_whole(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"0123456789abcdef" * 65536)
    async with Site({"/": OK}) as site:
        result = await probe(site, method="POST", body_file=str(tmp_path / "large"))
        assert why(result) is None
        assert site.requests[0].body == b"0123456789abcdef" * 65536


def bytes_read() -> int:
    """Return the bytes that this process has read so far, from files and sockets."""
    return int(Path("/proc/self/io").read_text().split()[1])


async def test_response_before_the_end_of_an_upload_ends_it(tmp_path: Path) -> None:
    """A server may answer before it has read the whole request. The prober then stops the upload."""
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 30)
    async with Site({}, greeting=reply(413, b"too large")) as site:
        before = bytes_read()
        result = await probe(site, timeout=60, method="POST", body_file=str(tmp_path / "huge"))
    assert bytes_read() - before < 1 << 28
    # The server's reset may arrive before its response is read.
    assert why(result) in {(Reason.HTTP_STATUS, "validation"), (Reason.CONNECT_RESET, "processing")}


# --- cancellation and leftovers ----------------------------------------------------------------------------


async def test_cancelled_probe_closes_its_connection() -> None:
    async with Site({"/": silence(b"HTTP/1.1 200 OK\r\n\r\n")}) as site:
        running = asyncio.create_task(probe(site, timeout=60.0))
        await site.reached(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await site.abandoned.wait()


@pytest.mark.parametrize("name", ["stops in the headers", "stops in the body"])
@pytest.mark.usefixtures("clock")
async def test_timed_out_probe_closes_its_connection(name: str) -> None:
    async with Site({"/": ANSWERS[name][0]}) as site:
        await probe(site)
        await site.abandoned.wait()


async def test_large_body_is_counted_to_its_end() -> None:
    result = await one(raw(b"HTTP/1.1 200 OK\r\n\r\n", Repeat(bytes(1 << 20), 80)))
    assert why(result) is None
    assert result.probe.samples.get(http.BODY_LENGTH) == 80 << 20


# --- the log -----------------------------------------------------------------------------------------------


async def test_log_has_each_step_and_no_secret() -> None:
    pages = {"/": redirect(302, "/x"), "/x": OK}
    async with Site(pages) as site:
        settings: dict[str, Any] = {
            "basic_auth": {"username": "alice", "password": "hush"},
            "http_headers": {"X-A": {"secrets": ["hush"]}},
            "headers": {"Cookie": "hush"},
        }
        result = await probe(site, "http://alice:hush@127.0.0.1:{port}/", **settings)
    assert [event.message for event in result.probe.events] == [
        "Beginning probe",
        "Resolved target address",
        "Making HTTP request",
        "Received HTTP response",
        "Redirected",
        "Making HTTP request",
        "Received HTTP response",
        "Probe succeeded",
    ]
    assert "hush" not in str([event.fields for event in result.probe.events])
    assert all(event.level <= logging.INFO for event in result.probe.events)


# --- hostname ----------------------------------------------------------------------------------------------


def test_hostname_is_the_host_header() -> None:
    settings = HttpSettings(headers={"X-A": "1"})
    assert settings.template.host == ""
    changed = with_hostname(settings, "www.test:81")
    assert changed.template.host == "www.test:81"
    assert settings.template.host == ""
    assert dict(changed.template.headers)["X-A"] == "1"


def test_hostname_conflicts_with_another_host_header() -> None:
    settings = HttpSettings(headers={"host": "www.test"})
    assert with_hostname(settings, "www.test") is settings
    for other in ("WWW.test", "other.test", ""):
        with pytest.raises(ValueError, match="conflicts with the module's Host header"):
            with_hostname(settings, other)


@pytest.mark.usefixtures("hosts")
async def test_hostname_is_the_sni_and_verified_name(pki: Pki) -> None:
    async with Site({"/": OK}, Tls("wildcard"), pki.directory) as site:
        settings = HttpSettings.model_validate({"tls_config": {"ca_file": str(pki.directory / "root.pem")}})
        settings = with_hostname(settings, "any.example.test:8443")
        changed = Module("m", prober, settings, 0.0, Place("test.yml"))
        assert why(await run(changed, site.fill("https://127.0.0.1:{tls_port}/"), 20.0)) is None
        assert site.requests[0].server_name == "any.example.test"
        assert site.requests[0].all("Host") == ["any.example.test:8443"]


# --- addresses ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hosts")
async def test_ip_protocol_follows_the_target() -> None:
    async with Site({"/": OK}) as site:
        for host, protocol in (("six.test", 6), ("localhost", 4), ("[::1]", 6), ("127.0.0.1", 4)):
            result = await probe(site, f"http://{host}:{{port}}/")
            assert why(result) is None
            assert result.probe.samples.get(address_choice.IP_PROTOCOL) == protocol


async def test_unspecified_address_reaches_the_target() -> None:
    async with Site({"/": OK}) as site:
        assert why(await probe(site, "http://0.0.0.0:{port}/")) is None
        assert why(await probe(site, "http://[::]:{port}/")) is None
