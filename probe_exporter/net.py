"""The network as probers use it: `resolve`, `connect`, `Connection`. The only place that opens sockets to targets.

Every error of the system, the resolver or TLS leaves here as a `ProbeFailed` with its reason; times are taken at
the socket's own events, not when a coroutine gets round to looking.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, cast

from probe_exporter import names, tls
from probe_exporter.deadline import Deadline
from probe_exporter.metrics import Metric
from probe_exporter.prober import Probe, ProbeFailed, Reason
from probe_exporter.tls import TLSSettings

LOOKUP_TIME = Metric("probe_dns_lookup_time_seconds", "How long the target's name took to resolve.")
IP_PROTOCOL = Metric("probe_ip_protocol", "The IP version of the chosen address: 4 or 6, 0 if there is none.")
IP_HASH = Metric("probe_ip_addr_hash", "A hash of the chosen address: it changes when the address does.")

HIGH_WATER = 256 * 1024
"""Bytes received and not yet read at which the peer is made to wait."""

LINGER = 1.0
"""Seconds for which a closed connection waits for its peer to take the rest."""

DATAGRAM_COST = 64
"""Bytes that a datagram counts beside its own: an empty one is kept somewhere too."""

HANDSHAKE_LIMIT = 10.0
"""Seconds that a TLS handshake may take, whatever the deadline: the original's limit."""

T = TypeVar("T")


async def resolve(probe: Probe, host: str, *, preferred: str = "ip6", fallback: bool = True) -> str:
    """Choose the address to probe, and report the choice.

    Args:
        host: a name or an address (IPv6 without brackets).
        preferred: the family wanted; ``ip6`` or empty is IPv6, anything else IPv4, as the original has it.
        fallback: take the other family's first address where there is none of the wanted one.

    Raises:
        ProbeFailed: the name does not resolve, or to no permitted address.
    """
    family = 6 if preferred in ("", "ip6") else 4
    started = time.perf_counter()
    address = ""
    try:
        with probe.phase("resolve"):
            address = await _choose(host, family, fallback)
    finally:
        probe.set(LOOKUP_TIME, round(time.perf_counter() - started, 9))
        probe.set(IP_PROTOCOL, names.version(address) if address else 0)
        probe.set(IP_HASH, names.fingerprint(address) if address else 0)
    probe.log("Resolved target address", host=host, ip=address)
    return address


async def _choose(host: str, family: int, fallback: bool) -> str:
    if not host:
        raise ProbeFailed(Reason.TARGET_INVALID, "the target names no host")
    known = names.literal(host)
    if known is not None:
        if fallback or names.version(known) == family:
            return known
        raise ProbeFailed(Reason.DNS_NO_ADDRESS, f"{host} is not an IPv{family} address")
    addresses = await names.lookup(host, 0 if fallback else family)
    return next((a for a in addresses if names.version(a) == family), addresses[0])


async def resolve_all(probe: Probe, host: str, *, preferred: str) -> list[str]:
    """Every address of a host that a target sent us on to, the wanted family's first; nothing is reported."""
    known = names.literal(host)
    if known is not None:
        return [known]
    family = 6 if preferred in ("", "ip6") else 4
    with probe.phase("resolve"):
        addresses = await names.lookup(host)
    return sorted(addresses, key=lambda address: names.version(address) != family)


@dataclass(frozen=True, slots=True)
class Secure:
    """How to make a connection secure: the context, and the name to ask for and to verify."""

    context: tls.ClientContext
    server_name: str


