"""The network of a run with one address: what the first run keeps, and what lookups of every run give."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_exporter.network import lookup
from probe_exporter.network.policy import NetworkPolicy
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.runs.one_address import OneAddress, TargetAddresses


@pytest.fixture(autouse=True)
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.2 a.test\n127.0.0.3 a.test\n127.0.0.4 b.test\n")
    monkeypatch.setattr(lookup, "HOSTS", path)


def found_by(addresses: list[str], chosen: str, max: int = 16) -> TargetAddresses:
    found = TargetAddresses(max)
    OneAddress(NetworkPolicy(), found).target_address("a.test", addresses, chosen)
    return found


@pytest.mark.parametrize(
    ("addresses", "chosen", "order"),
    [
        (["10.0.0.10", "10.0.0.9", "::2", "::1"], "::2", ["::1", "::2", "10.0.0.9", "10.0.0.10"]),
        (["10.0.0.10", "::1", "10.0.0.9"], "10.0.0.10", ["10.0.0.9", "10.0.0.10", "::1"]),
        (["10.0.0.1", "10.0.0.1"], "10.0.0.1", ["10.0.0.1"]),
        (["fe80::1%b", "fe80::1%a"], "fe80::1%b", ["fe80::1%a", "fe80::1%b"]),
    ],
)
def test_addresses_are_sorted_and_each_is_taken_once(addresses: list[str], chosen: str, order: list[str]) -> None:
    found = found_by(addresses, chosen)
    assert (found.addresses, found.total) == (order, len(order))


def test_addresses_beyond_max_are_counted() -> None:
    found = found_by(["10.0.0.3", "10.0.0.1", "10.0.0.2"], "10.0.0.3", max=2)
    assert (found.addresses, found.total) == (["10.0.0.1", "10.0.0.2"], 3)


def test_only_the_first_name_is_the_target() -> None:
    told: list[bool] = []
    found = TargetAddresses(16)
    found.tell = lambda: told.append(True)
    first = OneAddress(NetworkPolicy(), found)
    assert first.target_address("A.test.", ["10.0.0.2", "10.0.0.1"], "10.0.0.2") == "10.0.0.1"
    assert first.target_address("b.test", ["10.0.0.8", "10.0.0.7"], "10.0.0.8") == "10.0.0.8"
    assert first.target_address("a.test", ["10.0.0.2", "10.0.0.1"], "10.0.0.2") == "10.0.0.1"
    assert (found.name, told) == ("a.test", [True])


async def test_lookup_of_the_target_s_name_gives_the_address_of_the_run() -> None:
    """In any spelling; also for a redirect that leads back to it. Other names are looked up."""
    found = found_by(["127.0.0.2", "127.0.0.3"], "127.0.0.2")
    second = OneAddress(NetworkPolicy(), found, "127.0.0.3")
    assert await second.lookup("A.TEST", 0) == ["127.0.0.3"]
    assert await second.lookup("a.test.", 4) == ["127.0.0.3"]
    assert await second.lookup("b.test", 0) == ["127.0.0.4"]
    with pytest.raises(ProbeFailed) as failed:
        await second.lookup("a.test", 6)
    assert failed.value.reason == Reason.DNS_NO_ADDRESS


def test_proxy_gets_an_address_but_not_the_target_s_name() -> None:
    found = found_by(["127.0.0.2", "127.0.0.3"], "127.0.0.2")
    second = OneAddress(NetworkPolicy(), found, "127.0.0.3")
    second.check_proxied("127.0.0.3", 80)
    second.check_proxied("b.test", 80)
    with pytest.raises(ProbeFailed, match="socks5://") as failed:
        second.check_proxied("a.test", 80)
    assert failed.value.reason == Reason.SETTINGS_UNUSABLE


def test_network_for_another_host_is_an_ordinary_one() -> None:
    """A token endpoint may have the target's name."""
    found = found_by(["127.0.0.2", "127.0.0.3"], "127.0.0.2")
    other = OneAddress(NetworkPolicy(), found, "127.0.0.3").for_another_run()
    assert other.target_address("a.test", ["127.0.0.2", "127.0.0.3"], "127.0.0.2") == "127.0.0.2"
