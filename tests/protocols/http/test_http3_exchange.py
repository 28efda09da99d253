"""Probe over HTTP/3 against a scripted server: metrics, uploads, failures of the server."""

from __future__ import annotations

import asyncio
import io
import logging
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent

from probe_exporter import runner
from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.network import quic
from probe_exporter.prober.run import Probe
from probe_exporter.probers.http import prober
from probe_exporter.protocols.http.http3_exchange import MAX_UPLOAD_AHEAD_BYTES, UPLOAD_CHUNK_BYTES, Http3Exchange
from probe_exporter.protocols.http.request import Request
from probe_exporter.protocols.http.url import parse
from probe_exporter.runner import Result
from probe_exporter.tls.quic import QuicContext
from probe_exporter.tls.settings import TLSSettings
from tests.descriptors import open_descriptors
from tests.targets import Answer, End, Pause, Pki, Repeat, Site
from tests.targets.http3 import Quic, close, data, frame, head, on_control, redirect, reply, reset, said, stop

OK = reply(200, b"ok")
MEBIBYTE = b"0123456789abcdef" * (1 << 16)


def module(pki: Pki, **asked: object) -> Module:
    settings = prober.settings.model_validate(
        {
            "preferred_ip_protocol": "ip4",
            "tls_config": {"ca_file": str(pki.directory / "root.pem")},
            "enable_http3": True,
            "enable_http2": False,
            **asked,
        }
    )
    return Module("test", prober, settings, 0.0, Place("test.yml"))


@dataclass(frozen=True)
class FinishedProbe:
    """A finished probe and its target."""

    result: Result
    site: Site

    @property
    def reason(self) -> str:
        """Return why the probe failed, and in which phase."""
        failure = self.result.failure
        return f"{failure.reason.value} ({self.result.probe.failed_phase})" if failure else "no failure"

    def metric(self, name: str, *labels: str) -> float:
        """Return one sample."""
        families = self.result.probe.samples.families
        return next(samples[labels] for metric, samples in families.items() if metric.name == name)

    def seconds(self, phase: str) -> float:
        """Return the seconds of a phase."""
        return self.metric("probe_http_duration_seconds", phase)


async def probe(
    pki: Pki,
    answer: Answer | dict[str, Answer] = OK,
    *,
    behaviour: Quic | None = None,
    target: str = "https://localhost:{quic_port}/",
    timeout: float = 60.0,
    **asked: object,
) -> FinishedProbe:
    """Probe a scripted server."""
    pages = answer if isinstance(answer, dict) else {"/": answer}
    async with Site(pages, pki=pki.directory, quic=behaviour or Quic()) as site:
        result = await runner.run(module(pki, **asked), site.fill(target), timeout)
        return FinishedProbe(result, site)


# --- a good answer -----------------------------------------------------------------------------------------


async def test_http3_probe_reports_its_metrics(pki: Pki) -> None:
    probed = await probe(pki, reply(200, b"some body"))
    assert probed.reason == "no failure"
    assert probed.metric("probe_http_status_code") == 200
    assert probed.metric("probe_http_version") == 3
    assert probed.metric("probe_http_ssl") == 1
    assert probed.metric("probe_http_uncompressed_body_length") == 9
    assert probed.metric("probe_tls_version_info", "TLS 1.3") == 1
    assert probed.metric("probe_tls_cipher_info", "TLS_AES_128_GCM_SHA256") == 1


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_phases_do_not_overlap(pki: Pki) -> None:
    """The handshake counts once: until the first datagram as `connect`, afterwards as `tls`."""
    probed = await probe(pki, said(Pause(5), head(200), data(b"o"), Pause(5), data(b"k")))
    phases = [probed.seconds(name) for name in ("connect", "tls", "processing", "transfer")]
    assert all(seconds > 0 for seconds in phases)
    assert sum(phases) <= probed.result.duration
    assert 4 < probed.seconds("processing") < 9
    assert 4 < probed.seconds("transfer") < 9
    async with Site({}, pki=pki.directory, quic=Quic()) as site:
        started = time.perf_counter()
        async with dialled(pki, site["quic_port"]) as client:
            assert client.connect_seconds + client.tls_seconds <= time.perf_counter() - started


