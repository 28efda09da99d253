"""Normalise addresses and host names, so that an unusual spelling can't bypass allow and deny rules. No I/O.

An address can be written in many ways, and a packet may end at another host than its address says: at this one, or
beyond a gateway that extracts an IPv4 address from an IPv6 one. Each way listed here has bypassed a filter somewhere.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from probe_exporter.addresses.host_names import to_ascii
from probe_exporter.cache import remembered

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

OWN_ENTRY: tuple[Network, ...] = (
    IPv4Network("169.254.0.0/16"),  # link-local (RFC 3927); where nearly every cloud has its metadata
    IPv6Network("fe80::/10"),  # link-local (RFC 4291)
    IPv4Network("224.0.0.0/24"),  # all that is on the link, by multicast (RFC 5771)
    IPv6Network("ff01::/16"),
    IPv6Network("ff02::/16"),
    IPv4Network("255.255.255.255/32"),
    IPv6Network("fd00:ec2::/32"),  # AWS: metadata, time, names and pod identity over IPv6
    IPv6Network("fd20:ce::254/128"),  # Google Cloud
    IPv6Network("fd00:c1::a9fe:a9fe/128"),  # Oracle Cloud
    IPv6Network("fd00:42::42/128"),  # Scaleway
    IPv6Network("fd00:a9fe:a9fe::1/128"),  # Akamai, once Linode
    IPv6Network("fd00:100::100:200/128"),  # Alibaba Cloud
    IPv4Network("100.100.100.200/32"),
    IPv4Network("168.63.129.16/32"),  # Azure, which serves more than metadata there
    IPv4Network("192.0.0.192/32"),  # Oracle Cloud, the old one
)
"""Networks that a general `allow` entry does not open: the entry has to lie wholly within one of these."""

NOT_BY_NAME: tuple[Network, ...] = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("224.0.0.0/3"),
    IPv6Network("::/127"),  # :: and ::1
    IPv6Network("ff00::/8"),
)
"""This host and groups of hosts, which an `allow` entry for a name does not open: the owner of the name could point it
at them."""

_LOCALHOST = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_IPV4_IN_THE_END = tuple(
    map(IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", str(_NAT64_LOCAL)))
)
_ISATAP = (0x00005EFE, 0x02005EFE)  # the middle of an address
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")


class Interpretation(NamedTuple):
    """An address with all addresses that it may stand for.

    Attributes:
        address: the address without a zone.
        meanings: the address, and all that a packet to it may reach.
        own: the networks of `OWN_ENTRY` that have one of the meanings, each with the meaning.
        by_name: whether an `allow` entry for a name may permit it.
    """

    address: Address
    meanings: tuple[Address, ...]
    own: tuple[tuple[Network, Address], ...]
    by_name: bool


@remembered()
def interpret(address: str) -> Interpretation:
    """Return the `Interpretation` of an address.

    Raises:
        ValueError: it is no address, or its spelling is ambiguous.
    """
    bare = ipaddress.ip_address(address.partition("%")[0])
    meanings = tuple(dict.fromkeys(_meanings(bare)))
    own = tuple((network, meaning) for network in OWN_ENTRY for meaning in meanings if meaning in network)
    return Interpretation(bare, meanings, own, not any(one in network for network in NOT_BY_NAME for one in meanings))


def _meanings(address: Address) -> Iterator[Address]:
    """Yield an address, what Linux takes it for, and the IPv4 addresses in it that a gateway may forward to."""
    yield address
    if not int(address):  # "any" means this host to connect(2)
        yield from _LOCALHOST
    if isinstance(address, IPv4Address):
        return
    for inner in _within(address):
        yield inner
        if not int(inner):
            yield _LOCALHOST[0]


def _within(address: IPv6Address) -> Iterator[IPv4Address]:
    number = int(address)
    if address in _LOCALHOST:
        return
    if any(address in network for network in _IPV4_IN_THE_END):  # RFC 4291, 2.5.5; RFC 2765; RFC 6052; RFC 8215
        yield IPv4Address(number & 0xFFFFFFFF)
    if address in _NAT64_LOCAL:  # for a prefix of 48 bits, the address lies around bits 64 to 71
        yield IPv4Address((number >> 64 & 0xFFFF) << 16 | number >> 40 & 0xFFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if number >> 32 & 0xFFFFFFFF in _ISATAP:  # RFC 5214, 6.1
        yield IPv4Address(number & 0xFFFFFFFF)


def readings(host: str) -> list[str]:
    """Return the IPv4 addresses that inet_aton(3) and similar parsers read: ``127.1``, ``2130706433``, ``0x7f.0.0.1``.

    Most parsers read a number with a leading zero as octal, some as decimal; so there may be two.
    """
    parts = host.removesuffix(".").lower().split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) and len(part) < 40 for part in parts):
        return []
    found = []
    for octal in (8, 10):
        with suppress(ValueError):  # an octal number with an 8 or a 9
            *high, low = (_value(part, octal) for part in parts)
            if all(number < 256 for number in high) and low < 256 ** (5 - len(parts)):
                found.append(
                    str(IPv4Address(sum(number << 8 * (3 - place) for place, number in enumerate(high)) + low))
                )
    return list(dict.fromkeys(found))


def _value(part: str, octal: int) -> int:
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    return int(part, octal if part.startswith("0") else 10)


@remembered()
def normal(host: str) -> str:
    """Return a name as it is compared: in ASCII, lower case, without the last dot."""
    with suppress(ValueError):  # an invalid name is refused by the lookup
        host = to_ascii(host)
    return host.lower().rstrip(".")
