"""Tests of QUIC connections over loopback: handshake, close, limits, and the same certificate rules as over TCP."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertBadCertificate, Epoch
from aioquic.tls import Certificate as SentCertificate
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from probe_exporter.network import quic
from probe_exporter.network.quic import MAX_GAPS, MAX_OUT_OF_ORDER_BYTES, QuicClient
from probe_exporter.network.quic_connection import USUAL_GROUPS, ClientConnection
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.tls import certificates
from probe_exporter.tls import quic as tls_quic
from probe_exporter.tls.certificates import Certificate
from probe_exporter.tls.context import ClientContext, forget_contexts
from probe_exporter.tls.handshake import Handshake, VerificationFailed
from probe_exporter.tls.quic import QuicContext, quic_context
from probe_exporter.tls.settings import TLSSettings
from tests.cost import short_turns
from tests.targets import Pki, Site
from tests.targets.http3 import Quic
from tests.waiting import until


def a_probe() -> Probe:
    clock = asyncio.get_running_loop().time
    return Probe("target", clock() + 60, clock)


def trusting(pki: Pki, root: str = "root") -> TLSSettings:
    return TLSSettings(ca_file=str(pki.directory / f"{root}.pem"))


async def dial(pki: Pki, port: int, *addresses: str, name: str = "localhost", alpn: str = "h3") -> QuicClient:
    context = QuicContext(trusting(pki))
    return await quic.dial(a_probe(), addresses or ("127.0.0.1",), port, context, name, alpn)


def site(pki: Pki, behaviour: Quic) -> Site:
    return Site({}, pki=pki.directory, quic=behaviour)


@asynccontextmanager
async def connected(pki: Pki, behaviour: Quic) -> AsyncIterator[QuicClient]:
    """Connect to a new server."""
    async with site(pki, behaviour) as target:
        client = await dial(pki, target["quic_port"])
        try:
            yield client
        finally:
            client.close(0)


async def the_end_of(client: QuicClient) -> ProbeFailed:
    """Process events until the connection ends; return the failure."""
    try:
        while True:
            await client.turn()
    except ProbeFailed as failed:
        return failed


# --- beginning ---------------------------------------------------------------------------------------------


async def test_quic_handshake_reports_server_certificates(pki: Pki) -> None:
    async with connected(pki, Quic(suite="CHACHA20_POLY1305_SHA256")) as client:
        pass
    shown = client.handshake
    assert shown is not None
    assert (shown.version, shown.cipher, shown.protocol) == ("TLS 1.3", "TLS_CHACHA20_POLY1305_SHA256", "h3")
    assert [certificate.labels.subject for certificate in shown.sent] == ["CN=leaf", "CN=intermediate"]
    assert shown.verified is not None
    assert [certificate.labels.subject for certificate in shown.verified] == [
        "CN=leaf",
        "CN=intermediate",
        "CN=root",
    ]


async def test_quic_handshake_is_kept_for_the_report(pki: Pki) -> None:
    async with site(pki, Quic()) as target:
        probe, context = a_probe(), QuicContext(trusting(pki))
        client = await quic.dial(probe, ["127.0.0.1"], target["quic_port"], context, "localhost", "h3")
        client.close(0)
    (kept,) = [evidence.data(str) for evidence in probe.evidence]
    assert (kept["server_name"], kept["version"], kept["verified"]) == ("localhost", "TLS 1.3", True)


async def test_quic_offers_suites_in_order_of_original(pki: Pki) -> None:
    """A server that follows the client's order then chooses the same suite."""
    assert [suite.name for suite in quic._SUITES] == [
        "AES_128_GCM_SHA256",
        "AES_256_GCM_SHA384",
        "CHACHA20_POLY1305_SHA256",
    ]


