"""Connect to targets for probers: open every socket to a target, except those of pings (`protocols/icmp`)."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from probe_exporter.addresses import literals
from probe_exporter.addresses.endpoints import join_host_port
from probe_exporter.network.address_choice import choose_address
from probe_exporter.network.connection import Connection, Secure, connecting_failed
from probe_exporter.network.datagrams import Datagrams
from probe_exporter.network.settings import ConnectSettings, SourceSettings
from probe_exporter.network.stream_socket import StreamSocket
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric, whole_nanoseconds
from probe_exporter.prober.run import Network, Probe
from probe_exporter.tls import loading, metrics
from probe_exporter.tls.settings import TLSSettings

ANY_WAY = SourceSettings()
"""Default settings: any address of the target, from any of this machine."""

T = TypeVar("T")

_IP_BIND_ADDRESS_NO_PORT = 24
"""Linux' number. Whether the socket module has it depends on how Python was built."""


async def connect(
    probe: Probe,
    host: str,
    port: int,
    settings: SourceSettings = ANY_WAY,
    *,
    seconds: Metric | None = None,
) -> Connection:
    """Resolve a host and connect to it, and start TLS if the settings say so.

    The address metrics and, with TLS, the certificate's are reported.

    Args:
        host: a name or an address (IPv6 without brackets).
        port: 1 to 65535.
        settings: the prober's own, derived from `SourceSettings` or `ConnectSettings`: IP version, source address,
            TLS. The name to verify is ``server_name``, or else `host`.
        seconds: a metric with the one label ``phase``, which gets how long ``resolve``, ``connect`` and ``tls`` took.

    Raises:
        ProbeFailed: the name does not resolve, or connecting or the TLS handshake failed.
    """
    with probe.phase("resolve", seconds):
        address = await choose_address(probe, host, settings)
    connection = await dial(probe, [address], port, source=settings.source_ip_address)
    if seconds is not None:
        probe.set(seconds, whole_nanoseconds(connection.connect_seconds), "connect")
    if isinstance(settings, ConnectSettings) and settings.tls:
        try:
            await start_tls(probe, connection, settings.tls_config, host, seconds=seconds)
        except BaseException:
            connection.abort()
            raise
    return connection


async def connect_udp(
    probe: Probe,
    host: str,
    port: int,
    settings: SourceSettings = ANY_WAY,
    *,
    seconds: Metric | None = None,
) -> Datagrams:
    """Resolve a host and open a UDP socket that is connected to it. Nothing is sent yet.

    The address metrics are reported.

    Args:
        host: a name or an address (IPv6 without brackets).
        port: 1 to 65535.
        settings: the prober's own, derived from `SourceSettings`: IP version, source address.
        seconds: a metric with the one label ``phase``, which gets how long ``resolve`` took.

    Raises:
        ProbeFailed: the name does not resolve, or there is no route to the host.
    """
    with probe.phase("resolve", seconds):
        address = await choose_address(probe, host, settings)
    return await dial_udp(probe, address, port, source=settings.source_ip_address)


async def start_tls(
    probe: Probe, connection: Connection, settings: TLSSettings, host: str, *, seconds: Metric | None = None
) -> None:
    """Start TLS (STARTTLS), and report the certificate's metrics, whether it verifies or not.

    Args:
        settings: a module's ``tls_config``.
        host: the name to verify where the settings give none; empty if the target has no name.
        seconds: a metric with the one label ``phase``, which gets how long ``tls`` took.

    Raises:
        ProbeFailed: the handshake failed, the certificate does not verify, or the settings can't be used.
    """
    name = settings.server_name or host
    if not name and not settings.insecure_skip_verify:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE, "tls_config: without `server_name` there is no name to verify a certificate by"
        )
    await loading.load()
    with probe.phase("tls", seconds) as phase:
        phase.about = name
        await connection.start_tls_in_phase(probe, Secure(await loading.client_context(settings), name))
    assert connection.handshake is not None
    metrics.report_handshake(probe, connection.handshake)


def dial(
    probe: Probe,
    addresses: Sequence[str],
    port: int,
    *,
    source: str = "",
    secure: Secure | None = None,
    phase: str = "connect",
) -> Coroutine[Any, Any, Connection]:
    """Open a TCP connection to the first of `addresses` that accepts it, and start TLS if `secure` is given.

    Args:
        addresses: resolved addresses, tried in order; usually one.
        port: 1 to 65535.
        source: the local address to connect from, of the same family; empty for the system's choice.
        secure: the TLS to start.
        phase: the phase in which a failure to connect is reported.

    Raises:
        ProbeFailed: with the reason of the last address tried, or of the handshake.
    """
    if len(addresses) == 1:  # nearly always
        return _dial_one(probe, addresses[0], port, source, secure, phase)
    return first_of(probe, addresses, lambda address: _dial_one(probe, address, port, source, secure, phase))


