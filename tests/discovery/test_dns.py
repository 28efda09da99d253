"""Targets from DNS: records become targets, under the rules of the module that probes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import dns.message
import dns.rdatatype
import pytest

from probe_exporter.addresses import guard
from probe_exporter.addresses.guard import Guard, Lists
from probe_exporter.config.discovery import DiscoverySettings
from probe_exporter.discovery.dns import MAX_SECONDS, MIN_SECONDS, FoundTargets, find
from probe_exporter.discovery.groups import DiscoveryError
from probe_exporter.network.lookup import Resolver
from probe_exporter.network.policy import NetworkPolicy
from tests.targets.dns import DnsServer, Part, Says, Script, record

NOERROR, NXDOMAIN, SERVFAIL = 0x8180, 0x8183, 0x8182

Records = Mapping[tuple[str, str], Sequence[bytes]]

ZONE: Records = {
    ("api.test.", "A"): [record("api.test", "A", "192.0.2.2", 60), record("api.test", "A", "192.0.2.1", 60)],
    ("api.test.", "AAAA"): [record("api.test", "AAAA", "2001:db8::1", 90)],
    ("www.test.", "A"): [record("www.test", "CNAME", "api.test.", 20), record("api.test", "A", "192.0.2.1", 60)],
    ("www.test.", "AAAA"): [],
    ("mail.test.", "MX"): [record("mail.test", "MX", "20 b.test."), record("mail.test", "MX", "10 A.test.")],
    ("none.test.", "MX"): [record("none.test", "MX", "0 .")],
    ("zone.test.", "NS"): [record("zone.test", "NS", "ns2.test."), record("zone.test", "NS", "ns1.test.")],
    ("quick.test.", "NS"): [record("quick.test", "NS", "ns1.test.", 0)],
    ("slow.test.", "NS"): [record("slow.test", "NS", "ns1.test.", 1_000_000)],
    ("one.test.", "A"): [record("one.test", "A", "192.0.2.1")],
}


def script(query: bytes) -> Sequence[Part]:
    """Answer from `ZONE`; for ``one.test`` the second type fails."""
    question = dns.message.from_wire(query).question[0]
    key = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
    if key in ZONE:
        return says(ZONE[key])(query)
    if key == ("one.test.", "AAAA"):
        return says(flags=SERVFAIL)(query)
    return says(flags=NOERROR if any(name == key[0] for name, _ in ZONE) else NXDOMAIN)(query)


def says(answer: Sequence[bytes] = (), flags: int = NOERROR) -> Script:
    """Return a script that answers with the question, without the query's OPT record."""
    return lambda query: Says(answer, flags=flags, question=query[12 : query.index(b"\0", 12) + 5])(query)


@asynccontextmanager
async def policy(*lists: Lists) -> AsyncIterator[NetworkPolicy]:
    """Run a name server; yield the policy of a module that uses it."""
    async with DnsServer(script) as server:
        resolver = Resolver((("127.0.0.1", server["port"]),), 60.0)
        yield NetworkPolicy(Guard(lists) if lists else None, resolver)


async def found(*lists: Lists, **keys: object) -> FoundTargets:
    async with policy(*lists) as one:
        return await find(DiscoverySettings.model_validate({"module": "m", **keys}), [one])


async def targets(*lists: Lists, **keys: object) -> list[str]:
    return [target.target for target in (await found(*lists, **keys)).targets]


async def refusal(*lists: Lists, **keys: object) -> tuple[int, str]:
    with pytest.raises(DiscoveryError) as refused:
        await found(*lists, **keys)
    return refused.value.status, str(refused.value)


def allow(*entries: str) -> Lists:
    return Lists(allow=tuple(map(guard.parse, entries)))


def deny(*entries: str) -> Lists:
    return Lists(deny=tuple(map(guard.parse, entries)))


