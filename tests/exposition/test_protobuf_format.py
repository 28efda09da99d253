"""Encode samples as protocol buffers that Google's decoder reads back and that Prometheus understands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
    UntypedMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family

from probe_exporter.exposition.encoding import encode, encode_families
from probe_exporter.exposition.formats import PROTOBUF, PROTOBUF_COMPACT, PROTOBUF_TEXT, Format
from probe_exporter.prober.metrics import Metric, Samples
from tests.exposition.test_encoding import a_registry, filled, same, series, wanted
from tests.metrics_proto import MetricFamily, decode

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(families: Iterable[Any]) -> Series:
    """Return the series that Prometheus makes of messages, with those of histograms and summaries expanded."""
    return {(name, frozenset(labels.items())): value for family in families for name, labels, value in _series(family)}


def _series(family: Any) -> Iterator[tuple[str, dict[str, str], float]]:
    for metric in family.metric:
        labels = {pair.name: pair.value for pair in metric.label}
        if metric.HasField("histogram"):
            seen = metric.histogram
            for bucket in seen.bucket:
                if not math.isinf(bucket.upper_bound):
                    yield f"{family.name}_bucket", {**labels, "le": str(bucket.upper_bound)}, bucket.cumulative_count
            yield f"{family.name}_bucket", {**labels, "le": "+Inf"}, seen.sample_count
            yield from _sums(family.name, labels, seen)
        elif metric.HasField("summary"):
            for quantile in metric.summary.quantile:
                yield family.name, {**labels, "quantile": str(quantile.quantile)}, quantile.value
            yield from _sums(family.name, labels, metric.summary)
        else:
            kind = {0: "counter", 1: "gauge", 3: "untyped"}[family.type]
            assert metric.HasField(kind)
            yield family.name, labels, getattr(metric, kind).value


def _sums(name: str, labels: dict[str, str], seen: Any) -> Iterator[tuple[str, dict[str, str], float]]:
    yield f"{name}_count", labels, seen.sample_count
    yield f"{name}_sum", labels, seen.sample_sum


def one(family: Family, format: Format = PROTOBUF) -> Any:
    (message,) = decode(encode_families([family], format))
    return message


@given(samples=filled())
@settings(max_examples=50)
def test_samples_are_read_back(samples: Samples) -> None:
    families = decode(encode(samples, PROTOBUF))
    assert same(read(families), wanted(samples))
    assert [family.name for family in families] == sorted(family.name for family in families)
    helps = {metric.name: metric.help for metric in samples.families}
    assert {family.name: family.help for family in families} == helps


@given(samples=filled())
@settings(max_examples=50)
def test_samples_and_collector_encode_alike(samples: Samples) -> None:
    short, long = encode(samples, PROTOBUF), encode_families(samples.collect(), PROTOBUF)
    assert same(read(decode(short)), read(decode(long)))
    assert len(short) == len(long)


@given(samples=filled())
@settings(max_examples=50)
def test_text_forms_hold_the_same_message(samples: Samples) -> None:
    messages = read(decode(encode(samples, PROTOBUF)))
    spelt = encode(samples, PROTOBUF_TEXT).decode().split("\n\n")
    assert spelt.pop() == "", "an empty line after each"
    assert same(read([text_format.Parse(block, MetricFamily()) for block in spelt]), messages)
    lines = encode(samples, PROTOBUF_COMPACT).decode().split("\n")
    assert lines.pop() == "", "a line each"
    assert same(read([text_format.Parse(line, MetricFamily()) for line in lines]), messages)


def test_text_forms_look_like_those_of_the_original() -> None:
    samples = Samples()
    samples.set(Metric("probe_ip_addr_hash", "Which\naddress."), 3668918509)
    samples.set(Metric("probe_phase", "Phases.", ("phase",)), 5.5e-06, 't"ls')
    assert encode(samples, PROTOBUF_TEXT).decode() == (
        'name: "probe_ip_addr_hash"\nhelp: "Which\\naddress."\ntype: GAUGE\n'
        "metric: {\n  gauge: {\n    value: 3.668918509e+09\n  }\n}\n\n"
        'name: "probe_phase"\nhelp: "Phases."\ntype: GAUGE\n'
        'metric: {\n  label: {\n    name: "phase"\n    value: "t\\"ls"\n  }\n  gauge: {\n    value: 5.5e-06\n  }\n}\n\n'
    )
    assert encode(samples, PROTOBUF_COMPACT).decode() == (
        'name:"probe_ip_addr_hash" help:"Which\\naddress." type:GAUGE metric:{gauge:{value:3.668918509e+09}}\n'
        'name:"probe_phase" help:"Phases." type:GAUGE '
        'metric:{label:{name:"phase" value:"t\\"ls"} gauge:{value:5.5e-06}}\n'
    )


@given(st.floats())
def test_number_is_read_back(value: float) -> None:
    samples = Samples()
    samples.set(Metric("probe_number", "Any."), value)
    for format in (PROTOBUF, PROTOBUF_TEXT):
        body = encode(samples, format)
        family = decode(body)[0] if format is PROTOBUF else text_format.Parse(body, MetricFamily())
        back = family.metric[0].gauge.value
        assert back == value or (math.isnan(back) and math.isnan(value))


def test_changed_values_change_the_cached_answer() -> None:
    """The encoded series are cached, but not their values."""
    metric = Metric("probe_number", "Any.")
    for value in (1.0, 2.0):
        samples = Samples()
        samples.set(metric, value)
        assert decode(encode(samples, PROTOBUF))[0].metric[0].gauge.value == value


def test_no_samples_give_an_empty_answer() -> None:
    for format in (PROTOBUF, PROTOBUF_TEXT, PROTOBUF_COMPACT):
        assert encode(Samples(), format) == b""


def test_text_that_is_not_utf8_loses_a_character_and_not_the_answer() -> None:
    samples = Samples()
    samples.set(Metric("probe_expect_info", "What was said.", ("word",)), 1, "caf\udce9")
    assert decode(encode(samples, PROTOBUF))[0].metric[0].label[0].value == "caf?"


def test_long_label_has_a_long_length() -> None:
    samples = Samples()
    samples.set(Metric("probe_expect_info", "What was said.", ("word",)), 1, "x" * 70_000)
    assert decode(encode(samples, PROTOBUF))[0].metric[0].label[0].value == "x" * 70_000


# --- prometheus_client's types -----------------------------------------------------------------------------


def test_prometheus_client_types_are_read_back() -> None:
    registry = a_registry()
    expected = {key: value for key, value in series(registry.collect()).items() if not key[0].endswith("_created")}
    families = decode(encode_families(registry.collect(), PROTOBUF))
    assert read(families) == expected
    kinds = {family.name: family.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number for family in families}
    assert {family.name: kinds[family.name][family.type].name for family in families} == {
        "build_info": "GAUGE",
        "hits_total": "COUNTER",
        "lag": "HISTOGRAM",
        "mood": "GAUGE",
        "size_bytes": "GAUGE",
        "weight": "SUMMARY",
    }
    assert {family.name: family.unit for family in families if family.unit} == {"size_bytes": "bytes"}


def test_registry_of_an_author_is_merged_and_sorted() -> None:
    samples = Samples()
    samples.set(Metric("probe_success", "Verdict."), 1)
    samples.registry.register(_Fixed([GaugeMetricFamily("probe_a", "First.", 2)]))
    samples.registry.register(_Fixed([GaugeMetricFamily("probe_success", "A lie.", 0)]))
    families = decode(encode(samples, PROTOBUF))
    assert [(family.name, family.help) for family in families] == [("probe_a", "First."), ("probe_success", "Verdict.")]


class _Fixed:
    """A collector that returns these families."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Family]:
        return self._families