async def first_of(probe: Probe, addresses: Sequence[str], dial_one: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    """Try addresses in turn until one accepts the connection; raise the failure of the last one."""
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
    network = probe.network
    if network is not None:
        source = source or network.source_ip_address
    local = _local(source, address) if source else ""
    with probe.phase(phase) as attempt:
        attempt.about = address
        if network is not None:
            network.check(address, port)
        there = literals.socket_address(address, port)
        connection, started = Connection(), time.perf_counter()
        try:
            stream = StreamSocket(_bound_socket(socket.SOCK_STREAM, there, local, network), connection)
            try:
                await stream.connect(there)
            except BaseException:
                stream.abort()
                raise
        except OSError as error:
            raise connecting_failed(error, join_host_port(address, port)) from None
        connection.address = address
        connection.connect_seconds = connection.opened_at - started
    if secure is not None:
        try:
            await connection.start_tls(probe, secure)
        except BaseException:
            connection.abort()
            raise
    return connection


def _bound_socket(
    kind: socket.SocketKind, there: tuple[Any, ...], local: str, network: Network | None
) -> socket.SocketType:
    """Return a socket that does not block, bound to a local address and to the policy's interface if there are any.

    Args:
        kind: ``SOCK_STREAM`` for TCP or ``SOCK_DGRAM`` for UDP.
        there: what it is to be connected to, by `literals.socket_address`.
    """
    family = socket.AF_INET if len(there) == 2 else socket.AF_INET6
    # The class below `socket.socket`, which takes three times as long to make and to close.
    sock = socket.SocketType(family, kind | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if network is not None and network.source_interface:
            bind_to_interface(sock, network.source_interface)
        if local:
            if kind == socket.SOCK_STREAM:
                _choose_port_late(sock)
            sock.bind(literals.socket_address(local, 0))
    except BaseException:
        sock.close()
        raise
    return sock


def _choose_port_late(sock: socket.SocketType) -> None:
    """Let the system choose the local port in connect(2): connections to different targets can share a port then.

    In bind(2) the system does not know the target. Each connection from one address would take a port of its own, and
    28,000 of them, those in TIME_WAIT included, would use up the default range.
    """
    with contextlib.suppress(OSError):  # kernels other than Linux that only resemble it, such as gVisor's
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)


def bind_to_interface(sock: socket.SocketType, interface: str) -> None:
    """Bind a socket to an interface, so that its packets leave and arrive through that one only.

    Raises:
        ProbeFailed: there is no such interface, or the exporter lacks the capability.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(interface))
    except OSError as error:
        what = f"binding to {interface!r} failed: {error.strerror or error}"
        if error.errno == errno.ENODEV:
            what = f"this machine has no interface {interface!r}"
        elif error.errno in (errno.EPERM, errno.EACCES):
            what = f"this kernel allows binding to {interface!r} only with CAP_NET_RAW (before Linux 5.7)"
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"source_interface: {what}") from None


def _local(source: str, address: str) -> str:
    """Return the local address to connect from.

    Raises:
        ProbeFailed: it is no address, or not of the same family as `address`.
    """
    local = literals.literal(source)
    if local is None:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"source_ip_address: {source!r} is not an IP address")
    if literals.version(local) != literals.version(address):
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE, f"source_ip_address: {local} can't connect to {address}: another IP version"
        )
    return local


async def dial_unix(probe: Probe, path: str) -> Connection:
    """Connect to a Unix socket.

    Args:
        path: of the socket, relative to the working directory; with a leading ``@`` a name without a file ("abstract").

    Raises:
        ProbeFailed: no process listens there, or the exporter has no permission to connect.
    """
    with probe.phase("connect"):
        started = time.perf_counter()
        if "\0" in path:
            raise ProbeFailed(Reason.TARGET_INVALID, "the path of a socket has no NUL")
        if probe.network is not None:
            path = probe.network.check_path(path)
        try:
            connection = _connect_to_path(path)
        except OSError as error:
            if error.errno is None:  # the socket module's error about a path that is too long
                raise ProbeFailed(Reason.TARGET_INVALID, f"not the path of a socket: {error}") from None
            raise connecting_failed(error, path) from None
        connection.address = path
        connection.connect_seconds = time.perf_counter() - started
    return connection


def _connect_to_path(path: str) -> Connection:
    sock = socket.SocketType(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Not through the event loop: connecting to a Unix socket does not block.
        sock.connect(os.fsencode(f"\0{path[1:]}") if path.startswith("@") else path)
    except BaseException:
        sock.close()
        raise
    connection = Connection()
    StreamSocket(sock, connection).start()
    return connection


async def dial_udp(probe: Probe, address: str, port: int, *, source: str = "") -> Datagrams:
    """Open a UDP socket that is connected to one address. Nothing is sent yet.

    Args:
        address: resolved.
        port: 1 to 65535.
        source: the local address to send from, of the same family; empty for the system's choice.

    Raises:
        ProbeFailed: there is no route, or the source address is not one of this machine.
    """
    if not 0 < port < 65536:
        raise ProbeFailed(Reason.TARGET_INVALID, f"{port} is not a port")
    network = probe.network
    if network is not None:
        source = source or network.source_ip_address
    local = _local(source, address) if source else ""
    with probe.phase("connect") as attempt:
        attempt.about = address
        if network is not None:
            network.check(address, port)
        try:
            return Datagrams(_udp_socket(address, port, local, network), address, port)
        except OSError as error:
            raise connecting_failed(error, join_host_port(address, port)) from None


def _udp_socket(address: str, port: int, local: str, network: Network | None) -> socket.SocketType:
    there = literals.socket_address(address, port)
    sock = _bound_socket(socket.SOCK_DGRAM, there, local, network)
    try:
        sock.connect(there)
    except BaseException:
        sock.close()
        raise
    return sock