async def test_addresses_of_a_name_are_sorted_targets() -> None:
    assert await targets(addresses="api.test") == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert await targets(addresses="api.test", ip_protocol="ip4") == ["192.0.2.1", "192.0.2.2"]
    assert await targets(addresses="api.test", ip_protocol="ip6") == ["2001:db8::1"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"port": 443}, "[2001:db8::1]:443"),
        ({"scheme": "https"}, "https://[2001:db8::1]"),
        ({"scheme": "https", "port": 8443, "path": "/health"}, "https://[2001:db8::1]:8443/health"),
    ],
)
async def test_target_has_port_scheme_and_path(keys: dict[str, object], expected: str) -> None:
    assert await targets(addresses="api.test", ip_protocol="ip6", **keys) == [expected]


async def test_alias_is_followed_and_its_ttl_counts() -> None:
    result = await found(addresses="www.test")
    assert [target.target for target in result.targets] == ["192.0.2.1"]
    assert result.seconds == 20


async def test_addresses_have_labels_and_the_host_name() -> None:
    [target, *_] = (await found(addresses="api.test", port=443, hostname=True, labels={"site": "x"})).targets
    assert target.params == {"hostname": "api.test"}
    assert target.labels == {"__meta_probe_name": "api.test", "__meta_probe_host": "192.0.2.1", "site": "x"}


async def test_hosts_of_mx_records_are_targets_with_their_preference() -> None:
    result = (await found(mx="mail.test", port=25)).targets
    assert [target.target for target in result] == ["a.test:25", "b.test:25"]
    assert [target.labels["__meta_probe_mx_preference"] for target in result] == ["10", "20"]


async def test_null_mx_is_no_target() -> None:
    """RFC 7505: a domain that accepts no mail."""
    assert await targets(mx="none.test") == []


async def test_hosts_of_ns_records_are_targets() -> None:
    assert await targets(ns="zone.test") == ["ns1.test", "ns2.test"]


@pytest.mark.parametrize(("zone", "seconds"), [("quick.test", MIN_SECONDS), ("slow.test", MAX_SECONDS)])
async def test_ttl_has_bounds(zone: str, seconds: float) -> None:
    assert (await found(ns=zone)).seconds == seconds


async def test_failure_of_one_type_is_ignored_if_the_other_has_records() -> None:
    assert await targets(addresses="one.test") == ["192.0.2.1"]


async def test_failed_lookup_is_an_error_and_not_an_empty_list() -> None:
    """Prometheus would drop all targets, and their alerts with them."""
    assert await refusal(ns="nowhere.test") == (502, "looking up nowhere.test failed: there is no such name")
    assert await refusal(mx="zone.test") == (502, "zone.test has no MX record")
    assert await refusal(addresses="zone.test") == (502, "zone.test has no A or AAAA record")


async def test_denied_name_is_not_looked_up() -> None:
    async with DnsServer(script) as server:
        resolver = Resolver((("127.0.0.1", server["port"]),), 60.0)
        denied = NetworkPolicy(Guard((deny("*.test"),)), resolver)
        with pytest.raises(DiscoveryError, match="does not permit zone"):
            await find(DiscoverySettings.model_validate({"module": "m", "ns": "zone.test"}), [None, denied])
        assert server.requests == []


async def test_denied_targets_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert await targets(deny("192.0.2.1"), addresses="api.test", ip_protocol="ip4") == ["192.0.2.2"]
    assert caplog.messages == ["Targets were left out"]
    assert await targets(allow("192.0.2.1:443"), addresses="api.test", ip_protocol="ip4", port=443) == ["192.0.2.1:443"]
    assert await targets(allow("zone.test", "ns1.test"), ns="zone.test") == ["ns1.test"]


async def test_source_whose_targets_are_all_denied_is_refused() -> None:
    status, message = await refusal(deny("192.0.2.0/24"), addresses="api.test", ip_protocol="ip4")
    assert (status, "does not permit" in message) == (403, True)


async def test_malformed_answer_is_an_error() -> None:
    async with DnsServer(says([record("zone.test", "NS", b"\xff")])) as server:
        resolver = Resolver((("127.0.0.1", server["port"]),), 60.0)
        with pytest.raises(DiscoveryError, match=r"the answer for zone\.test is malformed"):
            await find(
                DiscoverySettings.model_validate({"module": "m", "ns": "zone.test"}), [NetworkPolicy(None, resolver)]
            )
