"""HTTP/3 as a client (RFC 9114): frames to a response, without I/O, and the exchange that QUIC carries.

QPACK's dynamic table is allowed to neither side, as in Go's client: one request has no use for it, nothing waits for
another stream, and a small frame can't grow into a head of gigabytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import IntEnum
from typing import BinaryIO

from aioquic.buffer import encode_uint_var
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset
from pylsqpack import Decoder, DecompressionFailed, Encoder, StreamBlocked

from probe_exporter.http.request import Request
from probe_exporter.http.response import Headers, Response
from probe_exporter.prober import ProbeFailed, Reason
from probe_exporter.quic import ClosedByApplication, QuicClient
from probe_exporter.tls import Handshake

ALPN = "h3"

HEAD_LIMIT = 256 * 1024
"""Bytes that a response's head may take, compressed: less than in HTTP/1, since a byte may stand for a header."""

UPLOAD_STEP = 64 * 1024
"""Bytes of an uploaded file in one frame."""

UPLOAD_AHEAD = 256 * 1024
"""Bytes of an uploaded file that may wait to be sent."""


class Frame(IntEnum):
    """The types of frames that mean something to us (section 7.2)."""

    DATA = 0x0
    HEADERS = 0x1
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    GOAWAY = 0x7


class StreamType(IntEnum):
    """The types of unidirectional streams (section 6.2)."""

    CONTROL = 0x0
    PUSH = 0x1


class Code(IntEnum):
    """Why a stream or a connection ends (section 8.1; RFC 9204, section 6)."""

    NO_ERROR = 0x100
    GENERAL_PROTOCOL_ERROR = 0x101
    INTERNAL_ERROR = 0x102
    STREAM_CREATION_ERROR = 0x103
    CLOSED_CRITICAL_STREAM = 0x104
    FRAME_UNEXPECTED = 0x105
    FRAME_ERROR = 0x106
    EXCESSIVE_LOAD = 0x107
    ID_ERROR = 0x108
    SETTINGS_ERROR = 0x109
    MISSING_SETTINGS = 0x10A
    REQUEST_REJECTED = 0x10B
    REQUEST_CANCELLED = 0x10C
    REQUEST_INCOMPLETE = 0x10D
    MESSAGE_ERROR = 0x10E
    CONNECT_ERROR = 0x10F
    VERSION_FALLBACK = 0x110
    QPACK_DECOMPRESSION_FAILED = 0x200
    QPACK_ENCODER_STREAM_ERROR = 0x201
    QPACK_DECODER_STREAM_ERROR = 0x202


MAX_FIELD_SECTION_SIZE = 0x6  # the one setting that we send
ONLY_IN_HTTP2 = frozenset({0x2, 0x6, 0x8, 0x9})  # frames that HTTP/3 forbids (section 7.2.8)
ONLY_IN_CONTROL = frozenset({0x3, Frame.SETTINGS, Frame.GOAWAY, 0xD})


def frame(kind: int, payload: bytes) -> bytes:
    """One frame."""
    return encode_uint_var(kind) + encode_uint_var(len(payload)) + payload


def read_varint(data: bytes | bytearray, start: int = 0) -> tuple[int, int] | None:
    """A number of RFC 9000, section 16, and where it ends; None if more bytes are needed."""
    if start >= len(data):
        return None
    end = start + (1 << (data[start] >> 6))
    if end > len(data):
        return None
    return int.from_bytes(data[start:end], "big") & ((1 << (8 * (end - start) - 2)) - 1), end


class FrameSplitter:
    """Splits a stream's bytes, cut anywhere, into frames; it keeps no more than the beginning of a frame's head."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._kind = 0
        self._left: int | None = None  # bytes of the current frame's payload that have not come

    @property
    def within(self) -> bool:
        """Whether the bytes so far end inside a frame."""
        return self._left is not None or bool(self._head)

    def split(self, data: bytes) -> Iterator[tuple[int, bytes, bool]]:
        """The frames' payloads piece by piece: the type, the bytes, and whether the frame ends with them."""
        view = memoryview(data)
        while view:
            if self._left is None:
                view = self._take_head(view)
                if self._left is None:
                    return
            piece, view = view[: self._left], view[self._left :]
            self._left -= len(piece)
            last = self._left == 0
            if last:
                self._left = None
            if piece or last:
                yield self._kind, bytes(piece), last

    def _take_head(self, view: memoryview) -> memoryview:
        """Read a frame's type and length, if they are all there; what follows them."""
        before = len(self._head)
        self._head += view[:16]
        kind = read_varint(self._head)
        length = read_varint(self._head, kind[1]) if kind else None
        if kind is None or length is None:
            return view[16:]
        self._kind, self._left = kind[0], length[0]
        self._head.clear()
        return view[length[1] - before :]


