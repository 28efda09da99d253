"""Connect through a proxy: HTTP CONNECT, SOCKS5 (RFC 1928), or a proxy that forwards requests.

A failure before the tunnel is open has a reason of the proxy. The time counts as the connection's.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

from probe_exporter.addresses import literals
from probe_exporter.addresses.endpoints import join_host_port
from probe_exporter.addresses.host_names import to_ascii
from probe_exporter.network import address_choice, opening
from probe_exporter.network.connection import Connection, Secure
from probe_exporter.prober.failure import TIMEOUTS, ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.http import http1
from probe_exporter.protocols.http.http1 import Http1ResponseReader
from probe_exporter.protocols.http.proxy import Proxy
from probe_exporter.protocols.http.request import USER_AGENT, basic
from probe_exporter.protocols.http.response import Headers
from probe_exporter.protocols.http.url import URL, host_only
from probe_exporter.settings.fields import encode
from probe_exporter.tls import loading
from probe_exporter.tls.settings import TLSSettings

ALPN = ("http/1.1",)
"""Protocols offered by ALPN to a proxy with TLS."""

PHASE = "proxy"
"""The phase of failures before the tunnel is open; it has no duration of its own."""

_VERSION = 5
_AUTHENTICATION = 1  # the version of RFC 1929
_OPEN, _PASSWORD, _NONE_ACCEPTABLE = 0, 2, 255
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_LENGTHS = {_IPV4: 4, _IPV6: 16}

_REPLIES = {
    1: "it has a general failure",
    2: "its rules forbid it",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "the connection was refused",
    6: "the time to live ran out",
    7: "it can't connect for its clients",
    8: "it does not know this type of address",
}

Dialogue = Generator[tuple[bytes, int], bytes, None]
"""A dialogue without I/O: yields bytes to send and the number of bytes to receive, and is sent those."""


async def addresses(probe: Probe, proxy: Proxy) -> list[str]:
    """Return the addresses of a proxy.

    Raises:
        ProbeFailed: its name does not resolve.
    """
    if not (proxy.host and proxy.port):
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "the proxy's URL has no host or no port")
    known = literals.literal(proxy.host)
    if known is not None:
        return [known]
    with probe.phase(PHASE), _blaming(proxy):
        return await address_choice.lookup(probe, proxy.host)


async def dial(
    probe: Probe,
    proxy: Proxy,
    proxy_addresses: Sequence[str],
    own: Secure | None,
    destination: tuple[str, int],
    secure: Secure | None,
    *,
    forwarded: bool = False,
) -> Connection:
    """Connect to a proxy, and through it to a destination.

    Args:
        proxy_addresses: tried in order.
        own: TLS for the connection to the proxy.
        destination: host (a name or an address) and port.
        secure: TLS for the connection to the destination.
        forwarded: open no tunnel; the proxy will forward requests.

    Raises:
        ProbeFailed: the proxy or the destination's TLS fails, or the network policy denies one of them.
    """
    started = time.perf_counter()
    if probe.network is not None:
        with probe.phase(PHASE):
            probe.network.check_proxied(*destination)
    with _blaming(proxy):
        connection = await opening.dial(probe, proxy_addresses, proxy.port, phase=PHASE)
    connection.address = ""  # of the proxy, and not of the peer that its users speak to
    try:
        with probe.phase(PHASE):
            if own is not None:
                with _blaming(proxy):
                    await connection.wrap(own)
            if proxy.is_socks:
                await _converse(connection, socks5(*destination, proxy.user, proxy.password or ""))
            elif not forwarded:
                await _connect(connection, proxy, *destination)
        connection.connect_seconds = time.perf_counter() - started
        probe.log("Connected to the proxy" if forwarded else "Connected through the proxy", proxy=str(proxy))
        if secure is not None:
            await connection.start_tls(probe, secure)
    except BaseException:
        connection.abort()
        raise
    return connection


async def own_tls(proxy: Proxy, config: TLSSettings) -> Secure | None:
    """Return TLS for the connection to the proxy; None for a plain one.

    A configured `server_name` applies to the proxy's certificate too, as in the original.
    """
    if not proxy.secure:
        return None
    return Secure(await loading.client_context(config, ALPN), config.server_name or proxy.host)


def destination(proxy: Proxy, url: URL, addresses: Sequence[str]) -> tuple[str, int]:
    """Return host and port for the proxy: the host's name, or with plain ``socks5`` the address if one was chosen."""
    by_address = bool(addresses) and proxy.scheme == "socks5"
    return addresses[0] if by_address else host_only(url.authority), url.port


@contextmanager
def _blaming(proxy: Proxy) -> Iterator[None]:
    """Report failures as failures to connect to the proxy."""
    try:
        yield
    except ProbeFailed as failed:
        if failed.reason is Reason.TARGET_DENIED:
            raise
        late = failed.reason in TIMEOUTS.values()
        reason = Reason.PROXY_TIMEOUT if late else Reason.PROXY_CONNECT
        raise ProbeFailed(reason, f"connecting to the proxy {proxy} failed: {failed.message}") from None


def authorization(proxy: Proxy) -> Headers:
    """Return the header for the credentials in a proxy's URL; nothing without credentials."""
    if proxy.user is None:
        return []
    return [("Proxy-Authorization", basic(proxy.user, proxy.password or ""))]


