"""Read protocol buffers of Google's encoder, and refuse legal messages that are no metrics."""

from __future__ import annotations

from typing import Any

import pytest

from probe_exporter.scrape import protobuf
from probe_exporter.scrape.page import Malformed, Page, Selection
from tests.metrics_proto import MetricFamily

COUNTER, GAUGE, SUMMARY, UNTYPED, HISTOGRAM = range(5)


def family(type: int, name: str = "a", help: str = "x") -> Any:
    return MetricFamily(name=name, help=help, type=type)


def delimited(*messages: Any) -> bytes:
    """Return messages, each with its length before it; they are short."""
    encoded = [message if isinstance(message, bytes) else message.SerializeToString() for message in messages]
    assert all(len(one) < 128 for one in encoded)
    return b"".join(bytes([len(one)]) + one for one in encoded)


def read(body: bytes) -> tuple[Page, dict[tuple[str, ...], float]]:
    """Return a page, and its samples by name and label values."""
    kept = Selection(lambda _: True, lambda _: True, 1000)
    page = Page(1000, kept)
    for _ in protobuf.read(body, page):
        pass
    return page, {(sample.name, *[value for _, value in sample.labels]): sample.value for sample in kept.kept}


def test_values_of_each_type_are_read() -> None:
    counter, gauge, untyped = family(COUNTER, "c_total"), family(GAUGE, "g"), family(UNTYPED, "u", "")
    counter.metric.add(counter={"value": 5}, label=[{"name": "l", "value": "ü"}], timestamp_ms=1)
    gauge.metric.add(gauge={"value": -1.5})
    untyped.metric.add(untyped={"value": float("inf")})
    page, samples = read(delimited(counter, gauge, untyped))
    assert samples == {("c_total", "ü"): 5, ("g",): -1.5, ("u",): float("inf")}
    assert [(one.type, one.help, one.samples) for one in page.families] == [
        ("counter", True, 1), ("gauge", True, 1), ("unknown", False, 1),
    ]  # fmt: skip


def test_histograms_and_summaries_give_the_samples_of_the_text_format() -> None:
    histogram, summary = family(HISTOGRAM, "h"), family(SUMMARY, "s")
    buckets = [{"cumulative_count": 1, "upper_bound": 0.5}]
    histogram.metric.add(histogram={"sample_count": 3, "sample_sum": 4.5, "bucket": buckets})
    summary.metric.add(summary={"sample_count": 2, "sample_sum": 7, "quantile": [{"quantile": 0.9, "value": 6}]})
    page, samples = read(delimited(histogram, summary))
    assert samples == {
        ("h_bucket", "0.5"): 1, ("h_bucket", "inf"): 3, ("h_sum",): 4.5, ("h_count",): 3,
        ("s", "0.9"): 6, ("s_sum",): 7, ("s_count",): 2,
    }  # fmt: skip
    assert page.samples == 7


def test_missing_value_is_zero() -> None:
    one = family(GAUGE)
    one.metric.add().gauge.SetInParent()
    assert read(delimited(one))[1] == {("a",): 0}


def test_native_histogram_is_one_sample() -> None:
    """Field 5 is the schema and field 6 the zero threshold; the definition used here does not have them."""
    native = b"\x08\x03\x28\x04\x31" + b"\0" * 8  # sample_count: 3, schema: 2, zero_threshold: 0
    metric = b"\x3a" + bytes([len(native)]) + native
    body = b"\x0a\x01h\x18\x04\x22" + bytes([len(metric)]) + metric
    assert read(delimited(body))[1] == {("h",): 3}


def test_unknown_fields_are_skipped() -> None:
    one = family(GAUGE)
    one.metric.add(gauge={"value": 1})
    unknown = b"\xf8\x01\x05" + b"\xfa\x01\x02ab" + b"\xf9\x01" + b"\0" * 8 + b"\xfd\x01" + b"\0" * 4
    assert read(delimited(one.SerializeToString() + unknown))[1] == {("a",): 1}


def gauge_of(name: str, *labels: dict[str, str]) -> Any:
    one = family(GAUGE, name)
    one.metric.add(gauge={"value": 1}, label=list(labels))
    return one


def counter_with_a_gauge() -> Any:
    one = family(COUNTER)
    one.metric.add(gauge={"value": 1})
    return one


REFUSED = {
    "no name": (gauge_of(""), "no name"),
    "a family twice": ([gauge_of("a"), gauge_of("a")], "is repeated"),
    "a value of another type": (counter_with_a_gauge(), "must have one value of its type"),
    "a label twice": (gauge_of("a", {"name": "l", "value": "1"}, {"name": "l", "value": "2"}), "is repeated"),
    "a label without a name": (gauge_of("a", {"name": "", "value": "1"}), "no name"),
    "a reserved label": (gauge_of("a", {"name": "__name__", "value": "1"}), "reserved"),
    "a type that is none": (b"\x0a\x01a\x18\x09", "not a metric type"),
    "a name that is a number": (b"\x08\x05", "a number instead of a text"),
    "a name not in UTF-8": (b"\x0a\x01\xff", "UTF-8"),
    "a group": (b"\x0b", "unknown wire type"),
    "a field without a number": (b"\x02\x00", "unknown wire type"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_message_is_refused_for_its_reason(name: str) -> None:
    messages, said = REFUSED[name]
    with pytest.raises(Malformed, match=said):
        read(delimited(*(messages if isinstance(messages, list) else [messages])))