class ResponseReader(Response):
    """Reads one response from its stream: feed it bytes, take the body out piece by piece.

    Interim responses are skipped, trailers and frames that nobody knows are passed over.

    Attributes:
        head_complete, complete: how far the response has come.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.head_complete = False
        self.complete = False
        self._frames = FrameSplitter()
        self._decoder = Decoder(0, 0)
        self._section = bytearray()  # of the HEADERS frame that is coming in
        self._head_bytes = 0
        self._body_bytes = 0
        self._pieces: list[bytes] = []
        self._in_trailers = False

    def feed(self, data: bytes, *, end: bool) -> None:
        """Take bytes from the stream; `end` says that there are no more.

        Raises:
            ProbeFailed: they are not HTTP/3, a limit is passed, or the response ends too early.
        """
        for kind, piece, last in self._frames.split(data):
            if kind == Frame.DATA:
                self._on_data(piece)
            elif kind == Frame.HEADERS:
                self._on_headers(piece, last)
            elif kind in ONLY_IN_CONTROL or kind in ONLY_IN_HTTP2 or kind == Frame.PUSH_PROMISE:
                raise _malformed(f"a frame of type {kind:#x} on the stream of a response")
            else:
                self._count(piece)
        if end and not self.complete:
            self._end()

    def take_body(self) -> bytes:
        """What of the body has been read since the last call."""
        if not self._pieces:
            return b""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        return data

    def _on_data(self, piece: bytes) -> None:
        if not self.head_complete or self._in_trailers:
            raise _malformed("a body before its head or after its trailers")
        if self.has_body and piece:
            self._body_bytes += len(piece)
            self._pieces.append(piece)

    def _on_headers(self, piece: bytes, last: bool) -> None:
        if self.head_complete:
            self._in_trailers = True
            return
        self._count(piece)
        self._section += piece
        if last:
            fields = self._decode(bytes(self._section))
            self._section.clear()
            self._take_head(fields)

    def _count(self, piece: bytes) -> None:
        """Bound what comes before the body, empty frames too."""
        if not self.head_complete:
            self._head_bytes += len(piece) + 2
            if self._head_bytes > HEAD_LIMIT:
                raise ProbeFailed(
                    Reason.HTTP_HEADERS_TOO_LARGE, f"the response's headers are larger than {HEAD_LIMIT} bytes"
                )

    def _decode(self, section: bytes) -> Headers:
        try:
            _, fields = self._decoder.feed_header(0, section)
        except (DecompressionFailed, StreamBlocked):
            raise _malformed("headers that QPACK can't decompress") from None
        return [(name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in fields]

    def _take_head(self, fields: Headers) -> None:
        pseudo = [(name, value) for name, value in fields if name.startswith(":")]
        if len(pseudo) != 1 or pseudo[0][0] != ":status":
            raise _malformed("a head with other pseudo-headers than one :status")
        status = pseudo[0][1]
        if len(status) != 3 or not (status.isascii() and status.isdigit()):
            raise _malformed(f"a status of {status!r}")
        if status.startswith("1"):
            return  # an interim response; the final one follows
        self.status = int(status)
        self.version = "3.0"
        self.headers = [field for field in fields if field not in pseudo]
        self.head_complete = True
        if not self.has_body:
            self.complete = True

    def _end(self) -> None:
        if not self.head_complete:
            if self._frames.within or self._head_bytes:
                raise _malformed("the stream ended within the response's headers")
            raise ProbeFailed(Reason.CONNECT_CLOSED, "the stream ended before any response")
        if self._frames.within or self._body_bytes < self.content_length:
            raise ProbeFailed(Reason.HTTP_BODY_TRUNCATED, "the stream ended before the body did")
        self.complete = True


def _malformed(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.HTTP_PROTOCOL_ERROR, f"the response is not HTTP/3: {what}")


class ServerStreams:
    """The unidirectional streams that a server opens, of which only the control stream says anything to us.

    Attributes:
        refused_from: the first request that the server will not look at, as its GOAWAY says; None without one.
    """

    def __init__(self) -> None:
        self.refused_from: int | None = None
        self._kinds: dict[int, int] = {}
        self._undecided: dict[int, bytes] = {}  # streams whose type has not come whole
        self._frames = FrameSplitter()
        self._settings_came = False
        self._goaway = b""

    def feed(self, stream: int, data: bytes, *, end: bool) -> None:
        """Take what a server said on one of its streams.

        Raises:
            ProbeFailed: it breaks the rules of its control stream, or pushes what nobody asked for.
        """
        if stream not in self._kinds:
            data = self._undecided.pop(stream, b"") + data
            kind = read_varint(data)
            if kind is None:
                self._undecided[stream] = data
                return
            self._begin(stream, kind[0])
            data = data[kind[1] :]
        if self._kinds[stream] == StreamType.CONTROL:
            for frame_type, piece, last in self._frames.split(data):
                self._on_control(frame_type, piece, last)
            if end:
                raise _malformed("the control stream ended")
        if end:
            del self._kinds[stream]

    def _begin(self, stream: int, kind: int) -> None:
        if kind == StreamType.PUSH:
            raise _malformed("a push that nobody asked for")
        if kind == StreamType.CONTROL and kind in self._kinds.values():
            raise _malformed("a second control stream")
        self._kinds[stream] = kind

    def _on_control(self, kind: int, piece: bytes, last: bool) -> None:
        if not self._settings_came and kind != Frame.SETTINGS:
            raise _malformed("a control stream that does not begin with settings")
        self._settings_came = True
        if kind == Frame.GOAWAY:
            self._goaway += piece[:9]
            if last:
                number = read_varint(self._goaway)
                self.refused_from, self._goaway = number[0] if number else 0, b""


class Http3Exchange:
    """An exchange over HTTP/3, on a QUIC connection of its own."""

    def __init__(self, client: QuicClient, request: Request, upload: BinaryIO | None) -> None:
        """
        Args:
            upload: the file that ``request.body_file`` names, at its beginning.
        """
        self._client = client
        self._request = request
        self._reader = ResponseReader(request.method)
        self.response: Response = self._reader
        self.processing_seconds = 0.0
        self.first_byte_at = 0.0
        self._server = ServerStreams()
        self._stream = client.open_stream()
        self._upload = upload if request.body_file else None
        self._uploaded = 0

    @property
    def handshake(self) -> Handshake | None:
        return self._client.handshake

    async def head(self) -> Response:
        sent = time.perf_counter()
        self._send_request()
        try:
            while not self._reader.head_complete:
                await self._advance()
        finally:
            if self.first_byte_at:
                self.processing_seconds = max(self.first_byte_at - sent, 1e-9)
        return self._reader

    async def body(self) -> bytes:
        while True:
            piece = self._reader.take_body()
            if piece or self._reader.complete:
                return piece
            await self._advance()

    def close(self) -> None:
        self._client.close(Code.NO_ERROR)

    def _send_request(self) -> None:
        client, request = self._client, self._request
        settings = encode_uint_var(MAX_FIELD_SECTION_SIZE) + encode_uint_var(HEAD_LIMIT)
        control = client.open_stream(unidirectional=True)
        client.send(control, encode_uint_var(StreamType.CONTROL) + frame(Frame.SETTINGS, settings))
        fields = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in request.fields()]
        _, section = Encoder().encode(self._stream, fields)
        body = frame(Frame.DATA, request.body) if request.body else b""
        client.send(self._stream, frame(Frame.HEADERS, section) + body, end=self._upload is None)

    async def _advance(self) -> None:
        """Wait for the next thing to happen, and take it in."""
        self._continue_upload()
        try:
            happened = await self._client.turn()
        except ClosedByApplication as closed:
            raise _closed(closed) from None
        for event in happened:
            self._take(event)

    def _take(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            if event.stream_id == self._stream:
                self.first_byte_at = self.first_byte_at or self._client.arrived_at
                self._reader.feed(event.data, end=event.end_stream)
            elif event.stream_id % 4 == 3:
                self._server.feed(event.stream_id, event.data, end=event.end_stream)
                self._check_refusal()
        elif isinstance(event, StreamReset) and event.stream_id == self._stream and not self._reader.complete:
            raise ProbeFailed(Reason.CONNECT_RESET, f"the server reset the stream: {_code(event.error_code)}")
        elif isinstance(event, StopSendingReceived) and event.stream_id == self._stream:
            self._upload = None

    def _check_refusal(self) -> None:
        refused = self._server.refused_from
        if refused is not None and refused <= self._stream and not self._reader.head_complete:
            raise ProbeFailed(Reason.CONNECT_CLOSED, "the server goes away without looking at the request")

    def _continue_upload(self) -> None:
        """Send more of a file once enough of what came before is on its way."""
        while self._upload is not None and self._uploaded - self._client.sent < UPLOAD_AHEAD:
            data = self._upload.read(UPLOAD_STEP)
            self._uploaded += len(data)
            self._client.send(self._stream, frame(Frame.DATA, data) if data else b"", end=not data)
            if not data:
                self._upload = None


def _closed(closed: ClosedByApplication) -> ProbeFailed:
    reason = Reason.CONNECT_CLOSED if closed.code == Code.NO_ERROR else Reason.CONNECT_RESET
    return ProbeFailed(reason, f"the server closed the connection: {_code(closed.code)} {closed.phrase}".strip())


def _code(code: int) -> str:
    try:
        return f"H3_{Code(code).name}" if code < Code.QPACK_DECOMPRESSION_FAILED else Code(code).name
    except ValueError:
        return f"code {code:#x}"
