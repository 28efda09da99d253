"""A peer on loopback whose every byte a test sends, and functions to connect to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest

from probe_exporter.network.connection import Connection
from probe_exporter.network.settings import ConnectSettings
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.prober.run import Probe
from probe_exporter.tls.settings import TLSSettings
from tests.targets import Pki

RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 seconds
NO_TIME = 25.0
"""Seconds after which a step of a test counts as hanging, even on a slow machine."""


def a_probe() -> Probe:
    loop = asyncio.get_running_loop()
    return Probe("target", loop.time() + 60, loop.time)


Play = Callable[[socket.socket], Awaitable[None]]


@asynccontextmanager
async def peer(play: Play, family: int = socket.AF_INET, receive_buffer: int = 0) -> AsyncIterator[int]:
    """Listen on a loopback port and call `play` for every client; close the sockets at the end."""
    loop = asyncio.get_running_loop()
    with socket.socket(family) as listener:
        if receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        listener.listen()
        listener.setblocking(False)
        tasks: set[asyncio.Task[None]] = set()
        taken: list[socket.socket] = []

        async def serve(connected: socket.socket) -> None:
            with connected, contextlib.suppress(ConnectionError):
                await play(connected)

        def accept() -> None:  # not `sock_accept`, which loses the client's socket if it is cancelled in that moment
            with contextlib.suppress(BlockingIOError, ConnectionError):
                connected, _ = listener.accept()
                connected.setblocking(False)
                taken.append(connected)
                tasks.add(asyncio.create_task(serve(connected)))

        loop.add_reader(listener, accept)
        try:
            yield listener.getsockname()[1]
        finally:
            loop.remove_reader(listener)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for connected in taken:
                connected.close()
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome


async def take(connected: socket.socket, size: int = 65536) -> bytes:
    return await asyncio.get_running_loop().sock_recv(connected, size)


async def say(connected: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connected, data)


async def hold(connected: socket.socket) -> None:
    """Send nothing until the client closes."""
    while await take(connected):
        pass


async def greet(connected: socket.socket) -> None:
    await say(connected, b"hello")


async def everything(connection: Connection) -> bytes:
    data = b""
    while piece := await connection.read():
        data += piece
    return data


async def failing(awaitable: Awaitable[object]) -> ProbeFailed:
    with pytest.raises(ProbeFailed) as failed:
        await asyncio.wait_for(awaitable, NO_TIME)
    return failed.value


class TlsPeer:
    """A TLS server in a thread, for one client; it keeps the client's first data and the result of the handshake.

    Attributes:
        failure: the error with which its handshake failed.
        client_certificate: the client's certificate, in DER.
        heard: the first data from the client.
    """

    def __init__(
        self, pki: Pki, certificate: str = "leaf", *, client_ca: str = "", version: str = "", say: bytes = b""
    ) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pki.directory / f"{certificate}.pem", pki.directory / f"{certificate}.key")
        if client_ca:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(pki.directory / f"{client_ca}.pem")
        if version:
            self._context.minimum_version = self._context.maximum_version = ssl.TLSVersion[version]
        self._say = say
        self.failure: OSError | None = None
        self.client_certificate: bytes | None = None
        self.heard = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(NO_TIME)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    async def end(self) -> None:
        """Wait until the server's thread has ended."""
        await asyncio.to_thread(self._thread.join, NO_TIME)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        plain, _ = self._listener.accept()
        plain.settimeout(NO_TIME)
        try:
            with self._context.wrap_socket(plain, server_side=True) as secure:
                self.client_certificate = secure.getpeercert(binary_form=True)
                secure.sendall(self._say)
                self.heard = secure.recv(65536)
        except OSError as error:
            self.failure = error
        finally:
            plain.close()


def trust(pki: Pki, authority: str = "root", **settings: Any) -> TLSSettings:
    return TLSSettings.model_validate(pki.trust(authority, **settings))


def over_tls(pki: Pki, **settings: Any) -> ConnectSettings:
    return ConnectSettings(tls=True, tls_config=trust(pki, **settings))
