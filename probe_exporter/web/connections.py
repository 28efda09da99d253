"""The web server's connections: close slow and idle ones, so that they don't keep other clients from connecting.

A connection that is older than ``--web.max-connection-age`` is closed with its next response, so that a client that
never closes its connections, as Prometheus does not, reaches a new replica behind a load balancer. The response says
``Connection: close``, so the client sends no request that would be lost (RFC 9112 section 9.6).

How a request is answered:

* aiohttp accepts the connection and parses requests into a queue. A connection has one task, which runs `start`.
  A head whose fields were seen before needs no parser (`usual_heads`).
* A plain request has a valid head, no body and no upgrade: `Connection.start` answers it in that task.
* From the first request on that is not plain, aiohttp's own `start` answers all requests of the connection. It knows
  how to read and drop a body, to decline an upgrade, and to refuse what is not HTTP. It makes a task, a request, a
  writer and a response for each, which took a ninth of a tcp probe's instructions (docs/decisions.md).
  So does it if aiohttp is another version than `COMPARED_AIOHTTP`: our loop uses private attributes.
* Both cancel the handler when the client disconnects, and both stop after a response that closes the connection.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import resource
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web import BaseRequest, RequestHandler, Server, StreamResponse

from probe_exporter.web.answers import Answer, Refused, refusal
from probe_exporter.web.request import WebRequest
from probe_exporter.web.usual_heads import UsualHead, UsualHeads

log = logging.getLogger(__name__)

COMPARED_AIOHTTP = "3.14.5"
"""The version of aiohttp whose `RequestHandler.start`, and what that calls, `Connection.start` was compared with."""

MAX_LINE_BYTES = 64 * 1024
"""Bytes of a request line or header; aiohttp's 8 KiB are too few for some targets."""

MAX_HEAD_BYTES = 256 * 1024
"""Bytes of a request line and all headers: 128 headers of 64 KiB, which aiohttp accepts, took 12 MB of memory."""

PIECE = 4096
"""Bytes given to the parser at a time. Its errors quote the invalid input, escaped to up to four times its size."""

MAX_COMPLAINT_CHARACTERS = 200  # characters

LAST_ANSWER_SECONDS = 0.25
"""Seconds for the response to a client that has closed its half; it may still read, as ``nc`` does."""

MAX_CLOSED_IN_A_TURN = 100
"""Connections: closing one takes some 40 µs."""

GRACE_SECONDS = 1.0
"""Seconds to finish sending responses when the server shuts down."""

AGE_JITTER = 0.1
"""The share by which the age of a connection varies, so that connections of one moment are not all opened again at one
moment."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Timeouts of clients' connections in seconds, and the highest numbers of connections.

    Args:
        head: from the start of the connection, or a request's first byte, to the end of the request's head.
        take: for the client to read a response; longer than Prometheus waits for a scrape.
        idle: between requests. Longer than the 5 minutes after which Prometheus closes an idle connection, so that
            the server never closes one just as a request arrives.
        look: seconds between two checks of all this.
        unheard: connections without a complete request, at most half of the file limit; one more closes the oldest.
        open: all connections, at most half of the file limit; one more closes idle ones.
        age: seconds after which a connection is closed with its next response, for each connection up to
            `AGE_JITTER` shorter or longer; 0 means never.
    """

    head: float = 20.0
    take: float = 60.0
    idle: float = 330.0
    look: float = 2.0
    unheard: int = 10_000
    open: int = 20_000
    age: float = 0.0


class _Response(StreamResponse):
    """An answer as aiohttp's loop sends it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(status=answer.status)
        self._answer = answer
        self._writer: AbstractStreamWriter | None = None
        if answer.closes:
            self.force_close()

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter:
        """Send the whole response.

        Raises:
            ConnectionError: the client has closed the connection.
        """
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has closed the connection")
        # aiohttp takes a request that it can't parse for one of HTTP/1.0, after which a close needs no announcement.
        newer = request.version >= HttpVersion11 or self._answer.closes
        transport.write(self._answer.encoded(request.method, newer, self._keep_alive))
        self._writer = request.writer
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Wait until the send buffer is below its limit."""
        if self._writer is not None:
            await self._writer.drain()


def _internal_error(error: BaseException | None) -> Answer:
    """Log an exception that no endpoint handles, and return the response to its client."""
    log.error("Unexpected exception in the web server", exc_info=error)
    return refusal(Refused(500, "Internal error; the exporter's log has more"))