@pytest.mark.parametrize(
    ("target", "version"), [("https://127.0.0.1:{quic_port}/", 4), ("https://[::1]:{quic_port}/", 6)]
)
async def test_http3_works_over_ipv4_and_ipv6(pki: Pki, target: str, version: int) -> None:
    probed = await probe(pki, target=target)
    assert probed.reason == "no failure"
    assert probed.metric("probe_ip_protocol") == version


@pytest.mark.parametrize("target", ["http://localhost:{quic_port}/x", "localhost:{quic_port}/x"])
async def test_http3_target_without_https_scheme_is_probed_over_tls(pki: Pki, target: str) -> None:
    """A target with the scheme http, or without one, uses https; the log says so."""
    probed = await probe(pki, {"/x": OK}, target=target)
    assert probed.reason == "no failure"
    assert [event for event in probed.result.probe.events if "https" in event.message]


@pytest.mark.usefixtures("clock")
async def test_redirects_keep_cookies_and_credentials(pki: Pki) -> None:
    """Each hop has its own connection, and the durations add up."""
    pages = {"/": redirect(302, "/next", ("set-cookie", "a=1")), "/next": said(Pause(5), head(200), data(b"ok"))}
    probed = await probe(pki, pages, basic_auth={"username": "alice", "password": "secret"})
    first, second = probed.site.requests
    assert first.all("authorization") == second.all("authorization") == ["Basic YWxpY2U6c2VjcmV0"]
    assert second.all("cookie") == ["a=1"]
    assert probed.metric("probe_http_redirects") == 1
    assert probed.seconds("processing") > 4


async def test_plain_aioquic_server_is_probed(pki: Pki) -> None:
    """The server opens all streams of HTTP/3 and allows a dynamic table; nothing is scripted."""

    class Server(QuicConnectionProtocol):
        http: H3Connection | None = None

        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, ProtocolNegotiated):
                self.http = H3Connection(self._quic)
            for one in self.http.handle_event(event) if self.http else ():
                if isinstance(one, HeadersReceived) and self.http:
                    self.http.send_headers(
                        one.stream_id, [(b":status", b"200"), (b"x-path", dict(one.headers)[b":path"])]
                    )
                    self.http.send_data(one.stream_id, b"hello", end_stream=True)

    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    configuration.load_cert_chain(pki.directory / "leaf.pem", pki.directory / "leaf.key")
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: QuicServer(configuration=configuration, create_protocol=Server), local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]
    matcher = [{"header": "X-Path", "regexp": "^/there$"}]
    result = await runner.run(
        module(pki, fail_if_header_not_matches=matcher, fail_if_body_not_matches_regexp=["^hello$"]),
        f"https://127.0.0.1:{port}/there",
        60.0,
    )
    transport.close()
    assert result.failure is None


# --- uploads -----------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_large_request_body_is_sent_whole(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The body comes from the settings or from a file."""
    path = tmp_path_factory.mktemp("bodies") / "body"
    path.write_bytes(MEBIBYTE)
    for source, value in (("body", MEBIBYTE.decode()), ("body_file", str(path))):
        probed = await probe(pki, method="POST", **{source: value})  # type: ignore[arg-type]
        assert probed.reason == "no failure"
        assert probed.site.requests[0].body == MEBIBYTE


