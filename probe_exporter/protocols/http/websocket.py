"""Encode and decode WebSocket messages, without I/O (RFC 6455, sections 5 to 7).

The model:

* The websockets library knows the rules: it answers pings and close frames, and checks the headers and the order of
  frames. It would copy the payload of a data frame several times, so it gets each data frame without its payload, which
  is gathered here.
* A message in one frame that has arrived completely changes nothing in the library's state, and most conversations
  consist of such messages. They are read and written without the library, which takes several times as long. It is made
  when anything else arrives: a control frame, a fragment, a part of a frame, the end of the connection.
* A text message is accepted even if it is not UTF-8, as Go's client does: a probe that succeeds there must not fail
  here.
* `TURN_FRAMES` are decoded at a time, so that a flood of tiny frames does not hold the event loop.
"""

from __future__ import annotations

import logging
import os
import struct

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # the library was built without its code in C
    from websockets.utils import apply_mask

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http.pieces import Pieces

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Size of a message, in one frame or many."""

TURN_FRAMES = 256
"""Frames that are decoded in one turn: about 6 ms of work if all of them are pings."""

# The library would log the content of messages, including secrets.
_SILENT = logging.Logger("websockets", logging.CRITICAL)  # noqa: LOG001  (a logger without handlers)


# Bits of a frame's first two bytes (RFC 6455, 5.2).
_FINAL, _CONTROL, _MASKED = 0x80, 0x08, 0x80

_TEXT, _BINARY, _CLOSE = _FINAL | Opcode.TEXT, _FINAL | Opcode.BINARY, _FINAL | Opcode.CLOSE
"""First bytes of frames that are whole messages, and of a close frame."""

_NORMAL_CLOSURE = Close(CloseCode.NORMAL_CLOSURE, "").serialize()

_MAX_CONTROL_BYTES = 125
"""Payload of a ping, pong or close frame (RFC 6455, 5.5)."""

_TOO_LONG = (_MAX_CONTROL_BYTES + 1).to_bytes(2, "big") + bytes(_MAX_CONTROL_BYTES + 1)
"""Length and payload of a control frame that the library refuses."""

_MAX_SHORT_BYTES = 125
"""Payload of a frame whose length fits into the second byte (RFC 6455, 5.2)."""

_LENGTH_BYTES = {126: 2, 127: 8}
"""Bytes of a length that follow a header's first two, by the length in its second byte (RFC 6455, 5.2)."""


