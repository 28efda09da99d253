"""HTTP/3, without I/O: frames to a response, and what the server may say on its other streams (RFC 9114).

The readers take what Go's client takes and refuse what that refuses, and everything they read is
bounded. Imported at the first probe over HTTP/3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum

from aioquic.buffer import encode_uint_var

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http import field_section
from probe_exporter.protocols.http.field_section import Field, SectionTooLarge
from probe_exporter.protocols.http.http1 import MAX_CONTENT_LENGTH as LARGEST_LENGTH
from probe_exporter.protocols.http.response import Headers, IncomingResponse

ALPN = "h3"

HEAD_LIMIT = 1024 * 1024
"""Bytes that a response's headers may take: less than in HTTP/1, since it takes longer to decompress them."""

PATIENCE = HEAD_LIMIT + 64 * 1024
"""Bytes of a stream that may be no content, each of its frames counting as `FRAME_COST` more."""

FRAME_COST = 64


class Frame(IntEnum):
    """The types of frames that mean something to us (section 7.2)."""

    DATA = 0x0
    HEADERS = 0x1
    SETTINGS = 0x4
    GOAWAY = 0x7


class StreamType(IntEnum):
    """The types of unidirectional streams (section 6.2; RFC 9204, section 4.2)."""

    CONTROL = 0x0
    PUSH = 0x1
    ENCODER = 0x2
    DECODER = 0x3


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


ESSENTIAL = frozenset({StreamType.CONTROL, StreamType.ENCODER, StreamType.DECODER})

# QPACK's Stream Cancellation of stream 0, which is our request: a decoder may send it after a reset of that stream,
# even without a dynamic table (RFC 9204, sections 2.2.2.2 and 4.4.2). aioquic's server does so after STOP_SENDING.
REQUEST_CANCELLED = b"\x40"

MAX_FIELD_SECTION_SIZE = 0x6  # the one setting that we send
ONLY_IN_HTTP2 = frozenset({0x2, 0x6, 0x8, 0x9})  # frames that HTTP/3 forbids (section 7.2.8)
MISPLACED_ON_REQUESTS = ONLY_IN_HTTP2 | {Frame.SETTINGS, Frame.GOAWAY}
MISPLACED_ON_CONTROL = ONLY_IN_HTTP2 | {Frame.DATA, Frame.HEADERS}