async def connect(
    probe: Probe,
    host: str,
    port: int,
    *,
    preferred: str = "ip6",
    fallback: bool = True,
    source: str = "",
    secure: TLSSettings | None = None,
) -> Connection:
    """Resolve a host and connect to it, with TLS at once if `secure` is given: all that most probers need.

    The address metrics and, with TLS, the certificate's are reported.

    Args:
        host: a name or an address (IPv6 without brackets).
        port: 1 to 65535.
        preferred, fallback: which of the host's addresses; see `resolve`.
        source: the local address to connect from; empty for the system's choice.
        secure: a module's ``tls_config``; the name to verify is its ``server_name``, or else `host`.

    Raises:
        ProbeFailed: with the reason of whatever did not work.
    """
    address = await resolve(probe, host, preferred=preferred, fallback=fallback)
    layer = None if secure is None else Secure(tls.client_context(secure), secure.server_name or host)
    connection = await dial(probe, [address], port, source=source, secure=layer)
    if connection.handshake is not None:
        tls.report(probe, connection.handshake)
    return connection


async def dial(
    probe: Probe,
    addresses: Sequence[str],
    port: int,
    *,
    source: str = "",
    secure: Secure | None = None,
    phase: str = "connect",
) -> Connection:
    """Open a TCP connection to the first of `addresses` that takes it, with TLS at once if `secure` is given.

    Args:
        addresses: resolved addresses, tried in order; usually one.
        port: 1 to 65535.
        source: the local address to connect from, of the same family; empty for the system's choice.
        secure: the TLS to start as soon as the connection stands.
        phase: what a failure to connect is a failure of.

    Raises:
        ProbeFailed: with the reason of the last address tried, or of the handshake.
    """
    return await first_of(probe, addresses, lambda address: _dial_one(probe, address, port, source, secure, phase))


async def first_of(probe: Probe, addresses: Sequence[str], dial_one: Callable[[str], Awaitable[T]]) -> T:
    """Try addresses in turn until one takes the connection; how the last one fails is how all do."""
    phase = probe.current_phase
    for address in addresses[:-1]:
        try:
            return await dial_one(address)
        except ProbeFailed as failed:
            probe.current_phase = phase
            probe.log("Connecting failed, trying the next address", ip=address, err=failed.message)
    return await dial_one(addresses[-1])


async def _dial_one(
    probe: Probe, address: str, port: int, source: str, secure: Secure | None, phase: str
) -> Connection:
    if not 0 < port < 65536:
        raise ProbeFailed(Reason.TARGET_INVALID, f"{port} is not a port")
    loop = asyncio.get_running_loop()
    local = (_local(source, address), 0) if source else None
    with probe.phase(phase):
        started = time.perf_counter()
        try:
            _, connection = await loop.create_connection(Connection, address, port, local_addr=local)
        except OSError as error:
            raise _connecting_failed(error, join_host_port(address, port)) from None
        connection.connect_seconds = connection.opened_at - started
    if secure is not None:
        try:
            await connection.start_tls(probe, secure)
        except BaseException:
            connection.abort()
            raise
    return connection


def _local(source: str, address: str) -> str:
    """The address to connect from, if it can lead to `address` at all."""
    local = names.literal(source)
    if local is None:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"source_ip_address: {source!r} is not an IP address")
    if names.version(local) != names.version(address):
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"source_ip_address: no way from {local} to {address}")
    return local


