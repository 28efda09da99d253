"""Tests of sockets watched by one epoll, on both event loops: which functions are called, and for how many sockets."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from probe_exporter.network import socket_events as socket_events_file
from probe_exporter.network.socket_events import MAX_TURN_SOCKETS, SOCKETS_AT_ONCE, socket_events
from tests.loops import ON_BOTH_LOOPS
from tests.waiting import until

pytestmark = ON_BOTH_LOOPS


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def pair(sockets: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets for datagrams, which do not block."""
    ours, peers = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    return sockets.enter_context(ours), sockets.enter_context(peers)


async def test_socket_events_call_the_function_of_a_readable_socket_until_it_is_read(sockets: ExitStack) -> None:
    (ours, peer), (silent, _) = pair(sockets), pair(sockets)
    events, calls = socket_events(asyncio.get_running_loop()), 0

    def call(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= 3:
            ours.recv(10)

    events.watch(ours, call)
    events.watch(silent, lambda _: pytest.fail("this socket has no event"))
    peer.send(b"once")
    await until(lambda: calls == 3)
    peer.send(b"twice")
    await until(lambda: calls == 4)
    events.close(ours)
    events.close(silent)


async def test_socket_events_ignore_a_socket_that_another_function_has_closed(sockets: ExitStack) -> None:
    (one, first), (other, second) = pair(sockets), pair(sockets)
    events, called = socket_events(asyncio.get_running_loop()), []

    def close_both(_: int) -> None:
        called.append("one of them")
        events.close(one)
        events.close(other)

    events.watch(one, close_both)
    events.watch(other, close_both)
    first.send(b"now")
    second.send(b"now")
    await until(lambda: called)
    await asyncio.sleep(0.01)
    assert called == ["one of them"]


async def test_socket_events_call_the_other_functions_if_one_raises(sockets: ExitStack) -> None:
    """Each event is reported once, so that the others would wait for ever."""
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(type(context["exception"])))
    events = socket_events(loop)
    called = 0

    def fail(_: int) -> None:
        nonlocal called
        called += 1
        raise ZeroDivisionError

    pairs = [pair(sockets) for _ in range(3)]
    for ours, peer in pairs:
        events.watch(ours, fail, select.EPOLLIN | select.EPOLLET)
        peer.send(b"now")
    await until(lambda: called == 3)
    for ours, _ in pairs:
        events.close(ours)
    assert reported == [ZeroDivisionError] * 3


async def test_socket_events_call_for_room_only_while_that_is_wanted(sockets: ExitStack) -> None:
    ours, _ = pair(sockets)
    events, calls = socket_events(asyncio.get_running_loop()), 0

    def call(_: int) -> None:
        nonlocal calls
        calls += 1
        events.watch_for_room(ours, False)

    events.watch(ours, call)
    await asyncio.sleep(0.01)
    assert calls == 0
    events.watch_for_room(ours, True)
    await until(lambda: calls == 1)
    await asyncio.sleep(0.01)
    assert calls == 1
    events.close(ours)


class Turns:
    """Counts calls by turns of the loop. A turn begins with the first call after the loop has run something else."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self._in_turn = False

    def count(self) -> None:
        """Count a call."""
        if not self._in_turn:
            self._in_turn = True
            self.calls.append(0)
            asyncio.get_running_loop().call_soon(self._end)
        self.calls[-1] += 1

    def _end(self) -> None:
        self._in_turn = False


@pytest.mark.parametrize(("seconds", "most"), [(1000.0, MAX_TURN_SOCKETS), (-1.0, SOCKETS_AT_ONCE)])
async def test_socket_events_serve_a_limited_number_of_sockets_in_a_turn(
    sockets: ExitStack, monkeypatch: pytest.MonkeyPatch, seconds: float, most: int
) -> None:
    """All have events at the same time."""
    monkeypatch.setattr(socket_events_file, "MAX_TURN_SECONDS", seconds)
    number = MAX_TURN_SOCKETS + 10
    events, turns = socket_events(asyncio.get_running_loop()), Turns()
    pairs = [pair(sockets) for _ in range(number)]

    def read(sock: socket.socket) -> None:
        turns.count()
        sock.recv(10)

    for ours, peer in pairs:
        events.watch(ours, lambda _, ours=ours: read(ours))  # type: ignore[misc]  # mypy can't infer such a lambda
        peer.send(b"event")
    await until(lambda: sum(turns.calls) == number)
    assert max(turns.calls) <= most
    for ours, _ in pairs:
        events.close(ours)


@pytest.mark.parametrize(("seconds", "most"), [(1000.0, 30), (-1.0, 1)])
async def test_what_goes_on_is_called_in_turn_and_until_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, seconds: float, most: int
) -> None:
    """Each of the functions goes on twice, and none is called a second time before all have been called once."""
    monkeypatch.setattr(socket_events_file, "MAX_TURN_SECONDS", seconds)
    events, turns, called = socket_events(asyncio.get_running_loop()), Turns(), list[int]()

    def call(number: int) -> None:
        turns.count()
        called.append(number)
        if len(called) <= 30:
            events.go_on(partial(call, number))

    for number in range(30):
        events.go_on(partial(call, number))
    await until(lambda: len(called) >= 60)
    assert called == [*range(30), *range(30)]
    assert max(turns.calls) == most
    await asyncio.sleep(0.01)
    assert len(called) == 60


async def test_failure_of_what_goes_on_is_reported_and_the_others_are_called() -> None:
    events, called, reported = socket_events(loop := asyncio.get_running_loop()), list[int](), list[type[Exception]]()
    loop.set_exception_handler(lambda _, what: reported.append(type(what["exception"])))

    def fail() -> None:
        raise ZeroDivisionError

    for call in (fail, lambda: called.append(1), fail, lambda: called.append(2)):
        events.go_on(call)
    await until(lambda: called == [1, 2])
    assert reported == [ZeroDivisionError] * 2


async def test_socket_events_are_those_of_the_running_loop() -> None:
    events = socket_events(asyncio.get_running_loop())
    assert socket_events(asyncio.get_running_loop()) is events

    async def others() -> bool:
        return socket_events(asyncio.get_running_loop()) is events

    assert not await asyncio.to_thread(lambda: asyncio.run(others()))
    assert socket_events(asyncio.get_running_loop()) is events
