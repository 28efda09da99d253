"""WebSocket after the upgrade, without I/O (RFC 6455, sections 5 to 7): bytes to messages and messages to bytes.

Frames are read and written by the websockets library. A message of text is taken as it comes, UTF-8 or not, as
Go's client takes it: a probe that passes there must not fail here.
"""

from __future__ import annotations

import logging
from collections import deque

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from probe_exporter.prober.failure import ProbeFailed, Reason

MESSAGE_LIMIT = 16 * 1024 * 1024
"""Bytes of the largest message that is taken, in one frame or many."""

SLICE = 4096
"""Bytes that are read in one turn: with frames as small as can be, about 5 ms of work."""

# The library's own log would tell what was said, secrets included: it goes nowhere.
_NOWHERE = logging.Logger("websockets", logging.CRITICAL)  # noqa: LOG001  (not one that anybody listens to)


class Conversation:
    """What both sides say after the upgrade: bytes in and messages out, and the reverse. Pings are answered."""

    def __init__(self) -> None:
        self._protocol = Protocol(CLIENT, max_size=MESSAGE_LIMIT, logger=_NOWHERE)
        self._fed = b""
        self._read = 0  # bytes of it
        self._message = bytearray()  # the fragments so far
        self._messages: deque[bytes] = deque()

    @property
    def hungry(self) -> bool:
        """Whether all that was fed has been read."""
        return self._read >= len(self._fed)

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection, once it is hungry; ``b""`` says that there are no more."""
        self._fed, self._read = data, 0
        if not data:
            self._protocol.receive_eof()

    def next(self) -> bytes | None:
        """The next message; None where it takes another turn, or more data, or where `failure` says why."""
        if not self._messages and not self.hungry:
            self._protocol.receive_data(self._fed[self._read : self._read + SLICE])
            self._read += SLICE
            self._collect()
        return self._messages.popleft() if self._messages else None

    def _collect(self) -> None:
        """Put the fragments that came together (RFC 6455, 5.4)."""
        for frame in self._protocol.events_received():
            if isinstance(frame, Frame) and frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._message += frame.data
                if frame.fin:
                    self._messages.append(bytes(self._message))
                    self._message.clear()

    @property
    def failure(self) -> ProbeFailed | None:
        """Why no more messages come, beyond those that `next` still has; None while they may."""
        error, goodbye = self._protocol.parser_exc, self._protocol.close_rcvd
        if isinstance(error, EOFError):
            return ProbeFailed(Reason.WEBSOCKET_CLOSED, "the connection ended, and no close frame came before")
        if isinstance(error, PayloadTooBig):
            return ProbeFailed(
                Reason.WEBSOCKET_MESSAGE_TOO_LARGE, f"a message has more than {MESSAGE_LIMIT} bytes: {error}"
            )
        if isinstance(error, ProtocolError | UnicodeDecodeError):
            return ProbeFailed(Reason.WEBSOCKET_PROTOCOL_ERROR, f"the server breaks the protocol: {error}")
        if error is not None:
            raise error
        if goodbye is not None:
            return ProbeFailed(
                Reason.WEBSOCKET_CLOSED,
                f"the server closed the WebSocket: {goodbye}",
                code=int(goodbye.code),
                close_reason=goodbye.reason,
            )
        return None

    # What is said to a server that has said goodbye is lost, as it is where its goodbye comes a moment later.

    def say(self, text: bytes) -> None:
        """Send a message of text."""
        if self._protocol.state is OPEN:
            self._protocol.send_text(text)

    def send(self, data: bytes) -> None:
        """Send a message of bytes."""
        if self._protocol.state is OPEN:
            self._protocol.send_binary(data)

    def say_goodbye(self) -> None:
        """Begin to close, if the server has not."""
        if self._protocol.state is OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)

    def outgoing(self) -> bytes:
        """What is to be sent now: messages, answers to pings, goodbyes."""
        return b"".join(self._protocol.data_to_send())