async def dial_unix(probe: Probe, path: str) -> Connection:
    """Connect to a Unix socket.

    Args:
        path: of the socket, relative to the working directory; with a leading ``@`` a name without a file ("abstract").

    Raises:
        ProbeFailed: nobody listens there, or we may not connect.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with probe.phase("connect"):
        started = time.perf_counter()
        try:
            if "\0" in path:
                raise ProbeFailed(Reason.TARGET_INVALID, "the path of a socket has no NUL")
            sock.setblocking(False)
            # Directly and not through the loop: it is done at once, or it fails at once.
            sock.connect(os.fsencode(f"\0{path[1:]}") if path.startswith("@") else path)
            _, connection = await asyncio.get_running_loop().create_unix_connection(Connection, sock=sock)
        except OSError as error:
            sock.close()
            if error.errno is None:  # what the socket module says of a path that is too long
                raise ProbeFailed(Reason.TARGET_INVALID, f"not the path of a socket: {error}") from None
            raise _connecting_failed(error, path) from None
        except BaseException:
            sock.close()
            raise
        connection.connect_seconds = time.perf_counter() - started
    return connection


_CONNECT_REASONS = {
    errno.ECONNREFUSED: Reason.CONNECT_REFUSED,
    errno.ENOENT: Reason.CONNECT_REFUSED,  # of a Unix socket
    errno.ETIMEDOUT: Reason.CONNECT_TIMEOUT,
    errno.EHOSTUNREACH: Reason.CONNECT_UNREACHABLE,
    errno.ENETUNREACH: Reason.CONNECT_UNREACHABLE,
    errno.EHOSTDOWN: Reason.CONNECT_UNREACHABLE,
    errno.ECONNRESET: Reason.CONNECT_RESET,
}


def _connecting_failed(error: OSError, target: str) -> ProbeFailed:
    reason = _CONNECT_REASONS.get(error.errno or 0, Reason.CONNECT_FAILED)
    what = error.strerror or str(error)
    return ProbeFailed(reason, f"connecting to {target} failed: {what}")


def join_host_port(host: str, port: int | str) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@lru_cache(maxsize=4096)
def split_host_port(target: str) -> tuple[str, str]:
    """The two parts of ``host:port`` or ``[v6]:port``; either may be empty.

    Raises:
        ProbeFailed: there is no port, or the brackets and colons are not where they belong.
    """
    found = _HOST_PORT.fullmatch(target)
    if found is None:
        raise ProbeFailed(Reason.TARGET_INVALID, f"the target {target!r} is not of the form host:port")
    return found["v6"] or found["host"] or "", found["port"]


_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[^:\[\]]*)", re.DOTALL)


@lru_cache(maxsize=4096)
def port_number(port: str) -> int:
    """A port by its number, or by the name of its service.

    Raises:
        ProbeFailed: no such service is known.
    """
    if not port or _NUMBER.fullmatch(port):
        return int(port or 0)
    name = port.lower()
    if name in _SERVICES:
        return _SERVICES[name]
    try:
        return socket.getservbyname(name, "tcp")
    except (OSError, UnicodeError, ValueError):
        raise ProbeFailed(Reason.TARGET_INVALID, f"{port!r} is not a port") from None


_NUMBER = re.compile(r" *[-+]?[0-9]{1,9}")  # what C's own functions, which the original asks, take for a number

# Small images have no /etc/services; these are known there too.
_SERVICES = {
    "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "http": 80, "pop3": 110, "imap2": 143,
    "https": 443, "submissions": 465, "ftps": 990, "imaps": 993, "pop3s": 995,
}  # fmt: skip


class Connection(asyncio.Protocol):
    """One byte stream to a target: plain, TLS, or TLS within TLS. Made by `connect`, `dial` or `dial_unix`.

    Attributes:
        connect_seconds, tls_seconds: how long the TCP and the TLS handshake took.
        opened_at, first_byte_at, last_byte_at: moments of `time.perf_counter`, 0.0 while they have not come;
            the first byte is the first of the application's.
        handshake: what the last TLS handshake showed; None on a plain connection.
    """

    def __init__(self) -> None:
        self.connect_seconds = 0.0
        self.tls_seconds = 0.0
        self.opened_at = 0.0
        self.first_byte_at = 0.0
        self.last_byte_at = 0.0
        self.handshake: tls.Handshake | None = None
        self._transport: asyncio.Transport | None = None
        self._layers: list[tls.Layer] = []  # the first is the outermost: its records are what is on the wire
        self._arrived: list[bytes] = []
        self._held = 0  # bytes in _arrived
        self._paused = False
        self._ended = False
        self._error: ProbeFailed | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.opened_at = time.perf_counter()
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        for depth in range(len(self._layers)):
            data = self._decrypt(depth, data)
        self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        """Keep what arrived for `read`, and make the peer wait once there is too much of it."""
        if data:
            self.last_byte_at = time.perf_counter()
            if not self.first_byte_at:
                self.first_byte_at = self.last_byte_at
            self._arrived.append(data)
            self._held += len(data)
            if self._held >= HIGH_WATER and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self.last_byte_at = time.perf_counter()
        self._ended = True
        self._wake()
        return True  # our half stays open: a peer may still want to read what we send

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None and not self._ended:
            self._error = _lost(error)
        self._ended = True
        self._transport = None
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writer = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)

    # What probers call.

    @property
    def waiting(self) -> bool:
        """Whether `read` has something to return at once."""
        return bool(self._arrived)

    async def read(self) -> bytes:
        """What has arrived, at least one byte; ``b""`` at the end of the stream.

        Raises:
            ProbeFailed: the peer reset the connection, or TLS broke.
        """
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        data = self._arrived[0] if len(self._arrived) == 1 else b"".join(self._arrived)
        self._arrived.clear()
        self._held = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def send(self, data: bytes) -> None:
        """Begin to send `data` and do not wait, for what is small or has an answer that may come first."""
        self._send(data, len(self._layers))

    async def write(self, data: bytes) -> None:
        """Send `data`; returns when the peer has taken enough of it for more to follow.

        Raises:
            ProbeFailed: the connection is gone.
        """
        self.send(data)
        if self._writer is not None:
            await self._writer
        else:
            await asyncio.sleep(0)  # a fast peer is no reason to keep all others waiting, nor one that has gone
        if self._transport is None:
            raise self._error or ProbeFailed(Reason.CONNECT_CLOSED, "the connection is closed")

    async def start_tls(self, probe: Probe, secure: Secure) -> None:
        """Make this connection a TLS client's, at once after `dial` or in the middle (STARTTLS).

        Raises:
            ProbeFailed: no agreement, a certificate that does not verify (its metrics are reported all the same).
        """
        with probe.phase("tls"):
            started = time.perf_counter()
            try:
                await self.wrap(secure)
            except tls.VerificationFailed as failed:
                tls.report(probe, failed.handshake)
                raise
            self.tls_seconds = time.perf_counter() - started

    async def wrap(self, secure: Secure) -> None:
        """Put a layer of TLS around all that follows, inside of those already there; nothing is reported.

        Raises:
            ProbeFailed: no agreement, or a certificate that does not verify.
        """
        layer = secure.context.layer(secure.server_name)
        try:
            with Deadline(asyncio.get_running_loop().time() + HANDSHAKE_LIMIT):
                await self._shake_hands(layer)
        except TimeoutError:
            raise ProbeFailed(Reason.TLS_TIMEOUT, f"no TLS handshake within {HANDSHAKE_LIMIT:g} s") from None
        self.handshake = layer.handshake
        self._layers.append(layer)
        self.restart(self._decrypt(len(self._layers) - 1, b""))  # what came along with the handshake's last message

    def restart(self, received: bytes = b"") -> None:
        """Begin anew: what has been read was not the application's, but for `received`, which `read` gives out next."""
        self.first_byte_at = 0.0
        self._deliver(received)

    async def _shake_hands(self, layer: tls.Layer) -> None:
        """Carry handshake messages to and fro until both sides agree or one gives up."""
        received = b""
        while True:
            try:
                finished = layer.advance(received)
            finally:
                self._send(layer.outgoing(), len(self._layers))
            if finished:
                return
            received = await self.read()
            if not received:
                raise ProbeFailed(Reason.TLS_HANDSHAKE, "the peer closed the connection during the TLS handshake")

    def close(self, last: bytes = b"") -> None:
        """End the connection in good order; what was sent, and `last`, goes out first. Safe to call twice."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            unsent = transport.get_write_buffer_size()
            if not self._ended:  # a peer that has said goodbye waits for no answer
                for layer in reversed(self._layers):
                    last = layer.encrypt(last)
                    layer.close()
                    last += layer.outgoing()
                if last:
                    transport.write(last)
            transport.close()
            if unsent:  # the peer may never take it
                asyncio.get_running_loop().call_later(LINGER, transport.abort)

    def abort(self) -> None:
        """Drop the connection without ceremony, and whatever was still to be sent."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self, data: bytes, depth: int) -> None:
        """Send `data` through the layers outside of `depth`."""
        if data and self._transport is not None:
            for layer in reversed(self._layers[:depth]):
                data = layer.encrypt(data)
            self._transport.write(data)

    def _decrypt(self, depth: int, data: bytes) -> bytes:
        """What the layer at `depth` makes of `data`, and what it has to answer."""
        layer = self._layers[depth]
        plain = layer.decrypt(data)
        self._error = self._error or layer.failure
        self._send(layer.outgoing(), depth)
        self._ended = self._ended or layer.ended
        return plain

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)


