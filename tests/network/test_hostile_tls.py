"""A TLS server that floods a probe holds the event loop for a few milliseconds at a time, and the flood has an end.

The limit is CPU time of the loop's thread between two turns, in units of this machine. Servers run in threads.
"""

from __future__ import annotations

import asyncio
import datetime
import math
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from probe_exporter.network import connection as connections
from probe_exporter.network.connection import Secure
from probe_exporter.network.opening import dial
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.tls import certificates
from probe_exporter.tls.context import ClientContext
from probe_exporter.tls.handshake import Handshake, VerificationFailed
from probe_exporter.tls.quic import QuicContext
from probe_exporter.tls.settings import TLSSettings
from tests.cost import expect_short, turns
from tests.targets import Pki
from tests.targets.peer import a_probe
from tests.targets.tls_records import SESSION_TICKET, Writer, log_secrets, traffic_secret

SKIP = TLSSettings(insecure_skip_verify=True)
HANDSHAKE, DATA = 22, 23

Play = Callable[[socket.socket], None]


@asynccontextmanager
async def server(play: Play) -> AsyncIterator[int]:
    """Listen on a port of loopback; a thread plays with the first client."""

    def serve() -> None:
        with suppress(OSError), listener.accept()[0] as client:
            play(client)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            await asyncio.to_thread(thread.join)  # the loop has still to close what was aborted


# --- after the handshake -----------------------------------------------------------------------------------


def key_updates(writer: Writer) -> bytes:
    return b"".join(writer.key_update() for _ in range(40_000))


def tickets(writer: Writer) -> bytes:
    return b"".join(writer.record(HANDSHAKE, SESSION_TICKET * 800) for _ in range(70))


def tiny_records(writer: Writer) -> bytes:
    return b"".join(writer.record(DATA, b"x") for _ in range(45_000))