def _is_plain(message: object, payload: object) -> TypeGuard[RawRequestMessage | UsualHead]:
    """Return whether a request of the queue has a valid head, no body and no upgrade."""
    return type(message) is UsualHead or (
        isinstance(message, RawRequestMessage) and payload is EMPTY_PAYLOAD and not message.upgrade
    )


class Connection(RequestHandler):
    """One client's connection. It is in `Connections.unheard` until the head of its next request is complete."""

    __slots__ = (
        "_all",
        "_begun",
        "_between",
        "_body",
        "_expires",
        "_finished",
        "_in_line",
        "_ours",
        "_spoilt",
        "_stuck",
        "_tls",
        "_wire",
        "busy",
    )

    def __init__(self, all: Connections, server: Server, **options: Any) -> None:
        self._finished: asyncio.Future[None] | None = None
        super().__init__(server, **options)
        self._all = all
        self.busy = False  # a request is being answered
        self._ours = aiohttp.__version__ == COMPARED_AIOHTTP  # `start` answers the requests, and not aiohttp
        self._between = self._ours  # the parser has nothing of a request, and what it returns is plain
        self._in_line = False  # the next byte belongs to a request line that begins where the parser was between two
        self._spoilt = False  # invalid HTTP or a chunked body was received, so that the rest is not parsed
        self._begun = 0  # bytes of a head that is not complete yet
        self._body = EMPTY_PAYLOAD  # of the last request whose head is complete
        self._expires = all.expiry()  # the time from which on each response is the last
        self._stuck = 0.0  # since when the client has not read the data sent to it
        self._wire: asyncio.Transport | None = None
        self._tls = False

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
        self._tls = transport.get_extra_info("sslcontext") is not None
        super().connection_made(transport)
        # aiohttp's timer for a client that sends nothing, 0.5 kB: `await_request` limits that, to less.
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
            self._keepalive_handle = None
        self._all.opened()
        self._all.await_request(self)

    def data_received(self, data: bytes) -> None:
        if self._spoilt:
            return
        if self._between and not self._messages and (head := self._all.heads.find(data)) is not None:
            self._queue(head)
            return
        self._in_line |= self._between
        if len(data) <= PIECE:
            data = self._with_ascii_line(data)
            self._parse(data)
            self._between = self._ours and self._ended_with_a_plain_head(data)
        else:
            self._between = False
            for start in range(0, len(data), PIECE):
                if not self._spoilt:
                    self._parse(self._with_ascii_line(data[start : start + PIECE]))
        if not self._messages and not self.busy and self not in self._all.unheard:
            self._all.await_request(self)

    def _with_ascii_line(self, piece: bytes) -> bytes:
        """Percent-encode the bytes beyond ASCII of a request line, which ``curl`` sends as they were typed.

        aiohttp's parser refuses them; the original, like most servers, takes them for what they encode.
        """
        if not self._in_line:
            return piece
        end = piece.find(b"\n")
        self._in_line = end < 0
        if piece.isascii():
            return piece
        line, rest = (piece, b"") if end < 0 else (piece[:end], piece[end:])
        return "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in line).encode("ascii") + rest

    def _parse(self, piece: bytes) -> None:
        """Parse requests into the queue; an empty piece has buffered data parsed again."""
        complete = self._request_count
        super().data_received(piece)
        if self._request_count != complete:
            self._begun = 0
            self._body = self._messages[-1][1]
        elif self._body.is_eof() and not self._buffer_paused:
            self._begun += len(piece)
            if self._begun > MAX_HEAD_BYTES:
                self._refuse_head()
                return
        # A private attribute: aiohttp has no public one that tells invalid HTTP before more data is parsed.
        # No request needs a body, and parsing chunks of a byte takes long: the rest of a chunked one is dropped.
        last: object = self._messages[-1][0] if self._messages else None
        if last is not None and type(last) is not UsualHead:
            self._spoilt = not isinstance(last, RawRequestMessage) or last.chunked
            if self._spoilt:
                self._expires = -math.inf

    def _refuse_head(self) -> None:
        """Close the connection, with an answer if no other request waits for one."""
        self._spoilt = True
        wire = self._wire
        if wire is None or wire.is_closing():
            return
        if not self.is_idle:
            self.cut()
            return
        answer = refusal(Refused(431, f"The head of a request has at most {MAX_HEAD_BYTES} bytes"))
        wire.write(answer.encoded("GET", http_1_1=True, keep_alive=False))
        wire.close()

    def _queue(self, head: UsualHead) -> None:
        """Put a request into the queue, as aiohttp does with those that it has parsed."""
        if self._force_close or self._close:
            return
        self._request_count += 1
        self._messages.append((head, EMPTY_PAYLOAD))  # type: ignore[arg-type]  # see `_is_plain`
        if (waiter := self._waiter) is not None and not waiter.done():
            waiter.set_result(None)

    def _ended_with_a_plain_head(self, piece: bytes) -> bool:
        """Return whether the parser is between two requests after a piece; learn the head if the piece is one.

        An empty line ends a head. If the last request has no body, then nothing of a next one has begun.
        """
        if not self._messages or not piece.endswith(b"\r\n\r\n"):
            return False
        message, payload = self._messages[-1]
        if not _is_plain(message, payload):
            return False
        if self._between and len(self._messages) == 1 and isinstance(message, RawRequestMessage):
            self._all.heads.learn(piece, message)
        return True

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's closes at once and drops what is being sent
        wire = self._wire
        # TLS has no half-closed connections; event loops log a warning if a protocol asks for one.
        if wire is None or wire.get_extra_info("ssl_object") is not None:
            return False
        if self.busy or self._messages:
            asyncio.get_running_loop().call_later(LAST_ANSWER_SECONDS, wire.close)
        else:
            self._all.close_soon(wire)
        return True

    async def start(self) -> None:
        """Answer one request after another, until the connection closes."""
        if not self._ours:
            await super().start()
            return
        while not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            message, payload = self._messages[0]
            if not _is_plain(message, payload):
                self._between = self._ours = False
                await super().start()
                return
            self._take()
            if not await self._answer(message):
                break
            if self._messages:  # the client sends requests without waiting: give others their turn
                await asyncio.sleep(0)
        if not self._force_close and self.transport is not None:
            self._task_handler = None
            self.transport.close()

    def _take(self) -> None:
        """Take the first request from the queue, and read on if the queue was full."""
        self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    async def _answer(self, message: RawRequestMessage | UsualHead) -> bool:
        """Answer a plain request; return whether the connection stays open for the next one."""
        self._all.unheard.pop(self, None)
        self.busy = self._request_in_progress = True
        try:
            try:
                answer = await self._all.answer(WebRequest(message.method, message.path, message.headers, self._tls))
            except Exception as error:
                answer = _internal_error(error)
            self._send(message, answer)
            if self._paused:
                await self._drain_helper()
        except ConnectionError:
            return False
        except BaseException:  # above all CancelledError: the client has disconnected, or the server shuts down
            self.force_close()
            raise
        finally:
            self.busy = self._request_in_progress = False
            if self._finished is not None and not self._finished.done():
                self._finished.set_result(None)
        if not self._keepalive or self._close or self._force_close:
            return False
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        return True

    def _send(self, message: RawRequestMessage | UsualHead, answer: Answer) -> None:
        """Send the whole response, and note whether the connection stays open.

        Raises:
            ConnectionError: the client has closed the connection.
        """
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client has closed the connection")
        self._keepalive = not (message.should_close or answer.closes or self._loop.time() > self._expires)
        self.transport.write(answer.encoded(message.method, message.version >= HttpVersion11, self._keepalive))

    async def finish_response(
        self, request: BaseRequest, resp: StreamResponse, start_time: float | None
    ) -> tuple[StreamResponse, bool]:
        if self._loop.time() > self._expires:
            resp.force_close()
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.busy = False

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> StreamResponse:
        if not isinstance(exc, HttpProcessingError):
            return _Response(_internal_error(exc))
        # aiohttp would send back all the data that it could not parse, and log it.
        answer = refusal(Refused(400, f"Bad request: {exc.message[:MAX_COMPLAINT_CHARACTERS]}"))
        answer.closes = True
        return _Response(answer)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._all.closed(self)
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered or waits in the queue."""
        return not self.busy and not self._messages

    def is_stuck(self, now: float, seconds: float) -> bool:
        """Whether the client has not read the data sent to it for longer than `seconds`."""
        if self._wire is None or not self._wire.get_write_buffer_size():
            self._stuck = 0.0
        elif not self._stuck:
            self._stuck = now
        return bool(self._stuck) and now - self._stuck > seconds

    def cut(self) -> None:
        """Abort the connection, and drop what is being sent."""
        if self._wire is not None:
            self._wire.abort()


class Connections:
    """Tracks all connections. An instance is the protocol factory of an event loop's server.

    Attributes:
        answer: answers a request.
        heads: of the requests before.
    """

    def __init__(self, answer: Callable[[WebRequest], Awaitable[Answer]], limits: Limits = Limits()) -> None:
        """
        Args:
            answer: called for each request when its head is complete.
        """
        self._loop = asyncio.get_running_loop()
        self.answer = answer
        self.heads = UsualHeads()
        # A client that disconnects cancels its probe.
        self._server = Server(self._respond, handler_cancellation=True, request_factory=self._request)
        self._limits = limits
        self.unheard: dict[Connection, float] = {}  # since when, oldest first
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_unheard = min(limits.unheard, files // 2)
        self._max_open = min(limits.open, files // 2)
        self._open = 0
        self._closing: deque[asyncio.Transport] = deque()

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(
            self,
            self._server,
            loop=self._loop,
            access_log=None,
            keepalive_timeout=self._limits.idle,
            lingering_time=1.0,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            auto_decompress=False,  # a compressed body of 2 MB took a second of CPU before it was dropped
        )

    def _request(
        self, message: Any, payload: Any, protocol: RequestHandler, writer: Any, task: asyncio.Task[None]
    ) -> BaseRequest:
        """Return the request that aiohttp's loop answers."""
        connection = cast("Connection", protocol)
        self.unheard.pop(connection, None)
        connection.busy = True
        return BaseRequest(message, payload, protocol, writer, task, self._loop)

    async def _respond(self, request: BaseRequest) -> StreamResponse:
        """Answer a request of aiohttp's loop."""
        return _Response(
            await self.answer(WebRequest(request.method, request.raw_path, request.headers, request.secure))
        )

    def expiry(self) -> float:
        """Return the time after which a connection that opens now is closed with its next response."""
        age = self._limits.age
        return self._loop.time() + age * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER) if age else math.inf

    @property
    def number(self) -> int:
        """The number of open connections."""
        return self._open

    def opened(self) -> None:
        """Count a new connection, and close idle ones if there are too many."""
        self._open += 1
        if self._open > self._max_open:
            self._close_idle()

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open -= 1
        self.unheard.pop(connection, None)

    def close_soon(self, wire: asyncio.Transport) -> None:
        """Close a connection that its client has closed: a few in each turn, for thousands may end at once."""
        if not self._closing:
            self._loop.call_soon(self._close_some)
        self._closing.append(wire)

    def _close_some(self) -> None:
        for _ in range(min(len(self._closing), MAX_CLOSED_IN_A_TURN)):
            self._closing.popleft().close()
        if self._closing:
            self._loop.call_soon(self._close_some)

    def await_request(self, connection: Connection) -> None:
        """Start the timeout of a request's head: the connection is new, or has begun to send a request."""
        if len(self.unheard) >= self._max_unheard:
            oldest = next(iter(self.unheard))
            del self.unheard[oldest]
            oldest.cut()
        self.unheard[connection] = self._loop.time()

    def _close_idle(self) -> None:
        """Close the oldest idle connections, a tenth of all at once, so that the search costs little for each."""
        everybody = cast("list[Connection]", self._server.connections)
        idle = [one for one in everybody if one.is_idle and one not in self.unheard]
        for connection in idle[: 1 + self._max_open // 10]:
            connection.cut()

    async def watch(self) -> None:
        """Close connections that exceed a timeout; run until cancelled."""
        while True:
            await asyncio.sleep(self._limits.look)
            now = self._loop.time()
            late = [connection for connection, since in self.unheard.items() if now - since > self._limits.head]
            everybody = cast("list[Connection]", self._server.connections)
            for connection in (*late, *(one for one in everybody if one.is_stuck(now, self._limits.take))):
                self.unheard.pop(connection, None)
                connection.cut()

    async def close(self) -> None:
        """Close idle connections now, and the others after their response or after `GRACE_SECONDS`."""
        self._server.pre_shutdown()
        await asyncio.sleep(0)
        await self._server.shutdown(GRACE_SECONDS)