async def _connect(connection: Connection, proxy: Proxy, host: str, port: int) -> None:
    """Ask an HTTP proxy for a tunnel (RFC 9110, 9.3.6), in which TLS begins.

    Bytes after its response are dropped: the destination has received nothing yet.
    """
    authority = join_host_port(host, port)
    reader = Http1ResponseReader("CONNECT")
    connection.send(connect_head(authority, proxy))
    try:
        while not reader.head_complete:
            reader.feed(await connection.read())
    except ProbeFailed as failed:
        raise ProbeFailed(
            Reason.PROXY_PROTOCOL_ERROR, f"the response to CONNECT is missing or invalid: {failed.message}"
        ) from None
    if reader.status != 200:
        raise ProbeFailed(
            Reason.PROXY_REFUSED, f"the proxy answers {reader.status} to CONNECT {authority}", status_code=reader.status
        )


def connect_head(authority: str, proxy: Proxy) -> bytes:
    """Return the request for a tunnel. Configured headers can replace the User-Agent and no other header."""
    headers = [("Host", authority), *authorization(proxy)]
    if not any(name.lower() == "user-agent" for name, _ in proxy.connect_headers):
        headers.append(("User-Agent", USER_AGENT))
    taken = {name.lower() for name, _ in headers} | {"content-length", "transfer-encoding", "trailer"}
    headers += [header for header in proxy.connect_headers if header[0].lower() not in taken]
    return http1.request_head("CONNECT", authority, http1.header_lines(headers))


async def _converse(connection: Connection, dialogue: Dialogue) -> None:
    """Run a dialogue to its end; bytes after it come from the destination."""
    received = b""
    step: tuple[bytes, int] | None = next(dialogue)
    while step is not None:
        say, wanted = step
        connection.send(say)
        while len(received) < wanted:
            received += await _read(connection)
        answer, received = received[:wanted], received[wanted:]
        try:
            step = dialogue.send(answer)
        except StopIteration:
            step = None
    connection.restart(received)


async def _read(connection: Connection) -> bytes:
    try:
        piece = await connection.read()
    except ProbeFailed as failed:
        raise ProbeFailed(Reason.PROXY_PROTOCOL_ERROR, f"the proxy did not respond: {failed.message}") from None
    if not piece:
        raise ProbeFailed(Reason.PROXY_PROTOCOL_ERROR, "the proxy closed the connection before the tunnel was open")
    return piece


def socks5(host: str, port: int, user: str | None, password: str) -> Dialogue:
    """Ask for a connection by SOCKS5 (RFC 1928), with user and password (RFC 1929) if the proxy requires them.

    Args:
        host: a name, which the proxy resolves, or an address.

    Raises:
        ProbeFailed: the proxy refuses, or does not speak SOCKS5.
    """
    methods = bytes([_OPEN] if user is None else [_OPEN, _PASSWORD])
    version, method = yield bytes([_VERSION, len(methods)]) + methods, 2
    _check_version(version)
    if method == _NONE_ACCEPTABLE or (method == _PASSWORD and user is None):
        raise ProbeFailed(Reason.PROXY_REFUSED, "the proxy requires credentials that its URL does not have")
    if method == _PASSWORD:
        version, verdict = yield _credentials(user or "", password), 2
        _check_version(version, _AUTHENTICATION)
        if verdict:
            raise ProbeFailed(Reason.PROXY_REFUSED, "the proxy refuses user and password")
    version, reply, reserved, kind = yield bytes([_VERSION, _CONNECT, 0]) + _address(host) + port.to_bytes(2, "big"), 4
    _check_version(version)
    if reply:
        why = _REPLIES.get(reply, f"its reply is {reply}")
        raise ProbeFailed(
            Reason.PROXY_REFUSED, f"the proxy does not connect to {join_host_port(host, port)}: {why}", reply=reply
        )
    if reserved:
        raise ProbeFailed(Reason.PROXY_PROTOCOL_ERROR, "the proxy's reply has a value in a reserved field")
    if kind == _NAME:
        length = (yield b"", 1)[0]
    elif kind in _LENGTHS:
        length = _LENGTHS[kind]
    else:
        raise ProbeFailed(Reason.PROXY_PROTOCOL_ERROR, f"the proxy's reply has an address of unknown type {kind}")
    yield b"", length + 2  # the address and port that it connected from


def _check_version(version: int, expected: int = _VERSION) -> None:
    if version != expected:
        raise ProbeFailed(
            Reason.PROXY_PROTOCOL_ERROR, f"the proxy uses version {version} of its protocol, expected {expected}"
        )


def _credentials(user: str, password: str) -> bytes:
    name, word = encode(user), encode(password)
    if not (0 < len(name) < 256 and len(word) < 256):
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE, "SOCKS5 takes a user of 1 to 255 bytes and a password of at most 255"
        )
    return bytes([_AUTHENTICATION, len(name)]) + name + bytes([len(word)]) + word


def _address(host: str) -> bytes:
    address = literals.literal(host)
    if address is not None:
        packed = ipaddress.ip_address(address).packed
        return bytes([_IPV4 if len(packed) == 4 else _IPV6]) + packed
    name = to_ascii(host).encode()
    if len(name) > 255:
        raise ProbeFailed(Reason.TARGET_INVALID, "SOCKS5 takes a host name of at most 255 bytes")
    return bytes([_NAME, len(name)]) + name
