"""Tests of UDP datagrams over loopback, on both event loops: sender, arrival time and errors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Callable

import pytest

from probe_exporter.network.connection import MAX_UNREAD_BYTES
from probe_exporter.network.datagrams import MAX_TURN_DATAGRAMS, Datagrams
from probe_exporter.network.opening import dial_udp
from probe_exporter.prober.failure import ProbeFailed, Reason
from tests.loops import ON_BOTH_LOOPS
from tests.targets.peer import a_probe
from tests.waiting import PATIENCE, until

pytestmark = ON_BOTH_LOOPS


def a_udp_socket(address: str = "127.0.0.1") -> socket.socket:
    """Return a bound UDP socket."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    sock.settimeout(PATIENCE)
    return sock


@contextlib.asynccontextmanager
async def after_a_question() -> AsyncIterator[tuple[Datagrams, Callable[[bytes], int]]]:
    """Send a datagram to a peer, and yield our socket and a function by which the peer answers."""
    with a_udp_socket() as peer:
        datagrams = await dial_udp(a_probe(), "127.0.0.1", peer.getsockname()[1])
        datagrams.send(b"question")
        _, ours = peer.recvfrom(100)
        yield datagrams, lambda data: peer.sendto(data, ours)
        datagrams.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_datagrams_ignore_other_senders(address: str) -> None:
    """Datagrams from another socket are not received."""
    with a_udp_socket(address) as peer, a_udp_socket(address) as stranger:
        datagrams = await dial_udp(a_probe(), address, peer.getsockname()[1])
        datagrams.send(b"question")
        question, ours = peer.recvfrom(100)
        assert question == b"question"
        stranger.sendto(b"lie", ours)
        peer.sendto(b"answer", ours)
        peer.sendto(b"more", ours)
        assert await datagrams.read() == b"answer"
        assert await datagrams.read() == b"more"
        assert not datagrams.waiting
        datagrams.close()


async def test_datagram_time_is_its_arrival() -> None:
    """The time of reading may be later."""
    async with after_a_question() as (datagrams, answer):
        assert datagrams.first_at == 0.0
        arrivals = []
        for number, data in enumerate((b"first", b"second"), start=1):
            answer(data)
            await until(lambda: len(datagrams._arrived) == number)  # noqa: B023  # called before the next turn
            arrivals.append(time.perf_counter())
        assert await datagrams.read() == b"first"
        assert datagrams.arrived_at == datagrams.first_at < arrivals[0]
        assert await datagrams.read() == b"second"
        assert arrivals[0] < datagrams.arrived_at < arrivals[1]


async def test_datagrams_wait_ends_with_a_datagram_an_error_or_the_time() -> None:
    with a_udp_socket() as peer:
        port = peer.getsockname()[1]
        datagrams = await dial_udp(a_probe(), "127.0.0.1", port)
        assert not await datagrams.wait(0.0)
        assert not await datagrams.wait(-1.0)
        assert not await datagrams.wait(0.01)
        datagrams.send(b"question")
        _, ours = peer.recvfrom(100)
        waiting = asyncio.create_task(datagrams.wait(PATIENCE))
        await asyncio.sleep(0)
        peer.sendto(b"answer", ours)
        assert await waiting
        assert await datagrams.wait(0.0)
        assert await datagrams.read() == b"answer"
        peer.connect(("127.0.0.1", 9))  # closes its port to others, which no other socket can have meanwhile
        datagrams.send(b"question")
        assert await datagrams.wait(PATIENCE)
        with pytest.raises(ProbeFailed):
            await datagrams.read()
        datagrams.close()


async def test_datagrams_wait_goes_on_after_an_event_that_brings_nothing() -> None:
    """Such an event is about a datagram with a wrong checksum, or about room to send."""
    async with after_a_question() as (datagrams, answer):
        waiting = asyncio.create_task(datagrams.wait(PATIENCE))
        await asyncio.sleep(0)
        datagrams._on_event(select.EPOLLOUT)
        await asyncio.sleep(0)
        assert not waiting.done()
        answer(b"answer")
        assert await waiting


async def test_datagrams_wait_can_be_cancelled_and_repeated() -> None:
    with a_udp_socket() as peer:
        datagrams = await dial_udp(a_probe(), "127.0.0.1", peer.getsockname()[1])
        waiting = asyncio.create_task(datagrams.wait(PATIENCE))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        datagrams.send(b"question")
        _, ours = peer.recvfrom(100)
        peer.sendto(b"answer", ours)
        assert await datagrams.wait(PATIENCE)
        assert await datagrams.read() == b"answer"
        datagrams.close()


async def test_datagrams_report_refused_port() -> None:
    """The error comes with the ICMP message and is raised on each read."""
    with a_udp_socket() as peer:
        port = peer.getsockname()[1]
    datagrams = await dial_udp(a_probe(), "127.0.0.1", port)
    datagrams.send(b"anybody?")
    for _ in range(2):
        with pytest.raises(ProbeFailed) as failed:
            await datagrams.read()
        assert failed.value.reason is Reason.CONNECT_REFUSED
    datagrams.close()


