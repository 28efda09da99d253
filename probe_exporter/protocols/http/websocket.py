"""Encode and decode WebSocket messages, without I/O (RFC 6455, sections 5 to 7).

The websockets library reads and writes frames. A text message is accepted even if it is not UTF-8, as Go's client does:
a probe that succeeds there must not fail here. Data is decoded in pieces of `TURN_BYTES`, so that a flood of tiny
frames does not hold the event loop.
"""

from __future__ import annotations

import logging
from collections import deque

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from probe_exporter.prober.failure import ProbeFailed, Reason

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Size of a message, in one frame or many."""

TURN_BYTES = 4096
"""Bytes that are decoded in one turn: about 5 ms of work for the smallest frames."""

# The library would log the content of messages, including secrets.
_SILENT = logging.Logger("websockets", logging.CRITICAL)  # noqa: LOG001  (a logger without handlers)


class Conversation:
    """One WebSocket after the upgrade: bytes in, messages out, and the reverse. Pings are answered."""

    def __init__(self) -> None:
        self._protocol = Protocol(CLIENT, max_size=MAX_MESSAGE_BYTES, logger=_SILENT)
        self._fed = b""
        self._read = 0  # bytes of _fed
        self._message = bytearray()  # fragments of an incomplete message
        self._messages: deque[bytes] = deque()

    @property
    def hungry(self) -> bool:
        """Whether all data has been decoded."""
        return self._read >= len(self._fed)

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection; ``b""`` is its end. Call it only if `hungry`."""
        self._fed, self._read = data, 0
        if not data:
            self._protocol.receive_eof()

    def next(self) -> bytes | None:
        """Return the next message; None if it needs another turn or more data, or if `failure` is set."""
        if not self._messages and not self.hungry:
            self._protocol.receive_data(self._fed[self._read : self._read + TURN_BYTES])
            self._read += TURN_BYTES
            self._collect()
        return self._messages.popleft() if self._messages else None

    def _collect(self) -> None:
        """Join fragments to messages (RFC 6455, 5.4)."""
        for frame in self._protocol.events_received():
            if isinstance(frame, Frame) and frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                if frame.fin and not self._message:  # the usual case, without a copy of a large message
                    self._messages.append(bytes(frame.data))
                    continue
                self._message += frame.data
                if frame.fin:
                    self._messages.append(bytes(self._message))
                    self._message.clear()

    @property
    def failure(self) -> ProbeFailed | None:
        """Why no more messages come after those that `next` still returns; None while more may come."""
        error, close_frame = self._protocol.parser_exc, self._protocol.close_rcvd
        if isinstance(error, EOFError):
            return ProbeFailed(Reason.WEBSOCKET_CLOSED, "the connection ended, and no close frame came before")
        if isinstance(error, PayloadTooBig):
            return ProbeFailed(
                Reason.WEBSOCKET_MESSAGE_TOO_LARGE, f"a message has more than {MAX_MESSAGE_BYTES} bytes: {error}"
            )
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
