"""Clients' connections: who keeps the exporter waiting is let go, so that slow or broken clients harm nobody else."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import BaseRequest, RequestHandler, Server, StreamResponse

from probe_exporter.web.answers import Refused, refusal

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 * 1024
"""Bytes of a request line or header; aiohttp's 8 KiB are too few for some targets."""

PIECE = 4096
"""Bytes given to the parser at a time: what it can't read it quotes, escaped, in its error: four times as much."""

MAX_COMPLAINT_CHARACTERS = 200  # characters

LAST_ANSWER_SECONDS = 0.25
"""For the answer to a client that says no more: it may have hung up, or still listen, as ``nc`` does."""

GRACE_SECONDS = 1.0
"""For answers on their way when everything else has ended."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long clients may keep us waiting, in seconds.

    Args:
        head: for a request to arrive, from its first byte, or from the connection's beginning, to the end of its head.
        take: for an answer to be taken; a Prometheus that scrapes has given up by then.
        idle: between requests. Prometheus closes after 5 minutes: so the client does it, and no request meets a closed
            door.
        look: how often it is looked at.
        unheard: connections without a whole request, or half as many as files may be open; the oldest goes when one
            more comes.
        open: connections at all, or half as many as files may be open; idle ones are closed when one more comes.
    """

    head: float = 20.0
    take: float = 60.0
    idle: float = 330.0
    look: float = 2.0
    unheard: int = 10_000
    open: int = 20_000


class Connection(RequestHandler):
    """One client's. It is in `Connections.unheard` while a request of it is awaited and not whole."""

    __slots__ = ("_all", "_finished", "_spoilt", "_stuck", "_wire", "busy")

    def __init__(self, all: Connections, server: Server, **options: Any) -> None:
        self._finished: asyncio.Future[None] | None = None
        super().__init__(server, **options)
        self._all = all
        self.busy = False  # a request is being answered
        self._spoilt = False  # what came is no HTTP; nothing after it can be
        self._stuck = 0.0  # since when there is something that the client does not take
        self._wire: asyncio.Transport | None = None

    @property
    def _handler_waiter(self) -> asyncio.Future[None] | None:  # an attribute of aiohttp
        """The future that aiohttp resolves when a request ends during a shutdown; None if it is done.

        aiohttp would resolve it after its timeout too: InvalidStateError, if both happen in one turn of the loop.
        """
        return None if self._finished is None or self._finished.done() else self._finished

    @_handler_waiter.setter
    def _handler_waiter(self, waiter: asyncio.Future[None] | None) -> None:
        self._finished = waiter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        self._all.opened()
        self._all.await_request(self)

    def data_received(self, data: bytes) -> None:
        if self._spoilt:
            return
        if not self.busy and self not in self._all.unheard:
            self._all.await_request(self)
        for start in range(0, len(data) or 1, PIECE):  # aiohttp gives nothing to have what it holds looked at again
            super().data_received(data[start : start + PIECE] if len(data) > PIECE else data)
            # A private attribute: nothing else tells that what came was no HTTP, before more of it has been read.
            if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
                self._spoilt = True
                break

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's closes at once, whatever is on its way
        wire = self._wire
        # TLS knows no half-closed connections: loops warn of whoever wants one.
        if wire is None or not (self.busy or self._messages) or wire.get_extra_info("ssl_object") is not None:
            return False
        asyncio.get_running_loop().call_later(LAST_ANSWER_SECONDS, wire.close)
        return True

    async def finish_response(
        self, request: BaseRequest, resp: StreamResponse, start_time: float | None
    ) -> tuple[StreamResponse, bool]:
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.busy = False

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> StreamResponse:
        if not isinstance(exc, HttpProcessingError):
            log.error("Unexpected exception in the web server", exc_info=exc)
            return refusal(Refused(status, message or "Internal error; the exporter's log has more"))
        # aiohttp would return all that it could not parse, and log it.
        answer = refusal(Refused(400, f"Bad request: {exc.message[:MAX_COMPLAINT_CHARACTERS]}"))
        answer.force_close()
        return answer

    def connection_lost(self, exc: BaseException | None) -> None:
        self._all.closed(self)
        super().connection_lost(exc)

    def is_stuck(self, now: float, seconds: float) -> bool:
        """Whether there has been something for longer than `seconds` that the client does not take."""
        if self._wire is None or not self._wire.get_write_buffer_size():
            self._stuck = 0.0
        elif not self._stuck:
            self._stuck = now
        return bool(self._stuck) and now - self._stuck > seconds

    def cut(self) -> None:
        """End it at once, with whatever is on its way."""
        if self._wire is not None:
            self._wire.abort()


class Connections:
    """All connections. An instance makes the protocol of a new one, as an event loop's servers want it."""

    def __init__(self, answer: Callable[[BaseRequest], Awaitable[StreamResponse]], limits: Limits = Limits()) -> None:
        """
        Args:
            answer: called for each request once its head is whole.
        """
        self._loop = asyncio.get_running_loop()
        # A client that hangs up cancels its probe.
        self._server = Server(answer, handler_cancellation=True, request_factory=self._request)
        self._limits = limits
        self.unheard: dict[Connection, float] = {}  # since when; the oldest is the first
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_unheard = min(limits.unheard, files // 2)
        self._max_open = min(limits.open, files // 2)
        self._open = 0

    def __call__(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(
            self,
            self._server,
            loop=self._loop,
            access_log=None,
            keepalive_timeout=self._limits.idle,
            lingering_time=1.0,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
        )

    def _request(
        self, message: Any, payload: Any, protocol: RequestHandler, writer: Any, task: asyncio.Task[None]
    ) -> BaseRequest:
        """A request whose head is whole."""
        connection = cast("Connection", protocol)
        self.unheard.pop(connection, None)
        connection.busy = True
        return BaseRequest(message, payload, protocol, writer, task, self._loop)

    def opened(self) -> None:
        """Count a new connection, and close idle ones if there are too many."""
        self._open += 1
        if self._open > self._max_open:
            self._close_idle()

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open -= 1
        self.unheard.pop(connection, None)

    def await_request(self, connection: Connection) -> None:
        """A connection is new, or has begun to send a request."""
        if len(self.unheard) >= self._max_unheard:
            oldest = next(iter(self.unheard))
            del self.unheard[oldest]
            oldest.cut()
        self.unheard[connection] = self._loop.time()

    def _close_idle(self) -> None:
        """Close the oldest idle connections, a tenth of all at once, so that looking for them costs little each."""
        everybody = cast("list[Connection]", self._server.connections)
        idle = [one for one in everybody if not one.busy and one not in self.unheard]
        for connection in idle[: 1 + self._max_open // 10]:
            connection.cut()

    async def watch(self) -> None:
        """Let go of those who keep us waiting, for ever."""
        while True:
            await asyncio.sleep(self._limits.look)
            now = self._loop.time()
            late = [connection for connection, since in self.unheard.items() if now - since > self._limits.head]
            everybody = cast("list[Connection]", self._server.connections)
            for connection in (*late, *(one for one in everybody if one.is_stuck(now, self._limits.take))):
                self.unheard.pop(connection, None)
                connection.cut()

    async def close(self) -> None:
        """Close idle connections now and the others when they have been answered, which may not take long."""
        self._server.pre_shutdown()
        await asyncio.sleep(0)
        await self._server.shutdown(GRACE_SECONDS)
