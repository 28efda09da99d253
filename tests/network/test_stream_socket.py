"""Tests of `StreamSocket` on socket pairs and over loopback: what it reports to its owner, and when.

Each test runs on asyncio's loop and on uvloop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator

import pytest

from probe_exporter.network import stream_socket
from probe_exporter.network.stream_socket import MAX_TURN_READS, MAX_UNSENT_BYTES, READ_BYTES, StreamSocket
from tests.descriptors import open_descriptors
from tests.loops import ON_BOTH_LOOPS
from tests.waiting import until

pytestmark = ON_BOTH_LOOPS

LARGE = bytes(range(256)) * 32768
"""8 MiB: more than the buffers of two sockets hold."""


class Reported:
    """An owner that keeps what is reported to it."""

    def __init__(self) -> None:
        self.made = 0
        self.pieces: list[bytes] = []
        self.ended = 0
        self.lost: list[Exception | None] = []
        self.writing = True
        self.stream: StreamSocket | None = None
        self.pauses = False
        """Whether to pause reading after each piece."""

    @property
    def data(self) -> bytes:
        """All that was received."""
        return b"".join(self.pieces)

    def connection_made(self, stream: StreamSocket) -> None:
        assert stream is self.stream or self.stream is None
        self.made += 1

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        if self.pauses and self.stream is not None:
            self.stream.pause_reading()

    def eof_received(self) -> None:
        self.ended += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append(error)

    def pause_writing(self) -> None:
        self.writing = False

    def resume_writing(self) -> None:
        self.writing = True


def bare(number: int) -> socket.SocketType:
    """Return a socket as `StreamSocket` takes it, for this descriptor."""
    return socket.SocketType(fileno=number)


@contextlib.asynccontextmanager
async def paired() -> AsyncIterator[tuple[StreamSocket, Reported, socket.socket]]:
    """Yield a started stream, its owner and the peer's socket."""
    ours, peers = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    owner = Reported()
    owner.stream = stream = StreamSocket(bare(ours.detach()), owner)
    stream.start()
    with peers:
        yield stream, owner, peers
        stream.abort()


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[StreamSocket, Reported, socket.socket]]:
    """Yield a stream that is connected by TCP, its owner and the peer's socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        owner = Reported()
        owner.stream = stream = StreamSocket(
            socket.SocketType(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK), owner
        )
        await stream.connect(listening.getsockname())
        peers, _ = listening.accept()
    with peers:
        yield stream, owner, peers
        stream.abort()


# --- connecting --------------------------------------------------------------------------------------------


async def test_connecting_reports_a_connection_once() -> None:
    async with connected() as (stream, owner, peers):
        assert owner.made == 1
        peers.sendall(b"hello")
        await until(lambda: owner.data == b"hello")
        assert owner.made == 1
        stream.close()
        assert owner.lost == [None]


async def test_refused_connection_is_an_error_and_no_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = unused.getsockname()
        before = open_descriptors()
        owner = Reported()
        stream = StreamSocket(socket.SocketType(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK), owner)
        with pytest.raises(ConnectionRefusedError):
            await stream.connect(address)
        stream.abort()
        stream.abort()
    assert owner.made == 0
    assert owner.lost == [None]
    assert len(open_descriptors()) <= len(before) + 1  # the loop's epoll


async def test_address_that_the_system_refuses_is_an_error_at_once() -> None:
    owner = Reported()
    stream = StreamSocket(socket.SocketType(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK), owner)
    with pytest.raises(OSError, match=r"Network is unreachable|Invalid argument|Permission denied"):
        stream.connect(("255.255.255.255", 1))
    stream.abort()
    assert owner.lost == [None]


async def test_cancelled_connect_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        owner = Reported()
        stream = StreamSocket(socket.SocketType(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK), owner)
        waiting = stream.connect(listening.getsockname())
        waiting.cancel()
        await until(lambda: owner.made)  # the kernel connects all the same
        stream.abort()
        assert owner.lost == [None]


# --- receiving ---------------------------------------------------------------------------------------------


async def test_everything_is_received_in_order_and_then_the_end() -> None:
    async with paired() as (_, owner, peers):
        sending = asyncio.get_running_loop().sock_sendall(peers, LARGE)
        await sending
        peers.shutdown(socket.SHUT_WR)
        await until(lambda: owner.ended)
        assert owner.data == LARGE
        assert owner.ended == 1
        assert owner.lost == []


async def test_data_and_end_that_come_together_are_both_reported() -> None:
    for size in (1, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1):
        async with connected() as (_, owner, peers):
            peers.sendall(bytes(size))
            peers.close()
            await until(lambda: owner.ended)
            assert len(owner.data) == size


async def test_data_on_both_sides_of_urgent_data_is_received() -> None:
    """A read stops before urgent data, though more may have arrived behind it."""
    async with connected() as (_, owner, peers):
        peers.sendall(b"before")
        peers.send(b"!", socket.MSG_OOB)
        peers.sendall(b"after")
        await until(lambda: owner.data == b"beforeafter")


async def test_turn_receives_a_limited_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_socket, "READ_BYTES", 100)
    async with paired() as (stream, owner, peers):
        stream.pause_reading()
        peers.sendall(bytes(100 * MAX_TURN_READS * 3))
        await asyncio.sleep(0)
        stream.resume_reading()
        turns, received = 0, 0
        while received < 100 * MAX_TURN_READS * 3:
            await asyncio.sleep(0)
            arrived = len(owner.data) - received
            assert arrived <= 100 * MAX_TURN_READS
            received += arrived
            turns += bool(arrived)
        assert turns == 3


async def test_paused_stream_receives_nothing_and_everything_later() -> None:
    async with paired() as (stream, owner, peers):
        owner.pauses = True
        peers.sendall(b"one")
        await until(lambda: owner.data == b"one")
        peers.sendall(b"two")
        peers.shutdown(socket.SHUT_WR)
        for _ in range(5):
            await asyncio.sleep(0)
        assert owner.data == b"one"
        assert not owner.ended
        stream.resume_reading()
        await until(lambda: owner.data == b"onetwo")
        assert not owner.ended
        stream.resume_reading()
        await until(lambda: owner.ended)


async def test_resuming_without_data_waits_for_some() -> None:
    async with paired() as (stream, owner, peers):
        stream.pause_reading()
        stream.resume_reading()
        stream.resume_reading()
        await asyncio.sleep(0)
        assert owner.pieces == []
        peers.sendall(b"later")
        await until(lambda: owner.data == b"later")


async def test_reset_is_reported_after_what_came_before_it() -> None:
    async with connected() as (_, owner, peers):
        peers.sendall(b"last words")
        peers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peers.close()
        await until(lambda: owner.lost)
        assert owner.data == b"last words"
        assert isinstance(owner.lost[0], ConnectionResetError)


async def test_reset_is_reported_after_the_tasks_that_the_data_before_it_woke() -> None:
    async with connected() as (_, owner, peers):
        lost_before: list[int] = []
        woken = asyncio.get_running_loop().create_future()
        woken.add_done_callback(lambda _: lost_before.append(len(owner.lost)))
        receive = owner.data_received

        def wake(data: bytes) -> None:
            receive(data)
            woken.set_result(None)

        owner.data_received = wake  # type: ignore[method-assign]
        peers.sendall(b"last words")
        peers.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peers.close()
        await until(lambda: owner.lost)
        assert lost_before == [0]


async def test_data_behind_a_file_descriptor_is_received() -> None:
    """A read of a Unix socket stops behind a descriptor that the peer passes, though more has arrived."""
    async with paired() as (_, owner, peers):
        socket.send_fds(peers, [b"one"], [peers.fileno()])
        socket.send_fds(peers, [b"two"], [peers.fileno()])
        peers.sendall(b"three")
        await until(lambda: owner.data == b"onetwothree")


# --- sending -----------------------------------------------------------------------------------------------


async def test_unsent_data_is_kept_and_sent_when_there_is_room() -> None:
    async with paired() as (stream, owner, peers):
        stream.write(LARGE)
        assert stream.unsent > MAX_UNSENT_BYTES
        assert not owner.writing
        stream.write(b"end")
        received = b""
        while not received.endswith(b"end"):
            received += await asyncio.get_running_loop().sock_recv(peers, 1 << 20)
        assert received == LARGE + b"end"
        await until(lambda: stream.unsent == 0)
        assert owner.writing


async def test_close_sends_everything_first() -> None:
    async with paired() as (stream, owner, peers):
        stream.write(LARGE)
        stream.close()
        stream.write(b"too late")
        assert stream.closing
        assert owner.lost == []
        received = b""
        while data := await asyncio.get_running_loop().sock_recv(peers, 1 << 20):
            received += data
        assert received == LARGE
        assert owner.lost == [None]


async def test_abort_drops_unsent_data() -> None:
    async with paired() as (stream, owner, peers):
        stream.write(LARGE)
        stream.abort()
        assert owner.lost == [None]
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := await asyncio.get_running_loop().sock_recv(peers, 1 << 20):
                received += data
        assert len(received) < len(LARGE)


async def test_error_of_sending_is_reported_in_a_later_turn_after_what_had_arrived() -> None:
    async with paired() as (stream, owner, peers):
        stream.pause_reading()
        peers.sendall(b"why")
        peers.close()
        stream.write(b"unread")
        assert owner.lost == []
        assert stream.closing
        await until(lambda: owner.lost)
        assert owner.data == b"why"
        assert isinstance(owner.lost[0], BrokenPipeError | ConnectionResetError)
        stream.write(b"unread too")
        assert len(owner.lost) == 1


async def test_peer_that_goes_away_ends_a_close_that_waits_for_room() -> None:
    async with paired() as (stream, owner, peers):
        stream.write(LARGE)
        stream.close()
        peers.close()
        await until(lambda: owner.lost)
        assert isinstance(owner.lost[0], BrokenPipeError | ConnectionResetError)


# --- without descriptors -----------------------------------------------------------------------------------


async def test_socket_is_closed_if_its_events_cannot_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(loop: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(stream_socket, "socket_events", refuse)
    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with pytest.raises(OSError, match="Too many open files"):
        StreamSocket(sock, Reported())
    assert sock.fileno() == -1
