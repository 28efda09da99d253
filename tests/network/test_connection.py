"""Tests of TCP and TLS connections over loopback: reads, writes, close, reset and handshake failures.

Each test runs on asyncio's loop and on uvloop, which call the functions of one turn in different orders.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import time
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from probe_exporter.network import connection as connections
from probe_exporter.network.connection import MAX_UNREAD_BYTES, Connection, Secure
from probe_exporter.network.opening import connect, dial
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.tls import metrics
from probe_exporter.tls.context import ClientContext
from tests.cost import expect_cheaper
from tests.descriptors import open_descriptors
from tests.loops import ON_BOTH_LOOPS
from tests.targets import Pki
from tests.targets.peer import (
    RESET,
    TlsPeer,
    a_probe,
    everything,
    failing,
    hold,
    over_tls,
    peer,
    say,
    take,
    trust,
)
from tests.waiting import PATIENCE, until

pytestmark = ON_BOTH_LOOPS


async def finish(connected: socket.socket) -> None:
    """Shut down our half and read the rest; closing with unread data would send a reset."""
    connected.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError):
        await hold(connected)


# --- reading -----------------------------------------------------------------------------------------------


async def test_read_returns_data_once_then_eof() -> None:
    go_on = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        await say(connected, b"one")
        await go_on.wait()
        await say(connected, b"two")

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        assert await connection.exactly(3) == b"one"
        between = time.perf_counter()
        go_on.set()
        assert await everything(connection) == b"two"
        assert await connection.read() == b""
        assert connection.first_byte_at < between < connection.last_byte_at
        connection.close()


async def test_read_methods_work_wherever_data_is_split() -> None:
    """`exactly`, `until` and `read` return the same for every split."""
    said = b"12345first line\r\nsecond\r\nrest"
    for cut in range(len(said)):
        go_on = asyncio.Event()

        async def play(sock: socket.socket, cut: int = cut, go_on: asyncio.Event = go_on) -> None:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, said[:cut])
            await go_on.wait()
            await loop.sock_sendall(sock, said[cut:])

        async with peer(play) as port:
            connection = await dial(a_probe(), ["127.0.0.1"], port)
            await until(lambda: connection._held == cut)  # noqa: B023  # called before the next turn
            go_on.set()
            assert await connection.exactly(0) == b""
            assert await connection.exactly(5) == b"12345"
            assert await connection.until(b"\r\n", limit=10) == b"first line"
            assert await connection.until(b"\r\n", limit=100) == b"second"
            assert await connection.exactly(4) == b"rest"
            assert await connection.read() == b""
            connection.close()


async def test_to_end_returns_everything_up_to_the_limit() -> None:
    async def play(sock: socket.socket) -> None:
        for part in (b"one", b"two", b"three"):
            await asyncio.get_running_loop().sock_sendall(sock, part)

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        assert await connection.exactly(3) == b"one"
        assert await connection.to_end(limit=8) == b"twothree"
        assert await connection.to_end(limit=0) == b""
        connection.close()
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        with pytest.raises(ProbeFailed, match="the peer sent more than 10 bytes") as failed:
            await connection.to_end(limit=10)
        assert failed.value.reason == Reason.PROTOCOL_ERROR
        connection.close()


async def test_read_cost_is_linear_for_many_small_messages() -> None:
    """Reading one message does not copy the rest of the buffer."""

    async def cost(pairs: int) -> float:
        connection = Connection()
        connection.data_received(b"12345678\n" * 2 * pairs)
        began = time.process_time()
        for _ in range(pairs):
            assert await connection.exactly(9) == b"12345678\n"
            assert await connection.until(b"\n", limit=8) == b"12345678"
        took = time.process_time() - began
        assert not connection.waiting
        return took

    few = min([await cost(3_000) for _ in range(5)])
    # To move the rest for each would make 25 times as many cost 600 times as much.
    expect_cheaper(await cost(75_000), 25 * 5 * few, "25 times as many messages")


@pytest.mark.parametrize(("size", "number", "turns"), [(8, 20_000, 300), (16_384, 200, 150)])
async def test_reads_of_buffered_messages_share_the_loop(size: int, number: int, turns: int) -> None:
    """A peer that sends many messages at once does not delay other tasks until all of them are read."""
    connection = Connection()
    message = b"x" * (size - 1) + b"\n"
    connection.data_received(message * number)
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    for _ in range(number // 2):
        await connection.exactly(size)
        await connection.until(b"\n", limit=size)
    counting.cancel()
    assert others >= turns


async def test_read_returns_rest_after_partial_reads() -> None:
    connection = Connection()
    connection.data_received(b"one\ntwo")
    assert await connection.until(b"\n", limit=10) == b"one"
    connection.data_received(b" and three")
    connection.put_back(b"or ")
    assert connection.waiting
    assert await connection.exactly(2) == b"or"
    assert await connection.read() == b" two and three"
    assert not connection.waiting


async def test_read_fails_on_missing_delimiter_and_early_eof() -> None:
    async def play(sock: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, b"1234567890")

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        with pytest.raises(ProbeFailed) as failed:
            await connection.until(b"\n", limit=9)
        assert failed.value.reason is Reason.PROTOCOL_ERROR
        connection.close()
        for bytes_or_mark in (11, b"\n"):
            connection = await dial(a_probe(), ["127.0.0.1"], port)
            with pytest.raises(ProbeFailed) as failed:  # noqa: PT012  # one or the other
                if isinstance(bytes_or_mark, int):
                    await connection.exactly(bytes_or_mark)
                else:
                    await connection.until(bytes_or_mark, limit=100)
            assert failed.value.reason is Reason.CONNECT_CLOSED
            connection.close()


async def test_read_returns_data_received_before_reset() -> None:
    async def play(connected: socket.socket) -> None:
        await say(connected, b"last words")
        await take(connected)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        await until(lambda: connection._held == len(b"last words"))
        connection.send(b"go")
        await until(lambda: connection._socket is None)
        assert await connection.read() == b"last words"
        for _ in range(2):
            assert (await failing(connection.read())).reason is Reason.CONNECT_RESET
        connection.close()


@pytest.mark.parametrize("answer", [b"no more", b"no more" * 10_000], ids=["short", "long"])
async def test_read_returns_data_if_write_finds_reset(answer: bytes) -> None:
    """A server that responds early (413) and closes sends its response before the reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = await dial(a_probe(), ["127.0.0.1"], listener.getsockname()[1])
        connection.send(b"request")
        server, _ = listener.accept()
        await until(lambda: select.select([server], [], [], 0)[0])  # the request has arrived
        server.sendall(answer)
        server.close()  # all of this before the loop has looked
        connection.send(b"more")
        assert await connection.read() == answer
        assert (await failing(connection.read())).reason is Reason.CONNECT_RESET