class Conversation:
    """One WebSocket after the upgrade: bytes in, messages out, and the reverse. Pings are answered."""

    def __init__(self) -> None:
        self._library: Protocol | None = None  # made by `_protocol`
        self._frames: list[bytes] = []  # to send, made without the library
        self._is_closed = False  # without the library
        self._fed = b""
        self._read = 0  # bytes of _fed
        self._header = bytearray()  # of the current frame
        self._missing = 0  # bytes of its payload
        self._message = Pieces()  # an incomplete one
        self._messages: list[Pieces] = []  # one at most
        self._is_too_large = False

    @property
    def _protocol(self) -> Protocol:
        """The library's state, from the first event on that changes it."""
        if self._library is None:
            self._library = Protocol(CLIENT, logger=_SILENT)
        return self._library

    @property
    def only_waits(self) -> bool:
        """Whether there is nothing to do but to wait for data: nothing to decode, to send or to report."""
        return self._library is None and not self._frames and self._read >= len(self._fed)

    @property
    def needs_data(self) -> bool:
        """Whether all data has been decoded."""
        return self._read >= len(self._fed)

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection; ``b""`` is its end. Call it only if `needs_data`."""
        self._fed, self._read = data, 0
        if not data:
            self._protocol.receive_eof()

    def next(self) -> bytes | Pieces | None:
        """Return the next message; None if it needs another turn or more data, or if `failure` is set."""
        if self._library is None:
            if self._read >= len(self._fed):
                return None
            if (message := self._whole_message()) is not None:
                return message
        frames = 0
        while frames < TURN_FRAMES and not self.needs_data and not self._messages:
            frames += self._decode()
            if self._is_over:
                self._fed = b""
        self._protocol.events_received()  # it would keep them
        return self._messages.pop() if self._messages else None

    def _whole_message(self) -> bytes | None:
        """Return the next message if it is in one frame that has arrived completely."""
        data, start = self._fed, self._read + 2
        if self._header or len(data) < start or data[start - 2] not in (_TEXT, _BINARY):
            return None
        length = data[start - 1]
        if length > _MAX_SHORT_BYTES:
            if length & _MASKED:
                return None
            start, head = start + _LENGTH_BYTES[length], start
            length = int.from_bytes(data[head:start], "big")
        end = start + length
        if end > len(data) or length > MAX_MESSAGE_BYTES:
            return None
        self._read = end
        return data[start:end]

    @property
    def _is_over(self) -> bool:
        """Whether the library ignores all further data."""
        protocol = self._library
        return self._is_too_large or (
            protocol is not None and (protocol.parser_exc is not None or protocol.close_rcvd is not None)
        )

    def _decode(self) -> bool:
        """Decode a part of a frame; return whether it was the end of the header."""
        if self._missing:
            self._take_payload(self._next(self._missing))
            return False
        self._header += self._next(_missing_bytes(self._header))
        if _missing_bytes(self._header):
            return False
        self._begin_frame()
        return True

    def _next(self, size: int) -> bytes:
        piece = self._fed[self._read : self._read + size]
        self._read += len(piece)
        return piece

    def _begin_frame(self) -> None:
        header, self._missing = self._header, _payload_bytes(self._header)
        if not header[0] & _CONTROL:
            if self._message.length + self._missing > MAX_MESSAGE_BYTES:
                self._is_too_large = True
                self._protocol.fail(CloseCode.MESSAGE_TOO_BIG)
                return
            self._protocol.receive_data(bytes((header[0], header[1] & _MASKED)))
        elif self._missing > _MAX_CONTROL_BYTES:
            self._protocol.receive_data(bytes((header[0], 126)) + _TOO_LONG)
        else:
            self._protocol.receive_data(bytes(header))
        if not self._missing:
            self._end_frame()

    def _take_payload(self, piece: bytes) -> None:
        self._missing -= len(piece)
        if self._header[0] & _CONTROL:
            self._protocol.receive_data(piece)
        else:
            self._message.add(piece)
        if not self._missing:
            self._end_frame()

    def _end_frame(self) -> None:
        first = self._header[0]
        self._header.clear()
        if first & _FINAL and not first & _CONTROL and not self._is_over:
            self._messages.append(self._message)
            self._message = Pieces()

    @property
    def failure(self) -> ProbeFailed | None:
        """Why no more messages come after those that `next` still returns; None while more may come."""
        if self._library is None:
            return None
        error, close_frame = self._library.parser_exc, self._library.close_rcvd
        if isinstance(error, EOFError):
            return ProbeFailed(Reason.WEBSOCKET_CLOSED, "the connection ended, and no close frame came before")
        if self._is_too_large:
            return ProbeFailed(Reason.WEBSOCKET_MESSAGE_TOO_LARGE, f"a message has more than {MAX_MESSAGE_BYTES} bytes")
        if isinstance(error, ProtocolError | UnicodeDecodeError):
            return ProbeFailed(Reason.WEBSOCKET_PROTOCOL_ERROR, f"the server violates the protocol: {error}")
        if error is not None:
            raise error
        if close_frame is not None:
            return ProbeFailed(
                Reason.WEBSOCKET_CLOSED,
                f"the server closed the WebSocket: {close_frame}",
                code=int(close_frame.code),
                close_reason=close_frame.reason,
            )
        return None

    # Messages after the server's close frame are dropped; the server would not read them either.

    def say(self, text: bytes) -> None:
        """Queue a text message."""
        if self._library is None:
            self._queue(_TEXT, text)
        elif self._library.state is OPEN:
            self._library.send_text(text)

    def send(self, data: bytes) -> None:
        """Queue a binary message."""
        if self._library is None:
            self._queue(_BINARY, data)
        elif self._library.state is OPEN:
            self._library.send_binary(data)

    def close(self) -> None:
        """Queue a close frame, unless the server has sent one. It is the last frame of this side."""
        if self._library is None:
            self._queue(_CLOSE, _NORMAL_CLOSURE)
            self._is_closed = True
        elif self._library.state is OPEN:
            self._library.send_close(CloseCode.NORMAL_CLOSURE)

    def _queue(self, first: int, payload: bytes) -> None:
        if not self._is_closed:
            self._frames.append(_frame(first, payload))

    def outgoing(self) -> bytes:
        """Return the bytes to send: messages, pongs, close frames."""
        frames, self._frames = self._frames, []
        if self._library is not None:
            frames += self._library.data_to_send()
        return b"".join(frames)


def _frame(first: int, payload: bytes) -> bytes:
    """Return a frame of a client, whose payload is masked by a random key (RFC 6455, 5.2 and 5.3)."""
    size, key = len(payload), os.urandom(4)
    if size <= _MAX_SHORT_BYTES:
        head = (first << 8 | _MASKED | size).to_bytes(2, "big")
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, _MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", first, _MASKED | 127, size)
    return b"".join((head, key, apply_mask(payload, key)))


def _missing_bytes(header: bytearray) -> int:
    """Return how many bytes of a frame's header are missing."""
    return (2 if len(header) < 2 else 2 + _LENGTH_BYTES.get(header[1] & 127, 0)) - len(header)


def _payload_bytes(header: bytearray) -> int:
    """Return the length of a frame's payload; `header` is complete."""
    return header[1] & 127 if len(header) == 2 else int.from_bytes(header[2:], "big")
