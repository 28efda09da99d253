"""The clock that skips idle time: when a loop counts as idle."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.clocks import Clock, idle
from tests.waiting import wait_until


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            yield client, server


@pytest.fixture
def selector(ends: tuple[socket.socket, socket.socket]) -> Iterator[selectors.BaseSelector]:
    """Return a selector that waits until either end can read."""
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end, selectors.EVENT_READ)
        yield selector


def test_loop_without_data_under_way_is_idle(
    selector: selectors.BaseSelector, ends: tuple[socket.socket, socket.socket]
) -> None:
    wait_until(lambda: idle(selector))
    ends[0].sendall(b"x")
    assert ends[1].recv(1) == b"x"
    wait_until(lambda: idle(selector))  # once the byte is acknowledged


def test_loop_with_unacknowledged_data_is_not_idle(
    selector: selectors.BaseSelector, ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[0].setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ends[0].send(bytes(1 << 20))
    assert not idle(selector)


def test_unacknowledged_data_of_a_socket_outside_of_the_selector_counts_too(
    selector: selectors.BaseSelector, ends: tuple[socket.socket, socket.socket]
) -> None:
    selector.unregister(ends[0])
    ends[0].setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ends[0].send(bytes(1 << 20))
    wait_until(lambda: idle(selector))
    assert not idle(selector, [ends[0].fileno()])


def test_loop_with_a_waiting_writer_is_not_idle(
    selector: selectors.BaseSelector, ends: tuple[socket.socket, socket.socket]
) -> None:
    selector.modify(ends[0], selectors.EVENT_READ | selectors.EVENT_WRITE)
    assert not idle(selector)


def test_loop_beside_a_busy_thread_is_not_idle(selector: selectors.BaseSelector) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            pass

    busy = threading.Thread(target=work)
    busy.start()
    wait_until(lambda: not idle(selector))
    stop.set()
    busy.join()
    wait_until(lambda: idle(selector))


async def test_idle_loop_jumps_to_its_next_timer(clock: Clock) -> None:
    await asyncio.sleep(100)  # of the simulated clock, which jumps: a busy machine only delays the jump
    assert clock.ahead > 90