async def test_write_works_after_peer_half_closes() -> None:
    heard: list[bytes] = []
    ended = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        await say(connected, b"done")
        connected.shutdown(socket.SHUT_WR)
        while data := await take(connected):
            heard.append(data)
        ended.set()

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        assert await everything(connection) == b"done"
        await connection.write(b"still here")
        connection.close()
        await asyncio.wait_for(ended.wait(), PATIENCE)
    assert heard == [b"still here"]


async def test_read_can_be_cancelled_and_retried() -> None:
    async def play(connected: socket.socket) -> None:
        await take(connected)
        await say(connected, b"at last")
        await hold(connected)

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.read(), 0.02)
        connection.send(b"go")
        assert await connection.read() == b"at last"
        connection.close()


FLOOD = 100 * 1024 * 1024


def writable(sock: socket.socket) -> bool:
    """Return whether the kernel accepts more data to send."""
    return bool(select.select([], [sock], [], 0)[1])


@pytest.mark.slow
async def test_read_buffer_is_bounded_if_peer_floods() -> None:
    """Unread data stays in the peer's and the kernel's buffers; later reads return all of it."""
    sent = 0
    pouring: list[socket.socket] = []

    async def pour(connected: socket.socket) -> None:
        nonlocal sent
        pouring.append(connected)
        piece = bytes(1 << 20)
        while sent < FLOOD:
            await say(connected, piece)
            sent += len(piece)

    async with peer(pour) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        await until(lambda: connection._paused and not writable(pouring[0]))
        assert connection._held < MAX_UNREAD_BYTES + 1024 * 1024
        assert sent < FLOOD // 2
        received = 0
        while piece := await connection.read():
            received += len(piece)
        assert received == FLOOD
        connection.close()


# --- writing -----------------------------------------------------------------------------------------------


