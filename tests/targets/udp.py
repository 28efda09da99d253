"""A `Responder`: a scripted UDP server on both loopback addresses that keeps the datagrams it receives."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self, cast

from tests.targets import placeholders
from tests.targets.answers import Pause
from tests.targets.site import both_loopbacks


class Trick(Enum):
    """An answer other than a datagram from the socket that was asked."""

    LEAVE = "leave"  # close the port: the next datagram to it causes an ICMP error
    STRANGER = "stranger"  # another socket answers, from another port


Part = bytes | Pause | Trick


@dataclass
class Responder:
    """A scripted target; an async context manager that listens while it is entered.

    Args:
        answers: the answer to a datagram, by its bytes; ``b"*"`` for any other.
    """

    answers: Mapping[bytes, Sequence[Part]]
    heard: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        dead = both_loopbacks(socket.SOCK_DGRAM)  # closed below; the kernel does not give out the same port next
        self._names["dead"] = str(dead[0].getsockname()[1])
        for sock in dead:
            sock.close()
        sockets = both_loopbacks(socket.SOCK_DGRAM)
        self._names["port"] = str(sockets[0].getsockname()[1])
        for sock in sockets:
            transport, _ = await loop.create_datagram_endpoint(lambda sock=sock: _Socket(self, sock), sock=sock)  # type: ignore[misc]
            self._open.callback(transport.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._open.close()
        await asyncio.sleep(0)

    def fill(self, text: str) -> str:
        """Replace ``{port}``, and ``{dead}`` on which no process listens, by port numbers."""
        return placeholders.fill(text, self._names)

    def blank(self, text: str) -> str:
        """Replace port numbers by their names."""
        return placeholders.blank(text, self._names)

    def hear(self, data: bytes, sender: tuple[str, int], us: _Socket) -> None:
        """Note a datagram, and start to answer it."""
        self.heard.append(repr(data) if len(data) < 1000 else f"{len(data)} bytes")
        self.sources.append(sender[0])
        task = asyncio.create_task(self._answer(self.answers.get(data, self.answers.get(b"*", ())), sender, us))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, parts: Sequence[Part], sender: tuple[str, int], us: _Socket) -> None:
        for part in parts:
            match part:
                case bytes():
                    us.sock.sendto(part, sender)  # the transport does not send empty datagrams
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Trick.LEAVE:
                    us.transport.close()
                case Trick.STRANGER:
                    with socket.socket(
                        socket.AF_INET6 if ":" in sender[0] else socket.AF_INET, socket.SOCK_DGRAM
                    ) as other:
                        other.sendto(b"forged", sender)


class _Socket(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def __init__(self, responder: Responder, sock: socket.socket) -> None:
        self.sock = sock
        self._responder = responder

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        self._responder.hear(data, sender, self)
