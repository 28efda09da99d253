"""HTTP/3 as a client: decode one response and the server's other streams, without I/O (RFC 9114).

The model:
* QUIC carries streams; the request and its response are on the first one that we opened. `Http3ResponseReader` decodes
  it.
* A stream is a sequence of frames. `FrameSplitter` returns payloads piece by piece, so that a DATA frame of any size
  is never buffered. A HEADERS frame is buffered, up to `MAX_HEAD_BYTES`.
* The server opens unidirectional streams of its own. `ServerStreams` reads them: settings and GOAWAY on the control
  stream. Pushes and a dynamic table are errors, because our settings allow neither.
* Bytes that are not content count up to `MAX_OVERHEAD_BYTES`, and each frame costs `FRAME_COST` more.
* An error in the body is raised by `take_body` after everything before it, so that the head is not lost.

The readers accept and refuse what Go's client does. This module is imported by the first probe over HTTP/3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum

from aioquic.buffer import encode_uint_var

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http import field_section
from probe_exporter.protocols.http.field_section import Field, SectionTooLarge
from probe_exporter.protocols.http.http1 import MAX_CONTENT_LENGTH
from probe_exporter.protocols.http.response import Headers, Response

ALPN = "h3"

MAX_HEAD_BYTES = 1024 * 1024
"""Size of a response's headers: less than in HTTP/1, because decompressing them takes longer."""

MAX_OVERHEAD_BYTES = MAX_HEAD_BYTES + 64 * 1024
"""Bytes of a stream that are not content; each frame counts as `FRAME_COST` more."""

FRAME_COST = 64


class Frame(IntEnum):
    """Types of frames that we read (section 7.2)."""

    DATA = 0x0
    HEADERS = 0x1
    SETTINGS = 0x4
    GOAWAY = 0x7


class StreamType(IntEnum):
    """Types of unidirectional streams (section 6.2; RFC 9204, section 4.2)."""

    CONTROL = 0x0
    PUSH = 0x1
    ENCODER = 0x2
    DECODER = 0x3


class Code(IntEnum):
    """Error codes of streams and connections (section 8.1; RFC 9204, section 6)."""

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


ESSENTIAL = frozenset({StreamType.CONTROL, StreamType.ENCODER, StreamType.DECODER})

# QPACK's Stream Cancellation of stream 0, which is our request: a decoder may send it after a reset of that stream,
# even without a dynamic table (RFC 9204, sections 2.2.2.2 and 4.4.2). aioquic's server does so after STOP_SENDING.
REQUEST_CANCELLED = b"\x40"

MAX_FIELD_SECTION_SIZE = 0x6  # the one setting that we send
ONLY_IN_HTTP2 = frozenset({0x2, 0x6, 0x8, 0x9})  # frames that HTTP/3 forbids (section 7.2.8)
MISPLACED_ON_REQUESTS = ONLY_IN_HTTP2 | {Frame.SETTINGS, Frame.GOAWAY}
MISPLACED_ON_CONTROL = ONLY_IN_HTTP2 | {Frame.DATA, Frame.HEADERS}

OF_CONNECTIONS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"})
"""Headers that HTTP/3 forbids (section 4.2)."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_STATUS = re.compile(rb"[+-]?[0-9]{1,18}")  # as Go's strconv.Atoi


def frame(kind: int, payload: bytes) -> bytes:
    """Encode a frame."""
    return encode_uint_var(kind) + encode_uint_var(len(payload)) + payload


def read_varint(data: bytes | bytearray, start: int = 0) -> tuple[int, int] | None:
    """Decode a number (RFC 9000, section 16); return the offset after it too, or None if it is incomplete."""
    if start >= len(data):
        return None
    first = data[start]
    if first < 0x40:
        return first, start + 1
    end = start + (1 << (first >> 6))
    if end > len(data):
        return None
    return int.from_bytes(data[start:end], "big") & ((1 << (8 * (end - start) - 2)) - 1), end


class FrameSplitter:
    """Splits a stream into frames. It buffers only the head of a frame."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._kind = 0
        self._left: int | None = None  # bytes of the current payload that have not arrived

    @property
    def within(self) -> bool:
        """Whether the data so far ends inside a frame."""
        return self._left is not None or bool(self._head)

    def split(self, data: bytes) -> Iterator[tuple[int, bytes, bool]]:
        """Yield payloads piece by piece: the type, the bytes, and whether they end the frame."""
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
        """Read the type and length of a frame, if they are complete; return the data after them."""
        before = len(self._head)
        self._head += view[:16]
        kind = read_varint(self._head)
        length = read_varint(self._head, kind[1]) if kind else None
        if kind is None or length is None:
            return view[16:]
        self._kind, self._left = kind[0], length[0]
        self._head.clear()
        return view[length[1] - before :]