async def flooded(pki: Pki, tmp_path: Path, flood: Callable[[Writer], bytes]) -> tuple[int, ProbeFailed | None, float]:
    """Connect, flood the client, and read on; return how many bytes came, the failure, and the longest turn."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "leaf.pem", pki.directory / "leaf.key")
    log_secrets(context, tmp_path / "secrets")
    context.num_tickets = 0
    connected, ready = threading.Event(), threading.Event()

    def play(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True, do_handshake_on_connect=True) as tls:
            made = flood(Writer(traffic_secret(tmp_path / "secrets")))
            ready.set()
            connected.wait()
            with socket.socket(fileno=tls.detach()) as raw:
                raw.sendall(made)

    async with server(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port, secure=Secure(ClientContext(SKIP, ()), "localhost"))
        await asyncio.to_thread(ready.wait)
        got, failure = 0, None
        with connection, turns() as taken:
            connected.set()
            try:
                while data := await connection.read():
                    got += len(data)
            except ProbeFailed as failed:
                failure = failed
            connection.abort()
        return got, failure, max(taken)


@pytest.mark.slow
@pytest.mark.parametrize("flood", [key_updates, tickets])
async def test_flood_of_tls_messages_without_data_ends_the_connection(
    pki: Pki, tmp_path: Path, flood: Callable[[Writer], bytes]
) -> None:
    got, failure, longest = await flooded(pki, tmp_path, flood)
    assert got == 0
    assert failure is not None
    assert failure.reason is Reason.TLS_HANDSHAKE
    assert failure.message == "TLS broke: the peer sent more than 131072 bytes of messages without data"
    expect_short(longest)


@pytest.mark.slow
async def test_flood_of_tiny_tls_records_shares_the_loop(pki: Pki, tmp_path: Path) -> None:
    got, failure, longest = await flooded(pki, tmp_path, tiny_records)
    assert (got, failure) == (45_000, None)
    expect_short(longest)


# --- during the handshake ----------------------------------------------------------------------------------

HELLO_REQUEST = b"\x16\x03\x03\0\4\0\0\0\0"
CHANGE_CIPHER = b"\x14\x03\x03\0\1\1"


def pour(data: bytes) -> Play:
    def play(client: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client.sendall(data)

    return play


@pytest.mark.parametrize(
    "data",
    [
        bytes(65536),
        b"\x16\x03\x03" * 20_000,
        HELLO_REQUEST * 20_000,
        CHANGE_CIPHER * 20_000,
        b"HTTP/1.1 200 OK\r\n" * 999,
    ],
    ids=["zeros", "records", "hello-requests", "change-cipher-specs", "http"],
)
async def test_endless_data_in_place_of_a_handshake_fails(data: bytes) -> None:
    secure = Secure(ClientContext(SKIP, ()), "localhost")
    async with server(pour(data)) as port:
        with turns() as taken, pytest.raises(ProbeFailed) as failed:
            await dial(a_probe(), ["127.0.0.1"], port, secure=secure)
        assert failed.value.reason is Reason.TLS_HANDSHAKE
    expect_short(max(taken))


def long_chain(directory: Path, length: int, names: int) -> Path:
    """Write a chain of certificates with keys that are slow to verify, and the key of the first of them."""
    issued: list[x509.Certificate] = []
    issuer_key: ec.EllipticCurvePrivateKey | None = None
    for number in range(length):
        leaf = number == length - 1
        key = ec.generate_private_key(ec.SECP521R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(number))])
        begin = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            issued[-1].subject if issued else name, name, key.public_key(), number + 1,
            begin - datetime.timedelta(days=1), begin + datetime.timedelta(days=1),
            [x509.Extension(x509.BasicConstraints.oid, True, x509.BasicConstraints(not leaf, None))],
        )  # fmt: skip
        if leaf and names:
            many = [x509.DNSName(f"{one:020}.test") for one in range(names)]
            builder = builder.add_extension(x509.SubjectAlternativeName(many), critical=False)
        issued.append(builder.sign(issuer_key or key, hashes.SHA512()))
        issuer_key = key
    assert issuer_key is not None
    pem = serialization.Encoding.PEM
    (directory / "chain.pem").write_bytes(b"".join(one.public_bytes(pem) for one in reversed(issued)))
    (directory / "chain.key").write_bytes(
        issuer_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory / "chain.pem"


def chain_with_slow_keys(directory: Path, length: int) -> Path:
    """Write a chain whose keys have the largest public exponents that OpenSSL takes, and the key of its leaf."""
    ordinary = rsa.generate_private_key(65537, 3072).private_numbers()
    p, q = ordinary.p, ordinary.q
    order = math.lcm(p - 1, q - 1)
    private = next(one for one in range(65537, 1 << 20, 2) if math.gcd(one, order) == 1)
    public = rsa.RSAPublicNumbers(pow(private, -1, order), p * q)
    parts = (p, q, private, private % (p - 1), private % (q - 1), pow(q, -1, p), public)
    slow = rsa.RSAPrivateNumbers(*parts).private_key()
    leaf = ec.generate_private_key(ec.SECP256R1())
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(number))]) for number in range(length + 1)]
    issued = [
        x509.CertificateBuilder(
            names[number + 1], names[number], (slow if number else leaf).public_key(), number + 1,
            begin, begin + datetime.timedelta(days=9),
            [x509.Extension(x509.BasicConstraints.oid, True, x509.BasicConstraints(number > 0, None))],
        ).sign(slow, hashes.SHA256())
        for number in range(length)
    ]  # fmt: skip
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / "chain.pem").write_bytes(b"".join(one.public_bytes(pem) for one in issued))
    (directory / "chain.key").write_bytes(leaf.private_bytes(pem, *plain))
    return directory / "chain.pem"


def with_slow_keys(directory: Path, length: int) -> Play:
    """Return a server whose chain is that of `chain_with_slow_keys`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain_with_slow_keys(directory, length), directory / "chain.key")

    def play(client: socket.socket) -> None:
        with suppress(ssl.SSLError, OSError), context.wrap_socket(client, server_side=True):
            client.recv(1)

    return play


