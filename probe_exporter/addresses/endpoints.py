"""Split and join ``host:port``, as targets are written. No I/O."""

from __future__ import annotations

import re
import socket

from probe_exporter.cache import MAX_USUAL_BYTES, remembered
from probe_exporter.prober.failure import ProbeFailed, Reason


def join_host_port(host: str, port: int | str) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(target: str) -> tuple[str, str]:
    """Return the two parts of ``host:port`` or ``[v6]:port``; either may be empty.

    Raises:
        ProbeFailed: there is no port, or a bracket or colon is misplaced.
    """
    return _remembered_split(target)


def _split(target: str) -> tuple[str, str]:
    found = _HOST_PORT.fullmatch(target)
    if found is None:
        raise ProbeFailed(Reason.TARGET_INVALID, f"the target {target!r} is not of the form host:port")
    return found["v6"] or found["host"] or "", found["port"]


_remembered_split = remembered()(_split)

_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[^:\[\]]*)", re.DOTALL)


def host_and_port(target: str, default: int, protocol: str = "tcp") -> tuple[str, int]:
    """Return host and port of a target that may have no port: ``host``, ``host:port``, IPv6 with or without brackets.

    Args:
        default: the port if the target has none.
        protocol: ``tcp`` or ``udp``; the name of a port may belong to one of them only.

    Raises:
        ProbeFailed: the target has another form, or there is no such port.
    """
    return _host_and_port((target, default, protocol))


MAX_ENDPOINT_CACHE_BYTES = 20 << 20
"""For 20,000 targets, each some 480 bytes, in one of the two generations of a cache."""


@remembered(MAX_ENDPOINT_CACHE_BYTES, None, MAX_USUAL_BYTES)
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
    """Return the number of a port, given as a number or as the name of a service.

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


_NUMBER = re.compile(r" *[-+]?[0-9]{1,9}")  # what strtol(3) takes for a number, as the original does

# For images without /etc/services.
_SERVICES = {("domain", "udp"): 53} | {
    (name, "tcp"): number
    for name, number in {
        "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "http": 80, "pop3": 110, "imap2": 143,
        "https": 443, "submissions": 465, "ftps": 990, "imaps": 993, "pop3s": 995,
    }.items()
}  # fmt: skip
