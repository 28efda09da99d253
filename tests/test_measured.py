"""What a prober can measure is found in its code: all that it sets, and nothing that only others do."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from probe_exporter import runner
from probe_exporter.loader import load_probers
from probe_exporter.measured import declared, measured

PROBERS = load_probers([Path(__file__).parent / "plugins"])
GOLDEN = Path(__file__).parent / "golden"


def names(prober: str) -> set[str]:
    return {metric.name for metric in measured(PROBERS[prober])}


@pytest.mark.parametrize("prober", sorted(PROBERS))
def test_the_metrics_of_a_prober_s_own_file_are_among_them(prober: str) -> None:
    file = sys.modules[PROBERS[prober].probe.__module__]
    assert {metric.name for metric in declared(file)} <= names(prober)


def test_what_it_calls_is_looked_into() -> None:
    """Of the address: set by what all connections go through. Of TLS: set by what tcp and http do with them."""
    for prober in ("http", "tcp"):
        assert {"probe_ip_protocol", "probe_dns_lookup_time_seconds", "probe_tls_version_info"} <= names(prober)
    assert "probe_ip_protocol" in names("icmp")


def test_what_only_others_measure_is_not_among_them() -> None:
    assert not [name for name in names("icmp") if "tls" in name or "http" in name or "dns_answer" in name]
    assert not [name for name in names("tcp") if "http" in name or "icmp" in name]
    assert not names("http") & {metric.name for metric in declared(runner)}, "those of every probe"


def test_every_series_of_the_golden_files_was_announced() -> None:
    """What probers answered with in the side-by-side tests is what they were said to answer with."""
    announced = {metric.name for prober in PROBERS for metric in measured(PROBERS[prober])}
    announced |= {metric.name for metric in declared(runner)}
    seen = {name for path in GOLDEN.rglob("*") if path.is_file() for name in _series(path.read_text())}
    assert len(seen) > 20
    assert seen <= announced


def _series(text: str) -> set[str]:
    return set(re.findall(r"^\s*(probe_[a-z0-9_]+)(?:\{| )", text, re.MULTILINE))