class Http3ResponseReader(Response):
    """Decodes one response: feed it the bytes of its stream, take the body piece by piece.

    Interim responses and frames of unknown types are skipped.

    Attributes:
        head_complete, complete: how far the response has come.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self._frames = FrameSplitter()
        self._overhead_left = MAX_OVERHEAD_BYTES
        self._section = bytearray()  # of an incomplete HEADERS frame
        self._in_trailers = False
        self._announced = -1
        self._received = 0  # bytes of the body

    @property
    def content_length(self) -> int:
        """The value of Content-Length, for any status; without it -1, or 0 if there can't be a body."""
        return 0 if self._announced < 0 and self.status in (101, 204) else self._announced

    def feed(self, data: bytes, *, end: bool) -> None:
        """Take bytes from the stream.

        Args:
            end: the stream ends after them.

        Raises:
            ProbeFailed: there is no response, or its head is not valid. `take_body` raises errors of the body.
        """
        if self.complete or self._failure is not None:
            return
        try:
            for kind, piece, last in self._frames.split(data):
                self._take(kind, piece, last)
            if end:
                self._end()
        except ProbeFailed as failed:
            self.fail(failed)

    def fail(self, failure: ProbeFailed) -> None:
        """End the response with a failure: raise it, or let `take_body` raise it if the head is complete."""
        if not self.head_complete:
            raise failure
        self._failure = self._failure or failure

    def _take(self, kind: int, piece: bytes, last: bool) -> None:
        if kind == Frame.DATA and piece:
            self._take_content(piece)
            return
        self._overhead_left -= len(piece) + (FRAME_COST if last else 0)
        if self._overhead_left < 0:
            raise (
                _too_large()
                if not self.head_complete
                else _malformed("the server sent too many frames without response data")
            )
        if kind == Frame.HEADERS:
            self._section += piece
            if last:
                section, self._section = bytes(self._section), bytearray()
                self._take_fields(_decode(section))
        elif kind == Frame.DATA:
            self._take_content(piece)
        elif kind in MISPLACED_ON_REQUESTS:
            raise _malformed(f"a frame of type {kind:#x} on the stream of a response")

    def _take_content(self, piece: bytes) -> None:
        if not self.head_complete or self._in_trailers:
            raise _malformed("a DATA frame before the head or after the trailers")
        good = piece if self._announced < 0 else piece[: self._announced - self._received]
        if good:
            self._pieces.append(good)
            self._received += len(good)
        if len(good) < len(piece):
            raise _malformed("the body is longer than announced")

    def _take_fields(self, fields: list[Field]) -> None:
        status, headers = _split(fields)
        if self.head_complete:
            if status or self._in_trailers:
                raise _malformed("trailers with a status, or a second time")
            self._in_trailers = True
            return
        code = _read_status(status)
        if 100 <= code < 200 and code != 101:
            return  # an interim response: the final one follows
        self.status, self.version = code, "3.0"
        self._take_lowercase(headers)
        self._announced = _read_length(self.get_all("content-length"))
        self.head_complete = True

    def _end(self) -> None:
        if not self.head_complete:
            if self._frames.within or self._overhead_left < MAX_OVERHEAD_BYTES:
                raise _malformed("the stream ended within the headers")
            raise ProbeFailed(Reason.CONNECT_CLOSED, "the stream ended before any response")
        if self._frames.within or (self.has_body and self._received < self._announced):
            raise ProbeFailed(Reason.HTTP_BODY_TRUNCATED, "the stream ended before the body did")
        self.complete = True


def _decode(section: bytes) -> list[Field]:
    try:
        return field_section.decode(section, MAX_HEAD_BYTES)
    except SectionTooLarge:
        raise _too_large() from None
    except ValueError as error:
        raise _malformed(str(error)) from None


def _split(fields: list[Field]) -> tuple[bytes, Headers]:
    """Return status and headers, if all are valid in a response (sections 4.2 and 4.3)."""
    status = b""
    headers: Headers = []
    for name, value in fields:
        if _BAD_VALUE.search(value):
            raise _malformed(f"header {name[:60]!r} has a control character")
        if name == b":status" and not (status or headers):
            status = value or b"?"
        elif _NAME.fullmatch(name) and name not in OF_CONNECTIONS:
            headers.append((name.decode("ascii"), value.decode("utf-8", "surrogateescape")))
        else:
            raise _malformed(f"{name[:60]!r} is not a valid header here")
    return status, headers


