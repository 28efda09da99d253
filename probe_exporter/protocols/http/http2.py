"""HTTP/2 as a client: encode one request, decode one response, without I/O (RFC 9113).

The model:
* A connection carries one request, on stream 1. Pushes are forbidden by our settings; data on other streams is an
  error. Header blocks of other streams are decoded too, because they change the shared HPACK table.
* `Http2ResponseReader.feed` splits bytes into frames and passes each to the method that `_rules` has for its kind. A
  frame that breaks a rule is a `Violation`, whose code goes into our GOAWAY. The rules are those of Go's client.
* One call of `feed` does a few milliseconds of work. If frames remain, `pending` is true and `proceed` reads on.
* Frames that carry nothing of the response (PING, SETTINGS, empty DATA, …) count up to `MAX_IDLE_FRAMES`. Headers have
  limits in bytes, fields and Huffman-coded bytes over the whole connection, so interim responses count too.
* What the first header blocks of a connection decode to depends on nothing but their bytes. A server sends most
  probes the same: `_usual_block` remembers the fields. Other blocks, and what follows one, take a decoder.
* Flow control: the server may send `WINDOW_BYTES` of the body ahead. Bytes that the caller took are given back in few
  large WINDOW_UPDATE frames. `room` is how much of our own body the server accepts.
* An error in the body is raised by `take_body` after everything before it, so that the head is not lost.

This module is imported by the first probe whose server speaks HTTP/2.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, NamedTuple

from probe_exporter.cache import remembered
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http import frames, header_block
from probe_exporter.protocols.http.exchange import Unprocessed
from probe_exporter.protocols.http.frames import Code, FrameReader, Violation, frame
from probe_exporter.protocols.http.header_block import Field
from probe_exporter.protocols.http.http1 import MAX_CONTENT_LENGTH, MAX_HEAD_BYTES
from probe_exporter.protocols.http.request import Request
from probe_exporter.protocols.http.response import Headers, Response

STREAM = 1
"""The only stream that we open."""

WINDOW_BYTES = 4 * 1024 * 1024
"""Bytes of the body that the server may send ahead, as in Go's client. The connection pauses the peer much earlier, so
memory is bounded by less."""

MAX_IDLE_FRAMES = 10_000
"""Frames of a connection that carry nothing of the response; each 64 bytes of them count as one more."""

MAX_USUAL_BLOCKS = 2
"""Header blocks of a connection whose fields are remembered: those of the head and the trailers."""

MAX_USUAL_BLOCKS_BYTES = 1024
"""Bytes of these blocks."""

MAX_BLOCK_CACHE_BYTES = 2 << 20

_BLOCK_BYTES = 3072
"""About what the cache's entry for a block takes, without its fields: the most is the decoder's table."""

_FIELD_BYTES = 400
"""About what a field takes, without its characters: as a header, and in the decoder's table."""

MAX_TURN_COST = 128 * 1024
"""Work that one call of `feed` or `proceed` does: a few milliseconds."""

FRAME_COST = 64

_BYTE_COSTS = {frames.DATA: 0, frames.HEADERS: 8, frames.CONTINUATION: 8}
"""Cost of a byte by the kind of frame, 1 for others. A byte of a header block may be a whole field."""

_CONNECTION_WINDOW = 2**30

OPENING = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frames.settings(
        {frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: WINDOW_BYTES, frames.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES}
    )
    + frame(frames.WINDOW_UPDATE, 0, 0, frames.number(_CONNECTION_WINDOW))
)
"""The connection preface and the first frames of the client."""

_SETTINGS_ACK = frame(frames.SETTINGS, frames.ACK, 0, b"")

# --- the request -------------------------------------------------------------------------------------------

_CRUMB_END = re.compile("; *")


def request_fields(request: Request) -> list[Field]:
    """Return the fields of a request, one for each cookie (section 8.2.3), as Go's client does."""
    fields: list[Field] = []
    for name, value in request.fields():
        if name == "cookie":
            crumbs = filter(None, _CRUMB_END.split(value))
            fields += [(b"cookie", crumb.encode("utf-8", "surrogateescape")) for crumb in crumbs]
        else:
            fields.append((name.encode("ascii"), value.encode("utf-8", "surrogateescape")))
    return fields


