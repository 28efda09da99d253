"""HTTP/2's frames, to bytes and back, without I/O (RFC 9113, sections 4, 6 and 7)."""

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

LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 65535
"""Bytes that a connection and each of its streams take before anybody says otherwise."""

LARGEST_PAYLOAD = 16384
"""Of a frame, unless a peer allows more. We never do: a frame is held until it is whole."""

_START = struct.Struct(">BHBBI")  # 24 bits of length, kind, flags, stream
_SETTING = struct.Struct(">HI")


class Code(IntEnum):
    """Why a stream or a connection ends."""

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
    """The peer breaks the protocol; `code` is what it is told about that."""

    def __init__(
        self, what: str, code: Code = Code.PROTOCOL_ERROR, reason: Reason = Reason.HTTP_PROTOCOL_ERROR
    ) -> None:
        super().__init__(reason, f"the response is not HTTP/2: {what}")
        self.code = code


def describe(code: int) -> str:
    """An error code in the words of the RFC."""
    try:
        return Code(code).name
    except ValueError:
        return f"error {code}"


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview) -> bytes:
    """One frame; `payload` is no longer than the peer allows."""
    size = len(payload)
    return _START.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """The identifiers and values of a SETTINGS frame, whose length has been looked at."""
    return _SETTING.iter_unpack(payload)


def number(value: int) -> bytes:
    """The payload of WINDOW_UPDATE and RST_STREAM."""
    return value.to_bytes(4, "big")


class FrameReader:
    """Takes a byte stream apart into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of each frame that is whole by now.

        Raises:
            Violation: a frame is larger than we allow, which is also what anything but HTTP/2 looks like.
        """
        data = self._rest + data
        at, end = 0, len(data)
        while end - at >= _START.size:
            high, low, kind, flags, stream = _START.unpack_from(data, at)
            size = high << 16 | low
            if size > LARGEST_PAYLOAD:
                raise _too_large(data[at : at + _START.size], size)
            after = at + _START.size + size
            if after > end:
                break
            yield kind, flags, stream & LARGEST_WINDOW, data[at + _START.size : after]  # the highest bit is reserved
            at = after
        self._rest = data[at:]


def _too_large(start: bytes, size: int) -> Violation:
    if start.startswith(b"HTTP/"):
        return Violation("the server agreed on HTTP/2 and answers in HTTP/1")
    return Violation(f"a frame announces {size} bytes ({start!r})", Code.FRAME_SIZE_ERROR)
