"""A TCP load balancer: each connection goes to the backend with the fewest, for as long as it is open."""

from __future__ import annotations

import asyncio
import contextlib

from tests.targets.streams import StreamServer

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Balancer(StreamServer):
    """Balances connections as a Kubernetes Service or HAProxy does at layer 4; it knows nothing of HTTP.

    Attributes:
        shares: the number of open connections to each backend, by its port.
        placed: the number of all connections so far, by the backend's port.
    """

    def __init__(self, *backends: int) -> None:
        super().__init__()
        self.shares = dict.fromkeys(backends, 0)
        self.placed = dict.fromkeys(backends, 0)

    def add(self, backend: int) -> None:
        """Add a backend. The connections that are open stay where they are."""
        self.shares[backend] = self.placed[backend] = 0

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        backend = min(self.shares, key=lambda one: self.shares[one])
        self.shares[backend] += 1
        self.placed[backend] += 1
        await self._join((reader, writer), backend)

    async def _join(self, client: Streams, backend: int) -> None:
        """Copy bytes in both directions until one side closes."""
        server = None
        try:
            server = await asyncio.open_connection("127.0.0.1", backend)
            ways = [asyncio.ensure_future(_copy(*way)) for way in ((client[0], server[1]), (server[0], client[1]))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
        finally:
            self.shares[backend] -= 1
            for _, writer in filter(None, (client, server)):
                writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
