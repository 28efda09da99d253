"""The grpc prober against grpcio's server, directly and behind nginx, and against scripted servers that misbehave.

Side by side with the original stand the values (tests/peers).
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.network import lookup
from probe_exporter.network.address_choice import IP_PROTOCOL
from probe_exporter.prober.failure import Reason
from probe_exporter.probers.grpc import DURATION, PARTS, SERVING_STATUS, SSL, STATUS_CODE, GrpcSettings, _parse, prober
from probe_exporter.runner import Result, run
from probe_exporter.tls.metrics import CERTIFICATE_INFO, CHAIN_EXPIRY, CIPHER_INFO, EARLIEST_EXPIRY, VERSION_INFO
from tests.deadlines import in_phase, run_until
from tests.exporters import ROOT
from tests.outcomes import why
from tests.servers import Room, nginx
from tests.servers._grpc_server import DATA, TOKEN
from tests.servers.grpc_health import GrpcHealth
from tests.targets import Answer, End, Pause, Pki, Repeat, Site, Tls, grpc, http2
from tests.targets.answers import raw
from tests.targets.grpc import OPENED, READ, SERVING, message, opened, status, trailers
from tests.targets.http2 import data, goaway, ping, reset, said, settings

pytestmark = pytest.mark.slow

H2 = Tls(alpn=("h2",))


def module(**settings: Any) -> Module:
    return Module("m", prober, GrpcSettings.model_validate(settings), 0.0, Place("test.yml"))


async def probe(target: str, *, timeout: float = 20.0, **settings: Any) -> Result:
    return await run(module(**settings), target, timeout)


async def scripted(pki: Pki, answer: Answer, *, tls: Tls | None = None, **asked: Any) -> tuple[Result, Site]:
    """Probe a scripted server; over TLS if `tls` is given."""
    opening = asked.pop("opening", http2.OPENING)
    async with Site(grpc.at(answer), tls, pki.directory, opening=opening) as site:
        if tls is None:
            return await probe(site.fill("127.0.0.1:{port}"), **asked), site
        return await probe(site.fill("127.0.0.1:{tls_port}"), tls=True, tls_config=pki.trust(), **asked), site


def said_of(result: Result) -> tuple[str, float]:
    """Return the serving status in the response, if any, and the status of the call."""
    statuses = result.probe.samples.labelled.get(SERVING_STATUS, {})
    return "".join(name for (name,), value in statuses.items() if value), result.probe.samples.get(STATUS_CODE)


def parts(result: Result) -> dict[str, float]:
    """Return the duration of each part of the check, in seconds."""
    return {phase: value for (phase,), value in result.probe.samples.labelled.get(PARTS, {}).items()}


def has_tls_metrics(result: Result) -> bool:
    samples = result.probe.samples
    shown = [bool(samples.labelled.get(metric)) for metric in (CERTIFICATE_INFO, CIPHER_INFO, VERSION_INFO)]
    shown += [samples.get(EARLIEST_EXPIRY, default=0.0) > 0]
    assert len(set(shown)) == 1
    return shown[0]


# --- a server of Google's ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "expected", "reason"),
    [
        ("", ("SERVING", 0), None),
        ("up", ("SERVING", 0), None),
        ("grün", ("SERVING", 0), None),
        ("down", ("NOT_SERVING", 0), Reason.GRPC_NOT_SERVING),
        ("unknown", ("UNKNOWN", 0), Reason.GRPC_NOT_SERVING),
        ("nobody", ("", 5), Reason.GRPC_SERVICE_UNKNOWN),
        ("closed", ("", 16), Reason.GRPC_PERMISSION),
    ],
)
async def test_service_status_decides_the_reason(
    grpc_health: GrpcHealth, service: str, expected: tuple[str, int], reason: Reason | None
) -> None:
    result = await probe(f"127.0.0.1:{grpc_health.plain}", service=service)
    assert why(result) == (None if reason is None else (reason, "check"))
    assert said_of(result) == expected


async def test_metadata_is_sent_with_the_call(grpc_health: GrpcHealth) -> None:
    good = {"authorization": [TOKEN], "x-data-bin": [DATA.decode("utf-8", "surrogateescape")]}
    assert why(await probe(f"127.0.0.1:{grpc_health.plain}", service="closed", metadata=good)) is None
    refused = await probe(f"127.0.0.1:{grpc_health.plain}", service="closed", metadata={**good, "x-data-bin": ["x"]})
    assert refused.failure is not None
    assert refused.failure.message == "the call ended with status 16 (UNAUTHENTICATED): 100% grün: who are you?"


async def test_server_without_health_service_is_unimplemented(grpc_health: GrpcHealth) -> None:
    result = await probe(f"127.0.0.1:{grpc_health.bare}")
    assert why(result) == (Reason.GRPC_UNIMPLEMENTED, "check")
    assert said_of(result) == ("", 12)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_server_is_asked_over_tls(grpc_health: GrpcHealth, pki: Pki, host: str) -> None:
    result = await probe(f"{host}:{grpc_health.secure}", tls=True, tls_config=pki.trust())
    assert why(result) is None
    assert said_of(result) == ("SERVING", 0)
    assert result.probe.samples.get(SSL) == 1
    assert has_tls_metrics(result)
    assert set(parts(result)) == {"connect", "tls", "call"}


async def test_parts_add_up_to_the_check(grpc_health: GrpcHealth, pki: Pki) -> None:
    result = await probe(f"127.0.0.1:{grpc_health.secure}", tls=True, tls_config=pki.trust())
    assert all(value > 0 for value in parts(result).values())
    assert sum(parts(result).values()) <= result.probe.samples.get(DURATION, "check") <= result.duration


async def test_server_name_of_the_settings_is_verified(grpc_health: GrpcHealth, pki: Pki) -> None:
    for name, expected in (("www.example.test", None), ("other.test", (Reason.CERTIFICATE_WRONG_NAME, "tls"))):
        config = pki.trust() | {"server_name": name}
        assert why(await probe(f"127.0.0.1:{grpc_health.secure}", tls=True, tls_config=config)) == expected


async def test_untrusted_certificate_is_refused_and_reported(grpc_health: GrpcHealth, pki: Pki) -> None:
    config = {"ca_file": str(pki.directory / "stranger.pem")}
    result = await probe(f"127.0.0.1:{grpc_health.secure}", tls=True, tls_config=config)
    assert why(result) == (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, "tls")
    assert said_of(result) == ("", 14)
    assert result.probe.samples.get(SSL) == 0
    assert has_tls_metrics(result)


async def test_client_certificate_is_sent(grpc_health: GrpcHealth, pki: Pki) -> None:
    mine = {f"{kind}_file": str(pki.directory / f"client.{name}") for kind, name in (("cert", "pem"), ("key", "key"))}
    target = f"127.0.0.1:{grpc_health.mutual}"
    assert why(await probe(target, tls=True, tls_config=pki.trust() | {**mine})) is None
    result = await probe(target, tls=True, tls_config=pki.trust())
    assert result.failure is not None
    assert result.failure.reason in (Reason.TLS_HANDSHAKE, Reason.CONNECT_CLOSED, Reason.CONNECT_RESET)
    assert said_of(result) == ("", 14)


async def test_plain_and_tls_mismatch_fails(grpc_health: GrpcHealth, pki: Pki) -> None:
    plainly = await probe(f"127.0.0.1:{grpc_health.secure}")
    assert plainly.failure is not None
    assert plainly.failure.reason in (Reason.GRPC_NOT_HTTP2, Reason.CONNECT_CLOSED, Reason.CONNECT_RESET)
    securely = await probe(f"127.0.0.1:{grpc_health.plain}", tls=True, tls_config=pki.trust())
    assert why(securely) == (Reason.TLS_HANDSHAKE, "tls")


async def test_slow_server_times_out_in_the_check_phase(grpc_health: GrpcHealth) -> None:
    result = await run_until(in_phase("check"), module(service="slow"), f"127.0.0.1:{grpc_health.plain}")
    assert why(result) == (Reason.GRPC_TIMEOUT, "check")
    assert said_of(result) == ("", 4)
    assert 0 < parts(result)["call"] <= result.probe.samples.get(DURATION, "check")
    assert why(await probe(f"127.0.0.1:{grpc_health.plain}", service="slow")) is None


async def test_concurrent_probes_get_their_own_responses(grpc_health: GrpcHealth) -> None:
    services = ["up", "down", "nobody"] * 20
    results = await asyncio.gather(*(probe(f"127.0.0.1:{grpc_health.plain}", service=one) for one in services))
    assert [said_of(result) for result in results] == [("SERVING", 0), ("NOT_SERVING", 0), ("", 5)] * 20


# --- behind nginx ------------------------------------------------------------------------------------------

PROXY = """
  server {{
    listen 127.0.0.1:{plain} http2;
    listen 127.0.0.1:{secure} ssl http2;
    location / {{ grpc_pass grpc://127.0.0.1:{health}; }}
    grpc_read_timeout 300ms;
  }}
  server {{
    listen 127.0.0.1:{dead} http2;
    location / {{ grpc_pass grpc://127.0.0.1:1; }}
  }}
  server {{
    listen 127.0.0.1:{web} http2;
    location / {{ return 200 "good morning"; }}
  }}
  server {{
    listen 127.0.0.1:{old};
  }}
"""


@pytest.fixture(scope="module")
def proxied(grpc_health: GrpcHealth, pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Start an nginx: its ports in front of the health server, in front of a dead port, and without gRPC."""
    room = Room(tmp_path_factory.mktemp("nginx"), pki)
    ports = {name: room.port() for name in ("plain", "secure", "dead", "web", "old")}
    with nginx.serving(room, PROXY.format(health=grpc_health.plain, **ports), ports["plain"]):
        yield ports


@pytest.mark.parametrize(
    ("service", "expected"), [("up", ("SERVING", 0)), ("down", ("NOT_SERVING", 0)), ("x", ("", 5))]
)
async def test_nginx_forwards_calls(proxied: dict[str, int], pki: Pki, service: str, expected: tuple[str, int]) -> None:
    plainly = await probe(f"127.0.0.1:{proxied['plain']}", service=service)
    securely = await probe(f"127.0.0.1:{proxied['secure']}", service=service, tls=True, tls_config=pki.trust())
    assert [said_of(plainly), said_of(securely)] == [expected, expected]
    assert has_tls_metrics(securely)


async def test_nginx_forwards_metadata(proxied: dict[str, int]) -> None:
    metadata = {"authorization": [TOKEN], "x-data-bin": [DATA.decode("utf-8", "surrogateescape")]}
    assert why(await probe(f"127.0.0.1:{proxied['plain']}", service="closed", metadata=metadata)) is None


@pytest.mark.parametrize(
    ("where", "reason", "status_code"),
    [("dead", Reason.GRPC_NOT_GRPC, 14), ("web", Reason.GRPC_NOT_GRPC, 2), ("old", Reason.GRPC_NOT_HTTP2, 14)],
)
async def test_nginx_error_is_not_a_grpc_response(
    proxied: dict[str, int], where: str, reason: Reason, status_code: int
) -> None:
    result = await probe(f"127.0.0.1:{proxied[where]}")
    assert why(result) == (reason, "check")
    assert said_of(result) == ("", status_code)


async def test_nginx_timeout_is_not_a_grpc_response(proxied: dict[str, int]) -> None:
    result = await probe(f"127.0.0.1:{proxied['plain']}", service="slow")
    assert why(result) == (Reason.GRPC_NOT_GRPC, "check")
    assert said_of(result) == ("", 14)


# --- what real servers rarely do ---------------------------------------------------------------------------

GOOD = data(message(status(SERVING)), end=False)
FAULTS = {
    "no response": (said(), Reason.GRPC_TIMEOUT, 4),
    "no response after the headers": (opened(), Reason.GRPC_TIMEOUT, 4),
    "no trailers after the message": (opened(GOOD), Reason.GRPC_TIMEOUT, 4),
    "slow bytes": (opened(Repeat(data(b"\0", end=False), 4, 0.5), Pause(60)), Reason.GRPC_TIMEOUT, 4),
    "stream refused twice": (said(reset(http2.REFUSED_STREAM)), Reason.GRPC_STREAM_RESET, 14),
    "GOAWAY twice": (said(goaway(0)), Reason.GRPC_GOING_AWAY, 14),
    "GOAWAY with an error": (said(goaway(0, http2.ENHANCE_YOUR_CALM)), Reason.GRPC_GOING_AWAY, 14),
    "GOAWAY in the response": (
        opened(goaway(1), data(b"\0", end=False), READ, end=End.CLOSE), Reason.GRPC_GOING_AWAY, 14,
    ),
    "stream reset in the response": (opened(GOOD, reset(http2.CANCEL)), Reason.GRPC_STREAM_RESET, 1),
    "connection closed in the response": (opened(GOOD, READ, end=End.CLOSE), Reason.GRPC_TRUNCATED, 14),
    "connection reset in the response": (opened(GOOD, Pause(2), end=End.RESET), Reason.GRPC_TRUNCATED, 14),
    "invalid HTTP/2 frame": (said(http2.frame(6, b"short")), Reason.GRPC_PROTOCOL_ERROR, 14),
    "flood of pings": (said(Repeat(ping() * 1000, 20)), Reason.GRPC_PROTOCOL_ERROR, 14),
    "flood of header fields": (
        said(http2.headers((":status", "200"), *((f"x-{n}", "a" * 9000) for n in range(1200)))),
        Reason.GRPC_PROTOCOL_ERROR, 14,
    ),
    "message beyond the limit": (
        opened(data(message(length=1 << 30), end=False), Repeat(data(b"x" * 16384, end=False), 1000)),
        Reason.GRPC_PROTOCOL_ERROR, 8,
    ),
    "flood of messages": (
        opened(Repeat(data(message(b"x" * 16000), end=False), 1000)), Reason.GRPC_PROTOCOL_ERROR, 13,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "reason", "code"), FAULTS.values(), ids=FAULTS)
@pytest.mark.usefixtures("clock")
async def test_server_fault_has_its_reason_and_status(pki: Pki, answer: Answer, reason: Reason, code: int) -> None:
    """Each fault is tried without and with TLS."""
    for tls in (None, H2):
        result, _ = await scripted(pki, answer, tls=tls, timeout=8.0)
        assert why(result) == (reason, "check")
        assert said_of(result) == ("", code)
        assert has_tls_metrics(result) is (tls is not None)


async def test_unprocessed_call_is_retried_once(pki: Pki) -> None:
    for refusal in (reset(http2.REFUSED_STREAM), goaway(0)):
        result, site = await scripted(pki, said(refusal))
        assert result.failure is not None
        assert len(site.requests) == 2
    _, site = await scripted(pki, said(reset(http2.INTERNAL_ERROR)))
    assert len(site.requests) == 1


async def test_retried_call_may_succeed(pki: Pki) -> None:
    pages = dict(grpc.at(said(reset(http2.REFUSED_STREAM))))
    async with Site(pages, None, pki.directory) as site:
        probing = asyncio.create_task(probe(site.fill("127.0.0.1:{port}")))
        await site.reached(1)
        pages.update(grpc.at(grpc.healthy()))
        result = await probing
    assert why(result) is None
    assert said_of(result) == ("SERVING", 0)


async def test_response_before_the_request_is_accepted(pki: Pki) -> None:
    opening = http2.OPENING + OPENED + GOOD + trailers()
    result, site = await scripted(pki, said(), opening=opening)
    assert why(result) is None
    assert len(site.requests) == 1


async def test_large_service_name_is_sent_as_the_window_grows(pki: Pki) -> None:
    """The window is 0 at first and grows by 1,000 bytes at a time."""
    tls = Tls(alpn=("h2",), opening=settings((http2.INITIAL_WINDOW_SIZE, 0)), grant=1000)
    name = "s" * 30_000
    result, site = await scripted(pki, grpc.healthy(), tls=tls, service=name)
    assert why(result) is None
    assert site.requests[0].body == message(b"\x0a" + grpc.varint(len(name)) + name.encode())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_without_alpn_h2_fails(pki: Pki, version: ssl.TLSVersion) -> None:
    for protocols in ((), ("http/1.1",)):
        tls = Tls(alpn=protocols, minimum=version, maximum=version)
        result, site = await scripted(pki, grpc.healthy(), tls=tls)
        assert why(result) == (Reason.GRPC_NOT_HTTP2, "check")
        assert has_tls_metrics(result)
        assert not site.requests


async def test_server_of_another_protocol_is_not_http2(pki: Pki) -> None:
    for greeting in (
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"220 mail.example.test ESMTP\r\n",
        b"\x15\x03\x01\0\2\2\x46" * 9,
    ):
        async with Site({}, None, pki.directory, raw(greeting, end=End.HOLD)) as site:
            assert why(await probe(site.fill("127.0.0.1:{port}"))) == (Reason.GRPC_NOT_HTTP2, "check")


async def test_closed_port_is_unavailable(pki: Pki) -> None:
    async with Site({}, None, pki.directory) as site:
        result = await probe(site.fill("127.0.0.1:{dead}"))
    assert why(result) == (Reason.CONNECT_REFUSED, "connect")
    assert said_of(result) == ("", 14)
    assert result.probe.samples.get(DURATION, "check") > 0


@pytest.mark.usefixtures("clock")
async def test_unfinished_tls_handshake_times_out_in_the_tls_phase(pki: Pki) -> None:
    async with Site({}, raw(Pause(60)), pki.directory) as site:
        result = await probe(site.fill("127.0.0.1:{tls_port}"), tls=True, tls_config=pki.trust(), timeout=8.0)
    assert why(result) == (Reason.TLS_TIMEOUT, "tls")
    assert said_of(result) == ("", 4)


async def test_unverified_certificate_has_no_chain_expiry(pki: Pki) -> None:
    """The original sets the year 1 in http and tcp only. Here it would trigger alerts that did not fire before."""
    async with Site(grpc.at(grpc.healthy()), Tls("expired", alpn=("h2",)), pki.directory) as site:
        unverified = {"insecure_skip_verify": True}
        result = await probe(site.fill("127.0.0.1:{tls_port}"), tls=True, tls_config=unverified)
    assert why(result) is None
    assert has_tls_metrics(result)
    assert CHAIN_EXPIRY not in result.probe.samples.plain


def test_http2_is_imported_by_the_first_call() -> None:
    """Every exporter imports this prober, so modules that only calls need are imported by the first call."""
    code = "import sys, probe_exporter.probers.grpc; print([m for m in sys.modules if 'http2' in m or 'hpack' in m])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# --- targets and settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["grpc:letters", "[::1", "a b", "\0", "127.0.0.1:70000"])
async def test_invalid_target_has_its_reason(target: str) -> None:
    result = await probe(target)
    assert result.failure is not None
    assert result.failure.reason is Reason.TARGET_INVALID
    assert said_of(result) == ("", 14)


async def test_reported_address_is_the_one_connected_to(
    grpc_health: GrpcHealth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name has two addresses and the server listens on one. The original connects to either."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 both.test\n::1 both.test\n")
    monkeypatch.setattr(lookup, "HOSTS", hosts)
    by_ip4 = await probe(f"both.test:{grpc_health.bare}", preferred_ip_protocol="ip4")
    assert why(by_ip4) == (Reason.GRPC_UNIMPLEMENTED, "check")
    assert by_ip4.probe.samples.get(IP_PROTOCOL) == 4
    by_ip6 = await probe(f"both.test:{grpc_health.bare}", preferred_ip_protocol="ip6")
    assert why(by_ip6) == (Reason.CONNECT_REFUSED, "connect")
    assert by_ip6.probe.samples.get(IP_PROTOCOL) == 6


@pytest.mark.parametrize(("tls", "port"), [(False, 80), (True, 443)])
@pytest.mark.parametrize("scheme", ["", "http://", "https://", "HTTPS://"])
def test_module_and_not_scheme_chooses_tls_and_port(scheme: str, tls: bool, port: int) -> None:
    settings = GrpcSettings(tls=tls)
    assert _parse(f"{scheme}server/ignored", settings).port == port
    assert _parse(f"{scheme}server:1", settings).port == 1
    assert _parse(f"{scheme}server", settings).secure is tls


async def test_unusable_tls_settings_fail_a_plain_probe(pki: Pki) -> None:
    async with Site(grpc.at(grpc.healthy()), None, pki.directory) as site:
        result = await probe(site.fill("127.0.0.1:{port}"), tls_config={"ca_file": str(pki.directory / "none.pem")})
    assert why(result) == (Reason.SETTINGS_UNUSABLE, "")
    assert not site.requests


async def test_invalid_server_name_fails_before_anything_is_sent(pki: Pki) -> None:
    async with Site(grpc.at(grpc.healthy()), H2, pki.directory) as site:
        config = pki.trust() | {"server_name": "-é-..x"}
        result = await probe(site.fill("127.0.0.1:{tls_port}"), tls=True, tls_config=config)
    assert why(result) == (Reason.SETTINGS_UNUSABLE, "check")
    assert not site.requests


async def test_address_is_sent_without_its_zone(pki: Pki) -> None:
    async with Site(grpc.at(grpc.healthy()), H2, pki.directory) as site:
        for target in ("[::1%25lo]:{port}", "[::1%251]:{port}"):
            assert why(await probe(site.fill(target))) is None
        config = pki.trust()
        assert why(await probe(site.fill("[::1%25lo]:{tls_port}"), tls=True, tls_config=config)) is None
    sent = [site.blank(request.all(":authority")[0]) for request in site.requests]
    assert sent == ["[::1]:{port}", "[::1]:{port}", "[::1]"]


async def test_invalid_metadata_fails_before_anything_is_sent(pki: Pki) -> None:
    for metadata in ({"X-A": ["1"]}, {"x-a": ["a\nb"]}):
        result, site = await scripted(pki, grpc.healthy(), metadata=metadata)
        assert why(result) == (Reason.SETTINGS_UNUSABLE, "check")
        assert said_of(result) == ("", 13)
        assert not site.requests
        assert [key for key, _ in GrpcSettings.model_validate({"metadata": metadata}).cautions()] == ["metadata"]