async def test_quic_dial_tries_addresses_in_turn(pki: Pki) -> None:
    """The last address gives the reason."""
    async with site(pki, Quic()) as target:
        client = await dial(pki, target["quic_port"], "127.0.0.2", "127.0.0.1")
        assert client.handshake is not None
        client.close(0)
        with pytest.raises(ProbeFailed) as failed:
            await dial(pki, target["quic_port"], "127.0.0.2", "127.0.0.3")
    assert failed.value.reason is Reason.CONNECT_REFUSED
    assert "127.0.0.3" in failed.value.message


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(Quic(refuses=True), Reason.CONNECT_REFUSED, id="refused"),
        pytest.param(Quic(alpn=("doq",)), Reason.TLS_HANDSHAKE, id="another protocol"),
        pytest.param(Quic(versions=(0x0A1A2A3A,)), Reason.CONNECT_FAILED, id="another version"),
        pytest.param(Quic("wrong_name"), Reason.CERTIFICATE_WRONG_NAME, id="another name"),
    ],
)
async def test_quic_dial_failure_has_reason(pki: Pki, behaviour: Quic, reason: Reason) -> None:
    async with site(pki, behaviour) as target:
        with pytest.raises(ProbeFailed) as failed:
            await dial(pki, target["quic_port"])
    assert failed.value.reason is reason


async def test_quic_dial_answers_retry(pki: Pki) -> None:
    """The server sends a Retry packet, which costs a round trip."""
    async with connected(pki, Quic(retry=True)) as client:
        assert client.handshake is not None


@pytest.mark.parametrize(
    ("group", "connections"), [("X25519", 1), ("SECP256R1", 1), ("SECP384R1", 2), ("SECP521R1", 2)]
)
async def test_quic_dial_offers_further_groups_to_a_server_that_wants_them(
    pki: Pki, group: str, connections: int
) -> None:
    behaviour = Quic(groups=(group,))
    async with connected(pki, behaviour) as client:
        assert client.handshake is not None
        assert len(behaviour.connections) == connections


async def test_quic_dial_without_a_common_group_fails_after_two_connections(pki: Pki) -> None:
    behaviour = Quic(groups=("X448",))
    async with site(pki, behaviour) as target:
        with pytest.raises(ProbeFailed, match="handshake_failure") as failed:
            await dial(pki, target["quic_port"])
    assert failed.value.reason is Reason.TLS_HANDSHAKE
    assert len(behaviour.connections) == 2


async def test_quic_dial_refuses_unusable_settings(pki: Pki) -> None:
    """An unusable setting is not reported as a failure of the server."""
    for name, settings in (("", trusting(pki)), ("localhost", TLSSettings(max_version="TLS12"))):
        with pytest.raises(ProbeFailed) as failed:
            await quic.dial(a_probe(), ["127.0.0.1"], 1, QuicContext(settings), name, "h3")
        assert failed.value.reason is Reason.SETTINGS_UNUSABLE


# --- going on ----------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_quic_sends_keep_alive(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the client waits for a slow response, it sends pings."""
    monkeypatch.setattr(quic, "KEEP_ALIVE", 0.05)
    behaviour = Quic()
    async with connected(pki, behaviour) as client:
        server = behaviour.connections[0]
        waiting = asyncio.create_task(the_end_of(client))
        for _ in range(10):
            gives_up_at = server._close_at
            await until(lambda: server._close_at != gives_up_at)  # noqa: B023  # called before the next turn
        assert not waiting.done()
        waiting.cancel()