async def test_write_waits_for_slow_peer() -> None:
    """The write buffer is bounded, and the rest is sent as the peer reads."""
    go, all_taken = asyncio.Event(), asyncio.Event()
    taken = 0

    async def play(connected: socket.socket) -> None:
        nonlocal taken
        await go.wait()
        while data := await take(connected, 1 << 20):
            taken += len(data)
        all_taken.set()

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        written = 0

        async def upload() -> None:
            nonlocal written
            for _ in range(640):
                await connection.write(bytes(65536))
                written += 65536

        uploading = asyncio.create_task(upload())
        await until(lambda: connection._writer is not None)
        for _ in range(100):  # turns of the loop, in which nothing more is written
            await asyncio.sleep(0)
        assert not uploading.done()
        assert written < 16 << 20
        go.set()
        await asyncio.wait_for(uploading, PATIENCE)
        connection.close()
        await asyncio.wait_for(all_taken.wait(), PATIENCE)
    assert taken == 640 * 65536


@pytest.mark.parametrize("half_closed", [False, True])
async def test_write_fails_after_peer_resets(half_closed: bool) -> None:
    """This also holds after the peer half-closed: an upload must not continue without a reader."""
    go_on = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        if half_closed:
            connected.shutdown(socket.SHUT_WR)
        await go_on.wait()
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async def upload(connection: Connection) -> None:
        while True:
            await connection.write(bytes(1024))
            await asyncio.sleep(0.001)

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        await until(lambda: connection._ended is half_closed)
        go_on.set()
        failed = await failing(upload(connection))
        connection.close()
    assert failed.reason in (Reason.CONNECT_RESET, Reason.CONNECT_CLOSED)


async def test_write_fails_after_close() -> None:
    async with peer(hold) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        connection.close()
        await until(lambda: connection._socket is None)
        assert (await failing(connection.write(b"x"))).reason is Reason.CONNECT_CLOSED


# --- closing -----------------------------------------------------------------------------------------------


async def test_close_flushes_sent_data() -> None:
    heard: list[bytes] = []
    ended = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        while data := await take(connected):
            heard.append(data)
        heard.append(b"<end>")
        ended.set()

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        connection.send(b"all of ")
        connection.send(b"this")
        connection.close()
        connection.close()
        await asyncio.wait_for(ended.wait(), PATIENCE)
    assert b"".join(heard) == b"all of this<end>"


async def test_abort_drops_connection() -> None:
    ended = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            await hold(connected)
        ended.set()

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        connection.abort()
        connection.abort()
        await asyncio.wait_for(ended.wait(), PATIENCE)


async def fill(connection: Connection) -> None:
    """Fill the buffers of the kernel, until it takes no more for several turns of the loop."""
    assert connection._socket is not None
    bare = connection._socket._socket
    assert bare is not None
    full = 0
    while full < 20:
        try:
            bare.send(bytes(1 << 20))
            full = 0
        except BlockingIOError:
            full += 1
            await asyncio.sleep(0.005)


class BrokenLayer:
    """A layer of TLS with a bug."""

    behind = False

    def decrypt(self, data: bytes) -> bytes:
        raise ZeroDivisionError


async def test_bug_in_a_layer_is_raised_by_read() -> None:
    go = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        await go.wait()
        await say(connected, b"hello")
        await hold(connected)

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        connection._layers.append(cast("Any", BrokenLayer()))
        go.set()
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(connection.read(), PATIENCE)
        assert connection._socket is None


@pytest.mark.slow
@pytest.mark.parametrize("unsent", [True, False])
async def test_close_releases_socket_if_peer_never_reads(monkeypatch: pytest.MonkeyPatch, unsent: bool) -> None:
    """Otherwise each probe of a stalled peer would leak a descriptor. What has no room may be the last bytes only."""
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.2)
    released = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        await released.wait()
        with contextlib.suppress(ConnectionError):
            await hold(connected)

    async with peer(play, receive_buffer=4096) as port:
        before = open_descriptors()
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        opened = open_descriptors() - before
        assert opened
        if unsent:
            connection.send(bytes(32 << 20))
            await until(lambda: connection._writer is not None)
        else:
            await fill(connection)
        connection.close(b"the last bytes")
        assert connection._socket is not None
        await until(lambda: bool(opened - open_descriptors()))
        released.set()


# --- TLS ---------------------------------------------------------------------------------------------------


