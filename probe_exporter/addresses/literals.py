"""IP addresses as text: recognise and normalise them, hash them, make addresses of sockets."""

from __future__ import annotations

import ipaddress
import socket

from probe_exporter.cache import MAX_USUAL_BYTES, remembered
from probe_exporter.prober.failure import ProbeFailed, Reason

MAX_INTERFACE_INDEX = 2**32 - 1

MAX_LITERAL_CACHE_BYTES = 10 << 20
"""For the hosts of 20,000 targets, each some 240 bytes, in one of the two generations of a cache."""


@remembered(MAX_LITERAL_CACHE_BYTES, None, MAX_USUAL_BYTES)
def literal(host: str) -> str | None:
    """Return `host` as a normalised address (IPv4-mapped as IPv4), or None if it is none."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def version(address: str) -> int:
    """Return 4 or 6."""
    return 6 if ":" in address else 4


def socket_address(address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return the address as sockets take it, with the zone as the number of an interface.

    glibc accepts a zone's name only for link-local addresses.

    Raises:
        ProbeFailed: this machine has no such interface.
    """
    if version(address) == 4:
        return address, port
    bare, _, zone = address.partition("%")
    return bare, port, 0, _index(zone) if zone else 0


def _index(zone: str) -> int:
    """Return the number of an interface, given that or its name.

    Raises:
        ProbeFailed: this machine has no such interface.
    """
    try:
        number = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
        if number <= MAX_INTERFACE_INDEX:  # sockets take the lower 32 bits of a larger one
            return number
    except (OSError, ValueError):  # ValueError: a NUL in a name, or thousands of digits
        pass
    raise ProbeFailed(Reason.TARGET_INVALID, f"this machine has no interface {zone!r}")


@remembered()
def fingerprint(address: str) -> int:
    """Return the value of ``probe_ip_addr_hash``: FNV-1a, 32 bits, over the address's 4 or 16 bytes."""
    value = 2166136261
    for byte in ipaddress.ip_address(address).packed:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value
