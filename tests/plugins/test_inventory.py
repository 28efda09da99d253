"""Tests of the metric inventory: it lists all metrics that a prober's code can set and no others."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial, wraps
from pathlib import Path

import pytest

from probe_exporter import Metric, Probe, Prober, Settings, runner
from probe_exporter.plugins.inventory import declared, measured
from probe_exporter.plugins.loader import load_probers
from probe_exporter.protocols.pki import crl_check, ocsp_check, renewal
from probe_exporter.runs import several
from probe_exporter.tls import certificate_details

PROBERS = load_probers([Path(__file__).parents[1] / "own_probers"])
GOLDEN = Path(__file__).parents[1] / "golden"


def names(prober: str) -> set[str]:
    return {metric.name for metric in measured(PROBERS[prober])}


@pytest.mark.parametrize("prober", sorted(PROBERS))
def test_inventory_includes_metrics_of_prober_file(prober: str) -> None:
    file = sys.modules[PROBERS[prober].probe.__module__]
    assert {metric.name for metric in declared(file)} <= names(prober)


def test_inventory_includes_metrics_of_called_functions() -> None:
    """All probers that connect set the address metrics; tcp and http also set those of TLS."""
    for prober in ("http", "tcp"):
        assert {"probe_ip_protocol", "probe_dns_lookup_time_seconds", "probe_tls_version_info"} <= names(prober)
    assert "probe_ip_protocol" in names("icmp")


def test_inventory_excludes_metrics_of_other_probers() -> None:
    assert not [name for name in names("icmp") if "tls" in name or "http" in name or "dns_answer" in name]
    assert not [name for name in names("tcp") if "http" in name or "icmp" in name]
    assert not names("http") & {metric.name for metric in declared(runner)}, "those of every probe"


ROUNDABOUT = Metric("probe_roundabout", "Set by ways that are not plain calls.")

Run = Callable[[Probe, "Nothing"], Awaitable[None]]


class Nothing(Settings):
    """Settings of the test's own prober."""


@lru_cache
def _cached(probe: Probe) -> None:
    probe.set(ROUNDABOUT, 1)


def _decorated(function: Run) -> Run:
    @wraps(function)
    async def around(probe: Probe, settings: Nothing) -> None:
        await function(probe, settings)

    return around


class _Object:
    async def __call__(self, probe: Probe, settings: Nothing) -> None:
        _cached(probe)


@_decorated
async def _function(probe: Probe, settings: Nothing) -> None:
    _cached(probe)


@pytest.mark.parametrize("probe", [_function, partial(_function), _Object(), _Object().__call__])
def test_inventory_follows_decorated_cached_and_bound_functions(probe: Run) -> None:
    assert measured(Prober("roundabout", Nothing, probe)) == [ROUNDABOUT]


def test_inventory_covers_golden_files() -> None:
    """Each series of the golden files is in the inventory of its prober, or the runner sets it."""
    announced = {metric.name for prober in PROBERS for metric in measured(PROBERS[prober])}
    announced |= {
        metric.name
        for module in (runner, certificate_details, crl_check, ocsp_check, renewal, several)
        for metric in declared(module)
    }
    seen = {name for path in GOLDEN.rglob("*") if path.is_file() for name in _series(path.read_text())}
    assert len(seen) > 20
    assert seen <= announced


def _series(text: str) -> set[str]:
    return set(re.findall(r"^\s*(probe_[a-z0-9_]+)(?:\{| )", text, re.MULTILINE))
