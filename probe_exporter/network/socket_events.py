"""Watch the sockets of an event loop with one epoll, which takes less than a transport for each of them.

The model:

* The event loop watches an epoll, and the epoll watches the sockets: it is readable while an event of one of them is
  pending.
* To watch a socket takes one system call. To stop takes none, since the kernel forgets a socket that is closed.
* The function of a socket for datagrams is called as long as the socket is readable, or has an error. It reads what it
  wants, and the rest is reported in the next turn of the loop. That of a stream is called once for each change.
* `MAX_TURN_SOCKETS` sockets get a call in one turn. The kernel reports the others first in the next turn.
"""

from __future__ import annotations

import asyncio
import select
import socket
import weakref
from collections.abc import Callable

MAX_TURN_SOCKETS = 64
"""Sockets whose functions are called in one turn of the event loop."""


class SocketEvents:
    """The sockets of one event loop. Made by `socket_events`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._called: dict[int, Callable[[int], None]] = {}
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

    def _call(self) -> None:
        for number, events in self._epoll.poll(0, MAX_TURN_SOCKETS):
            call = self._called.get(number)
            if call is not None:  # a function that was called before may have closed this socket
                try:
                    call(events)
                except Exception as error:  # a bug, and the events of the others are reported only once
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
