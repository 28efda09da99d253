"""`Datagrams`: UDP to and from one target, which probers send and read. `opening` opens the sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from types import TracebackType
from typing import Self

from probe_exporter.addresses.endpoints import join_host_port
from probe_exporter.network.connection import MAX_UNREAD_BYTES, connecting_failed, wake
from probe_exporter.network.socket_events import socket_events
from probe_exporter.prober.failure import ProbeFailed, Reason

DATAGRAM_OVERHEAD_BYTES = 64
"""Bytes that count for each datagram beside its payload: an empty one takes memory too."""

MAX_TURN_DATAGRAMS = 32
"""Datagrams that are received in one turn of the event loop for `Datagrams.wait`. For `Datagrams.read` it is one: to
find out that there is no second one takes a system call and an exception."""

_MAX_DATAGRAM_BYTES = 65536


class Datagrams:
    """Datagrams to and from one address. Made by `connect_udp` or `dial_udp`.

    ``with await connect_udp(…) as datagrams:`` closes the socket at the end of the block.

    Attributes:
        address: what they are sent to.
        first_at: when the first datagram arrived, on `time.perf_counter`; 0.0 while none has.
        arrived_at: when the datagram that `read` returned last arrived.
    """

    def __init__(self, sock: socket.SocketType, address: str, port: int) -> None:
        """
        Args:
            sock: connected to the address and port, non-blocking; it is closed if its events can't be watched.

        Raises:
            OSError: the events of the socket can't be watched.
        """
        self.address = address
        self.first_at = 0.0
        self.arrived_at = 0.0
        self._port = port
        self._arrived: deque[tuple[float, bytes]] = deque()
        self._held = 0  # bytes in _arrived
        self._unsent: list[bytes] = []  # while the kernel's buffer is full
        self._error: ProbeFailed | None = None
        self._reader: asyncio.Future[None] | None = None
        self._at_once = 1  # datagrams that are received in one turn
        self._loop = asyncio.get_running_loop()
        self._socket: socket.SocketType | None = sock
        try:
            self._events = socket_events(self._loop)
            self._events.watch(sock, self._on_event)
        except BaseException:
            sock.close()
            raise

    # Called by the event loop.

    def _on_event(self, events: int) -> None:
        """Receive what has arrived, or an error of the socket; send what is unsent."""
        sock = self._socket
        if sock is None:
            return
        if self._unsent:
            self._send_unsent(sock)
        try:
            for _ in range(self._at_once):
                self._keep(sock.recv(_MAX_DATAGRAM_BYTES))
        except BlockingIOError:
            pass
        except OSError as error:
            self._keep_error(error)
        # There may be neither: an event can be about a datagram with a wrong checksum, or about room to send.
        if self._arrived or self._error is not None:
            self._wake()

    def _keep(self, data: bytes) -> None:
        now = time.perf_counter()
        self.first_at = self.first_at or now
        if self._held < MAX_UNREAD_BYTES:  # beyond it datagrams are dropped, as by a socket whose buffer is full
            self._arrived.append((now, data))
            self._held += len(data) + DATAGRAM_OVERHEAD_BYTES

    def _keep_error(self, error: OSError) -> None:
        """Keep an error of the socket, such as ICMP's "port unreachable", for `read`."""
        if isinstance(error, ConnectionRefusedError) and self.first_at:
            self._error = ProbeFailed(Reason.CONNECT_RESET, "the peer has closed its port")
        else:
            self._error = connecting_failed(error, join_host_port(self.address, self._port))

    # Called by probers.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def waiting(self) -> bool:
        """Whether `read` has something to return at once."""
        return bool(self._arrived)

    async def read(self) -> bytes:
        """Return the next datagram.

        Raises:
            ProbeFailed: the port is closed, or the host unreachable.
        """
        while not self._arrived:
            if self._error is not None:
                raise self._error
            self._at_once = 1
            self._reader = self._loop.create_future()
            await self._reader
        self.arrived_at, data = self._arrived.popleft()
        self._held -= len(data) + DATAGRAM_OVERHEAD_BYTES
        return data

    async def wait(self, seconds: float) -> bool:
        """Wait, at most `seconds`, for something to `read`: a datagram or an error. Return whether there is one."""
        if not self._arrived and self._error is None:
            self._at_once = MAX_TURN_DATAGRAMS
            self._reader = self._loop.create_future()
            timer = self._loop.call_later(max(seconds, 0), self._wake)
            try:
                await self._reader
            finally:
                timer.cancel()
        return bool(self._arrived) or self._error is not None

    def send(self, data: bytes) -> None:
        """Send one datagram; delivery is not guaranteed."""
        if self._socket is None or (not self._unsent and self._send(self._socket, data)):
            return
        if not self._unsent:
            self._events.watch_for_room(self._socket, True)
        self._unsent.append(data)

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        sock, self._socket = self._socket, None
        if sock is not None:
            self._events.close(sock)

    def _send(self, sock: socket.SocketType, data: bytes) -> bool:
        """Send a datagram, and keep an error for `read`; return False if the kernel's buffer is full."""
        try:
            sock.send(data)
        except BlockingIOError:
            return False
        except OSError as error:
            self._keep_error(error)
            self._wake()
        return True

    def _send_unsent(self, sock: socket.SocketType) -> None:
        while self._unsent and self._send(sock, self._unsent[0]):
            del self._unsent[0]
        if not self._unsent:
            self._events.watch_for_room(sock, False)

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        wake(reader)