def request_head(fields: Iterable[Field], *, ends: bool) -> bytes:
    """Encode the head of a request.

    Args:
        ends: the request has no body.
    """
    block = header_block.encode(fields)
    if len(block) <= frames.MAX_PAYLOAD_BYTES:
        return frame(frames.HEADERS, frames.END_HEADERS | (frames.END_STREAM if ends else 0), STREAM, block)
    pieces = [block[at : at + frames.MAX_PAYLOAD_BYTES] for at in range(0, len(block), frames.MAX_PAYLOAD_BYTES)]
    kinds = [frames.HEADERS] + [frames.CONTINUATION] * (len(pieces) - 1)
    flags = [0] * len(pieces)
    flags[0] |= frames.END_STREAM if ends else 0
    flags[-1] |= frames.END_HEADERS
    return b"".join(frame(kind, flag, STREAM, piece) for kind, flag, piece in zip(kinds, flags, pieces, strict=True))


# --- the response ------------------------------------------------------------------------------------------

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_STATUS = re.compile(rb"[+-]?[0-9]{1,18}")  # as Go's strconv.Atoi

_SETTING_BOUNDS: Mapping[int, tuple[int, int, Code]] = {
    frames.ENABLE_PUSH: (0, 1, Code.PROTOCOL_ERROR),
    frames.INITIAL_WINDOW_SIZE: (0, frames.MAX_WINDOW_BYTES, Code.FLOW_CONTROL_ERROR),
    frames.MAX_FRAME_SIZE: (frames.MAX_PAYLOAD_BYTES, 2**24 - 1, Code.PROTOCOL_ERROR),
}


class _FrameRule(NamedTuple):
    """The method that reads a kind of frame, and the frame's valid stream and size."""

    read: Callable[[Http2ResponseReader, int, int, bytes], None]
    of_stream: bool | None = None  # True: of a stream, False: of the connection, None: either
    size: int | None = None


