"""`ocsp` against openssl and nginx, which staple a response, and against a responder on loopback."""

from __future__ import annotations

import asyncio
import datetime
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.network.settings import NetworkSettings
from probe_exporter.prober.failure import Reason
from probe_exporter.prober.run import Probe
from probe_exporter.probers.http import HttpSettings
from probe_exporter.probers.http import prober as http
from probe_exporter.probers.tcp import TcpSettings, prober
from probe_exporter.protocols.pki import ocsp_check, responders
from probe_exporter.protocols.pki.responders import answers
from probe_exporter.runner import Result, run
from probe_exporter.tls import ocsp
from probe_exporter.tls.handshake import Handshake
from probe_exporter.tls.quic import stapled_in
from tests.processes import free_port, listening, running
from tests.servers.nginx import Stapling
from tests.targets import Site, http3
from tests.targets.authority import PEM, Authority, tls_server

GENEROUS_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    answers.forget()
    yield
    answers.forget()


def a_module(authority: Authority, policy: NetworkSettings | None = None, **keys: Any) -> Module:
    written = {"tls": True, "tls_config": {"ca_file": str(authority.ca_file)}, "ocsp": "stapled"} | keys
    network = None if policy is None else policy.policy()
    return Module("m", prober, TcpSettings.model_validate(written), 0.0, Place("test.yml", 1), network=network)


@contextmanager
def stapling(directory: Path, response: bytes, *flags: str) -> Iterator[int]:
    """Serve TLS with the certificate "leaf"; empty for no response."""
    port = free_port()
    command = [
        "openssl",
        "s_server",
        "-accept",
        f"127.0.0.1:{port}",
        "-cert",
        "leaf.pem",
        "-key",
        "leaf.key",
        "-www",
        *flags,
    ]
    if response:
        (directory / "response.der").write_bytes(response)
        command += ["-status_file", "response.der"]
    with running(command, directory, directory / "server.log", listening(port)):
        yield port


async def probe_stapling(authority: Authority, response: bytes, **keys: Any) -> Result:
    with stapling(authority.directory, response) as port:
        return await run(a_module(authority, **keys), f"127.0.0.1:{port}", GENEROUS_SECONDS)


def statuses(result: Result) -> set[tuple[str, ...]]:
    return set(result.probe.samples.labelled.get(ocsp_check.STATUS, {}))


def value(result: Result, metric: Any, *labels: str) -> float | None:
    found = result.probe.samples.get(metric, *labels, default=-1.0)
    return None if found == -1.0 else found


async def test_stapled_response_is_verified_and_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    result = await probe_stapling(authority, authority.status(authority.issue()))
    assert result.failure is None
    assert statuses(result) == {("stapled", "good")}
    assert value(result, ocsp_check.STAPLED) == 1
    assert value(result, ocsp_check.MUST_STAPLE) == 0
    assert value(result, ocsp_check.THIS_UPDATE, "stapled") == pytest.approx(result.started - 86400, abs=3600)
    assert value(result, ocsp_check.NEXT_UPDATE, "stapled") == pytest.approx(result.started + 86400, abs=3600)


@pytest.mark.parametrize("version", ["TLS12", "TLS13"])
async def test_response_is_stapled_in_every_version_of_tls(tmp_path: Path, version: str) -> None:
    authority = Authority(tmp_path)
    config = {"ca_file": str(authority.ca_file), "min_version": version, "max_version": version}
    result = await probe_stapling(authority, authority.status(authority.issue()), tls_config=config)
    assert statuses(result) == {("stapled", "good")}


@pytest.mark.parametrize("fails", [False, True])
async def test_revoked_certificate_fails_the_probe_only_on_demand(tmp_path: Path, *, fails: bool) -> None:
    authority = Authority(tmp_path)
    response = authority.status(authority.issue(), revoked=True)
    result = await probe_stapling(authority, response, fail_if_revoked=fails)
    assert statuses(result) == {("stapled", "revoked")}
    assert (result.failure and result.failure.reason) == (Reason.CERTIFICATE_REVOKED if fails else None)


