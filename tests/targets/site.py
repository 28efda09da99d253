"""A `Site`: a scripted HTTP server that sends a test's answers to all clients and keeps their requests.

It listens on both loopback addresses, with plain HTTP on one port, TLS on another and QUIC on a third. Each case of a
table has its own site, so that cases share nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.targets import http2, http3, placeholders
from tests.targets.answers import Answer, End, Finish, Header, Part, Pause, PortDependent, Repeat, WaitFor, reply

MAX_HEAD = 1 << 20
LINGER_RESET = b"\1\0\0\0\0\0\0\0"  # struct linger {on, 0 seconds}: close sends RST


@dataclass(frozen=True, slots=True)
class Tls:
    """The behaviour of a site's TLS port.

    Args:
        certificate: name of a `Pki` certificate.
        minimum: lowest version of TLS.
        maximum: highest version of TLS.
        ciphers: OpenSSL's list for TLS 1.2 and below.
        client_ca: name of a `Pki` certificate that must have signed the client's certificate.
        alpn: protocols to choose from, best first; with ``h2``, pages are answers of `http2`.
        opening: first bytes sent to a client that agreed on ``h2``.
        grant: bytes by which the window for such a client's body grows each time; 0 if `opening` sets it.
    """

    certificate: str = "leaf"
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ciphers: str | None = None
    client_ca: str | None = None
    alpn: tuple[str, ...] = ()
    opening: bytes = http2.OPENING
    grant: int = 0


@dataclass(slots=True)
class Request:
    """A request as it arrived; a chunked body is stored decoded."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    server_name: str | None = None
    """The SNI of a TLS connection; "" if there was none, None over plain TCP."""

    @property
    def path(self) -> str:
        """The request target without its query."""
        words = self.line.split(" ")
        return words[1].partition("?")[0] if len(words) > 1 else ""

    def all(self, name: str) -> list[str]:
        """Return every value of one header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass
class Site:
    """A scripted target; an async context manager that listens while it is entered.

    Args:
        pages: an answer per path; other paths get a 404.
        tls: the behaviour of the TLS port, or the answer played instead of a handshake; None for no port.
        quic: the behaviour of the QUIC port, where pages are answers of `http3`; None for no port.
        pki: directory with the certificates; needed with `Tls`.
        greeting: sent to each client instead of reading a request.
        opening: first bytes sent to a client that uses HTTP/2 with prior knowledge on the plain port.
        ports: fixed port numbers by name; the others are free ones.
    """

    pages: Mapping[str, Answer]
    tls: Tls | Answer | None = None
    pki: Path | None = None
    greeting: Answer | None = None
    quic: http3.Quic | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    opening: bytes = http2.OPENING
    requests: list[Request] = field(default_factory=list)
    abandoned: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client has closed a connection that a page held open."""
    _arrival: asyncio.Condition = field(default_factory=asyncio.Condition)
    _names: dict[int, str] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)
    _open: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._ports |= self.ports
        if "dead" not in self._ports:
            dead = socket.socket()
            dead.bind(("127.0.0.1", 0))  # bound but not listening: refuses connections, and the port stays ours
            self._open.callback(dead.close)
            self._ports["dead"] = dead.getsockname()[1]
        await self._listen("port", None)
        if isinstance(self.tls, Answer):
            await self._listen("tls_port", None, instead=self.tls)
        elif self.tls is not None:
            await self._listen("tls_port", self._context(self.tls))
        if self.quic is not None:
            await self._listen_quic(self.quic)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()
        for _ in range(3):  # an accepted connection becomes a task after some turns of the loop
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def __getitem__(self, name: str) -> int:
        """Return a port: ``port``, ``tls_port``, or ``dead``, on which no process listens."""
        return self._ports[name]

    def fill(self, text: str) -> str:
        """Put port numbers in place of ``{port}``, ``{tls_port}``, ``{quic_port}`` and ``{dead}``."""
        return placeholders.fill(text, self._ports)

    def blank(self, text: str) -> str:
        """Replace port numbers by their names."""
        return placeholders.blank(text, self._ports)

    async def reached(self, number: int) -> None:
        """Wait until this number of requests has arrived."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: len(self.requests) >= number)

    async def _listen(self, name: str, context: ssl.SSLContext | None, instead: Answer | None = None) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            def drop(_: asyncio.Task[None]) -> None:
                if not writer.is_closing():  # the task was cancelled before it began
                    writer.transport.abort()

            task = asyncio.create_task(self._serve(reader, writer, instead))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(drop)

        sockets = both_loopbacks(port=self.ports.get(name, 0))
        self._ports[name] = sockets[0].getsockname()[1]
        for sock in sockets:
            server = await asyncio.start_server(accept, sock=sock, ssl=context, limit=MAX_HEAD, backlog=512)
            self._open.callback(server.close)

    async def _listen_quic(self, quic: http3.Quic) -> None:
        assert self.pki is not None, "a site with QUIC needs the directory of certificates"
        sockets = both_loopbacks(socket.SOCK_DGRAM)
        self._ports["quic_port"] = sockets[0].getsockname()[1]
        for sock in sockets:
            self._open.enter_context(await http3.serve(sock, quic, self.pki, self))

    async def arrived(self, line: str, headers: list[Header], body: bytes, server_name: str) -> Answer:
        """Note a request over QUIC and return its answer."""
        return await self._note(Request(line, headers, body, server_name)) or http3.reply(404)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that is cancelled when the site stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _note(self, request: Request) -> Answer | None:
        async with self._arrival:
            self.requests.append(request)
            self._arrival.notify_all()
        return self.pages.get(request.path)

    def _context(self, tls: Tls) -> ssl.SSLContext:
        assert self.pki is not None, "a site with TLS needs the directory of certificates"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version, context.maximum_version = tls.minimum, tls.maximum
        context.load_cert_chain(self.pki / f"{tls.certificate}.pem", self.pki / f"{tls.certificate}.key")
        if tls.ciphers is not None:
            context.set_ciphers(tls.ciphers)
        if tls.alpn:
            context.set_alpn_protocols(tls.alpn)
        if tls.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.pki / f"{tls.client_ca}.pem")

        def remember(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            self._names[id(connection)] = name or ""

        context.sni_callback = remember
        return context

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, instead: Answer | None) -> None:
        try:
            if instead is not None:
                await reader.read(65536)  # the ClientHello
                await self._play(instead, reader, writer)
            elif self.greeting is not None:
                await self._play(self.greeting, reader, writer)
            else:
                encrypted = writer.get_extra_info("ssl_object")
                if encrypted is not None and encrypted.selected_alpn_protocol() == "h2":
                    assert isinstance(self.tls, Tls)
                    request = await _read_http2(reader, writer, self.tls.opening, self.tls.grant)
                else:
                    request = await _read_request(reader)
                    if request.line == PRIOR_KNOWLEDGE:
                        request = await _read_http2(reader, writer, self.opening, begun=f"{request.line}\r\n\r\n")
                if encrypted is not None:
                    request.server_name = self._names.pop(id(encrypted), "")
                await self._play(await self._note(request) or NOT_HERE, reader, writer)
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            self.abandoned.set()
        finally:
            await _close(writer)

    async def _play(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in answer.parts:
            if isinstance(part, Finish):
                await _finish(reader, writer)
            elif isinstance(part, WaitFor):
                await _wait_for(part.data, reader)
            else:
                await self._say(part, writer)
        if answer.end is End.HOLD:
            while await reader.read(65536):
                pass
            self.abandoned.set()
        elif answer.end is End.RESET:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            writer.transport.abort()

    async def _say(self, part: Part, writer: asyncio.StreamWriter) -> None:
        match part:
            case bytes():
                await _write(self._with_ports(part), writer)
            case PortDependent(make):
                await _write(make(self.fill), writer)
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Repeat(data, times, every):
                for _ in range(times):
                    await asyncio.sleep(every)  # even for 0, so that the loop notices when a client closes
                    await _write(data, writer)

    def _with_ports(self, data: bytes) -> bytes:
        return self.fill(data.decode("latin-1")).encode("latin-1") if b"{" in data else data


PRIOR_KNOWLEDGE = "PRI * HTTP/2.0"
"""The beginning of HTTP/2 with prior knowledge (RFC 9113, section 3.3); HTTP/1 reads it as a request."""

NOT_HERE = reply(404, b"this target has no such page")


def both_loopbacks(kind: socket.SocketKind = socket.SOCK_STREAM, port: int = 0) -> list[socket.socket]:
    """Return two sockets with the same port, on 127.0.0.1 and on ::1.

    Args:
        port: the port; 0 for any. A port that other sockets hold without listening can be used again.
    """
    while True:
        protocol = socket.IPPROTO_TCP if kind is socket.SOCK_STREAM else 0  # without it asyncio leaves Nagle's delay on
        four, six = (socket.socket(family, kind, protocol) for family in (socket.AF_INET, socket.AF_INET6))
        try:
            if kind is socket.SOCK_STREAM:
                four.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                six.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            four.bind(("127.0.0.1", port))
            six.bind(("::1", four.getsockname()[1]))
        except OSError as error:
            four.close()
            six.close()
            if port or error.errno != errno.EADDRINUSE:
                raise
        else:
            return [four, six]


async def _write(data: bytes, writer: asyncio.StreamWriter) -> None:
    if writer.is_closing():  # transports of uvloop raise RuntimeError then
        raise ConnectionAbortedError
    writer.write(data)
    await writer.drain()


async def _wait_for(data: bytes, reader: asyncio.StreamReader) -> None:
    """Read until the client has sent these bytes, or closes."""
    heard = b""
    while data not in heard and (more := await reader.read(65536)):
        heard += more


async def _finish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End our direction of the connection, and read until the client has closed it."""
    if writer.can_write_eof():
        writer.write_eof()
        while await reader.read(65536):
            pass
    else:  # TLS: closing waits for the client's close_notify anyway
        writer.close()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close the connection; over TLS, abort it if the client's close_notify does not come."""
    writer.close()
    try:
        async with asyncio.timeout(10):
            await writer.wait_closed()
    except OSError:
        pass
    except (TimeoutError, asyncio.CancelledError):
        writer.transport.abort()


async def _read_http2(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opening: bytes, grant: int = 0, begun: str = ""
) -> Request:
    is_http2 = len(opening) < 4 or opening[3] <= http2.CONTINUATION
    if is_http2:
        writer.write(opening)
    received = await http2.read_request(reader, writer, grant, begun.encode())
    if not is_http2:  # read the request first: a client may close when it reads the opening
        writer.write(opening)
    line = f"{received.first(':method')} {received.first(':path')} HTTP/2"
    return Request(line, [field for field in received.fields if field[0] not in (":method", ":path")], received.body)


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("utf-8", "surrogateescape")
    line, *rest = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = []
    for row in rest:
        name, _, value = row.partition(": ")
        headers.append((name, value))
    request = Request(line, headers)
    if request.all("Transfer-Encoding"):
        request.body = await _read_chunks(reader)
    elif length := request.all("Content-Length"):
        request.body = await reader.readexactly(int(length[0]))
    return request


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body
