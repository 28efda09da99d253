"""Send probes to one exporter at a steady rate, as several Prometheus servers do, whether it keeps up or not.

wrk sends the next request when the last one is answered, so that an exporter that is late gets less load, and its
lateness does not show. Here each request has its time, and its answer is timed from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

TICK_SECONDS = 0.002
MAX_CONNECTIONS = 512
"""Requests that find no free connection wait; their answers are timed from the moment when they were due."""

LAST_ANSWERS_SECONDS = 10.0

Read = Callable[[bytes, bytes], None]

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_SUCCESS = b"\nprobe_success 1"


@dataclass(slots=True)
class PaceResult:
    """The result: answered probes, those that did not succeed, and seconds from due to answered."""

    sent: int = 0
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def answered_in_time(self) -> int:
        """The number of answers that came within a second."""
        return sum(seconds < 1.0 for seconds in self.seconds)

    def percentile(self, share: float) -> float:
        """Return the seconds within which this share of the requests was answered."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class _Connection(asyncio.Protocol):
    """One kept connection; it sends one request at a time."""

    def __init__(self, pacer: _Pacer) -> None:
        self._pacer = pacer
        self._data = bytearray()
        self._request = b""
        self._due = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at a time of the loop."""
        assert self._transport is not None
        self._request, self._due = request, due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return
        found = _LENGTH.search(self._data, 0, head + 2)
        size = int(found[1]) if found else 0
        if len(self._data) >= head + 4 + size:
            body = bytes(self._data[head + 4 : head + 4 + size])
            self._data.clear()
            self._pacer.answered(self, self._request, self._due, body)

    def connection_lost(self, error: Exception | None) -> None:
        self._pacer.lost(error)

    def close(self) -> None:
        """Close the connection."""
        assert self._transport is not None
        self._transport.abort()


class _Pacer:
    """Sends requests when they are due, on whichever connection is free."""

    def __init__(self, port: int, requests: Sequence[bytes], read: Read | None) -> None:
        self.result = PaceResult()
        self._read = read
        self._port = port
        self._requests = requests
        self._loop = asyncio.get_running_loop()
        self._free: list[_Connection] = []
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._connections: list[_Connection] = []
        self._all_answered = asyncio.Event()
        self._last = 0  # the number of requests, once all are sent
        self._done = False

    async def run(self, rate: float, seconds: float) -> PaceResult:
        """Send `rate` requests a second."""
        begun = self._loop.time()
        while (passed := self._loop.time() - begun) < seconds:
            while self.result.sent < passed * rate:
                due = begun + self.result.sent / rate
                self._waiting.append((self._requests[self.result.sent % len(self._requests)], due))
                self.result.sent += 1
            await self._serve()
            await asyncio.sleep(TICK_SECONDS)
        self._last = self.result.sent
        if len(self.result.seconds) < self._last:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_answered.wait(), LAST_ANSWERS_SECONDS)
        self._done = True
        for connection in self._connections:
            connection.close()
        return self.result

    async def _serve(self) -> None:
        while self._waiting and (self._free or len(self._connections) < MAX_CONNECTIONS):
            if not self._free:
                _, connection = await self._loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
                self._connections.append(connection)
                self._free.append(connection)  # another may have become free meanwhile, and taken what waits
            else:
                self._free.pop().send(*self._waiting.popleft())

    def answered(self, connection: _Connection, request: bytes, due: float, body: bytes) -> None:
        """Note an answer, and use the connection for the next request that waits."""
        self.result.seconds.append(self._loop.time() - due)
        text = zlib.decompress(body, 16 + zlib.MAX_WBITS) if body[:2] == b"\x1f\x8b" else body
        self.result.wrong += _SUCCESS not in text
        if self._read is not None:
            self._read(request, text)
        if len(self.result.seconds) == self._last:
            self._all_answered.set()
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self, error: Exception | None) -> None:
        """Refuse to go on if the exporter closes a connection, which would make the result wrong."""
        if not self._done:
            raise SystemExit(f"the exporter closed a connection: {error}")


async def pace(
    port: int,
    paths: Sequence[str],
    headers: Mapping[str, str],
    rate: float,
    seconds: float,
    read: Read | None = None,
) -> PaceResult:
    """Send `rate` probes a second to an exporter, and wait for the last answers.

    Args:
        paths: with their queries, in turn.
        read: called with each request and the text of its answer.
    """
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    requests = [f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n".encode() for path in paths]
    return await _Pacer(port, requests, read).run(rate, seconds)