@pytest.mark.usefixtures("clock")
async def test_upload_reads_a_file_no_faster_than_it_sends(pki: Pki) -> None:
    """If the server takes no more data, the rest of the file is not read."""
    window = 100_000
    async with Site({"/": OK}, pki=pki.directory, quic=Quic(window=window)) as site:
        url = parse(site.fill("https://127.0.0.1:{quic_port}/"))
        request = Request("POST", url, url.authority, [], body_file="large")
        async with dialled(pki, site["quic_port"]) as client:
            upload = io.BytesIO(MEBIBYTE * 16)
            exchange = Http3Exchange(client, request, upload)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(15):
                    await exchange.head()
            assert window < client.sent < 2 * window
            assert upload.tell() <= client.sent + MAX_UPLOAD_AHEAD_BYTES + UPLOAD_CHUNK_BYTES


@asynccontextmanager
async def dialled(pki: Pki, port: int) -> AsyncIterator[quic.QuicClient]:
    """Connect over QUIC, and close the connection in the end."""
    clock = asyncio.get_running_loop().time
    context = QuicContext(TLSSettings(ca_file=str(pki.directory / "root.pem")))
    client = await quic.dial(Probe("target", clock() + 60, clock), ["127.0.0.1"], port, context, "localhost", "h3")
    try:
        yield client
    finally:
        client.close(0)


async def test_stop_sending_ends_the_upload_and_not_the_probe(pki: Pki) -> None:
    """STOP_SENDING arrives in the middle of the upload."""
    async with Site({}, pki=pki.directory, quic=Quic(early=said(stop(), head(200), data(b"enough")))) as site:
        url = parse(site.fill("https://127.0.0.1:{quic_port}/"))
        async with dialled(pki, site["quic_port"]) as client:
            upload = io.BytesIO(MEBIBYTE * 16)
            exchange = Http3Exchange(client, Request("POST", url, url.authority, [], body_file="large"), upload)
            assert (await exchange.head()).status == 200
            assert await exchange.body() == b"enough"
            assert upload.tell() < len(MEBIBYTE) * 8


# --- a bad server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((head(200), data(b"o"), reset()), "http_body_truncated (transfer)"),
        ((head(200), data(b"o"), close()), "http_body_truncated (transfer)"),
        ((head(200), data(b"o"), frame(0x4)), "http_protocol_error (transfer)"),
        ((head(200), data(b"o"), on_control(b"", end=True)), "http_protocol_error (transfer)"),
    ],
)
async def test_metrics_from_before_a_failure_are_kept(pki: Pki, parts: tuple[object, ...], reason: str) -> None:
    """Status, length and version are those of the response, even if the failure follows at once."""
    probed = await probe(pki, said(*parts, end=End.HOLD))  # type: ignore[arg-type]
    assert probed.reason == reason
    assert probed.metric("probe_http_status_code") == 200
    assert probed.metric("probe_http_uncompressed_body_length") == 1


async def test_failure_names_the_error_code_and_phrase(pki: Pki) -> None:
    """The message has the RFC's name of the code and the server's phrase."""
    probed = await probe(pki, said(close(0x102, "out of order"), end=End.HOLD))
    assert probed.result.failure is not None
    assert probed.result.failure.message == "the server closed the connection (INTERNAL_ERROR) out of order"


async def test_rejected_request_is_repeated_once(pki: Pki) -> None:
    """The server says that it did not process the request (RFC 9114, section 4.1.1)."""
    probed = await probe(pki, said(reset(0x10B), end=End.HOLD))
    assert probed.reason == "connect_reset (processing)"
    assert len(probed.site.requests) == 2


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("behaviour", "answer", "reason"),
    [
        (Quic(stateless=()), OK, "connect_timeout (connect)"),
        (Quic(stateless=(b"no QUIC at all",)), OK, "tls_timeout (tls)"),
        (Quic(), said(end=End.HOLD), "timeout_response (processing)"),
        (Quic(), said(head(200), Repeat(data(b"x"), 1000, every=1)), "timeout_transfer (transfer)"),
    ],
    ids=["connect", "tls", "processing", "transfer"],
)
@pytest.mark.slow
async def test_timeout_in_each_phase_has_its_reason(pki: Pki, behaviour: Quic, answer: Answer, reason: str) -> None:
    probed = await probe(pki, answer, behaviour=behaviour, timeout=8)
    assert probed.reason == reason
    assert 7 < probed.result.duration < 12  # the deadline is set a moment before the run begins


