"""Encode and decode HTTP/2 frames, without I/O (RFC 9113, sections 4, 6 and 7)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum

from probe_exporter.prober.failure import ProbeFailed, Reason

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 2, 4, 5, 6

MAX_WINDOW_BYTES = 2**31 - 1
INITIAL_WINDOW_BYTES = 65535
"""Flow-control window of a connection and of each stream before any change (RFC 9113, section 6.9.2)."""

MAX_PAYLOAD_BYTES = 16384
"""Payload of a frame, unless the receiver allows more. We never do, since a frame is buffered until it is complete."""

_START = struct.Struct(">BHBBI")  # 24 bits of length, kind, flags, stream
_START_BYTES = _START.size
_SETTING = struct.Struct(">HI")


class Code(IntEnum):
    """Error codes: why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Violation(ProbeFailed):
    """The peer violates the protocol; `code` is the error code to send."""

    def __init__(
        self, what: str, code: Code = Code.PROTOCOL_ERROR, reason: Reason = Reason.HTTP_PROTOCOL_ERROR
    ) -> None:
        super().__init__(reason, f"the response is not HTTP/2: {what}")
        self.code = code


def describe(code: int) -> str:
    """Return the name of an error code."""
    try:
        return Code(code).name
    except ValueError:
        return f"error {code}"


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview) -> bytes:
    """Encode a frame. `payload` must not be longer than the peer allows."""
    size = len(payload)
    return _START.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(values: Mapping[int, int]) -> bytes:
    """Encode a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Decode the payload of a SETTINGS frame, whose length is a multiple of 6."""
    return _SETTING.iter_unpack(payload)


def number(value: int) -> bytes:
    """Encode the payload of WINDOW_UPDATE or RST_STREAM."""
    return value.to_bytes(4, "big")


class FrameReader:
    """Splits a byte stream into frames."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Add data that has arrived."""
        self._data = self._data[self._at :] + data
        self._at = 0

    def next(self) -> tuple[int, int, int, bytes] | None:
        """Return kind, flags, stream and payload of the next frame; None if it is not complete.

        Raises:
            Violation: the frame is larger than we allow. Data of any other protocol looks like that too.
        """
        data, at = self._data, self._at
        start = at + _START_BYTES
        if start > len(data):
            return None
        high, low, kind, flags, stream = _START.unpack_from(data, at)
        size = high << 16 | low
        if size > MAX_PAYLOAD_BYTES:
            raise _too_large(data[at:start], size)
        end = start + size
        if end > len(data):
            return None
        self._at = end
        return kind, flags, stream & MAX_WINDOW_BYTES, data[start:end]  # the highest bit is reserved


def _too_large(start: bytes, size: int) -> Violation:
    if start.startswith(b"HTTP/"):
        return Violation("the server agreed on HTTP/2 and answers in HTTP/1")
    return Violation(f"a frame announces {size} bytes ({start!r})", Code.FRAME_SIZE_ERROR)
