"""Clients' connections: who keeps the exporter waiting is let go, so that slow or broken clients harm nobody else."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import BaseRequest, RequestHandler, Server, StreamResponse

HEAD_SECONDS = 20.0
"""For a request to arrive, from its first byte, or from the connection's beginning, to the end of its head."""

TAKE_SECONDS = 60.0
"""For an answer to be taken; a Prometheus that scrapes has given up by then."""

IDLE_SECONDS = 330.0
"""Between requests. Prometheus closes after 5 minutes: so the client does it, and no request meets a closed door."""

LOOK_SECONDS = 2.0

LONGEST_LINE = 64 * 1024
"""Bytes of a request line or header; aiohttp's 8 KiB are too few for some targets."""

MOST_UNHEARD = 10_000
"""Connections without a whole request, or half as many as files may be open: the oldest goes when one more comes."""

GRACE_SECONDS = 1.0
"""For answers on their way when everything else has ended."""


class Connection(RequestHandler):
    """One client's. It is in `Connections.unheard` while a request of it is awaited and not whole."""

    __slots__ = ("_all", "busy", "stuck", "wire")

    def __init__(self, all: Connections, server: Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._all = all
        self.busy = False  # a request is being answered
        self.stuck = 0.0  # since when there is something that the client does not take
        self.wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        self._all.await_request(self)

    def data_received(self, data: bytes) -> None:
        if not self.busy and self not in self._all.unheard:
            self._all.await_request(self)
        super().data_received(data)

    async def finish_response(
        self, request: BaseRequest, resp: StreamResponse, start_time: float | None
    ) -> tuple[StreamResponse, bool]:
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.busy = False

    def connection_lost(self, exc: BaseException | None) -> None:
        self._all.unheard.pop(self, None)
        super().connection_lost(exc)

    def cut(self) -> None:
        """End it at once, with whatever is on its way."""
        if self.wire is not None:
            self.wire.abort()


class Connections:
    """All connections. An instance makes the protocol of a new one, as an event loop's servers want it."""

    def __init__(self, answer: Callable[[BaseRequest], Awaitable[StreamResponse]]) -> None:
        """
        Args:
            answer: called for each request once its head is whole.
        """
        logging.getLogger("aiohttp.server").addFilter(_is_ours)
        self._loop = asyncio.get_running_loop()
        # A client that hangs up cancels its probe.
        self._server = Server(answer, handler_cancellation=True, request_factory=self._request)
        self.unheard: dict[Connection, float] = {}  # since when; the oldest is the first
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_unheard = min(MOST_UNHEARD, files // 2)

    def __call__(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(
            self,
            self._server,
            loop=self._loop,
            access_log=None,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=1.0,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
        )

    def _request(
        self, message: Any, payload: Any, protocol: RequestHandler, writer: Any, task: asyncio.Task[None]
    ) -> BaseRequest:
        """A request whose head is whole."""
        connection = cast("Connection", protocol)
        self.unheard.pop(connection, None)
        connection.busy = True
        return BaseRequest(message, payload, protocol, writer, task, self._loop)

    def await_request(self, connection: Connection) -> None:
        """A connection is new, or has begun to send a request."""
        if len(self.unheard) >= self._most_unheard:
            oldest = next(iter(self.unheard))
            del self.unheard[oldest]
            oldest.cut()
        self.unheard[connection] = self._loop.time()

    async def watch(self) -> None:
        """Let go of those who keep us waiting, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._loop.time()
            late = [connection for connection, since in self.unheard.items() if now - since > HEAD_SECONDS]
            stuck = [connection for connection in self._server.connections if _is_stuck(connection, now)]
            for connection in (*late, *stuck):
                self.unheard.pop(cast("Connection", connection), None)
                cast("Connection", connection).cut()

    async def close(self) -> None:
        """Close idle connections now and the others when they have been answered, which may not take long."""
        self._server.pre_shutdown()
        await asyncio.sleep(0)
        await self._server.shutdown(GRACE_SECONDS)


def _is_stuck(protocol: RequestHandler, now: float) -> bool:
    connection = cast("Connection", protocol)
    if connection.wire is None or not connection.wire.get_write_buffer_size():
        connection.stuck = 0.0
    elif not connection.stuck:
        connection.stuck = now
    return bool(connection.stuck) and now - connection.stuck > TAKE_SECONDS


def _is_ours(record: logging.LogRecord) -> bool:
    """Leaves requests that are no HTTP out of the log: anybody can send them, and they have got their 400."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
