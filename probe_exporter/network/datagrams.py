"""`Datagrams`: UDP to and from one target, which probers send and read. `opening` opens the sockets."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from types import TracebackType
from typing import Self, cast

from probe_exporter.addresses.endpoints import join_host_port
from probe_exporter.network.connection import MAX_UNREAD_BYTES, connecting_failed, wake
from probe_exporter.prober.failure import ProbeFailed, Reason

DATAGRAM_OVERHEAD_BYTES = 64
"""Bytes that count for each datagram beside its payload: an empty one takes memory too."""


class Datagrams(asyncio.DatagramProtocol):
    """Datagrams to and from one address. Made by `connect_udp` or `dial_udp`.

    ``with await connect_udp(…) as datagrams:`` closes the socket at the end of the block.

    Attributes:
        address: what they are sent to.
        first_at: when the first datagram arrived, on `time.perf_counter`; 0.0 while none has.
        arrived_at: when the datagram that `read` returned last arrived.
    """

    def __init__(self, address: str, port: int) -> None:
        self.address = address
        self.first_at = 0.0
        self.arrived_at = 0.0
        self._port = port
        self._transport: asyncio.DatagramTransport | None = None
        self._arrived: deque[tuple[float, bytes]] = deque()
        self._held = 0  # bytes in _arrived
        self._error: ProbeFailed | None = None
        self._reader: asyncio.Future[None] | None = None

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, _: object) -> None:
        now = time.perf_counter()
        self.first_at = self.first_at or now
        if self._held < MAX_UNREAD_BYTES:  # beyond it datagrams are dropped, as by a socket whose buffer is full
            self._arrived.append((now, data))
            self._held += len(data) + DATAGRAM_OVERHEAD_BYTES
        self._wake()

    def error_received(self, error: Exception) -> None:
        """Keep an error of the socket, such as ICMP's "port unreachable", for `read`."""
        if isinstance(error, ConnectionRefusedError) and self.first_at:
            self._error = ProbeFailed(Reason.CONNECT_RESET, "the peer has closed its port")
        else:
            self._error = connecting_failed(cast("OSError", error), join_host_port(self.address, self._port))
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

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
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        self.arrived_at, data = self._arrived.popleft()
        self._held -= len(data) + DATAGRAM_OVERHEAD_BYTES
        return data

    async def wait(self, seconds: float) -> bool:
        """Wait, at most `seconds`, for something to `read`: a datagram or an error. Return whether there is one."""
        if not self._arrived and self._error is None:
            loop = asyncio.get_running_loop()
            self._reader = loop.create_future()
            timer = loop.call_later(max(seconds, 0), self._wake)
            try:
                await self._reader
            finally:
                timer.cancel()
        return bool(self._arrived) or self._error is not None

    def send(self, data: bytes) -> None:
        """Send one datagram; delivery is not guaranteed."""
        if self._transport is not None:
            self._transport.sendto(data)

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        if self._transport is not None:
            self._transport.close()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        wake(reader)
