"""A scripted DNS server over UDP, TCP and TLS; a test chooses every byte of its answers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import dns.message
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.targets import placeholders
from tests.targets.answers import Pause
from tests.targets.site import Request, Tls, both_loopbacks

Part = bytes | Pause
Script = Callable[[bytes], Sequence[Part]]
"""A function from a query to the answer: each part is a message, sent as a datagram or with its length before it."""


def name(text: str) -> bytes:
    """Encode a name; for plain names only."""
    labels = [label.encode() for label in text.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(owner: str | bytes, type_: str | int, data: str | bytes, ttl: int = 300, class_: int = 1) -> bytes:
    """Encode a record without compression.

    Args:
        owner: a plain name, or the bytes on the wire.
        data: as in a zone file, or the bytes on the wire.
    """
    number = dns.rdatatype.RdataType.make(type_)
    if isinstance(data, str):
        parsed = dns.rdata.from_text(dns.rdataclass.IN if class_ == 1 else dns.rdataclass.CH, number, data)
        data = parsed.to_wire() or b""
    wire = owner if isinstance(owner, bytes) else name(owner)
    return wire + struct.pack(">HHIH", number, class_, ttl, len(data)) + data


def opt(options: bytes = b"", *, size: int = 1232, ttl: int = 0) -> bytes:
    """Encode an OPT record; `ttl` holds the extended response code, the version and the flags."""
    return record(b"\0", 41, options, ttl, size)


@dataclass(frozen=True, slots=True)
class Says:
    """Return a script that responds with some records.

    Args:
        answer, authority, additional: records on the wire.
        flags: of the header; the lowest four bits are the response code.
        counts: the counts of records in the header, to replace the true ones.
        question: instead of the query's, on the wire; the query's own if None.
        number: added to the query's id.
        after: appended to the message.
        cut: how many bytes of the message's end are missing.
    """

    answer: Sequence[bytes] = ()
    authority: Sequence[bytes] = ()
    additional: Sequence[bytes] = ()
    flags: int = 0x8180
    counts: tuple[int, int, int, int] | None = None
    question: bytes | None = None
    number: int = 0
    after: bytes = b""
    cut: int = 0

    def __call__(self, query: bytes) -> Sequence[Part]:
        question = query[12:] if self.question is None else self.question
        sections = (self.answer, self.authority, self.additional)
        counts = self.counts or (1 if question else 0, *map(len, sections))
        number = (int.from_bytes(query[:2], "big") + self.number) & 0xFFFF
        records = b"".join(one for section in sections for one in section)
        message = struct.pack(">6H", number, self.flags, *counts) + question + records + self.after
        return [message[: len(message) - self.cut]]


@dataclass
class Zone:
    """Return a script with the addresses of some names; those of ``*`` are for any other name.

    Args:
        names: answers by name; successive queries of a type get successive answers, and then the last one again.
        asked: the names queried so far, without the root's dot.
    """

    names: Mapping[str, Sequence[Sequence[str]]]
    asked: list[str] = field(default_factory=list)
    _turns: dict[tuple[str, str], int] = field(default_factory=dict)

    def __call__(self, query: bytes) -> Sequence[Part]:
        asked = dns.message.from_wire(query)
        response = dns.message.make_response(asked)
        question = asked.question[0]
        name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(name)
        answers = self.names.get(name, self.names.get("*"))
        if answers is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return [response.to_wire()]
        turn = self._turns.get((name, kind), 0)
        self._turns[name, kind] = turn + 1
        for address in answers[min(turn, len(answers) - 1)]:
            if (":" in address) == (kind == "AAAA"):
                response.answer.append(dns.rrset.from_text(question.name, 0, "IN", kind, address))
        return [response.to_wire()]


def one_after_another(*scripts: Script | Pause) -> Script:
    """Return a script that sends the answers of several scripts, one after another."""

    def say(query: bytes) -> list[Part]:
        return [part for script in scripts for part in ([script] if isinstance(script, Pause) else script(query))]

    return say


def echo(query: bytes) -> Sequence[Part]:
    """Return a script that sends the query back."""
    return [query]


def silence(query: bytes) -> Sequence[Part]:
    """Return a script that never answers."""
    return []


def garbage(data: bytes) -> Script:
    """Return a script that sends some bytes, after the query's id if they are long enough for a message."""
    return lambda query: [query[:2] + data if len(data) >= 10 else data]


