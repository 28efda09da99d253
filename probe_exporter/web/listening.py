"""Open the exporter's listening sockets, and derive its external URL and route prefix from the flags."""

from __future__ import annotations

import os
import posixpath
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISSOCK
from urllib.parse import quote, urlsplit

BACKLOG = 4096
"""The backlog of connections to accept: a large Prometheus opens thousands at once."""

MAX_PORT = 65535

UNIX = "unix:"
FIRST_INHERITED = 3
"""The descriptor of the first socket that systemd passes: sd_listen_fds(3)."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_BAD_IN_HOST = re.compile(r"[ \\^`{|}]")
_OF_URLS = "%/:?#[]@!$&'()*+,;=~"
"""What an external URL may have beside letters, digits and ``_.-``; all else is percent-encoded in a redirect."""


@dataclass(frozen=True, slots=True)
class Place:
    """The paths under which clients reach the exporter.

    Args:
        prefix: the route prefix of all paths; it begins and ends with a slash.
        front: the URL to which a request for the root is redirected if the root is not the prefix.
    """

    prefix: str
    front: str


class ListenError(Exception):
    """An address or URL can't be used; the message says which one and why."""


def split_address(address: str) -> tuple[str, str]:
    """Return host and port of ``host:port``, ``[v6]:port`` or ``:port``; an empty host means every address.

    Raises:
        ListenError: the address has another form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        raise ListenError(f"listen address {address!r} has no port: it takes host:port, [v6]:port or :port")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], port
    if ":" in host or "[" in host or "]" in host:
        raise ListenError(f"listen address {address!r}: an IPv6 address goes in brackets, [v6]:port")
    return host, port


def listen(address: str) -> socket.socket:
    """Open a listening socket; ``:port`` and ``[::]:port`` accept IPv4 and IPv6 if the system has both, as in Go.

    Raises:
        ListenError: the address is in use, not one of this machine, or not permitted.
    """
    host, port = split_address(address)
    if port.isdecimal() and int(port) > MAX_PORT:
        raise ListenError(f"cannot listen on {address}: ports end at {MAX_PORT}")
    try:
        both = socket.has_dualstack_ipv6()
        every = "::" if both else "0.0.0.0"
        found = socket.getaddrinfo(host or every, port or "0", type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # As Go does: one address per flag, IPv4 if the name has one.
        family, _, _, _, where = min(found, key=lambda info: info[0] != socket.AF_INET)
        both = both and where[0] == "::"
        return socket.create_server(where[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        # create_server adds to the system's message; errors of name resolution have negative numbers.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ListenError(f"cannot listen on {address}: {reason}") from error


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket.

    Args:
        path: the Unix socket that this process created, and removes when it exits.
    """

    socket: socket.socket
    path: Path | None = None

    @property
    def name(self) -> str:
        """The address, for log messages."""
        where = self.socket.getsockname()
        if not isinstance(where, tuple):
            return f"{UNIX}{os.fsdecode(where)}"
        host, port = where[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"

    def close(self) -> None:
        """Close the socket, and remove its path."""
        self.socket.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def open_all(addresses: Sequence[str]) -> list[Listener]:
    """Listen on all addresses of the flags; if one fails, close the others.

    Raises:
        ListenError: one of the addresses can't be used.
    """
    opened: list[Listener] = []
    try:
        for address in addresses:
            opened.append(listen_at_path(address) if address.startswith(UNIX) else Listener(listen(address)))  # noqa: PERF401  # those before a bad one are closed below
    except ListenError:
        for listener in opened:
            listener.close()
        raise
    return opened


def open_for_workers(addresses: Sequence[str], number: int) -> list[list[Listener]]:
    """Open listening sockets for each worker; the kernel distributes the connections among them (SO_REUSEPORT).

    A worker that replaces another inherits its sockets, and the connections that wait to be accepted there.

    Raises:
        ListenError: one of the addresses can't be used, or another process listens on it.
    """
    shares: list[list[Listener]] = [[] for _ in range(number)]
    for listener in open_all(addresses):
        for share, copy in zip(shares, _copies(listener, number), strict=True):
            share.append(copy)
    return shares


def _copies(listener: Listener, number: int) -> list[Listener]:
    """Return a socket for each worker at this one's address; all share this one if there can be only one."""
    if listener.path is not None:
        return [listener] * number
    family, where = listener.socket.family, listener.socket.getsockname()
    both = family == socket.AF_INET6 and not listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    name = listener.name
    listener.close()
    try:
        return [
            Listener(socket.create_server(where, family=family, backlog=BACKLOG, reuse_port=True, dualstack_ipv6=both))
            for _ in range(number)
        ]
    except OSError as error:
        raise ListenError(f"cannot listen on {name}: {error.strerror}") from error


def listen_at_path(address: str) -> Listener:
    """Listen on a Unix socket, ``unix:PATH`` or ``unix:///PATH``; replace a socket that no process listens on.

    Raises:
        ListenError: the path can't be used.
    """
    path = Path(address.removeprefix(UNIX).removeprefix("//"))
    listener = socket.socket(socket.AF_UNIX)
    try:
        if _is_abandoned(path):
            path.unlink()
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error
    return Listener(listener, path)


def _is_abandoned(path: Path) -> bool:
    """Whether the path is a socket on which no process listens any more."""
    try:
        if not S_ISSOCK(path.lstat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(1)
        try:
            knock.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False


def inherit() -> list[Listener]:
    """Return the listening sockets that systemd, or another supervisor with its protocol, passed to this process.

    Raises:
        ListenError: there are none, or a passed descriptor is not a listening socket.
    """
    process, number = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not number.isdecimal() or int(number) < 1:
        raise ListenError("no sockets were passed to this process (LISTEN_PID, LISTEN_FDS)")
    listeners = []
    for descriptor in range(FIRST_INHERITED, FIRST_INHERITED + int(number)):
        try:
            passed = socket.socket(fileno=descriptor)
            listening = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ListenError(f"the passed descriptor {descriptor} is no socket: {error.strerror}") from error
        if passed.type != socket.SOCK_STREAM or not listening:
            raise ListenError(f"the passed descriptor {descriptor} is no listening stream socket")
        os.set_inheritable(descriptor, False)
        listeners.append(Listener(passed))
    return listeners


def place(external_url: str | None, route_prefix: str | None, addresses: Sequence[str]) -> tuple[Place, str]:
    """Return the paths and the external URL that follow from the flags.

    Args:
        external_url: ``--web.external-url``; None to make one of the host name and the first port.
        route_prefix: ``--web.route-prefix``; None or empty for the path of the external URL.
        addresses: the addresses for `open_all`; empty if sockets are inherited.

    Raises:
        ListenError: the URL is invalid, or no address has a port to make one of.
    """
    if external_url is None:
        named = next((address for address in addresses if not address.startswith(UNIX)), None)
        if named is None:
            raise ListenError("without an address that has a port, --web.external-url is needed")
        _, port = split_address(named)
        url, path = f"http://{socket.gethostname()}:{port}", ""
    else:
        url, path = _split_url(external_url)
    prefix = _clean(route_prefix or path)
    # Without an external URL, a request for the root is redirected to the route prefix.
    front = _encoded(f"{url}{path}", _OF_URLS) if external_url else _encoded(prefix, "/")
    return Place(prefix, front), f"{url}{path}"


def _encoded(text: str, safe: str) -> str:
    """Percent-encode what is neither a letter or digit of ASCII, nor one of ``_.-~`` or of these characters."""
    return quote(text, safe, errors="surrogateescape")


def _clean(path: str) -> str:
    """Return a path that begins and ends with a slash, without empty segments, ``.`` and ``..``.

    The paths of requests are cleaned in the same way, so another prefix would be out of reach.
    """
    clean = posixpath.normpath("/" + path.strip("/"))
    return clean if clean == "/" else f"{clean}/"


def _split_url(text: str) -> tuple[str, str]:
    """Return the part of a URL before the path, and the path without trailing slashes."""
    if text[:1] in ("'", '"') or text[-1:] in ("'", '"'):
        raise ListenError(f"external URL {text}: it must not begin or end with quotes")
    if _CONTROL.search(text) or _BAD_ESCAPE.search(text) or text.startswith(":"):
        raise ListenError(f"external URL {text!r} is not a URL")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise ListenError(f"external URL {text!r} is not a URL: {error}") from error
    if _BAD_IN_HOST.search(parts.netloc):
        raise ListenError(f"external URL {text!r} is not a URL: its host has a character that no host may have")
    path = parts.path.rstrip("/")
    if parts.netloc:
        return f"{parts.scheme}://{parts.netloc}" if parts.scheme else f"//{parts.netloc}", path
    if path and not path.startswith("/"):
        if parts.scheme:  # `host:port`, which is a scheme without a path
            return "", ""
        if ":" in path.partition("/")[0]:
            raise ListenError(f"external URL {text!r}: a host with a port needs http:// before it")
        path = f"/{path}"
    return "", path