def _lost(error: Exception) -> ProbeFailed:
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return ProbeFailed(Reason.CONNECT_RESET, "the peer reset the connection")
    return ProbeFailed(Reason.CONNECT_FAILED, f"the connection broke: {error}")


async def dial_udp(address: str, port: int, *, source: str = "") -> Datagrams:
    """Open a UDP socket that sends to one address and hears nobody else. Nothing is sent yet.

    Args:
        address: resolved.
        port: 1 to 65535.
        source: the local address to send from; empty for the system's choice.

    Raises:
        ProbeFailed: the system knows no way there, or has no such address to send from.
    """
    sock = socket.socket(socket.AF_INET6 if names.version(address) == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if source:
            sock.bind((source, 0))
        sock.connect((address, port))
    except OSError as error:
        sock.close()
        raise _connecting_failed(error, join_host_port(address, port)) from None
    loop = asyncio.get_running_loop()
    _, datagrams = await loop.create_datagram_endpoint(lambda: Datagrams(address, port), sock=sock)
    return datagrams


class Datagrams(asyncio.DatagramProtocol):
    """Datagrams to and from one address. Made by `dial_udp`.

    Attributes:
        first_at: when the first datagram arrived, on `time.perf_counter`; 0.0 while none has.
        arrived_at: when the one arrived that `read` returned last.
    """

    def __init__(self, address: str, port: int) -> None:
        self.first_at = 0.0
        self.arrived_at = 0.0
        self._address = address
        self._port = port
        self._transport: asyncio.DatagramTransport | None = None
        self._arrived: deque[tuple[float, bytes]] = deque()
        self._held = 0  # bytes in _arrived
        self._error: ProbeFailed | None = None
        self._reader: asyncio.Future[None] | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, _: object) -> None:
        now = time.perf_counter()
        self.first_at = self.first_at or now
        if self._held < HIGH_WATER:  # beyond it they are lost, as they are where a socket's own buffer is full
            self._arrived.append((now, data))
            self._held += len(data) + DATAGRAM_COST
        self._wake()

    def error_received(self, error: Exception) -> None:
        """Something came back instead of an answer, such as ICMP's "port unreachable"."""
        if isinstance(error, ConnectionRefusedError) and self.first_at:
            self._error = ProbeFailed(Reason.CONNECT_RESET, "the peer has closed its port")
        else:
            self._error = _connecting_failed(cast("OSError", error), join_host_port(self._address, self._port))
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    # What probers call.

    @property
    def waiting(self) -> bool:
        """Whether `read` has something to return at once."""
        return bool(self._arrived)

    async def read(self) -> bytes:
        """The next datagram.

        Raises:
            ProbeFailed: the network says that nobody is there, or that there is no way.
        """
        while not self._arrived:
            if self._error is not None:
                raise self._error
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        self.arrived_at, data = self._arrived.popleft()
        self._held -= len(data) + DATAGRAM_COST
        return data

    def send(self, data: bytes) -> None:
        """Send one datagram; whether it arrives nobody knows."""
        if self._transport is not None:
            self._transport.sendto(data)

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        if self._transport is not None:
            self._transport.close()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)
