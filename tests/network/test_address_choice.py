"""Tests of the choice among a target's addresses, and of its metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_exporter.addresses import literals
from probe_exporter.network import address_choice, lookup
from probe_exporter.network.address_choice import choose_address, resolve
from probe_exporter.network.settings import AddressSettings
from probe_exporter.prober.failure import Reason
from probe_exporter.prober.metrics import Metric
from tests.targets.peer import a_probe, failing

SECONDS = Metric("probe_any_duration_seconds", "How long each phase took.", ("phase",))


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 both.test four.test\n127.0.0.2 both.test\n::1 both.test six.test\n::2 both.test\n")
    monkeypatch.setattr(lookup, "HOSTS", path)


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize(
    ("host", "preferred", "fallback", "address"),
    [
        ("both.test", "ip6", True, "::1"),
        ("both.test", "", True, "::1"),
        ("both.test", "ip4", True, "127.0.0.1"),
        ("both.test", "anything", True, "127.0.0.1"),
        ("both.test", "ip6", False, "::1"),
        ("both.test", "ip4", False, "127.0.0.1"),
        ("four.test", "ip6", True, "127.0.0.1"),
        ("six.test", "ip4", True, "::1"),
        ("127.0.0.1", "ip6", True, "127.0.0.1"),
        ("::1", "ip4", True, "::1"),
        ("::ffff:127.0.0.1", "ip4", False, "127.0.0.1"),
    ],
)
async def test_resolve_chooses_preferred_family_then_fallback(
    host: str, preferred: str, fallback: bool, address: str
) -> None:
    probe = a_probe()
    assert await resolve(probe, host, preferred=preferred, fallback=fallback) == address
    assert probe.samples.get(address_choice.IP_PROTOCOL) == (6 if ":" in address else 4)
    assert probe.samples.get(address_choice.IP_HASH) == literals.fingerprint(address)
    assert probe.samples.get(address_choice.LOOKUP_TIME) >= 0


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize(
    ("host", "preferred", "reason"),
    [
        ("four.test", "ip6", Reason.DNS_NO_ADDRESS),
        ("six.test", "ip4", Reason.DNS_NO_ADDRESS),
        ("127.0.0.1", "ip6", Reason.DNS_NO_ADDRESS),
        ("::1", "ip4", Reason.DNS_NO_ADDRESS),
        ("a..b", "ip4", Reason.DNS_RESOLUTION),
        ("", "ip4", Reason.TARGET_INVALID),
    ],
)
async def test_resolve_reports_zero_without_usable_address(host: str, preferred: str, reason: Reason) -> None:
    probe = a_probe()
    assert (await failing(resolve(probe, host, preferred=preferred, fallback=False))).reason is reason
    assert probe.samples.get(address_choice.IP_PROTOCOL) == 0
    assert probe.samples.get(address_choice.IP_HASH) == 0
    assert probe.samples.get(address_choice.LOOKUP_TIME) >= 0


@pytest.mark.usefixtures("hosts")
async def test_choose_address_obeys_settings_and_reports_seconds() -> None:
    probe = a_probe()
    settings = AddressSettings(preferred_ip_protocol="ip4", ip_protocol_fallback=False)
    assert await choose_address(probe, "both.test", settings, SECONDS) == "127.0.0.1"
    assert probe.samples.get(SECONDS, "resolve") == probe.samples.get(address_choice.LOOKUP_TIME) > 0
    assert (await failing(choose_address(a_probe(), "six.test", settings))).reason is Reason.DNS_NO_ADDRESS


@pytest.mark.usefixtures("hosts")
async def test_choose_address_reports_no_seconds_of_a_failure() -> None:
    probe = a_probe()
    settings = AddressSettings(preferred_ip_protocol="ip4", ip_protocol_fallback=False)
    await failing(choose_address(probe, "six.test", settings, SECONDS))
    assert SECONDS not in probe.samples.families
    assert probe.samples.get(address_choice.LOOKUP_TIME) > 0
