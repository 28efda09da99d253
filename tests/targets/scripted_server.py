"""A scripted server: play one side of a dialogue with each client, over TCP or a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.targets import placeholders
from tests.targets.answers import End, Pause, Repeat
from tests.targets.site import LINGER_RESET, both_loopbacks

PATIENCE = 60.0
"""Seconds that a server waits for one event."""


@dataclass(frozen=True, slots=True)
class Hear:
    """Wait for a number of bytes or lines."""

    bytes: int = 0
    lines: int = 1


@dataclass(frozen=True, slots=True)
class Secure:
    """Start TLS as a server, with one of the test certificates."""

    certificate: str = "leaf"
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    client_ca: str | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """Close our direction of the connection, and continue reading."""


Turn = bytes | Pause | Repeat | Hear | Secure | Finish


@dataclass(frozen=True, slots=True)
class Script:
    """Half a dialogue: turns of sending and waiting."""

    turns: tuple[Turn, ...]
    end: End = End.CLOSE


def talk(*turns: Turn, end: End = End.CLOSE) -> Script:
    """Return a talk that ends with the connection."""
    return Script(turns, end)


def then_silence(*turns: Turn) -> Script:
    """Return a talk after which the connection stays open until the client closes it."""
    return Script(turns, End.HOLD)


@dataclass
class ScriptedServer:
    """A scripted target; an async context manager that listens while it is entered.

    Args:
        script: the turns of the dialogue, the same for each client.
        pki: the directory with the certificates, and for the socket.
        over: ``tcp``, ``unix`` or ``abstract``.
    """

    script: Script
    pki: Path
    over: str = "tcp"
    heard: list[str] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)
    """Set once the whole script has been played to a client."""
    _names: dict[str, str] = field(default_factory=dict)
    _sockets: list[socket.socket] = field(default_factory=list)
    _listening: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _starting: threading.Lock = field(default_factory=threading.Lock)  # a listed thread has started

    async def __aenter__(self) -> Self:
        dead = socket.socket()
        dead.bind(("127.0.0.1", 0))  # bound and never listening
        self._sockets.append(dead)
        self._names["dead"] = str(dead.getsockname()[1])
        self._listening = self._listeners()
        self._sockets += self._listening
        for listener in self._listening:
            listener.listen()
            self._start(lambda listener=listener: self._accept(listener))  # type: ignore[misc]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in [*self._sockets]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the threads that wait for it
            sock.close()
        with self._starting:
            threads = [*self._threads]
        for thread in threads:
            await asyncio.to_thread(thread.join, PATIENCE)  # the client may need the loop to close
            assert not thread.is_alive()

    def _listeners(self) -> list[socket.socket]:
        if self.over == "tcp":
            sockets = both_loopbacks()
            self._names["port"] = str(sockets[0].getsockname()[1])
            return sockets
        name = f"{uuid.uuid4().hex}.sock"
        listener = socket.socket(socket.AF_UNIX)
        if self.over == "abstract":
            listener.bind(f"\0{name}")
            self._names["socket"] = f"@{name}"
        else:
            listener.bind(str(self.pki / name))
            self._names["socket"] = f"{self.pki.name}/{name}"
        return [listener]

    @property
    def path(self) -> str:
        """The absolute path of its Unix socket."""
        return str(self.pki.parent / self._names["socket"])

    def fill(self, text: str) -> str:
        """Put values in place of ``{port}``, ``{dead}`` and ``{socket}``."""
        return placeholders.fill(text, self._names)

    def blank(self, text: str) -> str:
        """Replace these values by their names."""
        return placeholders.blank(text, self._names)

    async def finished(self) -> None:
        """Wait until all clients have disconnected, for at most `PATIENCE` seconds."""
        with self._starting:
            threads = self._threads[len(self._listening) :]
        for thread in threads:
            await asyncio.to_thread(thread.join, PATIENCE)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        with self._starting:
            self._threads.append(thread)
            thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = listener.accept()
                connected.settimeout(PATIENCE)
                self._sockets.append(connected)
                self._start(lambda connected=connected: self._serve(connected))  # type: ignore[misc]

    def _serve(self, connected: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for turn in self.script.turns:
                connected = self._take_turn(turn, connected)
            self.silent.set()
            if self.script.end is End.RESET:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            else:
                if self.script.end is End.CLOSE:
                    with contextlib.suppress(ssl.SSLError):
                        _finish(connected)
                self._note(_all(connected))
        connected.close()

    def _take_turn(self, turn: Turn, connected: socket.socket) -> socket.socket:
        match turn:
            case bytes():
                connected.sendall(turn)
            case Pause(seconds):
                time.sleep(seconds)
            case Repeat(data, times, every):
                for _ in range(times):
                    time.sleep(every)
                    connected.sendall(data)
            case Hear(size, lines):
                heard = b""
                while len(heard) < size or (not size and heard.count(b"\n") < lines):
                    heard += (more := connected.recv(1))
                    if not more:
                        break
                self._note(heard)
            case Secure():
                connected = self._secure(turn, connected)
                self._sockets.append(connected)
            case Finish():
                connected.shutdown(socket.SHUT_WR)
        return connected

    def _secure(self, how: Secure, connected: socket.socket) -> socket.socket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version, context.maximum_version = how.minimum, how.maximum
        context.load_cert_chain(self.pki / f"{how.certificate}.pem", self.pki / f"{how.certificate}.key")
        if how.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.pki / f"{how.client_ca}.pem")
        return context.wrap_socket(connected, server_side=True)

    def _note(self, heard: bytes) -> None:
        if heard:
            self.heard.append("the beginning of TLS" if heard.startswith(b"\x16\x03") else repr(heard))


def _finish(connected: socket.socket) -> None:
    if isinstance(connected, ssl.SSLSocket):
        connected = connected.unwrap()
    connected.shutdown(socket.SHUT_WR)


def _all(connected: socket.socket) -> bytes:
    """Read until the client closes."""
    heard = b""
    while piece := connected.recv(65536):
        heard += piece
    return heard
