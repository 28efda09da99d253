"""Several servers behind one name: each listens on an address of its own, and all of them on the same port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def pem_context(directory: Path, certificate: str) -> ssl.SSLContext:
    """Return the context of a server with a certificate of a `Pki`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / f"{certificate}.pem", directory / f"{certificate}.key")
    return context


@dataclass
class Node:
    """One server.

    Attributes:
        play: called for each client; None for an address that refuses connections.
        tls: the context of its TLS; None for plain TCP.
        clients: the number of clients so far.
    """

    play: Play | None = None
    tls: ssl.SSLContext | None = None
    clients: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client, and close its connection."""
        assert self.play is not None
        self.clients += 1
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            await self.play(reader, writer)


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a greeting, and wait until the client closes."""
    writer.write(b"hello\n")
    await reader.read()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send nothing until the client closes."""
    await reader.read()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the connection at once."""


def flapping(failures: int, then: Play = greet) -> Play:
    """Return a behaviour: close so many connections at once, and then serve as usual."""
    left = failures

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            await then(reader, writer)

    return play


def page(head: bytes = b"HTTP/1.1 200 OK\r\n") -> Play:
    """Return a behaviour: answer one HTTP request.

    Args:
        head: the status line and headers.
    """

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"Content-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()

    return play


def relay(port: int) -> Play:
    """Return a behaviour: pass everything on to a server on 127.0.0.1 and back, until one of them closes."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(onward):
            ways = [asyncio.ensure_future(copy(reader, onward)), asyncio.ensure_future(copy(there, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()

    return play


Respond = Callable[[bytes], bytes]
"""Returns the answer to a datagram."""


class _Responder(asyncio.DatagramProtocol):
    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's is no instance of it

    def datagram_received(self, data: bytes, sender: object) -> None:
        self._transport.sendto(self._respond(data), sender)  # type: ignore[arg-type]  # typeshed has tuples alone


@asynccontextmanager
async def udp_nodes(addresses: Mapping[str, Respond | None]) -> AsyncIterator[int]:
    """Answer datagrams on every address, and yield the port; None is for an address whose port is closed."""
    while True:
        with contextlib.suppress(OSError):
            sockets = _sockets(addresses, socket.SOCK_DGRAM)
            break
        await asyncio.sleep(0.01)
    port: int = sockets[next(iter(addresses))].getsockname()[1]
    async with contextlib.AsyncExitStack() as stack:
        for address, respond in addresses.items():
            if respond is None:  # the port stays reserved, and is closed to all but its peer
                sockets[address].connect((address, 9))
                stack.callback(sockets[address].close)
                continue
            sockets[address].setblocking(False)
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                partial(_Responder, respond), sock=sockets[address]
            )
            stack.callback(transport.close)
        yield port


def _sockets(addresses: Iterable[str], kind: int = socket.SOCK_STREAM) -> dict[str, socket.socket]:
    """Return a socket for each address, all with the same port.

    Raises:
        OSError: another program has the port on one of the addresses.
    """
    port = 0
    bound: dict[str, socket.socket] = {}
    try:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            bound[address] = sock = socket.socket(family, kind)
            sock.bind((address, port))
            port = sock.getsockname()[1]
    except OSError:
        for sock in bound.values():
            sock.close()
        raise
    return bound


@asynccontextmanager
async def nodes(addresses: Mapping[str, Node]) -> AsyncIterator[int]:
    """Listen on every address that has a `play`, and yield the port; the port of the others stays bound."""
    while True:
        with contextlib.suppress(OSError):
            sockets = _sockets(addresses)
            break
        await asyncio.sleep(0.01)
    async with contextlib.AsyncExitStack() as stack:
        for address, node in addresses.items():
            if node.play is None:
                stack.callback(sockets[address].close)
            else:
                server = await asyncio.start_server(node.serve, sock=sockets[address], ssl=node.tls)
                stack.callback(server.close)
        yield sockets[next(iter(addresses))].getsockname()[1]
