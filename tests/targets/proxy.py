"""Scripted proxies: HTTP (forwarding and tunnels) and SOCKS5, over TCP or TLS, which keep their requests.

They connect to the requested port on loopback and ignore the requested host. A test can replace each of a proxy's
messages by other bytes or by none.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.targets.answers import Answer
from tests.targets.site import Request, Site, Tls

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
OPENED = b"\5\0\0\1\0\0\0\0\0\0"
OPEN, PASSWORD = 0, 2


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """The behaviour of an HTTP proxy.

    Args:
        connect: answer to CONNECT instead of opening a tunnel.
        forward: answer to any other request instead of forwarding it.
        established: bytes that announce a tunnel.
        certificate: name of a `Pki` certificate for the TLS port.
        greeting: sent to each client instead of reading anything.
    """

    connect: Answer | None = None
    forward: Answer | None = None
    established: bytes = ESTABLISHED
    certificate: str = "leaf"
    greeting: Answer | None = None


@dataclass(frozen=True, slots=True)
class SocksProxy:
    """The behaviour of a SOCKS5 proxy: it requests a password if the client offers one.

    Args:
        method: answer instead of choosing a method.
        asks: whether the proxy requests a password after `method`.
        verdict: answer to user and password.
        reply: answer instead of connecting.
        opened: bytes that announce a connection.
    """

    method: Answer | None = None
    asks: bool = False
    verdict: Answer | None = None
    reply: Answer | None = None
    opened: bytes = OPENED


@dataclass
class ProxyServer(Site):
    """A scripted proxy that listens while it is entered: on ``port``, and with TLS on ``tls_port``."""

    pages: Mapping[str, Answer] = field(default_factory=dict)
    behaviour: HttpProxy | SocksProxy = field(default_factory=HttpProxy)

    def __post_init__(self) -> None:
        if self.pki is not None and isinstance(self.behaviour, HttpProxy):
            self.tls = Tls(self.behaviour.certificate)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, instead: Answer | None) -> None:
        try:
            if isinstance(self.behaviour, SocksProxy):
                await self._serve_socks(self.behaviour, reader, writer)
            elif self.behaviour.greeting is not None:
                await self._play(self.behaviour.greeting, reader, writer)
            else:
                await self._serve_http(self.behaviour, reader, writer)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            self.abandoned.set()
        finally:
            writer.close()

    async def _serve_http(
        self, behaviour: HttpProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *rows = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        encrypted = writer.get_extra_info("ssl_object")
        name = None if encrypted is None else self._names.pop(id(encrypted), "")
        headers = [(key, value) for key, _, value in (row.partition(": ") for row in rows)]
        await self._note(Request(line, headers, server_name=name))
        method, target, _ = line.split(" ")
        instead = behaviour.connect if method == "CONNECT" else behaviour.forward
        if instead is not None:
            await self._play(instead, reader, writer)
            return
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        there = await asyncio.open_connection(_loopback(url.hostname or ""), url.port or 80)
        if method == "CONNECT":
            writer.write(behaviour.established)
        else:
            path = f"{url.path or '/'}{'?' if url.query else ''}{url.query}"
            there[1].write(head.replace(target.encode("latin-1"), path.encode("latin-1"), 1))
        await _join((reader, writer), there)

    async def _serve_socks(
        self, behaviour: SocksProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        await self._note(Request(f"SOCKS methods {list(methods)}", []))
        chosen = PASSWORD if PASSWORD in methods else OPEN
        if behaviour.method is None:
            writer.write(bytes([5, chosen]))
        else:
            await self._play(behaviour.method, reader, writer)
        if behaviour.asks if behaviour.method is not None else chosen == PASSWORD:
            user, password = await _read_credentials(reader)
            await self._note(Request(f"SOCKS user {user!r} password {password!r}", []))
            if behaviour.verdict is None:
                writer.write(b"\1\0")
            else:
                await self._play(behaviour.verdict, reader, writer)
        kind, host, port = await _read_destination(reader)
        await self._note(Request(f"SOCKS connect to {kind} {host} port {port}", []))
        if behaviour.reply is not None:
            await self._play(behaviour.reply, reader, writer)
            return
        there = await asyncio.open_connection(_loopback(host), port)
        writer.write(behaviour.opened)
        await _join((reader, writer), there)


async def _read_credentials(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    _, length = await reader.readexactly(2)
    user = await reader.readexactly(length)
    (length,) = await reader.readexactly(1)
    return user, await reader.readexactly(length)


async def _read_destination(reader: asyncio.StreamReader) -> tuple[str, str, int]:
    _, _, _, code = await reader.readexactly(4)
    if code == 3:
        (length,) = await reader.readexactly(1)
        kind, host = "name", (await reader.readexactly(length)).decode("ascii")
    else:
        packed = await reader.readexactly({1: 4, 4: 16}[code])
        kind, host = "address", str(ipaddress.ip_address(packed))
    return kind, host, int.from_bytes(await reader.readexactly(2), "big")


def _loopback(host: str) -> str:
    return "::1" if ":" in host else "127.0.0.1"


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(here: Stream, there: Stream) -> None:
    """Copy bytes both ways until both sides have ended."""
    try:
        await asyncio.gather(_carry(here[0], there[1]), _carry(there[0], here[1]))
    finally:
        there[1].close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:  # TLS can't end one direction only
            writer.close()