def test_exemplars_and_timestamps_are_read_back() -> None:
    lag = next(family for family in a_registry().collect() if family.name == "lag")
    bucket = one(lag).metric[0].histogram.bucket[1]
    assert (bucket.exemplar.label[0].value, bucket.exemplar.value) == ("a", 0.7)
    assert bucket.exemplar.timestamp.seconds > 1.7e9
    seen = GaugeMetricFamily("seen", "Seen.")
    seen.add_metric([], 1, timestamp=1700000000.5)
    assert one(seen).metric[0].timestamp_ms == 1700000000500
    long_ago = GaugeMetricFamily("seen", "Seen.")
    long_ago.add_metric([], 1, timestamp=-1)
    assert one(long_ago).metric[0].timestamp_ms == -1000


def test_rare_types_are_encoded() -> None:
    age = GaugeHistogramMetricFamily("age", "Age.", buckets=[("1.0", 2), ("+Inf", 3)], gsum_value=7)
    assert (one(age).type, one(age).metric[0].histogram.sample_count) == (5, 3)
    assert one(age).metric[0].histogram.sample_sum == 7
    assert one(UntypedMetricFamily("odd", "Odd.", 4)).metric[0].untyped.value == 4
    assert one(SummaryMetricFamily("s", "S.", count_value=2, sum_value=5)).metric[0].summary.sample_count == 2
    strange = HistogramMetricFamily("h", "H.", buckets=[("1.0", float("nan")), ("+Inf", -1)], sum_value=1)
    assert one(strange).metric[0].histogram.sample_count == 0, "no count, but no lost answer"


@pytest.mark.parametrize(
    ("escaping", "name", "label"),
    [
        ("underscores", "a_b", "c_d"),
        ("dots", "a_dot_b", "c_dot_d"),
        ("values", "U__a_2e_b", "U__c_2e_d"),
        ("allow-utf-8", "a.b", "c.d"),
    ],
)
def test_utf8_names_are_escaped_as_negotiated(escaping: str, name: str, label: str) -> None:
    family = GaugeMetricFamily("a.b", "Dotted.", labels=["c.d"])
    family.add_metric(["1"], 2)
    message = one(family, Format("protobuf", PROTOBUF.media, escaping))
    assert (message.name, message.metric[0].label[0].name) == (name, label)


@pytest.mark.parametrize("escaping", ["underscores", "dots", "values", "allow-utf-8"])
def test_legacy_names_are_never_escaped(escaping: str) -> None:
    family = CounterMetricFamily("probe_tries", "Tries.", value=1, labels=None)
    assert one(family, Format("protobuf", PROTOBUF.media, escaping)).name == "probe_tries_total"
