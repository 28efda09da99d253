"""Watch the sockets of an event loop with one epoll, which takes less than a transport for each of them.

The model:

* The event loop watches an epoll, and the epoll watches the sockets: it is readable while an event of one of them is
  pending.
* To watch a socket takes one system call. To stop takes none, since the kernel forgets a socket that is closed.
* The function of a socket for datagrams is called as long as the socket is readable, or has an error. It reads what it
  wants, and the rest is reported in the next turn of the loop. That of a stream is called once for each change.
* A turn takes `SOCKETS_AT_ONCE` sockets from the kernel, and more of them until it has lasted `MAX_TURN_SECONDS`. The
  kernel keeps the others, and reports them first in the next turn. What a socket has to go on with (`go_on`) waits in
  a queue, which has the same limit.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable

SOCKETS_AT_ONCE = 4
"""Sockets whose functions are called before the turn's time is looked at."""

MAX_TURN_SOCKETS = 64
"""Calls for sockets in one turn of the event loop."""

MAX_TURN_SECONDS = 0.004
"""Seconds after which a turn calls no more functions. One that receives as much as it may takes up to a millisecond."""


class SocketEvents:
    """The sockets of one event loop. Made by `socket_events`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._called: dict[int, Callable[[int], None]] = {}
        self._waiting: deque[Callable[[], None]] = deque()
        self._calls_soon = False
        loop.add_reader(self._epoll, self._call)
        weakref.finalize(loop, self._epoll.close)

    def watch(self, sock: socket.SocketType, call: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call a function, which must not raise, with the events of a socket and its errors.

        Args:
            events: of epoll. With ``EPOLLET`` each is reported once, and otherwise in each turn in which it is so.

        Raises:
            OSError: the system has no memory to watch another socket.
        """
        number = sock.fileno()
        self._epoll.register(number, events)
        self._called[number] = call

    def watch_for_room(self, sock: socket.SocketType, wanted: bool) -> None:
        """Begin or cease to call the function of a watched socket if there is room to send, too."""
        self._epoll.modify(sock.fileno(), select.EPOLLIN | select.EPOLLOUT if wanted else select.EPOLLIN)

    def close(self, sock: socket.SocketType) -> None:
        """Close a socket that may be watched."""
        self._called.pop(sock.fileno(), None)
        sock.close()

    def go_on(self, call: Callable[[], None]) -> None:
        """Call a function in a later turn of the event loop."""
        self._waiting.append(call)
        if not self._calls_soon:
            self._call_soon()

    def _call_soon(self) -> None:
        self._calls_soon = True
        asyncio.get_running_loop().call_soon(self._call_waiting)

    def _call(self) -> None:
        """Call the functions of sockets that have events."""
        if self._call_some() < SOCKETS_AT_ONCE:
            return
        end = time.perf_counter() + MAX_TURN_SECONDS
        for _ in range(MAX_TURN_SOCKETS // SOCKETS_AT_ONCE - 1):
            if time.perf_counter() > end or self._call_some() < SOCKETS_AT_ONCE:
                break

    def _call_some(self) -> int:
        """Call the functions of the next sockets, and return the number of events."""
        reported = self._epoll.poll(0, SOCKETS_AT_ONCE)
        for number, events in reported:
            call = self._called.get(number)
            if call is not None:  # a function that was called before may have closed this socket
                try:
                    call(events)
                except Exception as error:  # a bug, and the events of the others are reported only once
                    self._report(error)
        return len(reported)

    def _call_waiting(self) -> None:
        end = time.perf_counter() + MAX_TURN_SECONDS
        for _ in range(len(self._waiting)):  # not those that are added meanwhile
            try:
                self._waiting.popleft()()
            except Exception as error:
                self._report(error)
            if time.perf_counter() > end:
                break
        self._calls_soon = False
        if self._waiting:
            self._call_soon()

    def _report(self, error: Exception) -> None:
        what = {"message": "Unexpected exception for an event of a socket", "exception": error}
        asyncio.get_running_loop().call_exception_handler(what)


_of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, SocketEvents] = weakref.WeakKeyDictionary()
_last: tuple[Callable[[], asyncio.AbstractEventLoop | None], SocketEvents | None] = (lambda: None, None)
"""The loop that was used last, as a weak reference: a process has one, and this is quicker than a look-up."""


def socket_events(loop: asyncio.AbstractEventLoop) -> SocketEvents:
    """Return the sockets of an event loop.

    Raises:
        OSError: no file descriptor is left for the epoll of a new loop.
    """
    global _last  # noqa: PLW0603  # see there
    last, events = _last
    if events is None or last() is not loop:
        events = _of_loops.get(loop)
        if events is None:
            events = _of_loops[loop] = SocketEvents(loop)
        _last = (weakref.ref(loop), events)
    return events