async def test_tls_connects_and_reports_version(pki: Pki) -> None:
    with TlsPeer(pki, say=b"welcome") as server:
        probe = a_probe()
        connection = await connect(probe, "127.0.0.1", server.port, over_tls(pki))
        assert connection.handshake is not None
        assert connection.tls_seconds > 0
        assert await connection.read() == b"welcome"
        assert connection.first_byte_at > connection.opened_at + connection.tls_seconds / 2
        await connection.write(b"thanks")
        connection.close()
        await server.end()
    assert server.heard == b"thanks"
    assert probe.samples.get(metrics.VERSION_INFO, "TLS 1.3") == 1
    assert probe.current_phase == ""


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize(
    ("certificate", "reason", "errors"),
    [
        ("expired", Reason.CERTIFICATE_EXPIRED, {"expired"}),
        ("not_yet_valid", Reason.CERTIFICATE_NOT_YET_VALID, {"not_yet_valid"}),
        ("wrong_name", Reason.CERTIFICATE_WRONG_NAME, {"wrong_name"}),
        ("unknown_root", Reason.CERTIFICATE_UNKNOWN_AUTHORITY, {"unknown_authority"}),
        ("self_signed", Reason.CERTIFICATE_UNKNOWN_AUTHORITY, {"unknown_authority"}),
    ],
)
async def test_tls_reports_refused_certificate_and_sends_alert(
    pki: Pki, version: str, certificate: str, reason: Reason, errors: set[str]
) -> None:
    """The server gets an alert and never sees the client's certificate."""
    identity = {"cert_file": str(pki.directory / "client.pem"), "key_file": str(pki.directory / "client.key")}
    with TlsPeer(pki, certificate, version=version, client_ca="root") as server:
        probe = a_probe()
        failed = await failing(connect(probe, "127.0.0.1", server.port, over_tls(pki, **identity)))
        await server.end()
    assert failed.reason is reason
    assert probe.current_phase == "tls"
    assert {labels[0] for labels in probe.samples.families[metrics.VERIFY_ERROR_INFO]} == errors
    assert metrics.CERTIFICATE_INFO in probe.samples.families
    assert isinstance(server.failure, ssl.SSLError)
    assert "alert" in str(server.failure)
    assert server.client_certificate is None


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_tls_sends_client_certificate_on_request(pki: Pki, version: str) -> None:
    identity = {"cert_file": str(pki.directory / "client.pem"), "key_file": str(pki.directory / "client.key")}
    with TlsPeer(pki, version=version, client_ca="root", say=b"hello") as server:
        connection = await connect(a_probe(), "127.0.0.1", server.port, over_tls(pki, **identity))
        assert await connection.read() == b"hello"
        connection.close()
        await server.end()
    mine = x509.load_pem_x509_certificate((pki.directory / "client.pem").read_bytes())
    assert server.client_certificate == mine.public_bytes(Encoding.DER)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_tls_fails_without_required_client_certificate(pki: Pki, version: str) -> None:
    """In TLS 1.3 the error appears only on the first read."""

    async def talk(port: int) -> None:
        connection = await connect(a_probe(), "127.0.0.1", port, over_tls(pki))
        try:
            await connection.read()
        finally:
            connection.close()

    with TlsPeer(pki, version=version, client_ca="root") as server:
        assert (await failing(talk(server.port))).reason is Reason.TLS_HANDSHAKE


async def test_tls_fails_if_server_refuses_handshake(pki: Pki) -> None:
    with TlsPeer(pki, version="TLSv1_2") as server:
        failed = await failing(connect(a_probe(), "127.0.0.1", server.port, over_tls(pki, min_version="TLS13")))
    assert failed.reason is Reason.TLS_HANDSHAKE


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x01", b"\0" * 1000])
async def test_tls_fails_if_server_speaks_plaintext(pki: Pki, answer: bytes) -> None:
    async def play(connected: socket.socket) -> None:
        await take(connected)
        await say(connected, answer)
        await finish(connected)

    async with peer(play) as port:
        probe = a_probe()
        failed = await failing(connect(probe, "127.0.0.1", port, over_tls(pki)))
    assert failed.reason is Reason.TLS_HANDSHAKE
    assert probe.current_phase == "tls"


async def test_tls_fails_if_server_closes_during_handshake(pki: Pki) -> None:
    async def play(connected: socket.socket) -> None:
        await take(connected)
        await finish(connected)

    async with peer(play) as port:
        assert (await failing(connect(a_probe(), "127.0.0.1", port, over_tls(pki)))).reason is Reason.TLS_HANDSHAKE