@pytest.mark.parametrize("length", [12, 60])
@pytest.mark.slow
async def test_handshake_with_slow_keys_shares_the_loop(pki: Pki, tmp_path: Path, length: int) -> None:
    settings = TLSSettings(ca_file=str(pki.directory / "root.pem"))
    secure = Secure(ClientContext(settings, ()), "localhost")
    async with server(with_slow_keys(tmp_path, length)) as port:
        with turns() as taken, pytest.raises(ProbeFailed):
            await dial(a_probe(), ["127.0.0.1"], port, secure=secure)
    expect_short(max(taken))


@pytest.mark.slow
@pytest.mark.parametrize(("length", "refused"), [(3, False), (4, True)])
async def test_short_chain_with_slow_keys_is_refused_before_a_signature_is_checked(
    pki: Pki, tmp_path: Path, length: int, refused: bool
) -> None:
    """It is handled on the event loop, where OpenSSL checks the whole chain in one turn: with 4 such keys 23 ms."""
    settings = TLSSettings(ca_file=str(pki.directory / "root.pem"))
    secure = Secure(ClientContext(settings, ()), "localhost")
    async with server(with_slow_keys(tmp_path, length)) as port:
        with pytest.raises(VerificationFailed) as over_tcp:
            await dial(a_probe(), ["127.0.0.1"], port, secure=secure)
    sent = [certificates.read(one) for one in x509.load_pem_x509_certificates((tmp_path / "chain.pem").read_bytes())]
    with pytest.raises(VerificationFailed) as over_quic:
        QuicContext(settings).verify(Handshake("TLS 1.3", "", sent, None), "localhost")
    for failed in (over_tcp.value, over_quic.value):
        assert len(failed.handshake.sent) == length
        if refused:
            assert failed.reason is Reason.CERTIFICATE_INVALID
            assert failed.handshake.verify_errors == ("slow_key",)
            assert failed.handshake.faults == tuple([(one.fingerprint.hex(), "slow_key") for one in sent[1:]])
        else:
            assert failed.handshake.verify_errors == ("unknown_authority", "wrong_name")


@pytest.mark.slow
@pytest.mark.parametrize(("length", "names"), [(90, 0), (1, 3000), (20, 2000)])
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_handshake_with_very_many_certificates_or_names_shares_the_loop(
    pki: Pki, tmp_path: Path, length: int, names: int, version: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.load_cert_chain(long_chain(tmp_path, length, names), tmp_path / "chain.key")

    def play(client: socket.socket) -> None:
        with suppress(ssl.SSLError, OSError), context.wrap_socket(client, server_side=True):
            client.recv(1)

    settings = TLSSettings(ca_file=str(pki.directory / "root.pem"))
    secure, probe = Secure(ClientContext(settings, ()), "localhost"), a_probe()
    async with server(play) as port:
        with turns() as taken, pytest.raises(ProbeFailed) as failed:
            await dial(probe, ["127.0.0.1"], port, secure=secure)
        assert failed.value.reason is Reason.CERTIFICATE_WRONG_NAME
        assert "probe_ssl_last_chain_info" in {metric.name for metric in probe.samples.families}
    expect_short(max(taken))


@pytest.mark.slow
async def test_handshake_cancelled_while_a_thread_works_on_it(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread continues with objects that no other code uses any more."""
    monkeypatch.setattr(connections, "MAX_QUICK_HANDSHAKE_BYTES", 0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(long_chain(tmp_path, 50, 0), tmp_path / "chain.key")

    def play(client: socket.socket) -> None:
        with suppress(ssl.SSLError, OSError), context.wrap_socket(client, server_side=True):
            client.recv(1)

    for turn in range(0, 60, 6):
        async with server(play) as port:
            secure = Secure(ClientContext(SKIP, ()), "localhost")
            dialling = asyncio.create_task(dial(a_probe(), ["127.0.0.1"], port, secure=secure))
            for _ in range(turn):
                await asyncio.sleep(0.001)
            dialling.cancel()
            with suppress(asyncio.CancelledError):
                (await dialling).abort()
