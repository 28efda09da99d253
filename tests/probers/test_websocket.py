"""The websocket prober against scripted servers: requests, handshakes, messages, reasons.

The original's release can't probe WebSocket, so nothing here stands side by side with it.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from probe_exporter.config import loading
from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.network.address_choice import IP_PROTOCOL
from probe_exporter.plugins.loader import load_probers
from probe_exporter.prober.failure import Reason
from probe_exporter.probers.websocket import (
    DURATION,
    FAILED_BY_REGEXP,
    STATUS_CODE,
    UPGRADED,
    WebsocketSettings,
    prober,
)
from probe_exporter.protocols.dialogue.steps import EXPECT_INFO
from probe_exporter.protocols.http.websocket import MAX_MESSAGE_BYTES
from probe_exporter.runner import Result, run
from probe_exporter.tls import metrics
from tests import shared
from tests.cost import short_turns
from tests.deadlines import run_until
from tests.outcomes import seconds_of_phases, why
from tests.targets import Answer, End, Pause, Pki, Repeat, Request, Tls, raw, redirect, reply, silence
from tests.targets.answers import Part, head
from tests.targets.proxy import HttpProxy, ProxyServer, SocksProxy
from tests.targets.websocket import (
    ACCEPT,
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    UPGRADE,
    WebsocketSite,
    close,
    frame,
    upgraded,
)

WS = "ws://127.0.0.1:{port}/"
WSS = "wss://127.0.0.1:{tls_port}/"
HELLO = frame(b"hello bob")
EXPECT = {"expect": "^hello"}

Step = dict[str, Any]


async def probe(
    answer: Answer,
    *steps: Step,
    target: str = WS,
    timeout: float = 20.0,
    site: WebsocketSite | None = None,
    **more: Any,
) -> tuple[Result, WebsocketSite]:
    """Probe a scripted server. Return the result, and the server with the requests and messages it received."""
    settings = WebsocketSettings.model_validate({"query_response": list(steps), **more})
    async with site or WebsocketSite({"/": answer}) as there:
        result = await run(Module("m", prober, settings, 0.0, Place("t")), there.fill(target), timeout)
        if result.success:
            await there.quiet()
    return result, there


def secure(pki: Pki, how: Tls | Answer | None = None, answer: Answer | None = None) -> WebsocketSite:
    return WebsocketSite({"/": answer or upgraded()}, how or Tls(), pki.directory)


def seconds(result: Result) -> dict[str, float]:
    """Return the seconds of each phase."""
    return seconds_of_phases(result, DURATION)


def values(result: Result) -> tuple[float, float, float]:
    """Return the status code, whether it upgraded, and whether it failed due to a regexp."""
    samples = result.probe.samples
    return samples.get(STATUS_CODE), samples.get(UPGRADED), samples.get(FAILED_BY_REGEXP)


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({"headers": {"upgrade": "x"}}, "headers", "upgrade belongs to the handshake"),
        ({"headers": {"Sec-WebSocket-Key": "x"}}, "headers", "belongs to the handshake"),
        ({"http_config": {"oauth2": {"client_id": "a", "token_url": "http://a/"}}}, "http_config", "`oauth2`"),
        ({"query_response": [{"starttls": True}]}, "query_response", "`starttls` is for streams"),
        ({"query_response": [{"send": "a", "send_without_newline": True}]}, "query_response", "is for streams"),
        ({"source_ip_address": "eth0"}, "source_ip_address", "not an IP address"),
    ],
)
def test_settings_that_will_not_work_are_a_caution(settings: dict[str, Any], key: str, words: str) -> None:
    ((told, caution),) = WebsocketSettings.model_validate(settings).cautions()
    assert told == key
    assert words in caution


# --- what is reported --------------------------------------------------------------------------------------


async def test_upgraded_connection_passes() -> None:
    result, site = await probe(upgraded())
    assert why(result) is None
    assert values(result) == (101, 1, 0)
    assert set(seconds(result)) == {"resolve", "connect", "processing"}
    assert all(value > 0 for value in seconds(result).values())
    assert sum(seconds(result).values()) <= result.duration
    assert site.heard == ["close 1000"]


@pytest.mark.usefixtures("clock")
async def test_steps_are_timed_as_transfer() -> None:
    result, _ = await probe(upgraded(Pause(8), HELLO), EXPECT)
    assert why(result) is None
    assert set(seconds(result)) == {"resolve", "connect", "processing", "transfer"}
    assert 7.9 < seconds(result)["transfer"] < result.duration


@pytest.mark.usefixtures("clock")
async def test_tls_is_timed_as_processing(pki: Pki) -> None:
    """As in the unreleased original: processing is all from the TCP connection to the first message."""
    slow = secure(pki, answer=raw(Pause(8), *upgraded().parts, end=End.HOLD))
    result, _ = await probe(upgraded(), target=WSS, site=slow, http_config={"tls_config": pki.trust()})
    assert why(result) is None
    assert set(seconds(result)) == {"resolve", "connect", "processing"}
    assert 7.9 < seconds(result)["processing"] < result.duration


async def test_labels_are_taken_from_the_message() -> None:
    step = {"expect": r"^hello (\w+)$", "labels": [{"name": "who", "value": "${1}!"}]}
    result, _ = await probe(upgraded(HELLO), step)
    (labelled,) = (v for metric, v in result.probe.samples.labelled.items() if metric.name == EXPECT_INFO.name)
    assert list(labelled) == [("bob!",)]


# --- targets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "protocol"),
    [
        (WS, 4),
        ("WS://127.0.0.1:{port}/", 4),
        ("ws://[::1]:{port}/", 6),
        ("ws://127.0.0.1:{port}", 4),
        ("ws://127.0.0.1:{port}/#part", 4),
    ],
)
async def test_target_forms_are_accepted(target: str, protocol: int) -> None:
    result, _ = await probe(upgraded(), target=target)
    assert why(result) is None
    assert result.probe.samples.get(IP_PROTOCOL) == protocol


@pytest.mark.parametrize(
    "target", ["127.0.0.1:{port}", "", "ftp://127.0.0.1:{port}/", "ws://127.0.0.1:port/", "ws://127.0.0.1/%zz", "ws:/x"]
)
async def test_unparsable_target_reports_only_the_failure(target: str) -> None:
    result, _ = await probe(upgraded(), target=target)
    assert why(result) == (Reason.TARGET_INVALID, "")
    assert not {STATUS_CODE, UPGRADED, FAILED_BY_REGEXP} & result.probe.samples.plain.keys()


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/", "ws://user:word@127.0.0.1:{port}/"])
async def test_target_with_another_scheme_or_credentials_is_refused(target: str) -> None:
    result, site = await probe(upgraded(), target=target)
    assert why(result) == (Reason.TARGET_INVALID, "")
    assert values(result) == (0, 0, 0)
    assert set(seconds(result)) == {"resolve", "processing"}
    assert site.requests == []


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("ws://127.0.0.1:{dead}/", (Reason.CONNECT_REFUSED, "connect")),
        ("ws://127.0.0.1:65536/", (Reason.TARGET_INVALID, "")),
        ("ws://nobody.invalid/", (Reason.DNS_NAME_NOT_FOUND, "resolve")),
        ("ws:///path", (Reason.TARGET_INVALID, "resolve")),
    ],
)
async def test_unreachable_target_has_its_reason(target: str, expected: tuple[Reason, str]) -> None:
    result, _ = await probe(upgraded(), target=target)
    assert why(result) == expected
    assert values(result) == (0, 0, 0)
    assert "connect" not in seconds(result)


async def test_ip_protocol_preference_is_obeyed() -> None:
    result, _ = await probe(
        upgraded(), target="ws://[::1]:{port}/", preferred_ip_protocol="ip4", ip_protocol_fallback=False
    )
    assert why(result) == (Reason.DNS_NO_ADDRESS, "resolve")


async def test_source_address_is_used() -> None:
    result, _ = await probe(upgraded(), source_ip_address="::1")
    assert why(result) == (Reason.SETTINGS_UNUSABLE, "")
    result, _ = await probe(upgraded(), source_ip_address="127.0.0.9")
    assert why(result) is None


# --- the request -------------------------------------------------------------------------------------------


async def asked(target: str = WS, **settings: Any) -> Request:
    """Return the request that the server receives."""
    result, site = await probe(
        upgraded(), target=target, site=WebsocketSite({"/": upgraded(), "/a": upgraded()}), **settings
    )
    assert why(result) is None
    (request,) = site.requests
    return request


async def test_request_has_only_the_upgrade_headers() -> None:
    request = await asked("ws://127.0.0.1:{port}/a?b=%2Bc d#e")
    assert request.line == "GET /a?b=%2Bc%20d HTTP/1.1"
    headers = dict(request.headers)
    assert headers.pop("User-Agent").startswith("Blackbox-Exporter/0.28.0 probe-exporter/")
    assert len(headers.pop("Sec-WebSocket-Key")) == 24
    assert headers.pop("Host").startswith("127.0.0.1:")
    assert headers == {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}


async def test_handshake_key_is_new_each_time() -> None:
    keys = [(await asked()).all("Sec-WebSocket-Key") for _ in range(3)]
    assert len({key for (key,) in keys}) == 3


@pytest.mark.parametrize(
    ("settings", "header", "sent"),
    [
        ({"http_config": {"basic_auth": {"username": "u", "password": "p"}}}, "Authorization", ["Basic dTpw"]),
        ({"http_config": {"authorization": {"credentials": "t"}}}, "Authorization", ["Bearer t"]),
        ({"http_config": {"authorization": {"type": "Token", "credentials": "t"}}}, "Authorization", ["Token t"]),
        ({"http_config": {"bearer_token": "t"}}, "Authorization", ["Bearer t"]),
        ({"http_config": {"authorization": {"credentials_file": "{file}"}}}, "Authorization", ["Bearer from a file"]),
        ({"http_config": {"authorization": {"type": "Bearer"}}}, "Authorization", []),
        (
            {"http_config": {"bearer_token": "t"}, "headers": {"authorization": "mine"}},
            "authorization", ["mine"],
        ),
        ({"headers": {"Origin": "https://chat.example"}}, "Origin", ["https://chat.example"]),
        ({"headers": {"Origin": {"values": ["a", "b"]}}}, "Origin", ["a", "b"]),
        (
            {"headers": {"X-Key": {"values": ["v"], "secrets": ["s"], "files": ["{file}"]}}},
            "X-Key", ["v", "s", "from a file"],
        ),
        ({"headers": {"X-Key": {"values": ["v"], "files": ["no such file"]}}}, "X-Key", ["v"]),
        ({"headers": {"Host": "chat.example"}}, "Host", ["chat.example"]),
        ({"headers": {"host": "chat.example:81"}}, "Host", ["chat.example:81"]),
        ({"headers": {"User-Agent": "mine"}}, "User-Agent", ["mine"]),
        ({"headers": {"User-Agent": ""}}, "User-Agent", []),
        ({"headers": {"Sec-WebSocket-Protocol": "chat"}}, "Sec-WebSocket-Protocol", ["chat"]),
        ({"http_config": {"http_headers": {"x-a": {"values": ["1"]}}}}, "X-A", ["1"]),
    ],
)  # fmt: skip
async def test_settings_are_sent_in_the_request(
    tmp_path: Path, settings: dict[str, Any], header: str, sent: list[str]
) -> None:
    path = tmp_path / "file"
    path.write_text(" from a file\n")
    assert (await asked(**_with_file(settings, str(path)))).all(header) == sent


def _with_file(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        return {key: _with_file(one, path) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_file(one, path) for one in value]
    return path if value == "{file}" else value


@pytest.mark.parametrize(
    "settings",
    [
        {"headers": {"Upgrade": "h2c"}},
        {"headers": {"connection": "close"}},
        {"headers": {"sec-websocket-extensions": "permessage-deflate"}},
        {"headers": {"a b": "c"}},
        {"headers": {"X": "a\r\nb"}},
        {"headers": {"Host": "a\0b"}},
        {"http_config": {"basic_auth": {"password_ref": "x"}}},
        {"http_config": {"authorization": {"credentials_file": "no such file"}}},
        {"http_config": {"authorization": {"credentials": "a\nb"}}},
        {"http_config": {"tls_config": {"ca_file": "no such file"}}},
    ],
)
async def test_unusable_settings_fail_before_anything_is_sent(settings: dict[str, Any]) -> None:
    result, site = await probe(upgraded(), **settings)
    assert why(result) == (Reason.SETTINGS_UNUSABLE, "")
    assert values(result) == (0, 0, 0)
    assert site.requests == []


@shared.needed
@pytest.mark.parametrize("name", ["ws_everything", "ws_bearer"])
async def test_unreleased_original_s_modules_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = loading.load([shared.EXAMPLES / "websocket-unreleased.yml"], load_probers([])).modules[name]
    monkeypatch.chdir(shared.EXAMPLES)  # its file of secrets is missing, which is no error
    async with WebsocketSite({"/": upgraded(frame(b"hello bob"))}) as there:
        result = await run(module, there.fill(WS), 20.0)
        await there.quiet()
    assert why(result) is None
    (request,) = there.requests
    if name == "ws_bearer":
        assert request.all("Authorization") == ["Bearer t"]
    else:
        assert request.all("Authorization") == ["Basic dTpw"]
        assert request.all("Origin") == ["https://chat.example"]
        assert request.all("X-Key") == ["k"]
        assert there.heard == ["text b'hi bob'", "text b'bye'", "close 1000"]


# --- the answer to the upgrade -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 404, 426, 500, 503])
async def test_refused_upgrade_reports_the_status(status: int) -> None:
    result, _ = await probe(reply(status, b"no" if status != 204 else b""))
    assert why(result) == (Reason.WEBSOCKET_UPGRADE_REFUSED, "processing")
    assert values(result) == (status, 0, 0)
    assert set(seconds(result)) == {"resolve", "connect", "processing"}


async def test_redirect_is_not_followed() -> None:
    """Browsers do not follow it either. The log has its location."""
    result, site = await probe(redirect(301, "ws://127.0.0.1:{port}/a"))
    assert why(result) == (Reason.WEBSOCKET_UPGRADE_REFUSED, "processing")
    assert values(result) == (301, 0, 0)
    assert result.failure is not None
    assert str(result.failure.fields["location"]).endswith("/a")
    assert len(site.requests) == 1


def without(name: str) -> Answer:
    return upgraded(headers=[header for header in UPGRADE if header[0] != name])


def instead(name: str, *given: str) -> Answer:
    return upgraded(headers=[*(h for h in UPGRADE if h[0] != name), *((name, value) for value in given)])


@pytest.mark.parametrize(
    "answer",
    [
        without("Upgrade"),
        without("Connection"),
        without("Sec-WebSocket-Accept"),
        instead("Upgrade", "h2c"),
        instead("Connection", "close"),
        instead("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),  # the one for the RFC's example key
        instead("Sec-WebSocket-Accept", ACCEPT.lower()),
        instead("Sec-WebSocket-Accept", ACCEPT, ACCEPT),
    ],
)
async def test_invalid_upgrade_response_fails(answer: Answer) -> None:
    result, _ = await probe(answer)
    assert why(result) == (Reason.WEBSOCKET_HANDSHAKE_INVALID, "processing")
    assert values(result) == (101, 0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        instead("Upgrade", "h2c, WebSocket"),
        instead("Upgrade", "h2c", "websocket"),
        instead("Connection", "keep-alive, UPGRADE"),
        instead("Connection", "keep-alive", "upgrade"),
        instead("Sec-WebSocket-Protocol", "unasked"),
        instead("Sec-WebSocket-Extensions", "unasked"),
        raw(head(100) + head("101 ", UPGRADE), end=End.HOLD),
    ],
)
async def test_upgrade_response_may_have_more_values(answer: Answer) -> None:
    result, _ = await probe(answer)
    assert why(result) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (raw(), Reason.CONNECT_CLOSED),
        (raw(b"HTTP/1.1 101 Swi"), Reason.HTTP_PROTOCOL_ERROR),
        (raw(b"SSH-2.0-OpenSSH\r\n", end=End.HOLD), Reason.HTTP_PROTOCOL_ERROR),
        (raw(HELLO, end=End.HOLD), Reason.HTTP_PROTOCOL_ERROR),
        (raw(b"HTTP/1.1 ", end=End.RESET), Reason.CONNECT_RESET),
        (silence(), Reason.TIMEOUT_RESPONSE),
        (silence(b"HTTP/1.1 101 Switching Protocols\r\n"), Reason.TIMEOUT_RESPONSE),
        (raw(head(200)[:-2], Repeat(b"X: " + b"x" * 65536 + b"\r\n", 400)), Reason.HTTP_HEADERS_TOO_LARGE),
    ],
)
@pytest.mark.usefixtures("clock")
async def test_response_fault_has_its_reason(answer: Answer, reason: Reason) -> None:
    result, _ = await probe(answer)
    assert why(result) == (reason, "processing")
    assert values(result) == (0, 0, 0)


# --- TLS ---------------------------------------------------------------------------------------------------


async def test_tls_certificate_is_reported(pki: Pki) -> None:
    result, site = await probe(upgraded(), target=WSS, site=secure(pki), http_config={"tls_config": pki.trust()})
    assert why(result) is None
    assert {
        metrics.CERTIFICATE_INFO,
        metrics.VERSION_INFO,
        metrics.CIPHER_INFO,
    } <= result.probe.samples.labelled.keys()
    assert {metrics.EARLIEST_EXPIRY, metrics.CHAIN_EXPIRY} <= result.probe.samples.plain.keys()
    assert site.requests[0].server_name == ""


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ("expired", Reason.CERTIFICATE_EXPIRED),
        ("not_yet_valid", Reason.CERTIFICATE_NOT_YET_VALID),
        ("wrong_name", Reason.CERTIFICATE_WRONG_NAME),
        ("self_signed", Reason.CERTIFICATE_UNKNOWN_AUTHORITY),
        ("unknown_root", Reason.CERTIFICATE_UNKNOWN_AUTHORITY),
        ("no_intermediate", Reason.CERTIFICATE_UNKNOWN_AUTHORITY),
        ("for_clients", Reason.CERTIFICATE_INVALID),
        ("by_old_intermediate", Reason.CERTIFICATE_EXPIRED),
    ],
)
async def test_unverified_certificate_is_reported(pki: Pki, certificate: str, reason: Reason) -> None:
    result, site = await probe(
        upgraded(), target=WSS, site=secure(pki, Tls(certificate)), http_config={"tls_config": pki.trust()}
    )
    assert why(result) == (reason, "tls")
    assert metrics.CERTIFICATE_INFO in result.probe.samples.labelled
    assert values(result) == (0, 0, 0)
    assert set(seconds(result)) == {"resolve", "connect", "processing"}
    assert site.requests == []
    result, _ = await probe(
        upgraded(),
        target=WSS,
        site=secure(pki, Tls(certificate)),
        http_config={"tls_config": pki.trust(insecure_skip_verify=True)},
    )
    assert why(result) is None


@pytest.mark.parametrize(
    ("block", "authority", "reason"),
    [
        ({"ca_file": "intermediate.pem"}, None, None),
        ({"server_name": "www.example.test"}, None, None),
        ({"server_name": "other.example.test"}, None, Reason.CERTIFICATE_WRONG_NAME),
        ({"max_version": "TLS12"}, None, None),
        ({"cert_file": "client.pem", "key_file": "client.key"}, "root", None),
        ({"max_version": "TLS12"}, "root", Reason.TLS_HANDSHAKE),
    ],
)
async def test_tls_config_is_obeyed(
    pki: Pki, block: dict[str, str], authority: str | None, reason: Reason | None
) -> None:
    files = {key: str(pki.directory / value) for key, value in block.items() if key.endswith("_file")}
    given = {"tls_config": pki.trust(**{**block, **files})}
    result, site = await probe(upgraded(), target=WSS, site=secure(pki, Tls(client_ca=authority)), http_config=given)
    assert why(result) == (None if reason is None else (reason, "tls"))
    if reason is None:
        assert site.requests[0].server_name == block.get("server_name", "")


async def test_tls_version_mismatch_fails(pki: Pki) -> None:
    how = Tls(maximum=ssl.TLSVersion.TLSv1_2)
    result, _ = await probe(
        upgraded(), target=WSS, site=secure(pki, how), http_config={"tls_config": pki.trust(min_version="TLS13")}
    )
    assert why(result) == (Reason.TLS_HANDSHAKE, "tls")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply(400), Reason.TLS_HANDSHAKE),
        (raw(), Reason.TLS_HANDSHAKE),
        (silence(), Reason.TLS_TIMEOUT),
    ],
)
@pytest.mark.usefixtures("clock")
async def test_server_without_tls_fails_in_the_tls_phase(pki: Pki, answer: Answer, reason: Reason) -> None:
    result, _ = await probe(
        upgraded(), target=WSS, site=secure(pki, answer), http_config={"tls_config": pki.trust()}, timeout=8.0
    )
    assert why(result) == (reason, "tls")
    assert values(result) == (0, 0, 0)


async def test_messages_are_exchanged_over_tls(pki: Pki) -> None:
    result, site = await probe(
        upgraded(),
        EXPECT | {"send": "bye"},
        target=WSS,
        site=secure(pki, answer=upgraded(HELLO)),
        http_config={"tls_config": pki.trust()},
    )
    assert why(result) is None
    assert site.heard == ["text b'bye'", "close 1000"]


# --- through a proxy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "url", "target", "reason"),
    [
        (HttpProxy(), "http://127.0.0.1:{port}", WS, None),
        (HttpProxy(), "http://127.0.0.1:{port}", WSS, None),
        (HttpProxy(), "https://127.0.0.1:{tls_port}", WS, None),
        (HttpProxy(), "https://127.0.0.1:{tls_port}", WSS, None),
        (SocksProxy(), "socks5://u:p@127.0.0.1:{port}", WS, None),
        (SocksProxy(), "socks5://127.0.0.1:{port}", WSS, None),
        (HttpProxy(connect=reply(403)), "http://127.0.0.1:{port}", WS, (Reason.PROXY_REFUSED, "proxy")),
        (HttpProxy(connect=silence()), "http://127.0.0.1:{port}", WS, (Reason.PROXY_TIMEOUT, "proxy")),
        (HttpProxy(), "http://127.0.0.1:{dead}", WS, (Reason.PROXY_CONNECT, "proxy")),
    ],
)
@pytest.mark.usefixtures("clock")
async def test_probe_through_a_proxy_has_its_reason(
    pki: Pki, behaviour: HttpProxy | SocksProxy, url: str, target: str, reason: tuple[Reason, str] | None
) -> None:
    """The original ignores the proxy. Here it is used, always as a tunnel."""
    async with ProxyServer({}, pki=pki.directory, behaviour=behaviour) as proxy:
        url = proxy.fill(url)
        result, site = await probe(
            upgraded(), EXPECT, target=target, site=secure(pki, answer=upgraded(HELLO)),
            http_config={"tls_config": pki.trust()} | {"proxy_url": url},
        )  # fmt: skip
        assert why(result) == reason
        assert len(site.requests) == (0 if reason else 1)
        if reason is None:
            assert "connect" in proxy.requests[-1].line.lower()


async def test_no_proxy_bypasses_the_proxy() -> None:
    result, _ = await probe(upgraded(), http_config={"proxy_url": "http://127.0.0.1:1", "no_proxy": "10.0.0.0/8"})
    assert why(result) is None


# --- messages ----------------------------------------------------------------------------------------------

FRAGMENTS = frame(b"hel", fin=False) + frame(b"lo ", CONTINUATION, fin=False) + frame(b"bob", CONTINUATION)


@pytest.mark.parametrize(
    "messages",
    [
        (HELLO,),
        (frame(b"hello bob", BINARY),),
        (FRAGMENTS,),
        (frame(b"hello", fin=False) + frame(b"", CONTINUATION),),
        (frame(b"hel", fin=False) + frame(b"?", PING) + frame(b"!", PONG) + frame(b"lo", CONTINUATION),),
        (frame(b"", PONG) + HELLO + close(),),
        (frame(b"hello", size=5),),  # a length in more bytes than needed
        tuple(bytes([byte]) for byte in FRAGMENTS),
        (frame(b"hello" + b"x" * 200),),
        (frame(b"hello" + b"x" * 70_000),),
        (frame(b"hello \xff\xfe"),),  # invalid UTF-8, which Go's client does not check
    ],
)
async def test_matching_message_passes(messages: tuple[bytes, ...]) -> None:
    result, _ = await probe(upgraded(*messages), EXPECT)
    assert why(result) is None
    assert values(result) == (101, 1, 0)


async def test_message_at_the_size_limit_is_read() -> None:
    result, _ = await probe(upgraded(frame(b"x" * (MAX_MESSAGE_BYTES - 1) + b"!")), {"expect": "!$"})
    assert why(result) is None


async def test_step_takes_one_message() -> None:
    """Messages that arrive together are not skipped, unlike lines."""
    answer = upgraded(frame(b"one") + frame(b"two") + frame(b"", BINARY) + frame(b"four"))
    steps = {"expect": "^one$"}, {"expect": "^two$"}, {"expect": "^$"}, {"expect_bytes": "four"}
    assert why((await probe(answer, *steps))[0]) is None
    result, _ = await probe(answer, {"expect": "two"})
    assert why(result) == (Reason.DIALOGUE_NO_MATCH, "dialogue")
    assert values(result) == (101, 1, 1)


@pytest.mark.parametrize(
    ("step", "heard"),
    [
        ({"send": "plain $1"}, "text b'plain $1'"),
        ({"expect": r"(\w+)$", "send": "hi ${1}"}, "text b'hi bob'"),
        ({"send": "a", "send_without_newline": True}, "text b'a'"),
        ({"send_bytes": "\x00\udcff"}, r"binary b'\x00\xff'"),
        ({"send": "x" * 65536}, "text of 65536 bytes"),
        ({"expect_bytes": "hello bob", "send": "same"}, "text b'same'"),
        ({"starttls": True, "send": "still here"}, "text b'still here'"),
    ],
)
async def test_step_sends_its_message(step: Step, heard: str) -> None:
    result, site = await probe(upgraded(HELLO), step)
    assert why(result) is None
    assert site.heard == [heard, "close 1000"]


async def test_ping_is_answered() -> None:
    _, site = await probe(upgraded(frame(b"are you there", PING) + HELLO), EXPECT, {"send": "yes"})
    assert site.heard == ["pong b'are you there'", "text b'yes'", "close 1000"]


@pytest.mark.usefixtures("clock")
async def test_message_to_a_closing_server_is_lost_without_failing() -> None:
    """The verdict does not depend on when the close frame arrives. A step that expects more fails."""
    for parts in ((HELLO + close(),), (HELLO, Pause(0.5), close())):
        result, _ = await probe(upgraded(*parts), EXPECT | {"send": "x"})
        assert why(result) is None
    result, _ = await probe(upgraded(HELLO + close()), EXPECT | {"send": "x"}, EXPECT)
    assert why(result) == (Reason.WEBSOCKET_CLOSED, "dialogue")


@pytest.mark.parametrize(
    ("parts", "end", "reason"),
    [
        ((frame(b"goodbye"),), End.HOLD, Reason.DIALOGUE_NO_MATCH),
        ((close(1000),), End.HOLD, Reason.WEBSOCKET_CLOSED),
        ((close(1011, "out of order"),), End.HOLD, Reason.WEBSOCKET_CLOSED),
        ((close(4000),), End.HOLD, Reason.WEBSOCKET_CLOSED),
        ((frame(b"", CLOSE),), End.HOLD, Reason.WEBSOCKET_CLOSED),
        ((), End.CLOSE, Reason.WEBSOCKET_CLOSED),
        ((HELLO[:4],), End.CLOSE, Reason.WEBSOCKET_CLOSED),
        ((Pause(2),), End.RESET, Reason.CONNECT_RESET),
        ((frame(b"x", CLOSE),), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((close(1005),), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((frame(b"\x03\xe8\xff", CLOSE),), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((frame(b"hello", mask=b"abcd"),), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((frame(b"hello", reserved=4),), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((frame(b"hello", reserved=1),), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((frame(b"hello", 3),), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((frame(b"hello", 11),), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((frame(b"x" * 126, PING),), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((frame(b"x", PING, fin=False),), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((frame(b"hello", CONTINUATION),), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((frame(b"hel", fin=False) + HELLO,), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((b"HTTP/1.1 400 Bad Request\r\n" * 5,), End.HOLD, Reason.WEBSOCKET_PROTOCOL_ERROR),
        ((frame(b"hello", size=MAX_MESSAGE_BYTES + 1),), End.HOLD, Reason.WEBSOCKET_MESSAGE_TOO_LARGE),
        ((frame(b"hello", size=2**64 - 1),), End.HOLD, Reason.WEBSOCKET_MESSAGE_TOO_LARGE),
        (
            (frame(b"x", fin=False), Repeat(frame(b"x" * 2**20, CONTINUATION, fin=False), 17)),
            End.HOLD, Reason.WEBSOCKET_MESSAGE_TOO_LARGE,
        ),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("clock")
async def test_failed_message_has_its_reason(parts: tuple[Any, ...], end: End, reason: Reason) -> None:
    result, _ = await probe(upgraded(*parts, end=end), EXPECT)
    assert why(result) == (reason, "dialogue")
    assert values(result) == (101, 1, 1)
    assert "transfer" in seconds(result)


async def test_close_code_is_reported() -> None:
    result, _ = await probe(upgraded(close(1013, "come back later")), EXPECT)
    assert result.failure is not None
    assert result.failure.fields == {"code": 1013, "close_reason": "come back later"}


async def test_protocol_error_is_answered_with_a_close_code() -> None:
    site = WebsocketSite({"/": upgraded(frame(b"hello", mask=b"abcd"))})
    settings = WebsocketSettings.model_validate({"query_response": [EXPECT]})
    async with site:
        await run(Module("m", prober, settings, 0.0, Place("t")), site.fill(WS), 20.0)
        await site.quiet()
    assert site.heard == ["close 1002 incorrect masking"]


# --- the deadline ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (HELLO[:5],),
        (frame(b"hel", fin=False),),
        (Repeat(frame(b"", PING), 1000, 2.0),),
        (Repeat(frame(b"", PONG), 1000, 2.0),),
    ],
)
@pytest.mark.usefixtures("clock")
async def test_silent_server_times_out_in_the_dialogue_phase(parts: tuple[Any, ...]) -> None:
    """The original has no deadline after the upgrade."""
    result, _ = await probe(upgraded(*parts), EXPECT, timeout=8.0)
    assert why(result) == (Reason.TIMEOUT_DIALOGUE, "dialogue")
    assert values(result) == (101, 1, 1)
    assert 4 < seconds(result)["transfer"] <= result.duration < 12


@pytest.mark.parametrize(
    "flood",
    [
        frame(b"", PING) * 40_000,
        frame(b"", PONG) * 40_000,
        frame(b"", CONTINUATION, fin=False) * 40_000,
    ],
)
async def test_flood_of_frames_is_read_in_short_turns(flood: bytes) -> None:
    """Other tasks get their turn during the flood, and the deadline ends the probe."""
    settings = WebsocketSettings.model_validate({"query_response": [EXPECT]})
    site = WebsocketSite({"/": upgraded(frame(b"", fin=False), Repeat(flood, 10_000))})
    async with site:
        with short_turns() as taken:
            result = await run_until(
                lambda probe: probe.current_phase == "dialogue" and len(taken) > 20,
                Module("m", prober, settings, 0.0, Place("t")), site.fill(WS),
            )  # fmt: skip
    assert why(result) == (Reason.TIMEOUT_DIALOGUE, "dialogue")


PIECE_BYTES = 65536


def in_pieces(content: bytes) -> tuple[Part, ...]:
    """Return a frame of the largest size, in pieces: the peer shares the event loop, and its turns count too."""
    frame_head = frame(bytes(MAX_MESSAGE_BYTES))[:-MAX_MESSAGE_BYTES]
    return frame_head, Repeat(content * (PIECE_BYTES // len(content)), MAX_MESSAGE_BYTES // PIECE_BYTES)


LARGE: dict[str, tuple[Part, ...]] = {
    "a text": in_pieces(b"x"),
    "a text with umlauts": in_pieces("ü".encode()),
    "no text": in_pieces(b"\xff"),
    "fragments": (
        frame(b"x", fin=False),
        Repeat(frame(b"x" * 100, CONTINUATION, fin=False) * 500, 100),
        frame(b"y", CONTINUATION),
    ),
}


@pytest.mark.parametrize("message", LARGE.values(), ids=LARGE)
async def test_large_message_is_read_and_searched_in_short_turns(message: tuple[Part, ...]) -> None:
    settings = WebsocketSettings.model_validate({"query_response": [{"expect": "(a+)+never", "reject": "(b|c)*d"}]})
    async with WebsocketSite({"/": upgraded(*message)}) as site:
        with short_turns():
            result = await run(Module("m", prober, settings, 0.0, Place("t")), site.fill(WS), 60)
    assert why(result) == (Reason.DIALOGUE_NO_MATCH, "dialogue")


@pytest.mark.usefixtures("clock")
async def test_server_that_does_not_read_times_out_in_the_dialogue_phase() -> None:
    result, _ = await probe(upgraded(Pause(25)), {"send": "x" * 20_000_000})
    assert why(result) == (Reason.TIMEOUT_DIALOGUE, "dialogue")