def _read_status(value: bytes) -> int:
    if not _STATUS.fullmatch(value):
        raise _malformed(f"its status is {value[:60]!r}")
    return int(value)


def _read_length(values: list[str]) -> int:
    """Return the common value of all Content-Length headers; -1 without one."""
    stripped = {value.strip() for value in values}
    if not stripped - {""}:
        return -1
    value = stripped.pop()
    digits = value.lstrip("0") or value[-1:]
    if stripped or not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise _malformed("its Content-Length is not a valid number")
    if int(digits) > MAX_CONTENT_LENGTH:
        raise _malformed("its Content-Length is too large")
    return int(digits)


def _malformed(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.HTTP_PROTOCOL_ERROR, f"the response is not HTTP/3: {what}")


def _too_large() -> ProbeFailed:
    return ProbeFailed(Reason.HTTP_HEADERS_TOO_LARGE, f"the response's headers are larger than {MAX_HEAD_BYTES} bytes")


class ServerStreams:
    """Reads the unidirectional streams that a server opens; only its control stream has data for us.

    Attributes:
        going_away: the server has sent GOAWAY.
    """

    def __init__(self) -> None:
        self.going_away = False
        self._kinds: dict[int, int] = {}
        self._undecided: dict[int, bytes] = {}  # the beginning of streams whose type is incomplete
        self._frames = FrameSplitter()
        self._overhead_left = MAX_OVERHEAD_BYTES
        self._settled = False
        self._payload = b""  # of an incomplete frame on the control stream that we read

    def feed(self, stream: int, data: bytes, *, end: bool) -> None:
        """Take bytes from one of the server's streams.

        Raises:
            ProbeFailed: they violate the protocol, or use a feature that our settings forbid.
        """
        if stream not in self._kinds:
            data = self._undecided.pop(stream, b"") + data
            kind = read_varint(data)
            if kind is None:
                self._undecided[stream] = data
                return
            self._begin(stream, kind[0])
            data = data[kind[1] :]
        kind_of_stream = self._kinds[stream]
        if kind_of_stream == StreamType.CONTROL:
            for frame_type, piece, last in self._frames.split(data):
                self._take(frame_type, piece, last)
        elif kind_of_stream == StreamType.DECODER and not data.strip(REQUEST_CANCELLED):
            pass
        elif kind_of_stream in ESSENTIAL and data:
            raise _malformed("the server uses a dynamic table, which we do not allow")
        if end:
            self.end(stream)

    def end(self, stream: int) -> None:
        """Note that a stream ended or was reset.

        Raises:
            ProbeFailed: the stream is one that must stay open.
        """
        self._undecided.pop(stream, None)
        if self._kinds.pop(stream, None) in ESSENTIAL:
            raise _malformed("the server closed a critical stream")

    def _begin(self, stream: int, kind: int) -> None:
        if kind == StreamType.PUSH:
            raise _malformed("a push, which we do not allow")
        if kind in ESSENTIAL and kind in self._kinds.values():
            raise _malformed("a second stream of a type that must be unique")
        self._kinds[stream] = kind

    def _take(self, kind: int, piece: bytes, last: bool) -> None:
        self._overhead_left -= len(piece) + (FRAME_COST if last else 0)
        if kind in MISPLACED_ON_CONTROL or self._overhead_left < 0:
            raise _malformed(f"a frame of type {kind:#x} on the control stream, or too many of them")
        if kind not in (Frame.SETTINGS, Frame.GOAWAY):
            return
        if self._settled != (kind == Frame.GOAWAY):
            raise _malformed("the control stream does not begin with SETTINGS, or has it twice")
        self._payload += piece
        if last:
            payload, self._payload = self._payload, b""
            if kind == Frame.SETTINGS:
                _check_settings(payload)
                self._settled = True
            else:
                self._take_goaway(payload)

    def _take_goaway(self, payload: bytes) -> None:
        first_refused = read_varint(payload)
        if first_refused is not None and first_refused[0] % 4:
            raise _malformed("a GOAWAY frame that names no request")
        self.going_away = True


def _check_settings(payload: bytes) -> None:
    """Check the syntax of settings, none of which we use (section 7.2.4)."""
    at, seen = 0, set()
    while at < len(payload):
        key = read_varint(payload, at)
        value = read_varint(payload, key[1]) if key else None
        if key is None or value is None or key[0] in seen:
            raise _malformed("a SETTINGS frame that is incomplete, or has a setting twice")
        seen.add(key[0])
        at = value[1]


def describe(code: int) -> str:
    """Return the name of an error code."""
    known = {one.value: one.name for one in Code}
    return known.get(code, f"error {code:#x}")
