"""``python -m benchmarks.timed_server PORT``: an HTTP server on 127.0.0.1 that answers 50 ms after each request.

A timer is never exact, so the server remembers how long each answer really took, by the request's path, from the moment
when it read the request. ``GET /took`` returns that as JSON, and forgets it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

SECONDS = 0.050
TOOK = "/took"

_took: dict[str, float] = {}


class _Client(asyncio.Protocol):
    """One connection, which is closed with its answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        received = time.perf_counter()
        path = data.split(b" ", 2)[1].decode()
        if path == TOOK:
            self._answer(json.dumps(_took))
            _took.clear()
        else:
            asyncio.get_running_loop().call_later(SECONDS, self._answer_late, path, received)

    def _answer_late(self, path: str, received: float) -> None:
        _took[path] = time.perf_counter() - received
        self._answer("good morning")

    def _answer(self, body: str) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._transport.write(f"{head}{body}".encode())
        self._transport.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(_Client, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
