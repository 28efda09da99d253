"""Addresses of one version are sorted as RFC 6724 has it; what nothing speaks against keeps the server's order."""

from __future__ import annotations

import ipaddress

import pytest

from probe_exporter.network import address_order
from probe_exporter.network.address_order import MAX_SORTED_ADDRESSES, in_order

GLOBAL, UNIQUE, LINK = "2001:db8::100", "fd00::100", "fe80::100"


@pytest.mark.parametrize(
    ("sources", "ordered"),
    [
        # Rule 1: avoid what can't be reached.
        ({"192.0.2.1": None, "192.0.2.2": "192.0.2.100"}, ["192.0.2.2", "192.0.2.1"]),
        # Rule 2: the scope of the source.
        ({"198.51.100.1": "169.254.0.9", "169.254.1.1": "169.254.0.9"}, ["169.254.1.1", "198.51.100.1"]),
        # Rule 5: the label of the source.
        ({"2001:db8::1": UNIQUE, "fd00::1": UNIQUE}, ["fd00::1", "2001:db8::1"]),
        # Rule 6: precedence.
        ({"fd00::1": UNIQUE, "2001:db8::1": GLOBAL}, ["2001:db8::1", "fd00::1"]),
        # Rule 8: the smaller scope.
        ({"2001:db8::1": GLOBAL, "fe80::1": LINK}, ["fe80::1", "2001:db8::1"]),
        ({"192.0.2.1": "192.0.2.100", "127.0.0.1": "127.0.0.1"}, ["127.0.0.1", "192.0.2.1"]),
        # Rule 9: the longest common prefix, of IPv6 only, and of its first half.
        ({"2001:db9::1": GLOBAL, "2001:db8::1": GLOBAL}, ["2001:db8::1", "2001:db9::1"]),
        ({"2001:db8::1": GLOBAL, "2001:db8::101": GLOBAL}, ["2001:db8::1", "2001:db8::101"]),
        ({"198.51.100.1": "192.0.2.100", "192.0.2.1": "192.0.2.100"}, ["198.51.100.1", "192.0.2.1"]),
        # Nothing speaks against any.
        ({"192.0.2.2": "192.0.2.100", "192.0.2.1": "192.0.2.100"}, ["192.0.2.2", "192.0.2.1"]),
    ],
)
def test_addresses_are_sorted_by_rfc_6724(
    monkeypatch: pytest.MonkeyPatch, sources: dict[str, str | None], ordered: list[str]
) -> None:
    def source_for(address: str) -> object:
        source = sources[address]
        return None if source is None else ipaddress.ip_address(source)

    monkeypatch.setattr(address_order, "_source_for", source_for)
    assert in_order(list(sources)) == ordered


def test_source_is_the_kernels_choice() -> None:
    assert str(address_order._source_for("127.0.0.1")) == "127.0.0.1"
    assert str(address_order._source_for("::1")) == "::1"


def test_very_many_addresses_are_not_all_sorted() -> None:
    many = [f"127.0.{number // 256}.{number % 256}" for number in range(1000)]
    assert in_order(many)[MAX_SORTED_ADDRESSES:] == many[MAX_SORTED_ADDRESSES:]
    assert in_order(["192.0.2.1"]) == ["192.0.2.1"]
    assert in_order([]) == []
