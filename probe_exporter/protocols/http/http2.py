"""HTTP/2, without I/O: a request to frames, the frames of one stream to a response (RFC 9113).

The reader takes what Go's client takes and refuses what that refuses, and everything it reads is bounded. Imported at
the first probe whose server agrees on HTTP/2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, NamedTuple

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http import frames, header_block
from probe_exporter.protocols.http.exchange import Unprocessed
from probe_exporter.protocols.http.frames import Code, FrameReader, Violation, frame
from probe_exporter.protocols.http.header_block import Field
from probe_exporter.protocols.http.http1 import MAX_CONTENT_LENGTH as LARGEST_LENGTH
from probe_exporter.protocols.http.http1 import MAX_HEAD_BYTES as HEAD_LIMIT
from probe_exporter.protocols.http.request import Request
from probe_exporter.protocols.http.response import Headers, IncomingResponse

STREAM = 1
"""The only one we open."""

WINDOW = 4 * 1024 * 1024
"""Bytes of the body that may be under way, as in Go's client. Memory is bounded by the connection, which makes the peer
wait long before."""

PATIENCE = 10_000
"""Frames of a connection that may carry nothing of the response, 64 bytes of them counting as one more."""

_CONNECTION_WINDOW = 2**30

OPENING = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frames.settings(
        {frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: WINDOW, frames.MAX_HEADER_LIST_SIZE: HEAD_LIMIT}
    )
    + frame(frames.WINDOW_UPDATE, 0, 0, frames.number(_CONNECTION_WINDOW))
)
"""What a client says first."""

_SETTINGS_ACK = frame(frames.SETTINGS, frames.ACK, 0, b"")

# --- the request -------------------------------------------------------------------------------------------

_CRUMB_END = re.compile("; *")


def request_fields(request: Request) -> list[Field]:
    """A request's fields; cookies crumbled, as section 8.2.3 has it and Go's client does."""
    fields: list[Field] = []
    for name, value in request.fields():
        values = filter(None, _CRUMB_END.split(value)) if name == "cookie" else (value,)
        fields += [(name.encode("ascii"), one.encode("utf-8", "surrogateescape")) for one in values]
    return fields


def request_head(fields: Iterable[Field], *, ends: bool) -> bytes:
    """The frames of a request's head.

    Args:
        ends: there is no body.
    """
    block = header_block.encode(fields)
    pieces = [block[at : at + frames.LARGEST_PAYLOAD] for at in range(0, len(block), frames.LARGEST_PAYLOAD)]
    kinds = [frames.HEADERS] + [frames.CONTINUATION] * (len(pieces) - 1)
    flags = [0] * len(pieces)
    flags[0] |= frames.END_STREAM if ends else 0
    flags[-1] |= frames.END_HEADERS
    return b"".join(frame(kind, flag, STREAM, piece) for kind, flag, piece in zip(kinds, flags, pieces, strict=True))


# --- the response ------------------------------------------------------------------------------------------

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_STATUS = re.compile(rb"[+-]?[0-9]{1,18}")  # what Go's Atoi reads

_SETTINGS_IN_BOUNDS: Mapping[int, tuple[int, int, Code]] = {
    frames.ENABLE_PUSH: (0, 1, Code.PROTOCOL_ERROR),
    frames.INITIAL_WINDOW_SIZE: (0, frames.LARGEST_WINDOW, Code.FLOW_CONTROL_ERROR),
    frames.MAX_FRAME_SIZE: (frames.LARGEST_PAYLOAD, 2**24 - 1, Code.PROTOCOL_ERROR),
}


class _Rule(NamedTuple):
    """What is done with a kind of frame, and what it must be like."""

    read: Callable[[ResponseReader, int, int, bytes], None]
    of_stream: bool | None = None  # and not of the connection; None for either
    size: int | None = None


class ResponseReader(IncomingResponse):
    """Reads the response on our stream: feed it bytes, send what it has to answer, take the body out piece by piece.

    Interim responses are skipped.

    Attributes:
        answered: the first headers have arrived, of an interim response perhaps.
        opened: the server's first settings have arrived: it speaks HTTP/2.
        head_complete, complete: how much of the response has arrived.
        ended_with_head: there is nothing after the head, not even an empty body.
        trailers: what followed the body.
        error_code: how we part from the server.
        reset_code: why the server reset the stream; None if it did not.
        farewell: what a server said that is going away, for the end of a sentence; empty if it stays.
        room: bytes of a body that the server takes now.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.answered = False
        self.opened = False
        self.ended_with_head = False
        self.trailers: Headers = []
        self.error_code = Code.NO_ERROR
        self.reset_code: int | None = None
        self.farewell = ""
        self._frames = FrameReader()
        self._decoder = header_block.Decoder(HEAD_LIMIT)
        self._outgoing: list[bytes] = []
        self._patience = PATIENCE
        self._acknowledged = False  # our settings, by the server
        self._block_stream = 0  # whose header block goes on in the next frame
        self._block_ends = False  # its stream
        self._left = -1  # announced bytes of the body to come; negative if unknown
        self._window = WINDOW  # bytes that the server may still send
        self._taken = 0  # bytes not given back to it
        self._connection_room = frames.FIRST_WINDOW
        self._stream_room = frames.FIRST_WINDOW
        self._first_room = frames.FIRST_WINDOW  # as the server's settings have it

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection; ``b""`` says that there are no more.

        Raises:
            ProbeFailed: there is no response, or its head is none of HTTP/2's. What is wrong with the body `take_body`
                tells, so that a good head is not lost with it.
        """
        if self.complete or self._failure is not None:
            return
        try:
            self._feed(data)
        except ProbeFailed as failed:
            if isinstance(failed, Violation):
                self.error_code = failed.code
            if not self.head_complete:
                raise
            self._failure = failed

    def take_body(self) -> bytes:
        data = super().take_body()
        if data:
            self._give_back(len(data))
        return data

    def take_outgoing(self) -> bytes:
        """What the server must be told."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    @property
    def room(self) -> int:
        return min(self._connection_room, self._stream_room)

    def spend(self, size: int) -> None:
        """Note that so many bytes of a body are sent."""
        self._connection_room -= size
        self._stream_room -= size

    @property
    def content_length(self) -> int:
        """As Go's client has it: what one good Content-Length says, whatever the status; else -1, or 0 if none came."""
        values = self.get_all("content-length")
        if len(values) == 1 and values[0].isascii() and values[0].isdigit() and len(values[0]) < 20:
            length = int(values[0])
            return length if length <= LARGEST_LENGTH else -1
        return 0 if self.ended_with_head and not self._to_head else -1

    def _feed(self, data: bytes) -> None:
        if not data:
            raise self._ended()
        for kind, flags, stream, payload in self._frames.feed(data):
            self._take(kind, flags, stream, payload)
            if self.complete:
                return

    def _ended(self) -> ProbeFailed:
        """What the end of the connection means."""
        if self.head_complete:
            return ProbeFailed(Reason.HTTP_BODY_TRUNCATED, f"the connection ended before the body did{self.farewell}")
        if self._block_stream or self.answered:
            return Violation("the connection ended within its headers")
        return ProbeFailed(Reason.CONNECT_CLOSED, f"the connection ended before any response{self.farewell}")

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if not self.opened:
            if kind != frames.SETTINGS:
                raise Violation("it does not begin with settings")
            self.opened = True
        if self._block_stream and (kind != frames.CONTINUATION or stream != self._block_stream):
            raise Violation("another frame breaks into its headers")
        rule = self._rules.get(kind, self._unknown)
        if rule.of_stream is not None and rule.of_stream != (stream != 0):
            raise Violation(f"a frame of kind {kind} on stream {stream}")
        if rule.size is not None and rule.size != len(payload):
            raise Violation(f"a frame of kind {kind} with {len(payload)} bytes", Code.FRAME_SIZE_ERROR)
        rule.read(self, flags, stream, payload)

    def _endure(self, size: int = 0) -> None:
        """Count what is no part of the response."""
        self._patience -= 1 + size // 64
        if self._patience < 0:
            raise Violation("it drowns in frames that say nothing", Code.ENHANCE_YOUR_CALM)

    # The body.

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        if stream != STREAM or not self.head_complete:
            raise Violation("data before its headers, or on a stream that nobody opened")
        self._window -= len(payload)
        if self._window < 0:
            raise Violation("more data than it was allowed to send", Code.FLOW_CONTROL_ERROR)
        content = _without_padding(flags, payload)
        if content:
            self._take_content(content)
        else:
            self._endure()
        if flags & frames.END_STREAM:
            self._finish()
        self._give_back(len(payload) - len(content))

    def _take_content(self, content: bytes) -> None:
        good = content if self._left < 0 else content[: self._left]
        if good:
            self._pieces.append(good)
        if len(good) < len(content):
            raise Violation("the body is longer than announced")
        self._left -= len(content) if self._left > 0 else 0

    def _give_back(self, size: int) -> None:
        """Let the server send as much as has been taken, in few and large steps."""
        self._taken += size
        if self._taken >= WINDOW // 2 and not self.complete:
            increment = frames.number(self._taken)
            self._outgoing += [frame(frames.WINDOW_UPDATE, 0, where, increment) for where in (0, STREAM)]
            self._window += self._taken
            self._taken = 0

    def _finish(self) -> None:
        if self._left > 0:
            raise ProbeFailed(Reason.HTTP_BODY_TRUNCATED, "the server ended the stream before the body")
        self.complete = True

    # The head and the trailers.

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        fragment = _without_padding(flags, payload)
        if flags & frames.PRIORITIZED:
            if len(fragment) < 5:
                raise Violation("headers without the priority that they announce")
            fragment = fragment[5:]
        self._block_stream = stream
        self._block_ends = bool(flags & frames.END_STREAM)
        self._on_fragment(flags, stream, fragment)

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if not self._block_stream:
            raise Violation("headers go on that never began")
        self._on_fragment(flags, stream, payload)

    def _on_fragment(self, flags: int, stream: int, fragment: bytes) -> None:
        self._endure()
        self._decoder.feed(fragment)
        if flags & frames.END_HEADERS:
            self._block_stream = 0
            fields = self._decoder.end()
            if stream == STREAM:  # to those of others nobody listens, but for what they add to the decoder's table
                self._on_fields(*_split(fields))

    def _on_fields(self, pseudo: dict[bytes, bytes], headers: Headers) -> None:
        if self.head_complete:
            if pseudo or not self._block_ends:
                raise Violation("its trailers are none")
            self.trailers = headers
            self._finish()
            return
        self.answered = True
        status = _read_status(pseudo.get(b":status", b""))
        if 100 <= status < 200:
            if self._block_ends or status == 101:
                raise Violation(f"an interim response {status} where there can be none")
            return
        self.status = status
        self.version = "2.0"
        self.headers = headers
        self.head_complete = True
        self.ended_with_head = self._block_ends
        if self._to_head or (self._block_ends and status in (204, 304)):
            self.complete = True
            return
        self._left = self.content_length
        if self._block_ends:
            self._finish()

    # The connection.

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        self._endure(len(payload))
        if flags & frames.ACK:
            if payload or self._acknowledged:
                raise Violation("settings acknowledged that nobody sent", Code.FRAME_SIZE_ERROR)
            self._acknowledged = True
            return
        if len(payload) % 6:
            raise Violation(f"settings of {len(payload)} bytes", Code.FRAME_SIZE_ERROR)
        for key, value in frames.read_settings(payload):
            least, most, code = _SETTINGS_IN_BOUNDS.get(key, (0, value, Code.NO_ERROR))
            if not least <= value <= most:
                raise Violation(f"setting {key} is {value}", code)
            if key == frames.INITIAL_WINDOW_SIZE:
                self._stream_room += value - self._first_room
                self._first_room = value
                self._check_room()
        self._outgoing.append(_SETTINGS_ACK)

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        self._endure()
        if not flags & frames.ACK:
            self._outgoing.append(frame(frames.PING, frames.ACK, 0, payload))

    def _on_window_update(self, flags: int, stream: int, payload: bytes) -> None:
        self._endure()
        increment = int.from_bytes(payload, "big") & frames.LARGEST_WINDOW
        if not increment:
            raise Violation("a window grows by nothing")
        if stream == 0:
            self._connection_room += increment
        elif stream == STREAM:
            self._stream_room += increment
        self._check_room()

    def _check_room(self) -> None:
        if max(self._connection_room, self._stream_room) > frames.LARGEST_WINDOW:
            raise Violation("a window grows beyond all bounds", Code.FLOW_CONTROL_ERROR)

    def _on_reset(self, flags: int, stream: int, payload: bytes) -> None:
        self._endure()
        if stream != STREAM:
            return
        code = int.from_bytes(payload, "big")
        self.reset_code = code
        what = f"the server reset the stream ({frames.describe(code)})"
        if self.head_complete:
            raise ProbeFailed(Reason.HTTP_BODY_TRUNCATED, f"{what} within the body")
        if code == Code.REFUSED_STREAM:
            raise Unprocessed(Reason.CONNECT_RESET, what)
        raise ProbeFailed(Reason.CONNECT_RESET, what)

    def _on_goaway(self, flags: int, stream: int, payload: bytes) -> None:
        self._endure(len(payload))
        if len(payload) < 8:
            raise Violation(f"a farewell of {len(payload)} bytes", Code.FRAME_SIZE_ERROR)
        last = int.from_bytes(payload[:4], "big") & frames.LARGEST_WINDOW
        code = int.from_bytes(payload[4:8], "big")
        self.farewell = f" (the server goes away: {frames.describe(code)}, {payload[8:108]!r})"
        if last < STREAM and not self.head_complete:
            kind = ProbeFailed if code else Unprocessed
            raise kind(Reason.CONNECT_CLOSED, f"the server did not look at the request{self.farewell}")

    def _on_push_promise(self, flags: int, stream: int, payload: bytes) -> None:
        raise Violation("a push that we do not allow")

    def _on_other(self, flags: int, stream: int, payload: bytes) -> None:
        self._endure(len(payload))

    _rules: ClassVar[Mapping[int, _Rule]] = {
        frames.DATA: _Rule(_on_data, of_stream=True),
        frames.HEADERS: _Rule(_on_headers, of_stream=True),
        frames.PRIORITY: _Rule(_on_other, of_stream=True, size=5),
        frames.RST_STREAM: _Rule(_on_reset, of_stream=True, size=4),
        frames.SETTINGS: _Rule(_on_settings, of_stream=False),
        frames.PUSH_PROMISE: _Rule(_on_push_promise, of_stream=True),
        frames.PING: _Rule(_on_ping, of_stream=False, size=8),
        frames.GOAWAY: _Rule(_on_goaway, of_stream=False),
        frames.WINDOW_UPDATE: _Rule(_on_window_update, size=4),
        frames.CONTINUATION: _Rule(_on_continuation, of_stream=True),
    }
    _unknown = _Rule(_on_other)  # section 5.5


def _without_padding(flags: int, payload: bytes) -> bytes:
    if not flags & frames.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Violation("more padding than there is room for")
    return payload[1 : len(payload) - payload[0]]


def _split(fields: list[Field]) -> tuple[dict[bytes, bytes], Headers]:
    """Pseudo-headers and headers, if all of them may stand in a response (sections 8.2.1 and 8.3)."""
    pseudo: dict[bytes, bytes] = {}
    headers: Headers = []
    for name, value in fields:
        if _BAD_VALUE.search(value):
            raise Violation(f"header {name[:60]!r} holds a control character")
        if name.startswith(b":"):
            if name != b":status" or pseudo or headers:
                raise Violation(f"{name[:60]!r} is out of place")
            pseudo[name] = value
        elif _NAME.fullmatch(name):
            headers.append((name.decode("ascii"), value.decode("utf-8", "surrogateescape")))
        else:
            raise Violation(f"{name[:60]!r} is not a header's name")
    return pseudo, headers


def _read_status(value: bytes) -> int:
    if not _STATUS.fullmatch(value):
        raise Violation(f"its status is {value[:60]!r}")
    return int(value)