@dataclass
class DnsServer:
    """A scripted DNS server; an async context manager that listens on both loopbacks while it is entered.

    Args:
        script: returns the answers to a query.
        tls: the behaviour of the TLS port; None for no port.
        pki: directory with the certificates; needed with `tls`.
        raw: bytes are sent over TCP as they are, without a length before them.
        hang_up: whether TCP connections are closed after the answers.
        ports: fixed port numbers by name.
    """

    script: Script
    tls: Tls | None = None
    pki: Path | None = None
    raw: bool = False
    hang_up: bool = False
    ports: Mapping[str, int] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    _ports: dict[str, int] = field(default_factory=dict)
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server_names: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        streams, datagrams = await self._bind()
        self._ports["port"] = streams[0].getsockname()[1]
        self._ports["dead"] = self.ports.get("dead", 1)
        await self._listen(streams, None)
        if self.tls is not None:
            streams = both_loopbacks(port=self.ports.get("tls_port", 0))
            self._ports["tls_port"] = streams[0].getsockname()[1]
            await self._listen(streams, self._context(self.tls))
        for sock in datagrams:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=sock)
            self._open.callback(transport.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def again(self, pki: Path) -> DnsServer:
        """Return a server of the same behaviour without any requests yet."""
        return DnsServer(self.script, self.tls, pki, self.raw, self.hang_up)

    def __getitem__(self, name: str) -> int:
        return self._ports[name]

    def fill(self, text: str) -> str:
        """Put port numbers in place of ``{port}``, ``{tls_port}`` and ``{dead}``."""
        return placeholders.fill(text, self._ports)

    def blank(self, text: str) -> str:
        """Return `text`: no query contains a port."""
        return text

    def begin(self, work: asyncio.Task[None]) -> None:
        """Start a task that is cancelled when the server stops."""
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)

    async def answers(self, query: bytes, transport: str, server_name: str | None = None) -> Sequence[Part]:
        """Note a query and return its answers."""
        flags, *counts = struct.unpack_from(">5H", query, 2)
        asked = dns.message.from_wire(query)
        questions = ", ".join(str(one) for one in asked.question)
        extra = "" if len(query) == 16 + len(query[12:-4]) and counts == [1, 0, 0, 0] else f" counts {counts}"
        line = f"{transport} query: {questions} flags {flags:#06x}{extra}"
        self.requests.append(Request(line, [], server_name=server_name))
        return self.script(query)

    async def _bind(self) -> tuple[list[socket.socket], list[socket.socket]]:
        """Return sockets for TCP and for UDP with the same port.

        A UDP socket of another program may have the port for a moment, since the kernel gives it to senders.
        """
        while True:
            streams = both_loopbacks(port=self.ports.get("port", 0))
            try:
                return streams, both_loopbacks(socket.SOCK_DGRAM, port=streams[0].getsockname()[1])
            except OSError as error:
                for sock in streams:
                    sock.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            await asyncio.sleep(0.05)

    async def _listen(self, sockets: Sequence[socket.socket], context: ssl.SSLContext | None) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.begin(asyncio.create_task(self._serve(reader, writer, encrypted=context is not None)))

        for sock in sockets:
            server = await asyncio.start_server(accept, sock=sock, ssl=context)
            self._open.callback(server.close)

    def _context(self, tls: Tls) -> ssl.SSLContext:
        assert self.pki is not None, "a server with TLS needs the directory of certificates"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version, context.maximum_version = tls.minimum, tls.maximum
        context.load_cert_chain(self.pki / f"{tls.certificate}.pem", self.pki / f"{tls.certificate}.key")
        context.sni_callback = lambda _, server_name, __: self._server_names.append(server_name or "")
        return context

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, encrypted: bool) -> None:
        try:
            size = int.from_bytes(await reader.readexactly(2), "big")
            query = await reader.readexactly(size)
            server_name = self._server_names[-1] if encrypted else None
            for part in await self.answers(query, "tls" if encrypted else "tcp", server_name):
                if isinstance(part, Pause):
                    await asyncio.sleep(part.seconds)
                else:
                    writer.write(part if self.raw else len(part).to_bytes(2, "big") + part)
                    await writer.drain()
            if not self.hang_up:
                await reader.read()
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str | object, int]) -> None:
        self._server.begin(asyncio.create_task(self._answer(data, address)))

    async def _answer(self, query: bytes, address: tuple[str | object, int]) -> None:
        for part in await self._server.answers(query, "udp"):
            if isinstance(part, Pause):
                await asyncio.sleep(part.seconds)
            else:
                self._transport.sendto(part, address)
