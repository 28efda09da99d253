"""A scripted WebSocket server: it upgrades correctly or as a test says, and keeps the frames that it receives.

It encodes and decodes frames without the exporter's code.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.targets.answers import Answer, End, Header, Part, head
from tests.targets.site import Request, Site

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NAMES = {CONTINUATION: "continuation", TEXT: "text", BINARY: "binary", CLOSE: "close", PING: "ping", PONG: "pong"}

ACCEPT = "ACCEPT-KEY"
"""Placeholder in an answer for the value that belongs to the client's key."""

UPGRADE: tuple[Header, ...] = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", ACCEPT))


def frame(
    payload: bytes = b"", opcode: int = TEXT, *, fin: bool = True, reserved: int = 0, mask: bytes = b"", size: int = 0
) -> bytes:
    """Encode a frame (RFC 6455, section 5.2).

    Args:
        reserved: the three reserved bits.
        mask: four bytes that mask the payload, which a server must not do; empty for none.
        size: a false length of the payload, in eight bytes; 0 for the true length in its shortest form.
    """
    masked = 0x80 if mask else 0
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    if size:
        length = struct.pack(">BQ", masked | 127, size)
    elif len(payload) < 126:
        length = bytes([masked | len(payload)])
    elif len(payload) < 65536:
        length = struct.pack(">BH", masked | 126, len(payload))
    else:
        length = struct.pack(">BQ", masked | 127, len(payload))
    return bytes([first]) + length + mask + (_masked(payload, mask) if mask else payload)


def _masked(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def close(code: int = 1000, reason: str = "") -> bytes:
    """Return a close frame."""
    return frame(struct.pack(">H", code) + reason.encode(), CLOSE)


def upgraded(*parts: Part, end: End = End.HOLD, headers: Sequence[Header] = UPGRADE) -> Answer:
    """Return the answer to the upgrade with the first part in the same segment; then the server reads."""
    first, rest = (parts[0], parts[1:]) if parts and isinstance(parts[0], bytes) else (b"", parts)
    assert isinstance(first, bytes)
    return Answer((head("101 Switching Protocols", headers) + first, *rest), end)


@dataclass
class WebsocketSite(Site):
    """A site whose pages are WebSocket endpoints; `heard` describes the frames that arrived."""

    heard: list[str] = field(default_factory=list)

    async def _note(self, request: Request) -> Answer | None:
        answer = await super()._note(request)
        keys = request.all("Sec-WebSocket-Key")
        if answer is None or not keys:
            return answer
        return replace(answer, parts=tuple(_accepting(part, keys[0]) for part in answer.parts))

    async def _play(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in answer.parts:
            await self._say(part, writer)
        if answer.end is End.HOLD:
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    self.heard.append(await _hear(reader))
        await super()._play(Answer((), answer.end), reader, writer)

    async def quiet(self) -> None:
        """Wait until all clients have disconnected."""
        await asyncio.wait_for(asyncio.gather(*self._tasks, return_exceptions=True), 25)


def _accepting(part: Part, key: str) -> Part:
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    return part.replace(ACCEPT.encode(), base64.b64encode(digest)) if isinstance(part, bytes) else part


async def _hear(reader: asyncio.StreamReader) -> str:
    """Read a client's frame and return it as "kind payload"."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    if not second & 0x80:
        return "a frame that is not masked"
    mask = await reader.readexactly(4)
    payload = _masked(await reader.readexactly(size), mask)
    kind = NAMES.get(first & 0x0F, "unknown")
    if kind == "close" and payload:
        return f"close {int.from_bytes(payload[:2], 'big')} {payload[2:].decode()}".strip()
    whole = "" if first & 0x80 else " and more"
    return f"{kind} {payload!r}{whole}" if size < 1000 else f"{kind} of {size} bytes{whole}"