@pytest.mark.parametrize(
    ("kind", "shown", "stapled", "must_staple"),
    [
        ("good", "good", 1, 0),
        ("revoked", "revoked", 1, 0),
        ("demanded", "good", 1, 1),
        ("demanded and missing", None, 0, 1),
    ],
)
@pytest.mark.parametrize("version", ["TLS12", "TLS13"])
async def test_response_stapled_by_nginx(
    nginx_stapling: Stapling, kind: str, shown: str | None, stapled: float, must_staple: float, version: str
) -> None:
    trust = {"ca_file": str(nginx_stapling.ca_file), "min_version": version, "max_version": version}
    settings = HttpSettings.model_validate({"tls_config": trust, "ocsp": "stapled", "fail_if_revoked": True})
    module = Module("m", http, settings, 0.0, Place("test.yml", 1))
    result = await run(module, f"https://127.0.0.1:{nginx_stapling.ports[kind]}/", GENEROUS_SECONDS)
    assert statuses(result) == ({("stapled", shown)} if shown else set())
    assert (value(result, ocsp_check.STAPLED), value(result, ocsp_check.MUST_STAPLE)) == (stapled, must_staple)
    assert (result.failure and result.failure.reason) == (Reason.CERTIFICATE_REVOKED if kind == "revoked" else None)


def _unusable(authority: Authority, leaf: x509.Certificate) -> dict[str, bytes]:
    (authority.directory / "stranger").mkdir()
    stranger = Authority(authority.directory / "stranger")
    impostor = authority.issue(name="impostor")
    return {
        "signed by a stranger": authority.status(leaf, revoked=True, signer=(stranger.root, stranger.key)),
        "signed by a certificate that is no responder": authority.status(
            leaf, revoked=True, signer=(impostor, authority.key_of("impostor")), shown=[impostor]
        ),
        "about another certificate": authority.status(impostor, revoked=True),
        "past its next update": authority.status(leaf, revoked=True, begins=-3, ends=-1),
        "not valid yet": authority.status(leaf, revoked=True, begins=1, ends=2),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "signed by a stranger",
        "signed by a certificate that is no responder",
        "about another certificate",
        "past its next update",
        "not valid yet",
    ],
)
async def test_unusable_response_says_nothing_about_the_certificate(tmp_path: Path, kind: str) -> None:
    authority = Authority(tmp_path)
    response = _unusable(authority, authority.issue())[kind]
    result = await probe_stapling(authority, response, fail_if_revoked=True)
    assert result.failure is None
    assert statuses(result) == {("stapled", "unusable")}
    assert any(event.message == "Unusable OCSP response" for event in result.probe.events)


DAY = 86400.0


@pytest.mark.parametrize(
    ("begins", "ends", "problem"),
    [
        (ocsp.MAX_SKEW_SECONDS - 1, DAY, ""),
        (ocsp.MAX_SKEW_SECONDS + 1, DAY, "the response is not valid yet"),
        (1 - ocsp.MAX_AGE_SECONDS, None, ""),
        (-1 - ocsp.MAX_AGE_SECONDS, None, "the response is old, and does not say when a newer one is due"),
        (-1 - ocsp.MAX_AGE_SECONDS, DAY, ""),
        (-DAY, -1, "the response is past its next update"),
    ],
)
def test_response_counts_for_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: float, ends: float | None, problem: str
) -> None:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    monkeypatch.setattr(time, "time", now.timestamp)
    monkeypatch.setattr("tests.targets.authority.now", lambda: now)
    authority = Authority(tmp_path)
    leaf = authority.issue()
    response = authority.status(leaf, begins=begins / DAY, ends=None if ends is None else ends / DAY)
    answer = ocsp.read_response(response, leaf, authority.root)
    assert (answer.status, answer.problem) == ("unusable" if problem else "good", problem)


async def test_responder_with_a_certificate_of_the_issuer_may_sign(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.issue()
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
    responder = authority.issue(extensions=[usage], name="responder")
    signer = (responder, authority.key_of("responder"))
    result = await probe_stapling(authority, authority.status(leaf, signer=signer, shown=[responder]))
    assert statuses(result) == {("stapled", "good")}


@pytest.mark.parametrize("stapled", [False, True])
async def test_must_staple_with_and_without_a_response_is_visible(tmp_path: Path, *, stapled: bool) -> None:
    authority = Authority(tmp_path)
    leaf = authority.issue(extensions=[x509.TLSFeature([x509.TLSFeatureType.status_request])])
    result = await probe_stapling(authority, authority.status(leaf) if stapled else b"")
    assert result.failure is None
    assert (value(result, ocsp_check.MUST_STAPLE), value(result, ocsp_check.STAPLED)) == (1, 1 if stapled else 0)
    assert statuses(result) == ({("stapled", "good")} if stapled else set())


def named(*urls: str) -> x509.AuthorityInformationAccess:
    """Return the extension that names responders."""
    locations = [x509.UniformResourceIdentifier(url) for url in urls]
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, location) for location in locations]
    )


