"""The names that dashboards and alerts of the original look for are there from the start."""

from __future__ import annotations

import os
import time

from prometheus_client.parser import text_string_to_metric_families as parse

from probe_exporter.exposition import encode_families
from probe_exporter.telemetry import Telemetry
from probe_exporter.version import VERSION

FROM_THE_START = {
    "blackbox_exporter_config_last_reload_successful": "gauge",
    "blackbox_exporter_config_last_reload_success_timestamp_seconds": "gauge",
    "blackbox_module_unknown_total": "counter",
    "blackbox_exporter_build_info": "gauge",
    "probe_exporter_build_info": "gauge",
    "probe_exporter_internal_errors_total": "counter",
    "promhttp_metric_handler_requests_total": "counter",
    "process_cpu_seconds_total": "counter",
    "process_resident_memory_bytes": "gauge",
    "process_virtual_memory_bytes": "gauge",
    "process_open_fds": "gauge",
    "process_max_fds": "gauge",
    "process_start_time_seconds": "gauge",
}


def text(telemetry: Telemetry) -> str:
    return encode_families(telemetry.registry.collect()).decode()


def value(telemetry: Telemetry, name: str, **labels: str) -> float:
    found = telemetry.registry.get_sample_value(name, labels)
    assert found is not None, f"{name}{labels} is not there"
    return found


def test_the_names_that_others_read_are_there_from_the_start() -> None:
    lines = text(Telemetry()).splitlines()
    types = dict(line.split(" ")[2:] for line in lines if line.startswith("# TYPE"))
    assert {name: types.get(name) for name in FROM_THE_START} == FROM_THE_START


def test_counters_that_alerts_watch_begin_at_zero() -> None:
    telemetry = Telemetry()
    assert value(telemetry, "blackbox_module_unknown_total") == 0
    assert value(telemetry, "probe_exporter_internal_errors_total") == 0
    for code in ("200", "500", "503"):
        assert value(telemetry, "promhttp_metric_handler_requests_total", code=code) == 0


def test_the_build_is_named_as_ours_and_as_the_original_s() -> None:
    families = {family.name: family for family in parse(text(Telemetry()))}
    for name in ("blackbox_exporter_build_info", "probe_exporter_build_info"):
        (sample,) = families[name].samples
        assert sample.value == 1
        assert sample.labels["version"] == VERSION
        assert sample.labels["revision"]


def test_reloading_shows() -> None:
    telemetry = Telemetry()
    before = time.time()
    telemetry.reload_succeeded()
    assert value(telemetry, "blackbox_exporter_config_last_reload_successful") == 1
    stamp = value(telemetry, "blackbox_exporter_config_last_reload_success_timestamp_seconds")
    assert before <= stamp <= time.time()
    telemetry.reload_failed()
    assert value(telemetry, "blackbox_exporter_config_last_reload_successful") == 0
    assert value(telemetry, "blackbox_exporter_config_last_reload_success_timestamp_seconds") == stamp


def test_two_exporters_of_one_process_do_not_share_their_metrics() -> None:
    one, other = Telemetry(), Telemetry()
    one.unknown_modules += 1
    assert value(one, "blackbox_module_unknown_total") == 1
    assert value(other, "blackbox_module_unknown_total") == 0


def test_the_process_is_this_one() -> None:
    telemetry = Telemetry()
    assert value(telemetry, "process_open_fds") >= 3
    assert value(telemetry, "process_resident_memory_bytes") > 1 << 20
    started = value(telemetry, "process_start_time_seconds")
    assert started <= time.time()
    assert value(telemetry, "process_max_fds") == os.sysconf("SC_OPEN_MAX")