OF_CONNECTIONS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"})
"""Headers that have no place in HTTP/3 (section 4.2)."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_STATUS = re.compile(rb"[+-]?[0-9]{1,18}")  # what Go's Atoi reads


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


class ResponseReader(IncomingResponse):
    """Reads one response from its stream: feed it bytes, take the body out piece by piece.

    Interim responses are skipped, and frames that nobody knows are passed over.

    Attributes:
        head_complete, complete: how far the response has come.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self._frames = FrameSplitter()
        self._patience = PATIENCE
        self._section = bytearray()  # of the HEADERS frame that is coming in
        self._in_trailers = False
        self._announced = -1
        self._received = 0  # bytes of the body

    @property
    def content_length(self) -> int:
        """What Content-Length says, whatever the status; without it -1, or 0 where there can be no body."""
        return 0 if self._announced < 0 and self.status in (101, 204) else self._announced

    def feed(self, data: bytes, *, end: bool) -> None:
        """Take bytes from the stream; `end` says that there are no more.

        Raises:
            ProbeFailed: there is no response, or its head is none of HTTP/3's. What is wrong with the body `take_body`
                tells, so that a good head is not lost with it.
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
        """Nothing good comes any more. Raises `failure` unless there is a head to be looked at first."""
        if not self.head_complete:
            raise failure
        self._failure = self._failure or failure

    def _take(self, kind: int, piece: bytes, last: bool) -> None:
        if kind == Frame.DATA and piece:
            self._take_content(piece)
            return
        self._patience -= len(piece) + (FRAME_COST if last else 0)
        if self._patience < 0:
            raise _too_large() if not self.head_complete else _malformed("it drowns in frames that say nothing")
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
            raise _malformed("a body before its head or after its trailers")
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
                raise _malformed("trailers with a status, or twice")
            self._in_trailers = True
            return
        code = _read_status(status)
        if 100 <= code < 200 and code != 101:
            return  # an interim response: the final one follows
        self.status, self.version, self.headers = code, "3.0", headers
        self._announced = _read_length(self.get_all("content-length"))
        self.head_complete = True

    def _end(self) -> None:
        if not self.head_complete:
            if self._frames.within or self._patience < PATIENCE:
                raise _malformed("the stream ended within its headers")
            raise ProbeFailed(Reason.CONNECT_CLOSED, "the stream ended before any response")
        if self._frames.within or (self.has_body and self._received < self._announced):
            raise ProbeFailed(Reason.HTTP_BODY_TRUNCATED, "the stream ended before the body did")
        self.complete = True


def _decode(section: bytes) -> list[Field]:
    try:
        return field_section.decode(section, HEAD_LIMIT)
    except SectionTooLarge:
        raise _too_large() from None
    except ValueError as error:
        raise _malformed(str(error)) from None


def _split(fields: list[Field]) -> tuple[bytes, Headers]:
    """The status and the headers, if all of them may stand in a response (sections 4.2 and 4.3)."""
    status = b""
    headers: Headers = []
    for name, value in fields:
        if _BAD_VALUE.search(value):
            raise _malformed(f"header {name[:60]!r} holds a control character")
        if name == b":status" and not (status or headers):
            status = value or b"?"
        elif _NAME.fullmatch(name) and name not in OF_CONNECTIONS:
            headers.append((name.decode("ascii"), value.decode("utf-8", "surrogateescape")))
        else:
            raise _malformed(f"{name[:60]!r} is not a header, or out of place")
    return status, headers


def _read_status(value: bytes) -> int:
    if not _STATUS.fullmatch(value):
        raise _malformed(f"its status is {value[:60]!r}")
    return int(value)


def _read_length(values: list[str]) -> int:
    """What all Content-Length headers say; -1 if nothing."""
    stripped = {value.strip() for value in values}
    if not stripped - {""}:
        return -1
    value = stripped.pop()
    if stripped or not (value.isascii() and value.isdigit() and int(value[-20:]) <= LARGEST_LENGTH):
        raise _malformed("its Content-Length is no number")
    return int(value)


def _malformed(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.HTTP_PROTOCOL_ERROR, f"the response is not HTTP/3: {what}")


def _too_large() -> ProbeFailed:
    return ProbeFailed(Reason.HTTP_HEADERS_TOO_LARGE, f"the response's headers are larger than {HEAD_LIMIT} bytes")


class ServerStreams:
    """The unidirectional streams that a server opens, of which only the control stream says anything to us.

    Attributes:
        going_away: the server has said that it takes no further requests.
    """

    def __init__(self) -> None:
        self.going_away = False
        self._kinds: dict[int, int] = {}
        self._undecided: dict[int, bytes] = {}  # streams whose type has not come whole
        self._frames = FrameSplitter()
        self._patience = PATIENCE
        self._settled = False
        self._payload = b""  # of the frame that is coming in on the control stream, if it is read

    def feed(self, stream: int, data: bytes, *, end: bool) -> None:
        """Take what a server said on one of its streams.

        Raises:
            ProbeFailed: it breaks the rules of its control stream, or uses what we do not allow.
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
            raise _malformed("it uses the dynamic table that we do not allow")
        if end:
            self.end(stream)

    def end(self, stream: int) -> None:
        """A stream has ended, or was reset.

        Raises:
            ProbeFailed: it is one of those that must not.
        """
        self._undecided.pop(stream, None)
        if self._kinds.pop(stream, None) in ESSENTIAL:
            raise _malformed("a stream ended that the whole connection needs")

    def _begin(self, stream: int, kind: int) -> None:
        if kind == StreamType.PUSH:
            raise _malformed("a push that nobody asked for")
        if kind in ESSENTIAL and kind in self._kinds.values():
            raise _malformed("a second stream of a type that there is one of")
        self._kinds[stream] = kind

    def _take(self, kind: int, piece: bytes, last: bool) -> None:
        self._patience -= len(piece) + (FRAME_COST if last else 0)
        if kind in MISPLACED_ON_CONTROL or self._patience < 0:
            raise _malformed(f"a frame of type {kind:#x} on the control stream, or too many of them")
        if kind not in (Frame.SETTINGS, Frame.GOAWAY):
            return
        if self._settled != (kind == Frame.GOAWAY):
            raise _malformed("the control stream does not begin with settings, or has them twice")
        self._payload += piece
        if last:
            payload, self._payload = self._payload, b""
            if kind == Frame.SETTINGS:
                _check_settings(payload)
                self._settled = True
            else:
                self._say_farewell(payload)

    def _say_farewell(self, payload: bytes) -> None:
        first_refused = read_varint(payload)
        if first_refused is not None and first_refused[0] % 4:
            raise _malformed("a farewell that names no request")
        self.going_away = True


def _check_settings(payload: bytes) -> None:
    """None of the settings means anything to us, but nonsense is not to be passed over (section 7.2.4)."""
    at, seen = 0, set()
    while at < len(payload):
        key = read_varint(payload, at)
        value = read_varint(payload, key[1]) if key else None
        if key is None or value is None or key[0] in seen:
            raise _malformed("settings that are cut, or twice the same")
        seen.add(key[0])
        at = value[1]


def describe(code: int) -> str:
    """An error code in the words of the RFC."""
    known = {one.value: one.name for one in Code}
    return known.get(code, f"error {code:#x}")
