"""`StreamSocket`: sends and receives the bytes of one connection, in the place of a transport of the event loop.

The model:

* `socket_events` reports each change of the socket once ("edge-triggered"): that it is connected, that data has
  arrived, that there is room to send again, that the peer has closed. So there is one system call to watch a socket,
  and none to pause, to wait for room or to stop.
* What is reported once has to be used up. `_more` is true while the kernel may hold data that no later event reports.
  A read of less than `READ_BYTES` has emptied the socket, unless (`_thorough`) the peer has closed it or sent urgent
  data. That of a Unix socket stops behind each file descriptor that the peer passes, too.
* The owner gets calls as of `asyncio.Protocol`, some of them within a call of its own: `connection_lost` in `close`
  and `abort`. Errors of the socket are reported in the next turn of the loop.
* In one turn at most `MAX_TURN_READS` times `READ_BYTES` are received.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
from typing import Any, Protocol

from probe_exporter.network.socket_events import socket_events

READ_BYTES = 64 * 1024
"""Bytes that one system call receives at most."""

MAX_TURN_READS = 4
"""Such calls in one turn of the event loop."""

MAX_UNSENT_BYTES = 64 * 1024
"""Unsent bytes above which the owner is to pause; below a quarter of it, the owner may go on."""

MAX_REST_BYTES = 256 * 1024
"""Bytes that are received after sending failed."""

_PENDING = 0, errno.EINPROGRESS
_CHANGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
_CLOSED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_FAILED = select.EPOLLHUP | select.EPOLLERR
_USUAL = select.EPOLLIN | select.EPOLLOUT
_READABLE = select.EPOLLIN | select.EPOLLPRI | _CLOSED


class Owner(Protocol):
    """Receives the events of a `StreamSocket`."""

    def connection_made(self, stream: StreamSocket) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> None: ...
    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed, because of an error or (None) by the owner."""

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class StreamSocket:
    """A socket that is connected, or about to be, and the bytes that could not be sent yet.

    Attributes:
        closing: it is closed, or will be as soon as all is sent. `write` does nothing then.
    """

    __slots__ = (
        "_connected", "_events", "_loop", "_more", "_owner", "_paused", "_receives_soon", "_socket", "_thorough",
        "_throttled", "_unsent", "closing",
    )  # fmt: skip

    def __init__(self, sock: socket.SocketType, owner: Owner) -> None:
        """
        Args:
            sock: one that does not block; it is closed if the loop can't watch sockets. `connect` or `start` is next.

        Raises:
            OSError: no file descriptor is left to watch sockets.
        """
        self.closing = False
        self._socket: socket.SocketType | None = sock
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        try:
            self._events = socket_events(self._loop)
        except BaseException:
            sock.close()
            raise
        self._connected: asyncio.Future[None] | None = None
        self._unsent: bytearray | None = None
        self._throttled = False  # the owner is to pause
        self._paused = False
        self._more = False
        self._thorough = sock.family == socket.AF_UNIX
        self._receives_soon = False

    def connect(self, address: tuple[Any, ...]) -> asyncio.Future[None]:
        """Connect, and begin to receive. Await the result.

        Args:
            address: as the `socket` module takes it.

        Raises:
            OSError: the peer can't be connected to, at once or when the result is awaited, or no more sockets can be
                watched.
        """
        assert self._socket is not None
        error = self._socket.connect_ex(address)
        if error not in _PENDING:
            raise OSError(error, os.strerror(error))
        self._connected = self._loop.create_future()
        self._watch()
        return self._connected

    def start(self) -> None:
        """Begin to receive; the socket is connected.

        Raises:
            OSError: no more sockets can be watched; this one is closed.
        """
        self._watch()
        self._owner.connection_made(self)

    def _watch(self) -> None:
        assert self._socket is not None
        try:
            self._events.watch(self._socket, self._on_event, _CHANGES)
        except BaseException:
            self.abort()
            raise

    # Called by the events of the socket.

    def _on_event(self, changes: int) -> None:
        if self._connected is not None and not self._finish_connecting(self._connected, changes):
            return
        if self._unsent is not None and changes & (select.EPOLLOUT | _FAILED):
            self._send_unsent()
        if changes & _READABLE:
            self._more = True
            if changes & ~_USUAL:
                self._thorough = True
            self._receive()

    def _finish_connecting(self, connected: asyncio.Future[None], changes: int) -> bool:
        """Tell `connect` how it ended. Return whether the socket is connected."""
        sock = self._socket
        assert sock is not None
        self._connected = None
        if changes & _FAILED and (error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            if not connected.done():
                connected.set_exception(OSError(error, os.strerror(error)))
            return False
        self._owner.connection_made(self)
        if not connected.done():
            connected.set_result(None)
        return True

    def _receive(self) -> None:
        """Pass on what the kernel holds, until there is no more, the owner pauses, or the turn is over."""
        for _ in range(MAX_TURN_READS):
            sock = self._socket
            if sock is None or self.closing or self._paused:
                return
            try:
                data = sock.recv(READ_BYTES)
            except BlockingIOError:
                self._more = False
                return
            except OSError as error:
                # A task that the data before it woke, or that has just written, reads that data first.
                self._more = False
                self._loop.call_soon(self._close, error)
                return
            if not data:
                self._more = False
                self._owner.eof_received()
                return
            self._more = self._thorough or len(data) == READ_BYTES
            self._owner.data_received(data)
            if not self._more:
                return
        self._receive_soon()

    def _receive_soon(self) -> None:
        if not self._receives_soon:
            self._receives_soon = True
            self._events.go_on(self._go_on_receiving)

    def _go_on_receiving(self) -> None:
        self._receives_soon = False
        if self._more:
            self._receive()

    def _send_unsent(self) -> None:
        """Send what there is room for now."""
        unsent, sock = self._unsent, self._socket
        if unsent is None or sock is None:
            return
        try:
            del unsent[: sock.send(unsent)]
        except BlockingIOError:
            return
        except OSError as error:
            if self.closing:
                self._close(error)
            else:
                self._fail(error)
            return
        if self._throttled and len(unsent) <= MAX_UNSENT_BYTES // 4:
            self._throttled = False
            self._owner.resume_writing()
        if not unsent:
            self._unsent = None
            if self.closing:
                self._close(None)

    # Called by the owner.

    @property
    def unsent(self) -> int:
        """The number of bytes that wait for room in the kernel."""
        return 0 if self._unsent is None else len(self._unsent)

    def write(self, data: bytes) -> None:
        """Send, and keep what there is no room for."""
        sock = self._socket
        if sock is None or self.closing:
            return
        if self._unsent is not None:
            self._unsent += data
        else:
            try:
                sent = sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.closing = True
                self._loop.call_soon(self._fail, error)
                return
            if sent == len(data):
                return
            self._unsent = bytearray(memoryview(data)[sent:])
        if not self._throttled and len(self._unsent) > MAX_UNSENT_BYTES:
            self._throttled = True
            self._owner.pause_writing()

    def pause_reading(self) -> None:
        """Receive nothing more for now."""
        self._paused = True

    def resume_reading(self) -> None:
        """Receive again, from the next turn of the loop on."""
        self._paused = False
        if self._more:
            self._receive_soon()

    def close(self) -> None:
        """Close the socket as soon as all is sent. Nothing more is received."""
        if not self.closing:
            self.closing = True
            if self._unsent is None:
                self._close(None)

    def abort(self) -> None:
        """Close the socket at once."""
        self.closing = True
        self._close(None)

    def _fail(self, error: OSError) -> None:
        """Close the socket after sending failed. What had arrived may tell why: Linux keeps it."""
        rest = b""
        with contextlib.suppress(OSError):
            while (sock := self._socket) is not None and len(rest) < MAX_REST_BYTES and (data := sock.recv(READ_BYTES)):
                rest += data
        if rest:
            self._owner.data_received(rest)
        self._close(error)

    def _close(self, error: OSError | None) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            self.closing = True
            self._unsent = None
            self._events.close(sock)
            self._owner.connection_lost(error)
