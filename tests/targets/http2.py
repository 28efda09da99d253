"""Answers of a scripted HTTP/2 server: frames made byte by byte, valid or not (RFC 9113).

It does not use the exporter's code: header fields are sent as HPACK literals, which need no state, and requests are
read with python-hyper's decoder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpack import Decoder

from tests.targets.answers import Answer, End, Header, Part, PortDependent

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x4, 0x8, 0x20
ACK = 0x1

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR = range(
    7
)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY = range(7, 13)
HTTP_1_1_REQUIRED = 13

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

MOST = 16384
"""The largest payload of a frame that a client accepts by default."""


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0, *, length: int | None = None) -> bytes:
    """Encode a frame; `length` replaces the true length."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs))


SETTINGS_ACK = frame(SETTINGS, flags=ACK)


def window_update(increment: int, stream: int = 0) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, increment.to_bytes(4, "big"), stream=stream)


def reset(code: int = CANCEL, stream: int = 1) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, code.to_bytes(4, "big"), stream=stream)


def goaway(last: int = 1, code: int = NO_ERROR, debug: bytes = b"") -> bytes:
    """Return a GOAWAY frame: streams after `last` were not processed."""
    return frame(GOAWAY, last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)


def ping(data: bytes = b"12345678", flags: int = 0) -> bytes:
    """Return a PING frame."""
    return frame(PING, data, flags)


FIRST_WINDOW = 65535  # until the client has read the settings
LARGEST_WINDOW = (1 << 31) - 1
OPENING = settings((MAX_CONCURRENT_STREAMS, 100), (INITIAL_WINDOW_SIZE, LARGEST_WINDOW)) + window_update(
    LARGEST_WINDOW - FIRST_WINDOW
)
"""The server's first frames; they allow large uploads too."""


def block(*fields: Header) -> bytes:
    """Encode a header block of literals (RFC 7541, section 6.2.2), which leave no trace in the decoder."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return integer(len(raw), 7) + raw


def integer(number: int, prefix: int, first: int = 0) -> bytes:
    """Encode an HPACK integer (RFC 7541, section 5.1), below the bits `first`."""
    most = (1 << prefix) - 1
    if number < most:
        return bytes((first | number,))
    out, number = bytearray((first | most,)), number - most
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def raw_headers(fragment: bytes, *, end: bool = False, stream: int = 1, size: int = MOST) -> bytes:
    """Return a HEADERS frame and the necessary CONTINUATION frames for a header block."""
    pieces = [fragment[start : start + size] for start in range(0, len(fragment), size)] or [b""]
    frames = []
    for number, piece in enumerate(pieces):
        flags = END_STREAM if end and number == 0 else 0
        flags |= END_HEADERS if number == len(pieces) - 1 else 0
        frames.append(frame(CONTINUATION if number else HEADERS, piece, flags, stream))
    return b"".join(frames)


def headers(*fields: Header, end: bool = False, stream: int = 1, size: int = MOST) -> bytes:
    """Encode header fields, pseudo-headers included, as frames."""
    return raw_headers(block(*fields), end=end, stream=stream, size=size)


def head(status: int | str = 200, *fields: Header, end: bool = False) -> bytes:
    """Return the head of a response."""
    return headers((":status", str(status)), *fields, end=end)


def data(content: bytes = b"", *, end: bool = True, stream: int = 1, size: int = MOST) -> bytes:
    """Return content in DATA frames, the last of which ends the stream."""
    pieces = [content[start : start + size] for start in range(0, len(content), size)] or [b""]
    flags = [0] * (len(pieces) - 1) + [END_STREAM if end else 0]
    return b"".join(frame(DATA, piece, flag, stream) for piece, flag in zip(pieces, flags, strict=True))


def padded(content: bytes, padding: int, *, end: bool = True, stream: int = 1) -> bytes:
    """Return a DATA frame with padding."""
    return frame(DATA, bytes((padding,)) + content + bytes(padding), PADDED | (END_STREAM if end else 0), stream)


def said(*parts: Part, end: End = End.HOLD) -> Answer:
    """Return an answer given frame by frame; the connection stays open until the client closes it."""
    return Answer((SETTINGS_ACK, *parts), end)


def reply(status: int | str = 200, body: bytes = b"", *fields: Header, length: bool = True) -> Answer:
    """Return an ordinary answer; the site fills in ``{port}`` and the like in headers."""
    announced = [("content-length", str(len(body)))] if length else []

    def make(fill: Callable[[str], str]) -> bytes:
        filled = [(name, fill(value)) for name, value in fields]
        return head(status, *filled, *announced, end=not body) + (data(body) if body else b"")

    return said(PortDependent(make))


def redirect(status: int, location: str, *fields: Header, body: bytes = b"moved") -> Answer:
    """Return a 3xx; `location` may hold placeholders such as ``{port}``."""
    return reply(status, body, ("location", location), *fields)


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived: fields in order, and the body."""

    fields: Sequence[Header]
    body: bytes

    def first(self, name: str) -> str:
        """Return the first value of a field; empty if there is none."""
        return next((value for key, value in self.fields if key == name), "")


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, grant: int = 0, begun: bytes = b""
) -> Received:
    """Read a client's opening and its one request.

    Args:
        grant: bytes by which a stream's window of 0 grows each time it is used up; 0 to send no updates.
        begun: the bytes of the opening that have been read already.

    Raises:
        AssertionError: the client breaks the protocol.
    """
    preface = begun + await reader.readexactly(len(PREFACE) - len(begun))
    assert preface == PREFACE, preface
    fragment, content, granted, ended = b"", b"", 0, False
    fields: list[Header] = []
    while not (fields and ended):
        kind, flags, stream, payload = await read_frame(reader)
        assert len(payload) <= MOST
        if stream == 0:
            continue
        if kind in (HEADERS, CONTINUATION):
            assert not flags & (PADDED | PRIORITIZED), "Go and we send neither"
            fragment += payload
            if flags & END_HEADERS:
                decoded = Decoder(max_header_list_size=1 << 20).decode(fragment, raw=True)
                fields = [(name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in decoded]
        elif kind == DATA:
            content += payload
        ended = ended or bool(kind in (HEADERS, DATA) and flags & END_STREAM)
        if grant:
            assert len(content) <= max(granted, FIRST_WINDOW), "more than it may send"
        while grant and granted <= len(content) and not ended:
            granted += grant
            writer.write(window_update(grant, 1))
    return Received(fields, content)


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    """Read a frame; return its type, flags, stream and payload."""
    start = await reader.readexactly(9)
    payload = await reader.readexactly(int.from_bytes(start[:3], "big"))
    return start[3], start[4], int.from_bytes(start[5:], "big"), payload
