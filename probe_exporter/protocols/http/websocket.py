"""Encode and decode WebSocket messages, without I/O (RFC 6455, sections 5 to 7).

The websockets library writes frames, and checks the headers and the order of those that arrive. It would copy the
payload of a data frame several times, so it gets each data frame without its payload, which is gathered here. A text
message is accepted even if it is not UTF-8, as Go's client does: a probe that succeeds there must not fail here.
`TURN_FRAMES` are decoded at a time, so that a flood of tiny frames does not hold the event loop.
"""

from __future__ import annotations

import logging
from collections import deque

from websockets.exceptions import ProtocolError
from websockets.frames import CloseCode
from websockets.protocol import CLIENT, OPEN, Protocol

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

_MAX_CONTROL_BYTES = 125
"""Payload of a ping, pong or close frame (RFC 6455, 5.5)."""

_TOO_LONG = (_MAX_CONTROL_BYTES + 1).to_bytes(2, "big") + bytes(_MAX_CONTROL_BYTES + 1)
"""Length and payload of a control frame that the library refuses."""

_LENGTH_BYTES = {126: 2, 127: 8}
"""Bytes of a length that follow a header's first two, by the length in its second byte (RFC 6455, 5.2)."""


class Conversation:
    """One WebSocket after the upgrade: bytes in, messages out, and the reverse. Pings are answered."""

    def __init__(self) -> None:
        self._protocol = Protocol(CLIENT, logger=_SILENT)
        self._fed = b""
        self._read = 0  # bytes of _fed
        self._header = bytearray()  # of the current frame
        self._missing = 0  # bytes of its payload
        self._message = Pieces()  # an incomplete one
        self._messages: deque[Pieces] = deque()
        self._is_too_large = False

    @property
    def needs_data(self) -> bool:
        """Whether all data has been decoded."""
        return self._read >= len(self._fed)

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection; ``b""`` is its end. Call it only if `needs_data`."""
        self._fed, self._read = data, 0
        if not data:
            self._protocol.receive_eof()

    def next(self) -> Pieces | None:
        """Return the next message; None if it needs another turn or more data, or if `failure` is set."""
        frames = 0
        while frames < TURN_FRAMES and not self.needs_data and not self._messages:
            frames += self._decode()
            if self._is_over:
                self._fed = b""
        self._protocol.events_received()  # it would keep them
        return self._messages.popleft() if self._messages else None

    @property
    def _is_over(self) -> bool:
        """Whether the library ignores all further data."""
        return self._protocol.parser_exc is not None or self._protocol.close_rcvd is not None or self._is_too_large

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
        error, close_frame = self._protocol.parser_exc, self._protocol.close_rcvd
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
        if self._protocol.state is OPEN:
            self._protocol.send_text(text)

    def send(self, data: bytes) -> None:
        """Queue a binary message."""
        if self._protocol.state is OPEN:
            self._protocol.send_binary(data)

    def close(self) -> None:
        """Queue a close frame, unless the server has sent one."""
        if self._protocol.state is OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)

    def outgoing(self) -> bytes:
        """Return the bytes to send: messages, pongs, close frames."""
        return b"".join(self._protocol.data_to_send())


def _missing_bytes(header: bytearray) -> int:
    """Return how many bytes of a frame's header are missing."""
    return (2 if len(header) < 2 else 2 + _LENGTH_BYTES.get(header[1] & 127, 0)) - len(header)


def _payload_bytes(header: bytearray) -> int:
    """Return the length of a frame's payload; `header` is complete."""
    return header[1] & 127 if len(header) == 2 else int.from_bytes(header[2:], "big")