async def test_tls_reports_reset_during_handshake(pki: Pki) -> None:
    async def play(connected: socket.socket) -> None:
        await take(connected)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async with peer(play) as port:
        assert (await failing(connect(a_probe(), "127.0.0.1", port, over_tls(pki)))).reason is Reason.CONNECT_RESET


async def test_tls_handshake_has_its_own_timeout(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server never answers; the socket is closed afterwards."""
    monkeypatch.setattr(connections, "MAX_HANDSHAKE_SECONDS", 0.1)
    left = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            await hold(connected)
        left.set()

    async with peer(play) as port:
        probe = a_probe()
        failed = await failing(connect(probe, "127.0.0.1", port, over_tls(pki)))
        await asyncio.wait_for(left.wait(), PATIENCE)
    assert failed.reason is Reason.TLS_TIMEOUT
    assert probe.current_phase == "tls"


async def test_tls_handshake_cancelled_releases_socket(pki: Pki) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def play(connected: socket.socket) -> None:
        await take(connected)
        begun.set()
        with contextlib.suppress(ConnectionError):
            await hold(connected)
        left.set()

    async with peer(play) as port:
        connecting = asyncio.create_task(connect(a_probe(), "127.0.0.1", port, over_tls(pki)))
        await asyncio.wait_for(begun.wait(), PATIENCE)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await asyncio.wait_for(left.wait(), PATIENCE)


async def test_tls_reads_data_sent_with_last_handshake_message(pki: Pki) -> None:
    """In TLS 1.2, one segment carries the last handshake message and the first data."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "leaf.pem", pki.directory / "leaf.key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def play(connected: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            incoming.write(await take(connected))
            try:
                server.do_handshake()
            except ssl.SSLWantReadError:
                await say(connected, outgoing.read())
                continue
            server.write(b"welcome")
            await say(connected, outgoing.read())
            await hold(connected)
            return

    async with peer(play) as port:
        connection = await connect(a_probe(), "127.0.0.1", port, over_tls(pki))
        assert await connection.read() == b"welcome"
        assert connection.first_byte_at > connection.opened_at
        connection.close()


def secure(pki: Pki, name: str = "localhost") -> Secure:
    return Secure(ClientContext(trust(pki), ()), name)


async def test_starttls_upgrades_open_connection(pki: Pki) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "leaf.pem", pki.directory / "leaf.key")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        assert await reader.readline() == b"STARTTLS\r\n"
        writer.write(b"220 go\r\n")
        await writer.drain()
        await writer.start_tls(context)
        assert await reader.readline() == b"EHLO\r\n"
        writer.write(b"250 secure\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        probe = a_probe()
        connection = await dial(probe, ["127.0.0.1"], server.sockets[0].getsockname()[1])
        assert await connection.read() == b"220 ready\r\n"
        plain_at = connection.first_byte_at
        connection.send(b"STARTTLS\r\n")
        assert await connection.read() == b"220 go\r\n"
        await connection.start_tls(probe, secure(pki))
        connection.send(b"EHLO\r\n")
        assert await everything(connection) == b"250 secure\r\n"
        assert connection.first_byte_at > plain_at
        connection.close()


async def test_starttls_rejects_injected_plaintext(pki: Pki) -> None:
    """A man in the middle could have injected the text, so it counts as part of the handshake, which fails."""

    async def play(connected: socket.socket) -> None:
        await say(connected, b"220 go\r\n250 injected\r\n")
        await hold(connected)

    async with peer(play) as port:
        probe = a_probe()
        connection = await dial(probe, ["127.0.0.1"], port)
        await until(lambda: connection.waiting)
        failed = await failing(connection.start_tls(probe, secure(pki)))
        connection.abort()
    assert failed.reason is Reason.TLS_HANDSHAKE


@pytest.mark.slow
async def test_tls_reads_large_response_with_bounded_buffer(pki: Pki) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "leaf.pem", pki.directory / "leaf.key")
    size = 20 << 20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            for _ in range(size >> 20):
                writer.write(bytes(1 << 20))
                await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        connection = await connect(a_probe(), "127.0.0.1", server.sockets[0].getsockname()[1], over_tls(pki))
        await until(lambda: connection._paused)
        assert connection._held < MAX_UNREAD_BYTES + 1024 * 1024
        assert len(await everything(connection)) == size
        connection.close()
