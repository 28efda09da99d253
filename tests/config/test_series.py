"""The number of series of a module, as it is told before a rollout, and its keys `keep` and `drop`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from probe_exporter import runner
from probe_exporter.config import dump
from probe_exporter.config.module import Module
from probe_exporter.config.series import OF_A_FAILURE, OF_EVERY_PROBE, OF_TLS, SeriesInfo, metrics_of, series_of
from probe_exporter.exposition.encoding import encode
from probe_exporter.plugins.inventory import declared, measured
from probe_exporter.runner import Result, run
from probe_exporter.tls import metrics
from tests.config.test_loading import PROBERS, load, refusal
from tests.targets import Pki, Site, Tls, reply

GOLDEN = Path(__file__).parents[1] / "golden"
PAGE = reply(200, b"ok", ("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT"))


def a_module(directory: Path, keys: str) -> Module:
    return load(directory, f"modules: {{m: {{{keys}}}}}\n").modules["m"]


def shown(result: Result) -> list[str]:
    """Return the lines of an exposition that are series."""
    return [line for line in encode(result.probe.samples).decode().splitlines() if not line.startswith("#")]


def test_metrics_of_every_probe_are_those_of_the_runner() -> None:
    by_default = {metric.name for metric in declared(runner)} - {runner.LOOP_DELAY.name}  # a flag adds this one
    assert {*OF_EVERY_PROBE, OF_A_FAILURE} == by_default


def test_metrics_of_tls_are_those_of_the_handshake() -> None:
    """No other metric of a shipped prober looks like one."""
    known = {metric.name for metric in declared(metrics)}
    for prober in PROBERS.values():
        assert {metric.name for metric in measured(prober) if metric.name.startswith(OF_TLS)} <= known


def phases_seen() -> Mapping[str, set[str]]:
    """Return the phases of each metric in the golden files."""
    seen: dict[str, set[str]] = {}
    for path in GOLDEN.glob("*/*.txt"):
        for name, phase in re.findall(r"(probe_\w+_duration_seconds)\{phase='(\w+)'", path.read_text(encoding="utf-8")):
            seen.setdefault(name, set()).add(phase)
    return seen


@pytest.mark.parametrize(("name", "phases"), sorted(phases_seen().items()))
def test_declared_number_of_phases_is_that_of_real_probes(name: str, phases: set[str]) -> None:
    [metric] = {metric for prober in PROBERS.values() for metric in measured(prober) if metric.name == name}
    assert metric.series == len(phases)


async def test_real_probes_have_at_most_the_told_series(tmp_path: Path, pki: Pki) -> None:
    settings = f"fail_if_body_matches_regexp: [never], tls_config: {{ca_file: '{pki.directory}/root.pem'}}"
    module = a_module(tmp_path, f"prober: http, http: {{{settings}}}")
    told = series_of(module)
    assert told.tls is not None
    async with Site({"/": PAGE}, tls=Tls(), pki=pki.directory) as site:
        plain = await run(module, site.fill("http://127.0.0.1:{port}/"), 60.0)
        tls = await run(module, site.fill("https://localhost:{tls_port}/"), 60.0)
        failed = await run(module, site.fill("https://127.0.0.9:{tls_port}/"), 60.0)
    assert (plain.success, tls.success, failed.success) == (True, True, False)
    # One series each for CEL, which this module has not.
    assert len(shown(plain)) == told.plain - 1
    assert len(shown(tls)) == told.tls - 1
    assert len(shown(failed)) <= told.failed


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("prober: icmp", SeriesInfo(plain=16, tls=None, failed=17)),
        ("prober: icmp, drop: ['probe_icmp_rtt_.*', probe_ip_addr_hash]", SeriesInfo(plain=10, tls=None, failed=11)),
        ("prober: icmp, keep: [nothing_else]", SeriesInfo(plain=1, tls=None, failed=1)),
        ("prober: tcp, keep: [probe_failure_info, 'probe_ssl_.*']", SeriesInfo(plain=1, tls=4, failed=6)),
    ],
)
def test_told_series_are_those_that_are_kept(tmp_path: Path, keys: str, told: SeriesInfo) -> None:
    assert series_of(a_module(tmp_path, keys)) == told


def test_values_of_a_module_count(tmp_path: Path) -> None:
    value = "{name: app_jobs, help: Jobs., from: {json: $.jobs}}"
    without = series_of(a_module(tmp_path, "prober: http")).plain
    assert series_of(a_module(tmp_path, f"prober: http, http: {{metrics: [{value}]}}")).plain == without + 1


async def test_probe_exposes_what_its_module_keeps(tmp_path: Path) -> None:
    module = a_module(
        tmp_path, "prober: http, keep: ['probe_http_status_code', 'probe_.*_seconds'], drop: [probe_dns.*]"
    )
    async with Site({"/": PAGE}) as site:
        result = await run(module, site.fill("http://127.0.0.1:{port}/"), 60.0)
    assert {re.split("[{ ]", line)[0] for line in shown(result)} == {
        "probe_success",
        "probe_http_status_code",
        "probe_http_duration_seconds",
        "probe_http_last_modified_timestamp_seconds",
        "probe_duration_seconds",
        "probe_timeout_seconds",
    }


async def test_module_without_the_keys_keeps_its_samples(tmp_path: Path) -> None:
    module = a_module(tmp_path, "prober: http")
    assert module.filter is None
    async with Site({"/": PAGE}) as site:
        result = await run(module, site.fill("http://127.0.0.1:{port}/"), 60.0)
    names = {re.split("[{ ]", line)[0] for line in shown(result)}
    assert names > {"probe_success", "probe_dns_lookup_time_seconds", "probe_http_version", "probe_ip_addr_hash"}


def test_pattern_without_effect_is_a_warning(tmp_path: Path) -> None:
    text = "modules: {m: {prober: icmp, keep: [icmp_rtt_min], drop: ['probe_icmp_.*', 'probe_http_.*']}}\n"
    warnings = [str(warning).partition("blackbox.yml:")[2] for warning in load(tmp_path, text).warnings]
    assert warnings == [
        "1:29: modules.m.keep: icmp_rtt_min matches no metric of prober icmp: see `probe-exporter modules`",
        "1:51: modules.m.drop: probe_http_.* matches no metric of prober icmp: see `probe-exporter modules`",
    ]
    assert len(refusal(tmp_path, text, strict=True)) == 2


def test_pattern_of_a_prober_that_copies_series_is_no_warning(tmp_path: Path) -> None:
    """The target chooses their names."""
    module = "{prober: exporter, exporter: {reexpose: {names: ['node_*']}}, drop: ['node_cpu_.*']}"
    assert load(tmp_path, f"modules: {{m: {module}}}\n").warnings == ()


@pytest.mark.parametrize("key", ["keep", "drop"])
def test_bad_pattern_is_refused(tmp_path: Path, key: str) -> None:
    [line] = refusal(tmp_path, f"modules: {{m: {{prober: icmp, {key}: ['a(']}}}}\n")
    assert f"modules.m.{key}[0]: not a regular expression (RE2)" in line


def test_keys_read_back_as_written(tmp_path: Path) -> None:
    config = load(
        tmp_path, "modules: {m: {prober: icmp, keep: ['probe_icmp_.*'], drop: [probe_icmp_rtt_max_seconds]}}\n"
    )
    assert load(tmp_path, dump.to_yaml(config)).modules["m"].keep == config.modules["m"].keep
    assert "drop:\n            - probe_icmp_rtt_max_seconds\n" in dump.to_yaml(config)


def test_parameters_of_a_request_keep_the_filter(tmp_path: Path) -> None:
    parameters: Any = "params: {path: {pattern: x}}, http: {headers: {A: '${param:path}'}}"
    module = a_module(tmp_path, f"prober: http, drop: [probe_ip_addr_hash], {parameters}")
    filled = module.given({"path": "x"})
    assert filled.filter is not None
    assert not filled.filter.keeps("probe_ip_addr_hash")


def test_metrics_of_a_module_are_listed_once(tmp_path: Path) -> None:
    names = [metric.name for metric in metrics_of(a_module(tmp_path, "prober: tcp"))]
    assert len(names) == len({*names})
