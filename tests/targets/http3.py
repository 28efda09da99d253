"""A scripted HTTP/3 server and its answers, frame by frame (RFC 9114).

aioquic provides QUIC and reads the requests. The exporter's code is not used: header fields are sent as QPACK literals,
which need no state.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import aioquic.tls
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, ProtocolNegotiated, QuicEvent
from aioquic.quic.packet import QuicErrorCode, QuicProtocolVersion
from cryptography import x509

from tests.targets.answers import Action, Answer, End, Header, Part, Pause, PortDependent, Repeat
from tests.targets.http2 import integer

DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0, 1, 3, 4, 5, 7, 13
CONTROL, PUSH, ENCODER, DECODER = range(4)  # unidirectional streams

NO_ERROR, GENERAL_PROTOCOL_ERROR, INTERNAL_ERROR = 0x100, 0x101, 0x102
REQUEST_REJECTED, REQUEST_CANCELLED, MESSAGE_ERROR = 0x10B, 0x10C, 0x10E

WAITING = 1 << 20
"""Bytes of a flood that the server may hold."""


def frame(kind: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Encode a frame; `length` replaces the true length."""
    return encode_uint_var(kind) + encode_uint_var(len(payload) if length is None else length) + payload


def block(*fields: Header) -> bytes:
    """Encode a field section of literals (RFC 9204, section 4.5.6), which refer to no table."""
    return b"\0\0" + b"".join(_string(name, 3, 0x20) + _string(value, 7) for name, value in fields)


def _string(text: str, prefix: int, first: int = 0) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return integer(len(raw), prefix, first) + raw


def headers(*fields: Header) -> bytes:
    """Encode header fields, pseudo-headers included, as a frame."""
    return frame(HEADERS, block(*fields))


def head(status: int | str = 200, *fields: Header) -> bytes:
    """Return the head of a response."""
    return headers((":status", str(status)), *fields)


def data(content: bytes = b"") -> bytes:
    """Return content as a frame."""
    return frame(DATA, content)


SETTLED = encode_uint_var(CONTROL) + frame(SETTINGS)
"""The first bytes of a control stream."""


def said(*parts: Part, end: End = End.CLOSE) -> Answer:
    """Return an answer given frame by frame; its end closes or resets the stream, never the connection."""
    return Answer(parts, end)


def reply(status: int | str = 200, body: bytes = b"", *fields: Header, length: bool = True) -> Answer:
    """Return an ordinary answer; the site fills in ``{quic_port}`` and the like in headers."""
    announced = [("content-length", str(len(body)))] if length else []

    def make(fill: Callable[[str], str]) -> bytes:
        filled = [(name, fill(value)) for name, value in fields]
        return head(status, *filled, *announced) + (data(body) if body else b"")

    return said(PortDependent(make))


def redirect(status: int, location: str, *fields: Header, body: bytes = b"moved") -> Answer:
    """Return a 3xx; `location` may hold placeholders such as ``{quic_port}``."""
    return reply(status, body, ("location", location), *fields)


# Actions on the connection, beside the stream of the answer.


def opened(kind: int, content: bytes) -> Action:
    """Open one more unidirectional stream of the server."""

    def do(quic: QuicConnection, stream: int) -> None:
        quic.send_stream_data(
            quic.get_next_available_stream_id(is_unidirectional=True), encode_uint_var(kind) + content
        )

    return Action(do)


def both_ways(content: bytes) -> Action:
    """Open a bidirectional stream of the server, which HTTP/3 does not allow."""
    return Action(lambda quic, stream: quic.send_stream_data(quic.get_next_available_stream_id(), content))


def on_control(content: bytes, *, end: bool = False) -> Action:
    """Send more on the control stream, the first that the server opened."""
    return Action(lambda quic, stream: quic.send_stream_data(3, content, end))


def goaway(refused_from: int) -> Action:
    """Send GOAWAY: requests from this one on are not processed."""
    return on_control(frame(GOAWAY, encode_uint_var(refused_from)))


def reset(code: int = INTERNAL_ERROR) -> Action:
    """End the answer's stream by RESET_STREAM."""
    return Action(lambda quic, stream: quic.reset_stream(stream, code))


def stop(code: int = NO_ERROR) -> Action:
    """Send STOP_SENDING: the server does not want the rest of the request."""
    return Action(lambda quic, stream: quic.stop_stream(stream, code))


def close(code: int = NO_ERROR, phrase: str = "") -> Action:
    """Close the connection with an error code of HTTP/3."""
    return Action(lambda quic, stream: quic.close(error_code=code, reason_phrase=phrase))


def close_transport(code: int = QuicErrorCode.INTERNAL_ERROR, phrase: str = "") -> Action:
    """Close the connection with an error code of QUIC."""
    return Action(lambda quic, stream: quic.close(error_code=code, frame_type=0, reason_phrase=phrase))