@pytest.mark.slow
async def test_large_body_that_is_only_counted_takes_little_memory(pki: Pki) -> None:
    """Neither the exporter nor aioquic keeps such a body."""
    await probe(pki)  # load modules and fill caches
    tracemalloc.start()
    try:
        probed = await probe(pki, said(head(200), Repeat(frame(0, MEBIBYTE[:65536]), 32)), timeout=200)
        assert probed.reason == "no failure"
        assert probed.metric("probe_http_uncompressed_body_length") == 32 * 65536
        mine = tracemalloc.Filter(True, "*/probe_exporter/*"), tracemalloc.Filter(True, "*/aioquic/quic/stream.py")
        held = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(mine).traces)
        assert held < 1 << 20
        assert tracemalloc.get_traced_memory()[1] < 8 << 20  # includes the server's own megabyte
    finally:
        tracemalloc.stop()


async def test_endless_head_ends_at_the_limit(pki: Pki) -> None:
    probed = await probe(pki, said(frame(1, length=1 << 40), Repeat(b"\x51" * 65536, 100)), timeout=100)
    assert probed.reason == "http_headers_too_large (processing)"


async def test_server_errors_are_not_logged(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is the probe's result; aioquic would log a warning too."""
    with caplog.at_level(logging.WARNING):
        await probe(pki, behaviour=Quic(alpn=("doq",)))
        await probe(pki, said(reset(), close(), end=End.HOLD))
    ours = [record for record in caplog.records if "aioquic" not in record.pathname]
    assert not ours


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_probe_leaves_no_tasks_or_sockets_behind(pki: Pki) -> None:
    """The probe may succeed, fail, time out or be cancelled."""
    await probe(pki)  # load modules and fill caches
    tasks, descriptors = asyncio.all_tasks(), open_descriptors()
    for answer in (OK, said(reset()), said(end=End.HOLD)):
        await probe(pki, answer, timeout=6)
    for behaviour in (Quic(stateless=()), Quic("expired"), Quic(refuses=True)):
        await probe(pki, behaviour=behaviour, timeout=6)
    waiting = asyncio.create_task(probe(pki, said(end=End.HOLD)))
    await asyncio.sleep(1)  # until there is nothing to do but wait for the answer
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(1)  # until all is closed
    assert asyncio.all_tasks() == tasks
    assert not open_descriptors() - descriptors


async def test_failed_verification_is_told_to_the_server_without_our_certificate(pki: Pki) -> None:
    """Our certificate is sent only to a verified server."""
    settings = {
        "ca_file": str(pki.directory / "stranger.pem"),
        "cert_file": str(pki.directory / "client.pem"),
        "key_file": str(pki.directory / "client.key"),
    }
    behaviour = Quic(client_ca="root")
    probed = await probe(pki, behaviour=behaviour, tls_config=settings)
    assert probed.reason == "certificate_unknown_authority (tls)"
    assert probed.metric("probe_ssl_verify_error_info", "unknown_authority") == 1
    assert [connection.tls._peer_certificate for connection in behaviour.connections] == [None]
    trusted = {**settings, "ca_file": str(pki.directory / "root.pem")}
    assert (await probe(pki, behaviour=behaviour, tls_config=trusted)).reason == "no failure"
    shown = behaviour.connections[1].tls._peer_certificate
    assert shown is not None
    assert shown.subject.rfc4514_string() == "CN=client"


@pytest.mark.slow
def test_aioquic_is_imported_by_the_first_probe_that_needs_it(modules_at_start: frozenset[str]) -> None:
    """Most exporters never need it."""
    assert "aioquic" not in modules_at_start
