"""Tests of metric snapshots: merging the metrics of several workers, and keeping counters of exited ones."""

from __future__ import annotations

from base64 import b64encode
from zlib import compress

import pytest
from prometheus_client.metrics_core import Metric as Family

from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.workers.snapshots import MAX_LINE_SAMPLES, _unpacked, families, merged, settled, snapshot

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(collected: list[Family]) -> Series:
    return {(s.name, frozenset(s.labels.items())): s.value for family in collected for s in family.samples}


def worker(*modules: str, running: int = 0, reloaded: bool = True) -> Telemetry:
    """Return the telemetry of a process that probed with these modules."""
    telemetry = Telemetry()
    telemetry.configured(("http", "dns"))
    for module in modules:
        tally = telemetry.tally(module)
        tally.start(0.5)
        tally.finish("dns_timeout" if module == "dns" else "", 0.02)
    for _ in range(running):
        telemetry.tally("http").start()
    if reloaded:
        telemetry.reload_succeeded()
    telemetry.answered("/probe", 200)
    return telemetry


def taken(telemetry: Telemetry) -> bytes:
    return snapshot(telemetry.registry.collect())


def value(collected: list[Family], name: str, **labels: str) -> float:
    return series(collected)[name, frozenset(labels.items())]


def test_snapshot_round_trips() -> None:
    telemetry = worker("http", "dns", running=1)
    collected = list(telemetry.registry.collect())
    back = families(snapshot(collected))
    assert series(back) == series(collected)
    assert [(f.name, f.type, f.documentation) for f in back] == [(f.name, f.type, f.documentation) for f in collected]


def test_merge_of_one_snapshot_is_itself() -> None:
    one = taken(worker("http"))
    assert series(merged([one])) == series(families(one))


def test_merge_adds_counters() -> None:
    total = merged([taken(worker("http", "http", running=2)), taken(worker("http", "dns", running=1))])
    probes = "probe_exporter_probes_total"
    assert value(total, probes, module="http", result="success", reason="") == 3
    assert value(total, probes, module="dns", result="failure", reason="dns_timeout") == 1
    assert value(total, "probe_exporter_probes_in_flight", module="http") == 3
    assert value(total, "probe_exporter_http_requests_total", handler="/probe", code="200") == 2
    seconds = "probe_exporter_probe_duration_seconds"
    assert value(total, f"{seconds}_bucket", module="http", le="0.01") == 0
    assert value(total, f"{seconds}_bucket", module="http", le="0.025") == 3
    assert value(total, f"{seconds}_bucket", module="http", le="+Inf") == 3
    assert value(total, f"{seconds}_sum", module="http") == pytest.approx(0.06)
    assert value(total, "process_open_fds") >= 6


def test_merge_does_not_add_gauges() -> None:
    early, late = worker(), worker(reloaded=False)
    late.lag._recent.append(7.5)
    total = merged([taken(early), taken(late)])
    assert value(total, "blackbox_exporter_config_last_reload_successful") == 0, "one of them has not loaded it"
    assert value(total, "probe_exporter_event_loop_lag_seconds") == 7.5
    [build] = [f for f in total if f.name == "blackbox_exporter_build_info"]
    assert [sample.value for sample in build.samples] == [1]
    [python] = [f for f in total if f.name == "python_info"]
    assert [sample.value for sample in python.samples] == [1]
    start = value(families(taken(early)), "process_start_time_seconds")
    assert value(total, "process_start_time_seconds") == start


def test_settled_snapshot_keeps_counters_only() -> None:
    alive, gone = taken(worker("http", running=1)), taken(worker("http", "dns", running=5))
    gone = snapshot(merged([settled(gone), settled(gone)]))
    total = merged([alive, gone])
    assert value(total, "probe_exporter_probes_total", module="http", result="success", reason="") == 3
    assert value(total, "probe_exporter_probe_duration_seconds_count", module="http") == 3
    assert value(total, "probe_exporter_probes_in_flight", module="http") == 1
    assert value(total, "process_open_fds") == value(families(alive), "process_open_fds")


def test_every_family_has_merge_rule() -> None:
    """A gauge that is 1 in each worker must be 1 in the sum, so each new family needs a merge rule."""
    one = taken(worker("http"))
    ones = {key for key, value in series(families(one)).items() if value == 1 and "_info" in key[0]}
    assert ones
    assert {series(merged([one, one]))[key] for key in ones} == {1}


def test_large_family_is_taken_apart_and_put_together() -> None:
    modules = [f"m{number}" for number in range(MAX_LINE_SAMPLES)]
    telemetry = Telemetry()
    telemetry.configured(modules)
    for module in modules:
        telemetry.tally(module).start()
    one = taken(telemetry)
    assert len(families(one)) == len(list(telemetry.registry.collect()))
    assert series(merged([settled(one), one])).keys() == series(families(one)).keys()
    bucket = "probe_exporter_probe_wait_seconds_bucket"
    assert value(merged([settled(one), one]), bucket, module=modules[-1], le="+Inf") == 2


def test_snapshot_of_a_thousand_modules_is_short_and_read_in_short_steps() -> None:
    telemetry = Telemetry()
    telemetry.configured([f"m{number}" for number in range(1000)])
    for number in range(1000):
        telemetry.tally(f"m{number}").start()
    one = taken(telemetry)
    assert len(one) < 250_000
    assert max(len(part["samples"]) for part in _unpacked(one)) == MAX_LINE_SAMPLES


@pytest.mark.parametrize("junk", [b"", b"{}x", b'[{"name": 1}]', b64encode(compress(b'{"name": 1}'))])
def test_snapshot_refuses_other_data(junk: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        merged([junk])