@dataclass(frozen=True, slots=True)
class Quic:
    """The behaviour of a site's QUIC port.

    Args:
        certificate: name of a `Pki` certificate.
        client_ca: name of a `Pki` certificate that must have signed the client's certificate.
        suite: the only cipher suite, by aioquic's name.
        groups: the groups for the key exchange, by aioquic's names; empty for its defaults.
        alpn: protocols to choose from, best first.
        versions: of QUIC.
        retry: whether the client's address is validated first (Retry packet).
        opening: first bytes of the first unidirectional stream.
        refuses: whether each connection is refused after its ClientHello.
        stateless: datagrams sent in answer to each datagram, instead of a handshake.
        window: bytes that a client may ever send on a stream; 0 for no limit.
        idle_timeout: seconds without packets after which a connection is dropped.
        early: answer sent as soon as the head of a request has arrived.
        staples: extensions beside the server's certificate, if the client has requested an OCSP response.
        connections: all connections so far.
    """

    certificate: str = "leaf"
    client_ca: str | None = None
    suite: str = "AES_128_GCM_SHA256"
    groups: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ("h3",)
    versions: tuple[int, ...] = (QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2)
    retry: bool = False
    opening: bytes = SETTLED
    refuses: bool = False
    stateless: tuple[bytes, ...] | None = None
    window: int = 0
    idle_timeout: float = 60.0
    early: Answer | None = None
    staples: bytes = b""
    connections: list[QuicConnection] = field(default_factory=list)


