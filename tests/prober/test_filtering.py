"""`keep` and `drop` of a module: which metrics of a finished probe are exposed."""

from __future__ import annotations

import pytest
from prometheus_client import Counter

from probe_exporter.exposition.encoding import encode
from probe_exporter.prober.filtering import MetricFilter
from probe_exporter.prober.metrics import Metric, Samples
from probe_exporter.settings.regexps import Regexp

SUCCESS = Metric("probe_success", "Success.")
CODE = Metric("probe_http_status_code", "Code.")
SECONDS = Metric("probe_http_duration_seconds", "Seconds.", ("phase",))
WAIT = Metric("probe_wait_seconds", "Wait.", type="histogram", buckets=(0.1, 1.0))


def samples() -> Samples:
    found = Samples()
    found.set(SUCCESS, 1)
    found.set(CODE, 200)
    found.set(SECONDS, 0.5, "connect")
    found.set(SECONDS, 0.5, "tls")
    return found


def names(found: Samples) -> set[str]:
    """Return the names of the series in an exposition."""
    lines = [line for line in encode(found).decode().splitlines() if not line.startswith("#")]
    return {line.partition("{")[0].partition(" ")[0] for line in lines}


@pytest.mark.parametrize(
    ("keep", "drop", "kept"),
    [
        ([], [], {"probe_success", "probe_http_status_code", "probe_http_duration_seconds"}),
        (["probe_http_status_code"], [], {"probe_success", "probe_http_status_code"}),
        (["probe_http_.*"], ["probe_http_duration_seconds"], {"probe_success", "probe_http_status_code"}),
        ([], ["probe_http_duration_seconds"], {"probe_success", "probe_http_status_code"}),
        ([], [".*"], {"probe_success"}),
        (["nothing"], [], {"probe_success"}),
        (["status_code"], [], {"probe_success"}),
        ([], ["probe_http"], {"probe_success", "probe_http_status_code", "probe_http_duration_seconds"}),
    ],
    ids=["neither", "keep", "both", "drop", "drop all", "keep none", "keep a part", "drop a part"],
)
def test_metrics_are_kept_by_their_whole_name(keep: list[str], drop: list[str], kept: set[str]) -> None:
    chosen = MetricFilter([*map(Regexp, keep)], [*map(Regexp, drop)])
    assert names(chosen.apply(samples())) == kept


def test_series_of_a_kept_metric_are_all_kept() -> None:
    shown = MetricFilter([Regexp("probe_http_duration_seconds")], []).apply(samples())
    assert shown.labelled == {SECONDS: {("connect",): 0.5, ("tls",): 0.5}}


def test_samples_of_the_probe_stay_as_they_are() -> None:
    before = samples()
    MetricFilter([], [Regexp(".*")]).apply(before)
    assert before.plain == {SUCCESS: 1, CODE: 200}


def test_registry_of_a_probe_is_filtered_too() -> None:
    """Counters are named as they are exposed, histograms by the name of the family."""
    found = samples()
    Counter("app_requests", "Requests.", registry=found.registry).inc()
    found.observe(WAIT, 0.2)
    everything = names(MetricFilter([], [Regexp("probe_http_.*")]).apply(found))
    assert {"app_requests_total", "probe_wait_seconds_bucket", "probe_wait_seconds_sum"} <= everything
    assert names(MetricFilter([], [Regexp("app_requests_total")]).apply(found)) & {"app_requests_total"} == set()
    assert names(MetricFilter([Regexp("app_requests_total")], []).apply(found)) >= {"app_requests_total"}
    shown = MetricFilter([Regexp("probe_http_status_code")], []).apply(found)
    assert (names(shown), shown.has_registry) == ({"probe_success", "probe_http_status_code"}, False)