class Http2ResponseReader(Response):
    """Decodes the response on our stream: feed it bytes, send its outgoing frames, take the body piece by piece.

    Interim responses are skipped.

    Attributes:
        answered: the first headers have arrived, perhaps of an interim response.
        opened: the server's first SETTINGS frame has arrived, so it speaks HTTP/2.
        head_complete, complete: how much of the response has arrived.
        ended_with_head: the stream ended with the head, without an empty DATA frame.
        trailers: the fields after the body.
        error_code: the code for our GOAWAY frame.
        reset_code: the code of the server's RST_STREAM; None without one.
        goaway: the server's GOAWAY frame, for the end of a sentence; empty without one.
        room: bytes of our body that the server accepts now.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.answered = False
        self.opened = False
        self.ended_with_head = False
        self.trailers: Headers = []
        self.error_code = Code.NO_ERROR
        self.reset_code: int | None = None
        self.goaway = ""
        self._frames = FrameReader()
        self._usual_blocks: tuple[bytes, ...] = ()
        self._decoder: header_block.Decoder | None = None  # made for the first block that is not a usual one
        self._outgoing: list[bytes] = []
        self._idle_frames_left = MAX_IDLE_FRAMES
        self._acknowledged = False  # whether the server acknowledged our settings
        self._block_stream = 0  # the stream whose header block continues in the next frame
        self._block_ends = False  # whether that block ends its stream
        self._pseudo: dict[bytes, bytes] = {}  # of that block, so far
        self._fields: Headers = []
        self._announced = -1  # bytes of the body; negative if unknown
        self._left = -1  # those of them that have not arrived
        self._window = WINDOW_BYTES  # bytes that the server may still send
        self._taken = 0  # bytes taken and not given back to the server
        self._connection_room = frames.INITIAL_WINDOW_BYTES
        self._stream_room = frames.INITIAL_WINDOW_BYTES
        self._first_room = frames.INITIAL_WINDOW_BYTES  # of the server's settings
        self._pending = False

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection; ``b""`` is the end of the stream. Call it only if nothing is `pending`.

        Raises:
            ProbeFailed: there is no response, or its head is not valid. `take_body` raises errors of the body, so that
                the head is not lost.
        """
        if self.complete or self._failure is not None:
            return
        self._frames.feed(data)
        self._read(ended=not data)

    @property
    def pending(self) -> bool:
        """Whether frames have arrived that are not read yet; let other tasks run, then call `proceed`."""
        return self._pending and not self.complete and self._failure is None

    def proceed(self) -> None:
        """Read the pending frames, or a part of them.

        Raises:
            ProbeFailed: as `feed`.
        """
        if self.pending:
            self._read(ended=False)

    def _read(self, *, ended: bool) -> None:
        try:
            if ended:
                raise self._ended()
            self._read_frames()
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
        """Return the frames to send to the server."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    @property
    def room(self) -> int:
        return min(self._connection_room, self._stream_room)

    def spend(self, size: int) -> None:
        """Count bytes of our body that are sent."""
        self._connection_room -= size
        self._stream_room -= size

    @property
    def content_length(self) -> int:
        """The value of the only valid Content-Length, for any status; else 0 if the head ended the stream, or -1."""
        return self._announced

    def _read_content_length(self) -> int:
        """Return the announced length of the body by the rules of Go's client."""
        values = self.get_all("content-length")
        if len(values) == 1 and values[0].isascii() and values[0].isdigit() and len(values[0]) < 20:
            length = int(values[0])
            return length if length <= MAX_CONTENT_LENGTH else -1
        return 0 if self.ended_with_head and not self._to_head else -1

    def _read_frames(self) -> None:
        """Read complete frames, up to the limit of one turn."""
        self._pending = False
        cost = 0
        while (found := self._frames.next()) is not None:
            kind, flags, stream, payload = found
            self._take(kind, flags, stream, payload)
            if self.complete:
                return
            cost += FRAME_COST + _BYTE_COSTS.get(kind, 1) * len(payload)
            if cost >= MAX_TURN_COST:
                self._pending = True
                return

    def _ended(self) -> ProbeFailed:
        """Return the failure that the end of the connection is."""
        if self.head_complete:
            return ProbeFailed(Reason.HTTP_BODY_TRUNCATED, f"the connection ended before the body did{self.goaway}")
        if self._block_stream or self.answered:
            return Violation("the connection ended within the headers")
        return ProbeFailed(Reason.CONNECT_CLOSED, f"the connection ended before any response{self.goaway}")

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if not self.opened:
            if kind != frames.SETTINGS:
                raise Violation("the first frame is not SETTINGS")
            self.opened = True
        if self._block_stream and (kind != frames.CONTINUATION or stream != self._block_stream):
            raise Violation("another frame interrupts the headers")
        rule = self._rules.get(kind, self._unknown)
        if rule.of_stream is not None and rule.of_stream != (stream != 0):
            raise Violation(f"a frame of kind {kind} on stream {stream}")
        if rule.size is not None and rule.size != len(payload):
            raise Violation(f"a frame of kind {kind} with {len(payload)} bytes", Code.FRAME_SIZE_ERROR)
        rule.read(self, flags, stream, payload)

    def _count_idle(self, size: int = 0) -> None:
        """Count a frame that carries nothing of the response."""
        self._idle_frames_left -= 1 + size // 64
        if self._idle_frames_left < 0:
            raise Violation("the server sent too many frames without response data", Code.ENHANCE_YOUR_CALM)

    # The body.

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        if stream != STREAM or not self.head_complete:
            raise Violation("data before the headers, or on a stream that we did not open")
        self._window -= len(payload)
        if self._window < 0:
            raise Violation("the server sent more data than its window allows", Code.FLOW_CONTROL_ERROR)
        content = _without_padding(flags, payload)
        if content:
            self._take_content(content)
        else:
            self._count_idle()
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
        """Let the server send as many bytes as were taken, in few large steps."""
        self._taken += size
        if self._taken >= WINDOW_BYTES // 2 and not self.complete:
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
                raise Violation("a HEADERS frame without its priority fields")
            fragment = fragment[5:]
        self._block_ends = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS and stream == STREAM and self._decoder is None:
            blocks = (*self._usual_blocks, fragment)
            if len(blocks) <= MAX_USUAL_BLOCKS and sum(map(len, blocks)) <= MAX_USUAL_BLOCKS_BYTES:
                self._count_idle()
                block = _usual_block(blocks)
                self._usual_blocks = blocks
                self._on_fields(block.pseudo, block.headers.copy())
                return
        self._block_stream = stream
        self._on_fragment(flags, stream, fragment)

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if not self._block_stream:
            raise Violation("a CONTINUATION frame without HEADERS")
        self._on_fragment(flags, stream, payload)

    def _on_fragment(self, flags: int, stream: int, fragment: bytes) -> None:
        self._count_idle()
        decoder = self._decoder
        if decoder is None:
            decoder = self._decoder = _decoder_after(self._usual_blocks)
        decoder.feed(fragment)
        fields = decoder.take()
        if stream == STREAM:  # fields of other streams only change the decoder's table
            _sort(fields, self._pseudo, self._fields)
        if flags & frames.END_HEADERS:
            self._block_stream = 0
            decoder.end()
            if stream == STREAM:
                pseudo, headers = self._pseudo, self._fields
                self._pseudo, self._fields = {}, []
                self._on_fields(pseudo, headers)

    def _on_fields(self, pseudo: dict[bytes, bytes], headers: Headers) -> None:
        if self.head_complete:
            if pseudo or not self._block_ends:
                raise Violation("trailers with pseudo-headers, or without the end of the stream")
            self.trailers = headers
            self._finish()
            return
        self.answered = True
        status = _read_status(pseudo.get(b":status", b""))
        if 100 <= status < 200:
            if self._block_ends or status == 101:
                raise Violation(f"an interim response {status} that is not allowed")
            return
        self.status = status
        self.version = "2.0"
        self._take_lowercase(headers)
        self.head_complete = True
        self.ended_with_head = self._block_ends
        self._announced = self._read_content_length()
        if self._to_head or (self._block_ends and status in (204, 304)):
            self.complete = True
            return
        self._left = self._announced
        if self._block_ends:
            self._finish()

    # The connection.

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        self._count_idle(len(payload))
        if flags & frames.ACK:
            if payload or self._acknowledged:
                raise Violation("an acknowledgement of settings that we did not send", Code.FRAME_SIZE_ERROR)
            self._acknowledged = True
            return
        if len(payload) % 6:
            raise Violation(f"settings of {len(payload)} bytes", Code.FRAME_SIZE_ERROR)
        for key, value in frames.read_settings(payload):
            bounds = _SETTING_BOUNDS.get(key)
            if bounds is not None and not bounds[0] <= value <= bounds[1]:
                raise Violation(f"setting {key} is {value}", bounds[2])
            if key == frames.INITIAL_WINDOW_SIZE:
                self._stream_room += value - self._first_room
                self._first_room = value
                self._check_room()
        self._outgoing.append(_SETTINGS_ACK)

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        self._count_idle()
        if not flags & frames.ACK:
            self._outgoing.append(frame(frames.PING, frames.ACK, 0, payload))

    def _on_window_update(self, flags: int, stream: int, payload: bytes) -> None:
        self._count_idle()
        increment = int.from_bytes(payload, "big") & frames.MAX_WINDOW_BYTES
        if not increment:
            raise Violation("a window update of 0 bytes")
        if stream == 0:
            self._connection_room += increment
        elif stream == STREAM:
            self._stream_room += increment
        self._check_room()

    def _check_room(self) -> None:
        if max(self._connection_room, self._stream_room) > frames.MAX_WINDOW_BYTES:
            raise Violation("a window is larger than 2^31-1 bytes", Code.FLOW_CONTROL_ERROR)

    def _on_reset(self, flags: int, stream: int, payload: bytes) -> None:
        self._count_idle()
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
        self._count_idle(len(payload))
        if len(payload) < 8:
            raise Violation(f"a GOAWAY frame of {len(payload)} bytes", Code.FRAME_SIZE_ERROR)
        last = int.from_bytes(payload[:4], "big") & frames.MAX_WINDOW_BYTES
        code = int.from_bytes(payload[4:8], "big")
        self.goaway = f" (the server sent GOAWAY: {frames.describe(code)}, {payload[8:108]!r})"
        if last < STREAM and self.head_complete:
            raise ProbeFailed(Reason.HTTP_BODY_TRUNCATED, f"the server gave up within the body{self.goaway}")
        if last < STREAM:
            kind = ProbeFailed if code else Unprocessed
            raise kind(Reason.CONNECT_CLOSED, f"the server did not process the request{self.goaway}")

    def _on_push_promise(self, flags: int, stream: int, payload: bytes) -> None:
        raise Violation("a push, which we do not allow")

    def _on_other(self, flags: int, stream: int, payload: bytes) -> None:
        self._count_idle(len(payload))

    _rules: ClassVar[Mapping[int, _FrameRule]] = {
        frames.DATA: _FrameRule(_on_data, of_stream=True),
        frames.HEADERS: _FrameRule(_on_headers, of_stream=True),
        frames.PRIORITY: _FrameRule(_on_other, of_stream=True, size=5),
        frames.RST_STREAM: _FrameRule(_on_reset, of_stream=True, size=4),
        frames.SETTINGS: _FrameRule(_on_settings, of_stream=False),
        frames.PUSH_PROMISE: _FrameRule(_on_push_promise, of_stream=True),
        frames.PING: _FrameRule(_on_ping, of_stream=False, size=8),
        frames.GOAWAY: _FrameRule(_on_goaway, of_stream=False),
        frames.WINDOW_UPDATE: _FrameRule(_on_window_update, size=4),
        frames.CONTINUATION: _FrameRule(_on_continuation, of_stream=True),
    }
    _unknown = _FrameRule(_on_other)  # section 5.5


