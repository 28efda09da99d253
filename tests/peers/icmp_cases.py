"""The icmp cases: every setting, on loopback.

Tests that need a network with a router are in tests/probers/test_icmp.py.
"""

from __future__ import annotations

from tests.peers.cases import AMPLE, SHORT, Case


def icmp(
    name: str, target: str = "127.0.0.1", *, timeout: str = AMPLE, pinned: bool = True, **settings: object
) -> Case:
    """Return a case of a ping with these settings."""
    return Case(f"icmp {name}", settings, target, pages={}, timeout=timeout, prober="icmp", pinned=pinned)


def both(name: str, **settings: object) -> tuple[Case, Case]:
    """Return the same case over IPv4 and over IPv6."""
    return icmp(name, **settings), icmp(f"{name} over IPv6", "::1", **settings)  # type: ignore[arg-type]


TARGETS = (
    icmp("plain"),
    Case("icmp without a block", target="127.0.0.1", pages={}, prober="icmp", block=False),
    icmp("of IPv6", "::1"),
    icmp("of another address of loopback", "127.1.2.3"),
    icmp("of IPv6 in full", "0:0:0:0:0:0:0:1"),
    icmp("of IPv6 with zeros", "::0001"),
    icmp("of IPv4 in IPv6", "::ffff:127.0.0.1"),
    icmp("of IPv6 with a zone", "::1%lo", timeout=SHORT),
    icmp("of IPv6 with a zone by number", "::1%1", timeout=SHORT),
    icmp("of IPv6 with a zone that is not there", "fe80::1%nowhere0", timeout=SHORT),
    icmp("of IPv6 with a zone beyond 32 bits", "::1%4294967297", timeout=SHORT),
    icmp("of IPv6 in brackets", "[::1]"),
    icmp("of IPv4 in brackets", "[127.0.0.1]"),
    icmp("of a name", "localhost", preferred_ip_protocol="ip4"),
    icmp("of a name without fallback", "localhost", preferred_ip_protocol="ip4", ip_protocol_fallback=False),
    icmp("of the address of nobody", "0.0.0.0", timeout=SHORT),
    icmp("of everybody", "127.255.255.255", timeout=SHORT),
    icmp("of a port", "127.0.0.1:80"),
    icmp("of IPv6 and a port", "[::1]:80"),
    icmp("of a URL", "http://127.0.0.1/"),
    icmp("of a blank", " "),
    icmp("of half an address", "127.0.0"),
    icmp("of an address with a blank", " 127.0.0.1"),
    icmp("of an address with zeros", "127.0.0.01"),
    icmp("of a name with a blank", "local host"),
    icmp("of a name that is none", "a..b"),
    icmp("of IPv6 in IPv4", "::127.0.0.1", timeout=SHORT),
)

FAMILIES = (
    icmp("of IPv4 preferring IPv4", preferred_ip_protocol="ip4"),
    icmp("of IPv4 preferring IPv6", preferred_ip_protocol="ip6"),
    icmp("of IPv4 and IPv6 alone", preferred_ip_protocol="ip6", ip_protocol_fallback=False),
    icmp("of IPv4 and IPv4 alone", preferred_ip_protocol="ip4", ip_protocol_fallback=False),
    icmp("of IPv6 preferring IPv4", "::1", preferred_ip_protocol="ip4"),
    icmp("of IPv6 and IPv4 alone", "::1", preferred_ip_protocol="ip4", ip_protocol_fallback=False),
    icmp("of IPv6 and IPv6 alone", "::1", preferred_ip_protocol="ip6", ip_protocol_fallback=False),
    icmp("of IPv4 preferring what is none", preferred_ip_protocol="ipv4", ip_protocol_fallback=False),
    icmp("of IPv6 preferring what is none", "::1", preferred_ip_protocol="ipv6", ip_protocol_fallback=False),
    icmp("of IPv4 in IPv6 and IPv6 alone", "::ffff:127.0.0.1", preferred_ip_protocol="ip6", ip_protocol_fallback=False),
)

SOURCES = (
    icmp("from loopback", source_ip_address="127.0.0.1"),
    icmp("from another address of loopback", source_ip_address="127.0.0.9"),
    icmp("from IPv6", "::1", source_ip_address="::1"),
    icmp("from a mapped address", source_ip_address="::ffff:127.0.0.9"),
    icmp("from an address of nobody", source_ip_address="192.0.2.1", timeout=SHORT),
    icmp("from an IPv6 address of nobody", "::1", source_ip_address="2001:db8::1", timeout=SHORT),
    icmp("from IPv6 to IPv4", source_ip_address="::1", timeout=SHORT),
    icmp("from IPv4 to IPv6", "::1", source_ip_address="127.0.0.1", timeout=SHORT),
    icmp("from no address", source_ip_address="here", timeout=SHORT),
    icmp("from loopback unfragmented", source_ip_address="127.0.0.9", dont_fragment=True),
    icmp("from an address of nobody unfragmented", source_ip_address="192.0.2.1", dont_fragment=True, timeout=SHORT),
)

SIZES = (
    *both("with 1 byte", payload_size=1),
    *both("with 28 bytes", payload_size=28),
    *both("with 29 bytes", payload_size=29),
    *both("with 1472 bytes", payload_size=1472),
    *both("with 9000 bytes", payload_size=9000),
    icmp("with 65507 bytes", payload_size=65507),
    icmp("with 65508 bytes", payload_size=65508),
    *both("with 65600 bytes", payload_size=65600),
    *both("unfragmented", dont_fragment=True),
    *both("unfragmented with 1 byte", dont_fragment=True, payload_size=1),
    *both("unfragmented with 1472 bytes", dont_fragment=True, payload_size=1472),
    icmp("unfragmented with 65507 bytes", dont_fragment=True, payload_size=65507),
    icmp("unfragmented with 65508 bytes", dont_fragment=True, payload_size=65508),
)

HOPS = (
    *both("with the system's ttl", ttl=0),
    *both("with ttl 1", ttl=1),
    *both("with ttl 255", ttl=255),
    icmp("unfragmented with ttl 1", dont_fragment=True, ttl=1),
    icmp("unfragmented with ttl 255", dont_fragment=True, ttl=255),
    icmp("unfragmented with ttl over IPv6", "::1", dont_fragment=True, ttl=1),
    icmp("unfragmented with the system's ttl", dont_fragment=True, ttl=0),
)

GROUPS: dict[str, tuple[Case, ...]] = {
    "icmp_targets": TARGETS,
    "icmp_families": FAMILIES,
    "icmp_sources": SOURCES,
    "icmp_sizes": SIZES,
    "icmp_hops": HOPS,
}
"""Every case, by its golden file."""