async def test_datagrams_report_reset_if_peer_closes_after_response() -> None:
    """The response is read before the error."""
    with a_udp_socket() as peer:
        datagrams = await dial_udp(a_probe(), "127.0.0.1", peer.getsockname()[1])
        datagrams.send(b"question")
        _, ours = peer.recvfrom(100)
        peer.sendto(b"answer", ours)
        await until(lambda: datagrams.waiting)
    datagrams.send(b"another")
    await until(lambda: datagrams._error is not None)
    assert await datagrams.read() == b"answer"
    with pytest.raises(ProbeFailed) as failed:
        await datagrams.read()
    assert failed.value.reason is Reason.CONNECT_RESET
    datagrams.close()


async def test_datagrams_report_unusable_route_and_source() -> None:
    with a_udp_socket() as peer:
        datagrams = await dial_udp(a_probe(), "127.0.0.1", peer.getsockname()[1], source="127.0.0.9")
        datagrams.send(b"question")
        assert peer.recvfrom(100)[1][0] == "127.0.0.9"
        datagrams.close()
    for address, source, reason in (
        ("127.0.0.1", "192.0.2.1", Reason.CONNECT_FAILED),
        ("127.255.255.255", "", Reason.CONNECT_FAILED),
        ("127.0.0.1", "::1", Reason.SETTINGS_UNUSABLE),
        ("127.0.0.1", "localhost", Reason.SETTINGS_UNUSABLE),  # bind would look the name up, and block the event loop
    ):
        with pytest.raises(ProbeFailed) as failed:
            await dial_udp(a_probe(), address, 9, source=source)
        assert failed.value.reason is reason


def socket_of(datagrams: Datagrams) -> socket.SocketType:
    assert datagrams._socket is not None
    return datagrams._socket


async def test_datagrams_are_dropped_beyond_buffer_limit() -> None:
    """The kernel does the same when a socket's buffer is full."""
    async with after_a_question() as (datagrams, answer):
        sock = socket_of(datagrams)
        for _ in range(100):
            answer(bytes(10_000))
            await until(lambda: not select.select([sock], [], [], 0)[0])
        received = 0
        while datagrams.waiting:
            received += len(await datagrams.read())
        assert MAX_UNREAD_BYTES - 10_000 < received < MAX_UNREAD_BYTES + 10_000
        answer(b"later")
        assert await datagrams.read() == b"later"


async def test_datagram_read_can_be_cancelled_and_retried() -> None:
    with a_udp_socket() as peer:
        datagrams = await dial_udp(a_probe(), "127.0.0.1", peer.getsockname()[1])
        datagrams.send(b"question")
        _, ours = peer.recvfrom(100)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await datagrams.read()
        peer.sendto(b"answer", ours)
        assert await datagrams.read() == b"answer"
        datagrams.close()
        datagrams.close()
        await asyncio.sleep(0)
        datagrams.send(b"into the void")


async def test_datagrams_wait_for_room_in_the_kernels_buffer() -> None:
    """A Unix socket has room for a few datagrams. They arrive in order, and none is lost."""
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with peer:
        datagrams = Datagrams(ours, "127.0.0.1", 9)
        sent = [str(number).encode() for number in range(300)]
        for data in sent:
            datagrams.send(data)
        with pytest.raises(BlockingIOError):
            ours.send(b"no room")
        received: list[bytes] = []
        while len(received) < len(sent):
            await until(lambda: select.select([peer], [], [], 0)[0])
            received.append(peer.recv(100))
        assert received == sent
        datagrams.send(b"one more")
        assert peer.recv(100) == b"one more"
        datagrams.close()


async def test_datagrams_of_a_flood_leave_the_loop_to_other_tasks() -> None:
    """`read` takes one datagram in a turn, so a task that waits for the next turn runs after each of them."""
    async with after_a_question() as (datagrams, answer):
        reading = asyncio.create_task(datagrams.read())
        await asyncio.sleep(0)
        for _ in range(20):
            answer(b"flood")
        assert await reading == b"flood"
        assert len(datagrams._arrived) <= 5  # those of the turns in which the two tasks wake up


async def test_datagrams_of_one_turn_are_limited() -> None:
    async with after_a_question() as (datagrams, answer):
        waiting = asyncio.create_task(datagrams.wait(PATIENCE))
        await asyncio.sleep(0)
        for _ in range(3 * MAX_TURN_DATAGRAMS):
            answer(b"flood")
        datagrams._on_event(select.EPOLLOUT)
        assert len(datagrams._arrived) == MAX_TURN_DATAGRAMS
        assert await waiting


async def test_datagrams_close_a_socket_that_can_not_be_watched() -> None:
    """An example of such a socket is a number that is another file by now, which an epoll can't watch."""
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with peer:
        file = os.open(os.devnull, os.O_RDONLY)
        os.dup2(file, ours.fileno())
        os.close(file)
        with pytest.raises(OSError, match="not permitted"):
            Datagrams(ours, "127.0.0.1", 9)
        assert ours.fileno() == -1
