"""Where a target is: `host:port` as people write it, taken apart and put together. No I/O."""

from __future__ import annotations

import re
import socket

from probe_exporter.addresses.cache import remembered
from probe_exporter.prober.failure import ProbeFailed, Reason


def join_host_port(host: str, port: int | str) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@remembered()
def split_host_port(target: str) -> tuple[str, str]:
    """The two parts of ``host:port`` or ``[v6]:port``; either may be empty.

    Raises:
        ProbeFailed: there is no port, or the brackets and colons are not where they belong.
    """
    return _split(target)


def _split(target: str) -> tuple[str, str]:
    found = _HOST_PORT.fullmatch(target)
    if found is None:
        raise ProbeFailed(Reason.TARGET_INVALID, f"the target {target!r} is not of the form host:port")
    return found["v6"] or found["host"] or "", found["port"]


_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[^:\[\]]*)", re.DOTALL)


def host_and_port(target: str, default: int, protocol: str = "tcp") -> tuple[str, int]:
    """The two parts of a target that may leave out its port: ``host``, ``host:port``, an IPv6 address with or without
    brackets.

    Args:
        default: the port where the target has none.
        protocol: ``tcp`` or ``udp``; a port by name may be of one alone.

    Raises:
        ProbeFailed: it is none of these, or there is no such port.
    """
    return _host_and_port((target, default, protocol))


@remembered()
def _host_and_port(given: tuple[str, int, str]) -> tuple[str, int]:
    target, default, protocol = given
    if target.count(":") > 1 and not target.startswith("["):  # an IPv6 address alone
        return target, default
    if target.endswith("]") or ":" not in target:
        target = f"{target}:{default}"
    host, port = _split(target)  # which is not cached a second time
    number = port_number(port, protocol)
    if not host or not 0 < number < 65536:
        raise ProbeFailed(Reason.TARGET_INVALID, f"the target {target!r} is not of the form host or host:port")
    return host, number


def port_number(port: str, protocol: str = "tcp") -> int:
    """A port by its number, or by the name that its service has over a protocol.

    Raises:
        ProbeFailed: no such service is known.
    """
    return _port_number((port, protocol))


@remembered()
def _port_number(given: tuple[str, str]) -> int:
    port, protocol = given
    if not port or _NUMBER.fullmatch(port):
        return int(port or 0)
    name = port.lower()
    if (name, protocol) in _SERVICES:
        return _SERVICES[name, protocol]
    try:
        return socket.getservbyname(name, protocol)
    except (OSError, UnicodeError, ValueError):
        raise ProbeFailed(Reason.TARGET_INVALID, f"{port!r} is not a port") from None


_NUMBER = re.compile(r" *[-+]?[0-9]{1,9}")  # what C's own functions, which the original asks, take for a number

# Small images have no /etc/services; these are known there too.
_SERVICES = {("domain", "udp"): 53} | {
    (name, "tcp"): number
    for name, number in {
        "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "http": 80, "pop3": 110, "imap2": 143,
        "https": 443, "submissions": 465, "ftps": 990, "imaps": 993, "pop3s": 995,
    }.items()
}  # fmt: skip