class SiteCallbacks(Protocol):
    """The methods of the site that the server calls."""

    abandoned: asyncio.Event

    def fill(self, text: str) -> str:
        """Replace the names of ports by their numbers."""

    async def arrived(self, line: str, headers: list[Header], body: bytes, server_name: str) -> Answer:
        """Note a request and return its answer."""

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that is cancelled when the site stops."""


async def serve(
    sock: socket.socket, quic: Quic, pki: Path, stage: SiteCallbacks
) -> contextlib.AbstractContextManager[Any]:
    """Listen on a bound UDP socket; the result closes it."""
    loop = asyncio.get_running_loop()
    if quic.stateless is not None:
        datagrams = quic.stateless
        transport, _ = await loop.create_datagram_endpoint(lambda: _Stateless(datagrams), sock=sock)
        return contextlib.closing(transport)
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=list(quic.alpn),
        cipher_suites=[aioquic.tls.CipherSuite[quic.suite]],
        supported_versions=list(quic.versions),
        max_stream_data=quic.window or 1 << 20,
        idle_timeout=quic.idle_timeout,
    )
    configuration.load_cert_chain(pki / f"{quic.certificate}.pem", pki / f"{quic.certificate}.key")
    authority = x509.load_pem_x509_certificate((pki / f"{quic.client_ca}.pem").read_bytes()) if quic.client_ca else None

    def connected(connection: QuicConnection, stream_handler: object = None) -> _Connection:
        return _Connection(connection, quic, authority, stage)

    _, server = await loop.create_datagram_endpoint(
        lambda: QuicServer(configuration=configuration, create_protocol=connected, retry=quic.retry), sock=sock
    )
    return contextlib.closing(server)


class _Stateless(asyncio.DatagramProtocol):
    """Answers every datagram with the same datagrams."""

    def __init__(self, datagrams: tuple[bytes, ...]) -> None:
        self._datagrams = datagrams

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, received: bytes, address: object) -> None:
        for datagram in self._datagrams:
            self._transport.sendto(datagram, address)  # type: ignore[attr-defined]


class _Connection(QuicConnectionProtocol):
    """A client's connection: passes its requests to the site and sends the answers."""

    def __init__(
        self, connection: QuicConnection, quic: Quic, authority: x509.Certificate | None, stage: SiteCallbacks
    ) -> None:
        super().__init__(connection)
        quic.connections.append(connection)
        self._behaviour = quic
        self._authority = authority
        self._stage = stage
        self._server_name = ""
        self._http: _Http | None = None
        self._requests: dict[int, tuple[list[Header], bytearray]] = {}
        self._ended = asyncio.Event()
        _change_tls(connection, asking=authority is not None, groups=quic.groups)
        if quic.staples:
            _staple(connection, quic.staples)
        if quic.window:  # aioquic would enlarge it
            connection._write_stream_limits = lambda *_, **__: None  # type: ignore[method-assign]

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._server_name = _hello.server_name
            if self._behaviour.refuses:
                self._quic.close(error_code=QuicErrorCode.CONNECTION_REFUSED, frame_type=0)
            else:
                self._http = _Http(self._quic, self._behaviour.opening)
        elif isinstance(event, HandshakeCompleted) and self._authority is not None:
            self._check_client(self._authority)
        elif isinstance(event, ConnectionTerminated):
            self._ended.set()
        if self._http is not None:
            for one in self._http.handle_event(event):
                if isinstance(one, HeadersReceived | DataReceived):
                    self._take(one)

    def _check_client(self, authority: x509.Certificate) -> None:
        certificate = self._quic.tls._peer_certificate
        try:
            alert = None if certificate else aioquic.tls.AlertDescription.certificate_required
            if certificate:
                certificate.verify_directly_issued_by(authority)
        except ValueError:
            alert = aioquic.tls.AlertDescription.bad_certificate
        if alert is not None:
            self._quic.close(error_code=QuicErrorCode.CRYPTO_ERROR + alert, frame_type=6)
            self._http = None

    def _take(self, event: HeadersReceived | DataReceived) -> None:
        fields, body = self._requests.setdefault(event.stream_id, ([], bytearray()))
        if isinstance(event, HeadersReceived):
            fields += [(name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in event.headers]
        else:
            body += event.data
        if event.stream_ended or (isinstance(event, HeadersReceived) and self._behaviour.early):
            self._stage.begin(self._answer(event.stream_id, fields, bytes(body)))

    async def _answer(self, stream: int, fields: list[Header], body: bytes) -> None:
        first = dict(reversed(fields))
        line = f"{first[':method']} {first[':path']} HTTP/3"
        rest = [field for field in fields if field[0] not in (":method", ":path")]
        answer = self._behaviour.early or await self._stage.arrived(line, rest, body, self._server_name)
        for part in answer.parts:
            await self._say(stream, part)
        if answer.end is End.HOLD:
            await self._ended.wait()
            self._stage.abandoned.set()
        elif answer.end is End.RESET:
            self._quic.reset_stream(stream, INTERNAL_ERROR)
        else:
            await self._send(stream, b"", end=True)
        self.transmit()

    async def _say(self, stream: int, part: Part) -> None:
        match part:
            case bytes():
                await self._send(stream, part)
            case PortDependent(make):
                await self._send(stream, make(self._stage.fill))
            case Action(do):
                do(self._quic, stream)
                self.transmit()
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Repeat(content, times, every):
                for _ in range(times):
                    await asyncio.sleep(every)
                    await self._send(stream, content)

    async def _send(self, stream: int, content: bytes, *, end: bool = False) -> None:
        """Send no more than the client accepts, and nothing after it has closed the connection."""
        with contextlib.suppress(RuntimeError):  # the stream was reset
            self._quic.send_stream_data(stream, content, end)
        self.transmit()
        while self._waiting(stream) > WAITING and not self._ended.is_set():  # noqa: ASYNC110  # aioquic has no event for this
            await asyncio.sleep(0.001)

    def _waiting(self, stream: int) -> int:
        """Return the bytes that wait to be sent or acknowledged."""
        known = self._quic._streams.get(stream)
        return known.sender._buffer_stop - known.sender._buffer_start if known else 0


class _Http(H3Connection):
    """Reads requests; its first unidirectional stream is scripted."""

    def __init__(self, quic: QuicConnection, opening: bytes) -> None:
        self._opening = opening
        super().__init__(quic)

    def _init_connection(self) -> None:
        stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self._quic.send_stream_data(stream, self._opening)
        self._local_encoder_stream_id = self._create_uni_stream(ENCODER)
        self._local_decoder_stream_id = self._create_uni_stream(DECODER)


def _change_tls(connection: QuicConnection, *, asking: bool, groups: tuple[str, ...]) -> None:
    """Make a server request its client's certificate, as aioquic's own tests do, and support certain groups only."""
    initialize = connection._initialize

    def changed(peer_cid: bytes) -> None:
        initialize(peer_cid)
        connection.tls._request_client_certificate = asking
        if groups:
            connection.tls._supported_groups = [aioquic.tls.Group[name] for name in groups]

    connection._initialize = changed  # type: ignore[method-assign]


def _staple(connection: QuicConnection, extensions: bytes) -> None:
    """Make a server send extensions with its certificate, if the client requests an OCSP response properly."""
    initialize = connection._initialize

    def stapling(peer_cid: bytes) -> None:
        initialize(peer_cid)
        handle = connection.tls._server_handle_hello
        connection.tls._server_handle_hello = partial(_with_extensions, handle, connection.tls, extensions)  # type: ignore[method-assign]

    connection._initialize = stapling  # type: ignore[method-assign]


def _with_extensions(handle: Callable[..., None], tls: aioquic.tls.Context, extensions: bytes, *arguments: Any) -> None:
    """Handle a ClientHello while the function that encodes certificates is another one."""
    push = aioquic.tls.push_certificate

    def push_with_extensions(buf: Any, certificate: aioquic.tls.Certificate) -> None:
        if (aioquic.tls.ExtensionType.STATUS_REQUEST, b"\x01\0\0\0\0") in (tls.received_extensions or ()):
            certificate.certificates[0] = (certificate.certificates[0][0], extensions)
        push(buf, certificate)

    aioquic.tls.push_certificate = push_with_extensions
    try:
        handle(*arguments)
    finally:
        aioquic.tls.push_certificate = push


class _Hello:
    """Keeps the server name of the last ClientHello, since aioquic does not; it is read before the next one arrives."""

    server_name = ""

    def __init__(self) -> None:
        self._pull = aioquic.tls.pull_client_hello
        aioquic.tls.pull_client_hello = self.pull

    def pull(self, buf: Any) -> aioquic.tls.ClientHello:
        hello = self._pull(buf)
        self.server_name = hello.server_name or ""
        return hello


_hello = _Hello()
