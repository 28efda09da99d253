"""Sort the addresses of a name by RFC 6724, for lookups: the best destination of each IP version first.

Rules 3, 4 and 7 need data that only the kernel has; Go, and so the original, omits them too. Rule 9 is for IPv6 only.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from probe_exporter.addresses import literals

MAX_SORTED_ADDRESSES = 32
"""The most addresses that are sorted, with four system calls for each; the rest follow in their original order."""

_ANY_PORT = 9  # nothing is sent
_POLICY = sorted(
    (
        (IPv6Network("::1/128"), 50, 0),
        (IPv6Network("::/0"), 40, 1),
        (IPv6Network("2002::/16"), 30, 2),
        (IPv6Network("2001::/32"), 5, 5),
        (IPv6Network("fc00::/7"), 3, 13),
        (IPv6Network("::/96"), 1, 3),
        (IPv6Network("fec0::/10"), 1, 11),
        (IPv6Network("3ffe::/16"), 1, 12),
    ),
    key=lambda row: -row[0].prefixlen,
)
"""Prefix, precedence and label (RFC 6724, 2.1), the longest prefix first."""

_LINK, _SITE, _GLOBAL = 2, 5, 14
_SITE_LOCAL = IPv6Network("fec0::/10")

Address = IPv4Address | IPv6Address


def in_order(addresses: Sequence[str]) -> list[str]:
    """Sort addresses of one IP version, the best first; equally good ones stay as they are."""
    if len(addresses) < 2:
        return list(addresses)
    return [*sorted(addresses[:MAX_SORTED_ADDRESSES], key=_sort_key), *addresses[MAX_SORTED_ADDRESSES:]]


def _sort_key(text: str) -> tuple[int, ...]:
    """Return the sort key of an address: one number for each rule, the most important first; lower is better."""
    source = _source_for(text)
    if source is None:
        return (1,)  # rule 1: there is no route to it
    address = ipaddress.ip_address(text)
    scope = _scope(address)
    precedence, label = _policy(address)
    return (
        0,
        int(scope != _scope(source)),  # rule 2
        int(label != _policy(source)[1]),  # rule 5
        -precedence,  # rule 6
        scope,  # rule 8
        -_common_prefix(address, source),  # rule 9
    )


def _source_for(address: str) -> Address | None:
    """Return the address that the kernel would send from; None if it has no route."""
    family = socket.AF_INET6 if literals.version(address) == 6 else socket.AF_INET
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as sock:
            sock.connect((address, _ANY_PORT))
            return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    except OSError:
        return None


def _scope(address: Address) -> int:
    if isinstance(address, IPv6Address) and address.is_multicast:
        return address.packed[1] & 15
    if address.is_loopback or address.is_link_local:
        return _LINK
    return _SITE if address in _SITE_LOCAL else _GLOBAL


def _policy(address: Address) -> tuple[int, int]:
    """Return precedence and label; those of IPv4 are all the same."""
    return next(((row[1], row[2]) for row in _POLICY if address in row[0]), (35, 4))


def _common_prefix(address: Address, source: Address) -> int:
    """Return how many of the first 64 bits are equal; 0 for IPv4."""
    if address.version == 4:
        return 0
    return min(128 - (int(address) ^ int(source)).bit_length(), 64)