async def test_quic_idle_timeout_closes_connection(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds in (0.2, 2.0, 10.0):  # the handshake must come to its end within each silence
        monkeypatch.setattr(quic, "IDLE_LIMIT", seconds)
        with contextlib.suppress(ProbeFailed):
            async with connected(pki, Quic()) as client:
                assert (await the_end_of(client)).reason is Reason.CONNECT_RESET
                return
    raise AssertionError("no handshake within the limit")


async def test_quic_end_is_reported_repeatedly(pki: Pki) -> None:
    """A later call fails at once with the same error."""
    behaviour = Quic()
    async with connected(pki, behaviour) as client:
        behaviour.connections[0].close(error_code=QuicErrorCode.INTERNAL_ERROR, frame_type=0, reason_phrase="broken")
        client.send(client.open_stream(), b"anything that makes the server speak")
        failure = await the_end_of(client)
        assert failure.reason is Reason.CONNECT_RESET
        assert failure.message == "the QUIC connection broke: internal_error broken"
        assert await the_end_of(client) is failure


# --- bounds ------------------------------------------------------------------------------------------------


async def provoked(pki: Pki, act: Callable[[QuicConnection], None]) -> ProbeFailed:
    """Connect, let `act` manipulate the server's connection, send data and return the failure."""
    behaviour = Quic()
    async with connected(pki, behaviour) as client:
        act(behaviour.connections[0])
        client.send(client.open_stream(), b"anything that makes the server speak")
        return await the_end_of(client)


async def test_quic_bounds_out_of_order_data(pki: Pki) -> None:
    """One byte at the end of each window would make aioquic widen the window and buffer the gap."""

    def leave_gaps(server: QuicConnection) -> None:
        stream = server.get_next_available_stream_id()
        server.send_stream_data(stream, bytes(4 * MAX_OUT_OF_ORDER_BYTES))
        sender = server._streams[stream].sender
        sender._pending.subtract(0, 4 * MAX_OUT_OF_ORDER_BYTES)
        at = 1 << 20
        while at <= 4 * MAX_OUT_OF_ORDER_BYTES:
            sender._pending.add(at - 4096, at - 4095)  # a little room for what other streams have said
            at *= 2

    failure = await provoked(pki, leave_gaps)
    assert failure.reason is Reason.CONNECT_FAILED


async def test_quic_bounds_gaps(pki: Pki) -> None:
    """Every other byte of a stream is missing: aioquic would search all gaps for each further byte."""

    def leave_gaps(server: QuicConnection) -> None:
        stream, size = server.get_next_available_stream_id(), 3 * MAX_GAPS
        server.send_stream_data(stream, bytes(size))
        pending = server._streams[stream].sender._pending
        pending.subtract(0, size)
        for at in range(1, size, 2):
            pending.add(at, at + 1)

    failure = await provoked(pki, leave_gaps)
    assert failure.reason is Reason.CONNECT_FAILED


async def test_quic_processes_a_flood_of_datagrams_in_short_turns(pki: Pki) -> None:
    """They look like packets of the connection, and one is larger than any server sends."""
    async with connected(pki, Quic()) as client:
        with short_turns():
            for size in [60_000, *[1200] * 100, *[0] * 1000, *[30] * 1000]:
                client._datagrams._keep((b"\x40" + bytes(size))[:size])
            while client._datagrams.waiting:
                await client.turn()


async def test_quic_bounds_tls_messages(pki: Pki) -> None:
    """An example is a session ticket of 16 MB, which aioquic would copy for every packet."""

    def send_a_large_ticket(server: QuicConnection) -> None:
        server._crypto_streams[Epoch.ONE_RTT].sender.write(b"\x04\xff\xff\xff" + bytes(1 << 20))

    failure = await provoked(pki, send_a_large_ticket)
    assert failure.reason is Reason.CONNECT_FAILED


async def test_quic_bounds_handshake_size(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sends a thousand certificates."""
    chain = (pki.directory / "leaf.pem").read_text() + (pki.directory / "intermediate.pem").read_text() * 1000
    monkeypatch.setattr("aioquic.quic.connection.CRYPTO_BUFFER_SIZE", 1 << 20)  # of the server
    (tmp_path / "long.pem").write_text(chain)
    (tmp_path / "long.key").write_text((pki.directory / "leaf.key").read_text())
    async with Site({}, pki=tmp_path, quic=Quic("long")) as target:
        with pytest.raises(ProbeFailed, match="handshake is larger") as failed:
            await dial(pki, target["quic_port"])
    assert failed.value.reason is Reason.TLS_HANDSHAKE


@pytest.mark.parametrize("in_thread", [False, True])
async def test_quic_verifies_large_chains_in_a_thread(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, *, in_thread: bool
) -> None:
    threads, verify = list[int](), QuicContext.verify

    def watched(context: QuicContext, shown: Handshake, server_name: str) -> Handshake:
        threads.append(threading.get_ident())
        return verify(context, shown, server_name)

    monkeypatch.setattr(QuicContext, "verify", watched)
    if in_thread:
        monkeypatch.setattr(quic, "MAX_QUICK_HANDSHAKE_BYTES", 0)
    async with connected(pki, Quic()) as client:
        assert client.handshake is not None
    assert [one == threading.get_ident() for one in threads] == [not in_thread]


def test_quic_refuses_a_certificate_of_unknown_version(pki: Pki) -> None:
    """cryptography raises another exception for it than for what it can't parse at all."""
    leaf = x509.load_pem_x509_certificate((pki.directory / "leaf.pem").read_bytes())
    der = leaf.public_bytes(serialization.Encoding.DER)
    state = ClientConnection(QuicConfiguration(), USUAL_GROUPS, requests_ocsp=True)
    state.connect("peer", now=0.0)
    state.tls._set_peer_certificate(SentCertificate(certificates=[(der, b"")]))
    unknown = der.replace(bytes.fromhex("a003 020102"), bytes.fromhex("a003 020105"), 1)
    with pytest.raises(AlertBadCertificate):
        state.tls._set_peer_certificate(SentCertificate(certificates=[(unknown, b"")]))
    assert state.stapled == b""


async def test_quic_ignores_garbage_datagrams(pki: Pki) -> None:
    """Datagrams that do not decrypt are dropped."""
    async with connected(pki, Quic()) as client:
        for garbage in (b"", b"\x40", bytes(1200), b"\xc0" + bytes(30), b"\xff" * 1500):
            client._receive(garbage)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await the_end_of(client)


# --- certificates ------------------------------------------------------------------------------------------


def over_tcp(pki: Pki, certificate: str, settings: TLSSettings, name: str) -> Handshake | VerificationFailed:
    """Return the result of a TLS 1.3 handshake in memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(pki.directory / f"{certificate}.pem", pki.directory / f"{certificate}.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    layer = ClientContext(settings, ()).layer(name)
    finished, received = False, b""
    while not finished:
        try:
            finished = layer.advance(received)
        except VerificationFailed as failed:
            return failed
        to_server.write(layer.outgoing())
        try:
            server.do_handshake()
        except ssl.SSLWantReadError:
            pass
        received = to_client.read()
    assert layer.handshake is not None
    return layer.handshake


def over_quic(pki: Pki, certificate: str, settings: TLSSettings, name: str) -> Handshake | VerificationFailed:
    """Return the result of verifying the same certificate for QUIC."""
    sent = x509.load_pem_x509_certificates((pki.directory / f"{certificate}.pem").read_bytes())
    shown = Handshake("TLS 1.3", "TLS_AES_256_GCM_SHA384", [certificates.read(one) for one in sent], None)
    try:
        return QuicContext(settings).verify(shown, name)
    except VerificationFailed as failed:
        return failed


ZOO = [
    "leaf", "rsa", "localhost_only", "wildcard", "rich", "awkward", "nameless", "many_names", "by_root", "expired",
    "not_yet_valid", "wrong_name", "common_name_only", "self_signed", "unknown_root", "for_clients", "by_pretender",
    "by_old_intermediate", "no_intermediate", "with_root", "with_bystander", "twin",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("authority", ["root", "intermediate", "leaf", "self_signed", "twin_roots", "none"])
@pytest.mark.parametrize("certificate", ZOO)
def test_quic_verifies_certificates_like_tcp(pki: Pki, certificate: str, authority: str) -> None:
    """Errors, reason, message and verified chain are the same."""
    settings = TLSSettings(insecure_skip_verify=True) if authority == "none" else trusting(pki, authority)
    for name in ("localhost", "127.0.0.1", "no.example.test", "www.example.test."):
        tcp, udp = over_tcp(pki, certificate, settings, name), over_quic(pki, certificate, settings, name)
        if isinstance(tcp, VerificationFailed):
            assert isinstance(udp, VerificationFailed)
            assert (udp.reason, udp.message) == (tcp.reason, tcp.message)
            assert udp.handshake.verify_errors == tcp.handshake.verify_errors
        else:
            assert isinstance(udp, Handshake)
            assert udp.verified == tcp.verified
            assert udp.verify_errors == ()


def test_quic_remembers_a_verification_for_an_hour_while_the_chain_is_valid(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = x509.load_pem_x509_certificates((pki.directory / "leaf.pem").read_bytes())
    shown = Handshake("TLS 1.3", "TLS_AES_256_GCM_SHA384", [certificates.read(one) for one in sent], None)
    context = QuicContext(trusting(pki))
    performed: list[bytes] = []
    encode = tls_quic._hello_and_certificates

    def perform(sent: Sequence[Certificate]) -> bytes:
        performed.append(encode(sent))
        return performed[-1]

    monkeypatch.setattr(tls_quic, "_hello_and_certificates", perform)
    now = time.time()
    ends = min(one.not_valid_after_utc.timestamp() for one in sent)

    def verifications(name: str, at: float) -> int:
        before = len(performed)
        monkeypatch.setattr(time, "time", lambda: at)
        context.verify(shown, name)
        return len(performed) - before

    assert [verifications("localhost", now) for _ in range(3)] == [1, 0, 0]
    assert [verifications(name, now) for name in ("127.0.0.1", "localhost.")] == [0, 0]
    with pytest.raises(VerificationFailed):
        verifications("no.example.test", now)
    assert [verifications("localhost", now + 3600) for _ in range(2)] == [1, 0]
    assert all(verifications("localhost", ends + 1) for _ in range(3)), "OpenSSL has another clock, and refuses it then"


def test_quic_remembers_no_refusal(pki: Pki) -> None:
    messages = []
    for name in ("localhost", "no.example.test", "no.example.test", "localhost"):
        judged = over_quic(pki, "leaf", trusting(pki), name)
        messages.append(judged.message if isinstance(judged, VerificationFailed) else "")
    assert messages[0] == messages[3] == ""
    assert messages[1] == messages[2] != ""


def test_system_store_trusts_no_test_certificate(pki: Pki) -> None:
    """Without ca_file, both use the system's store."""
    for judged in (
        over_tcp(pki, "leaf", TLSSettings(), "localhost"),
        over_quic(pki, "leaf", TLSSettings(), "localhost"),
    ):
        assert isinstance(judged, VerificationFailed)
        assert judged.reason is Reason.CERTIFICATE_UNKNOWN_AUTHORITY


async def test_quic_contexts_are_shared_until_files_change(pki: Pki, tmp_path: Path) -> None:
    """Equal settings share a context until a file changes; the context has the client certificate."""
    path = tmp_path / "ca.pem"
    path.write_bytes((pki.directory / "root.pem").read_bytes())
    settings = TLSSettings(
        ca_file=str(path), cert_file=str(pki.directory / "client.pem"), key_file=str(pki.directory / "client.key")
    )
    context = await quic_context(settings)
    assert await quic_context(settings.model_copy()) is context
    assert context.identity is not None
    assert context.identity.certificate.subject.rfc4514_string() == "CN=client"
    path.write_bytes(path.read_bytes() + (pki.directory / "stranger.pem").read_bytes())
    assert await quic_context(settings) is not context
    forget_contexts()
    assert (await quic_context(trusting(pki))).identity is None