def _without_padding(flags: int, payload: bytes) -> bytes:
    if not flags & frames.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Violation("a frame with more padding than payload")
    return payload[1 : len(payload) - payload[0]]


class _Block(NamedTuple):
    """A decoded header block: its pseudo-headers, its headers, and the decoder after it, which must not be changed."""

    pseudo: dict[bytes, bytes]
    headers: Headers
    decoder: header_block.Decoder


def _weight(blocks: tuple[bytes, ...], decoded: _Block) -> int:
    """Return about the bytes that the cache's entry takes: its texts twice, since the decoder's table has them, too."""
    texts = itertools.chain(blocks, itertools.chain.from_iterable(decoded.headers))
    return _BLOCK_BYTES + _FIELD_BYTES * len(decoded.headers) + 2 * sum(map(len, texts))


@remembered(MAX_BLOCK_CACHE_BYTES, _weight)
def _usual_block(blocks: tuple[bytes, ...]) -> _Block:
    """Decode the last of the first blocks of a connection.

    Raises:
        Violation: it is not valid.
    """
    decoder = _decoder_after(blocks[:-1])
    decoder.feed(blocks[-1])
    block = _Block({}, [], decoder)
    _sort(decoder.take(), block.pseudo, block.headers)
    decoder.end()
    return block


def _decoder_after(blocks: tuple[bytes, ...]) -> header_block.Decoder:
    """Return a decoder that has decoded the first blocks of a connection."""
    return _usual_block(blocks).decoder.copy() if blocks else header_block.Decoder(MAX_HEAD_BYTES)


def _sort(fields: list[Field], pseudo: dict[bytes, bytes], headers: Headers) -> None:
    """Add fields to the pseudo-headers or headers of their block, if they are valid there (sections 8.2.1 and 8.3)."""
    for name, value in fields:
        if _BAD_VALUE.search(value):
            raise Violation(f"header {name[:60]!r} has a control character")
        if name.startswith(b":"):
            if name != b":status" or pseudo or headers:
                raise Violation(f"{name[:60]!r} is not a valid pseudo-header here")
            pseudo[name] = value
        elif _NAME.fullmatch(name):
            headers.append((name.decode("ascii"), value.decode("utf-8", "surrogateescape")))
        else:
            raise Violation(f"{name[:60]!r} is not a valid name of a header")


def _read_status(value: bytes) -> int:
    if not _STATUS.fullmatch(value):
        raise Violation(f"its status is {value[:60]!r}")
    return int(value)