def _with_responder(authority: Authority, *paths: str) -> x509.Certificate:
    return authority.issue(extensions=[named(*map(authority.url, paths or ["/ocsp"]))])


async def test_responder_is_asked_only_on_demand(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        leaf = _with_responder(authority)
        authority.pages["/ocsp"] = authority.status(leaf, revoked=True)
        async with tls_server(tmp_path) as port:
            silent = await run(a_module(authority), f"127.0.0.1:{port}", GENEROUS_SECONDS)
            assert authority.requests == []
            asked = await run(a_module(authority, ocsp="request"), f"127.0.0.1:{port}", GENEROUS_SECONDS)
    assert statuses(silent) == set()
    assert value(silent, ocsp_check.STAPLED) == 0
    assert authority.requests == ["/ocsp"]
    assert statuses(asked) == {("responder", "revoked")}
    shown: list[Any] = [one.data(str) for result in (silent, asked) for one in result.probe.evidence]
    assert [peer["certificates"][0]["errors"] for peer in shown] == [[], ["revoked_by_ocsp"]]


async def test_responder_is_not_asked_if_a_usable_response_is_stapled(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        leaf = _with_responder(authority)
        result = await probe_stapling(authority, authority.status(leaf), ocsp="request")
    assert statuses(result) == {("stapled", "good")}
    assert authority.requests == []


async def test_denied_responder_is_not_asked(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        _with_responder(authority)
        async with tls_server(tmp_path) as port:
            policy = NetworkSettings.model_validate({"targets": {"allow": [f"127.0.0.1:{port}"]}})
            module = a_module(authority, policy, ocsp="request", fail_if_revoked=True)
            result = await run(module, f"127.0.0.1:{port}", GENEROUS_SECONDS)
    assert result.failure is None
    assert authority.requests == []
    assert any(event.message == "No answer by OCSP" for event in result.probe.events)


async def test_no_status_is_requested_without_the_key(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    module = a_module(authority, ocsp="")
    with stapling(tmp_path, authority.status(authority.issue())) as port:
        result = await run(module, f"127.0.0.1:{port}", GENEROUS_SECONDS)
        alone = Probe(f"127.0.0.1:{port}", math.inf)
        assert isinstance(module.settings, TcpSettings)
        await prober.probe(alone, module.settings)
    assert result.failure is None
    assert not any(metric.name.startswith("probe_ssl_ocsp") for metric in result.probe.samples.families)
    assert isinstance(alone.handshake, Handshake)
    assert alone.handshake.stapled is None


@pytest.mark.parametrize("asked", ["", "stapled"])
async def test_finished_probe_does_not_keep_the_handshake(tmp_path: Path, asked: str) -> None:
    """The history keeps finished probes, and counts on a summary of each certificate."""
    authority = Authority(tmp_path)
    result = await probe_stapling(authority, authority.status(authority.issue()), ocsp=asked)
    assert result.failure is None
    assert result.probe.handshake is None


# --- the chain ------------------------------------------------------------------------------------------------


def of_chain(result: Result) -> dict[str, tuple[float | None, float | None, str]]:
    """Return what is known by the position in the chain: available, revoked, path of the responder."""
    available = result.probe.samples.labelled.get(ocsp_check.AVAILABLE, {})
    revoked = result.probe.samples.labelled.get(ocsp_check.REVOKED, {})
    return {labels[5]: (available[labels], revoked[labels], labels[6][-5:]) for labels in available}


async def probe_chain(authority: Authority, **keys: Any) -> Result:
    async with tls_server(authority.directory) as port:
        return await run(a_module(authority, ocsp="request", **keys), f"127.0.0.1:{port}", GENEROUS_SECONDS)


async def test_responder_of_each_certificate_of_the_chain_is_asked(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        between = authority.issue_intermediate(named(authority.url("/root")))
        leaf = between.issue(extensions=[named(authority.url("/leaf"))])
        authority.pages |= {"/leaf": between.status(leaf), "/root": authority.status(between.root, revoked=True)}
        result = await probe_chain(authority, fail_if_revoked=True)
        again = await probe_chain(authority)
    assert of_chain(result) == {"0": (1, 0, "/leaf"), "1": (1, 1, "/root"), "2": (0, 0, "")}
    assert statuses(result) == {("responder", "good")}, "the older metrics are about the leaf alone"
    assert result.failure is not None
    assert result.failure.reason is Reason.CERTIFICATE_REVOKED
    assert "intermediate" in result.failure.message
    assert authority.requests == ["/leaf", "/root"]
    assert of_chain(again) == of_chain(result)
    assert again.probe.samples.get(ocsp_check.FETCH_TIME) == 0 < result.probe.samples.get(ocsp_check.FETCH_TIME)


async def test_stapled_response_stands_for_the_responder_of_the_leaf_alone(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        between = authority.issue_intermediate(named(authority.url("/root")))
        leaf = between.issue(extensions=[named(authority.url("/leaf"))])
        (tmp_path / "chain.pem").write_bytes(between.root.public_bytes(PEM))
        authority.pages["/root"] = authority.status(between.root)
        with stapling(tmp_path, between.status(leaf), "-cert_chain", "chain.pem") as port:
            module = a_module(authority, ocsp="request")
            result = await run(module, f"127.0.0.1:{port}", GENEROUS_SECONDS)
    assert of_chain(result) == {"0": (1, 0, ""), "1": (1, 0, "/root"), "2": (0, 0, "")}
    assert authority.requests == ["/root"]


async def test_usable_answer_is_kept_for_other_modules_and_certificates_are_told_apart(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        first = _with_responder(authority)
        authority.pages["/ocsp"] = authority.status(first, revoked=True)
        results = [await probe_chain(authority), await probe_chain(authority, check_revoked=True)]
        second = _with_responder(authority)
        authority.pages["/ocsp"] = authority.status(second)
        results.append(await probe_chain(authority))
    assert [of_chain(one)["0"][1] for one in results] == [1, 1, 0]
    assert [statuses(one) for one in results] == [{("responder", "revoked")}] * 2 + [{("responder", "good")}]
    assert authority.requests == ["/ocsp"] * 2


async def test_answer_of_a_responder_that_another_certificate_names_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has the same issuer and serial number, and its responder sends an old answer, which is valid."""
    monkeypatch.setattr(x509, "random_serial_number", lambda: 7)
    async with Authority(tmp_path) as authority:
        other = _with_responder(authority, "/past")
        authority.pages |= {"/past": authority.status(other), "/ocsp": authority.status(other, revoked=True)}
        results = [await probe_chain(authority)]
        _with_responder(authority, "/ocsp")
        results.append(await probe_chain(authority))
    assert [of_chain(one)["0"] for one in results] == [(1, 0, "/past"), (1, 1, "/ocsp")]


async def test_waiting_probes_share_one_request(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        authority.pages["/ocsp"] = authority.status(_with_responder(authority))
        module = a_module(authority, ocsp="request")
        async with tls_server(tmp_path) as port:
            together = await asyncio.gather(*[run(module, f"127.0.0.1:{port}", GENEROUS_SECONDS) for _ in range(4)])
    assert [of_chain(one)["0"][0] for one in together] == [1] * 4
    assert authority.requests == ["/ocsp"]
    assert not answers._fetches


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("about another certificate", "unusable"),
        ("past its next update", "unusable"),
        ("unknown", "unknown"),
        ("without a next update", "good"),
        ("missing", None),
        ("too large", None),
    ],
)
async def test_answer_that_may_change_is_not_kept(tmp_path: Path, kind: str, shown: str | None) -> None:
    async with Authority(tmp_path) as authority:
        leaf = _with_responder(authority)
        pages = _unusable(authority, leaf) | {
            "unknown": authority.status(leaf, unknown=True),
            "without a next update": authority.status(leaf, ends=None),
            "too large": bytes(responders.MAX_RESPONSE_BYTES + 1),
        }
        if kind != "missing":
            authority.pages["/ocsp"] = pages[kind]
        results = [await probe_chain(authority) for _ in range(2)]
    assert authority.requests == ["/ocsp"] * 2
    assert [statuses(one) for one in results] == [{("responder", shown)} if shown else set()] * 2
    assert len(answers) == 0


async def test_next_responder_is_asked_if_one_gives_no_usable_answer(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        leaf = _with_responder(authority, "/gone", "/junk", "/good")
        authority.pages |= {"/junk": b"junk", "/good": authority.status(leaf)}
        result = await probe_chain(authority)
    assert authority.requests == ["/gone", "/junk", "/good"]
    assert of_chain(result)["0"] == (1, 0, "/good")


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_silent_responder_does_not_fail_the_probe(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        _with_responder(authority, "/slow", "/slow")
        authority.pages["/slow"] = None
        async with tls_server(tmp_path) as port:
            result = await run(a_module(authority, ocsp="request"), f"127.0.0.1:{port}", GENEROUS_SECONDS)
    assert result.failure is None
    assert of_chain(result)["0"] == (0, 0, "/slow")
    assert result.probe.samples.get(ocsp_check.FETCH_TIME) > 0


async def test_redirect_to_a_denied_host_is_not_followed(tmp_path: Path) -> None:
    policy = NetworkSettings.model_validate({"targets": {"deny": ["127.0.0.2"]}})
    async with Authority(tmp_path) as authority:
        _with_responder(authority)
        authority.pages["/ocsp"] = f"http://127.0.0.2:{authority.port}/secret"
        async with tls_server(tmp_path) as port:
            module = a_module(authority, policy, ocsp="request")
            result = await run(module, f"127.0.0.1:{port}", GENEROUS_SECONDS)
    assert result.failure is None
    assert of_chain(result)["0"] == (0, 0, "/ocsp")
    assert authority.requests == ["/ocsp"]
    assert any("127.0.0.2" in str(event.fields.get("err")) for event in result.probe.events)


# --- over QUIC --------------------------------------------------------------------------------------------------


async def probe_over_quic(authority: Authority, extensions: bytes, **keys: Any) -> Result:
    """Probe an HTTP/3 server that sends extensions with its certificate."""
    versions = {"enable_http3": True, "enable_http2": False}
    settings = HttpSettings.model_validate({"tls_config": {"ca_file": str(authority.ca_file)}} | versions | keys)
    quic = http3.Quic(staples=extensions)
    async with Site({"/": http3.reply(200, b"")}, pki=authority.directory, quic=quic) as site:
        module = Module("m", http, settings, 0.0, Place("test.yml", 1))
        return await run(module, f"https://127.0.0.1:{site['quic_port']}/", GENEROUS_SECONDS)


def stapled_extension(response: bytes) -> bytes:
    """Return the extension status_request of a certificate's entry (RFC 8446, 4.4.2.1)."""
    content = b"\1" + len(response).to_bytes(3, "big") + response
    return b"\0\5" + len(content).to_bytes(2, "big") + content


@pytest.mark.parametrize("revoked", [False, True])
async def test_response_is_stapled_over_quic(tmp_path: Path, *, revoked: bool) -> None:
    authority = Authority(tmp_path)
    response = authority.status(authority.issue(), revoked=revoked)
    result = await probe_over_quic(authority, stapled_extension(response), ocsp="stapled", fail_if_revoked=True)
    assert statuses(result) == {("stapled", "revoked" if revoked else "good")}
    assert value(result, ocsp_check.STAPLED) == 1
    assert (result.failure and result.failure.reason) == (Reason.CERTIFICATE_REVOKED if revoked else None)


async def test_missing_response_is_visible_over_quic(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue()
    result = await probe_over_quic(authority, b"", ocsp="stapled")
    assert result.failure is None
    assert value(result, ocsp_check.STAPLED) == 0


async def test_no_status_is_requested_over_quic_without_the_key(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    response = authority.status(authority.issue())
    result = await probe_over_quic(authority, stapled_extension(response))
    assert result.failure is None
    assert not any(metric.name.startswith("probe_ssl_ocsp") for metric in result.probe.samples.families)


@pytest.mark.parametrize(
    "extensions",
    [
        b"",
        b"\0",
        b"\0\5",
        b"\0\5\0",
        b"\0\5\0\0",
        b"\0\5\0\1\1",
        b"\0\5\0\5\2\0\0\1x",
        b"\0\6\0\5\1\0\0\1x",
        b"\0\5\xff\xff\1\xff",
    ],
)
def test_broken_extensions_hold_no_response(extensions: bytes) -> None:
    assert stapled_in(extensions) == b""


def test_response_is_found_among_other_extensions() -> None:
    assert stapled_in(b"\0\x12\0\3abc" + stapled_extension(b"response") + b"\0\7\0\0") == b"response"
