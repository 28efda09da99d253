"""Tests of metric declarations and samples; samples are an ordinary collector of prometheus_client."""

from __future__ import annotations

import math
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from probe_exporter.prober.metrics import Metric, NotASample, Samples, whole_nanoseconds

PLAIN = Metric("probe_plain_seconds", "Without labels.")
LABELLED = Metric("probe_labelled", "With labels.", ("phase", "reason"))
SPREAD = Metric("probe_spread", "A histogram.", type="histogram", buckets=(1.0,))
SPREAD_BY_REASON = Metric("probe_spread_by_reason", "A histogram.", ("reason",), type="histogram", buckets=(1.0,))


@pytest.mark.parametrize("name", ["probe_success", "a", "_a", "A:b_0", "a" * 200])
def test_metric_accepts_legal_name(name: str) -> None:
    assert Metric(name, "help").name == name


@pytest.mark.parametrize("name", ["", "0a", "a-b", "a b", "a.b", "\u00e9", "a\n", "a{b}"])
def test_metric_refuses_illegal_name(name: str) -> None:
    with pytest.raises(ValueError, match="is not a metric name"):
        Metric(name, "help")


@pytest.mark.parametrize("label", ["", "0a", "a-b", "a:b", "__name__", "__a", "\u00e9", "a\n"])
def test_metric_refuses_illegal_label(label: str) -> None:
    with pytest.raises(ValueError, match=r"is not a label name \(metric probe_x\)"):
        Metric("probe_x", "help", ("good", label))


def test_metric_refuses_duplicate_label() -> None:
    with pytest.raises(ValueError, match="declares a label twice"):
        Metric("probe_x", "help", ("a", "b", "a"))


@pytest.mark.parametrize(
    ("metric", "labels"), [(PLAIN, ("a",)), (LABELLED, ()), (LABELLED, ("a",)), (LABELLED, tuple("abc"))]
)
def test_sample_needs_declared_labels(metric: Metric, labels: tuple[str, ...]) -> None:
    samples = Samples()
    with pytest.raises(ValueError, match=f"{metric.name} takes {len(metric.labels)} label values"):
        samples.set(metric, 1, *labels)
    with pytest.raises(ValueError, match=metric.name):
        samples.add(metric, 1, *labels)
    assert samples.families == {}


def test_wrong_number_of_labels_says_what_was_given() -> None:
    metric = Metric("probe_x", "help", ("kind", "zone"))
    with pytest.raises(ValueError, match=r"probe_x takes 2 label values \(kind, zone\), and was given 1: 'green'$"):
        Samples().set(metric, 1, "green")
    with pytest.raises(ValueError, match=r"takes 2 label values \(kind, zone\), and was given 0$"):
        Samples().add(metric, 1)
    with pytest.raises(ValueError, match=r"with 1 label values \(.*\), and was given 2: 'a', 'b'$"):
        Samples().observe(LATENCY, 1, "a", "b")


def test_sample_keeps_last_value() -> None:
    samples = Samples()
    samples.set(PLAIN, 1)
    samples.set(PLAIN, 2)
    samples.set(LABELLED, 3, "a", "b")
    samples.set(LABELLED, 4, "a", "c")
    samples.set(LABELLED, 5, "a", "b")
    assert samples.families == {PLAIN: {(): 2}, LABELLED: {("a", "b"): 5, ("a", "c"): 4}}


def test_sample_addition_starts_at_zero() -> None:
    samples = Samples()
    for metric, labels in ((PLAIN, ()), (LABELLED, ("a", "b"))):
        samples.add(metric, 1.5, *labels)
        samples.add(metric, 2, *labels)
        assert samples.get(metric, *labels) == 3.5


@pytest.mark.parametrize("value", ["1", b"1", None, [], 1j])
def test_sample_refuses_what_is_no_number(value: Any) -> None:
    samples = Samples()
    for give, metric in ((samples.set, PLAIN), (samples.add, PLAIN), (samples.observe, SPREAD)):
        with pytest.raises(NotASample, match=f"metric {metric.name} was given {type(value).__name__} in place"):
            give(metric, value)
    assert list(samples.collect()) == []


@pytest.mark.parametrize("value", [True, 3, 10**400, 1.5, math.inf, Fraction(3, 2), Decimal("1.5")])
def test_sample_takes_whatever_is_a_number(value: Any) -> None:
    samples = Samples()
    samples.set(PLAIN, value)
    assert samples.get(PLAIN) == value


@pytest.mark.parametrize(
    ("label", "said"),
    [(5, "given int in place of text"), (None, "given NoneType in place")],
)
def test_sample_refuses_label_values_that_are_no_text(label: Any, said: str) -> None:
    samples = Samples()
    for give in (samples.set, samples.add):
        with pytest.raises(NotASample, match=f"metric probe_labelled: label reason was {said}"):
            give(LABELLED, 1, "connect", label)
    with pytest.raises(NotASample, match=f"label reason was {said}"):
        samples.observe(SPREAD_BY_REASON, 1, label)
    samples.set(LABELLED, 1, "connect", "caf\xe9")
    assert samples.get(LABELLED, "connect", "caf\xe9") == 1


@given(st.floats(-2e6, 2e6) | st.floats(-1e-8, 1e-8) | st.integers(-(10**9), 10**9).map(lambda half: half * 0.5e-9))
@example(0.0)
@example(-0.0)
def test_duration_is_rounded_to_the_nearest_nanosecond(seconds: float) -> None:
    """Also halves, of which Python rounds to the even one."""
    rounded = whole_nanoseconds(seconds)
    assert (rounded, math.copysign(1, rounded)) == (
        round(seconds * 1e9) / 1e9,
        math.copysign(1, round(seconds * 1e9) / 1e9),
    )


class Step(StrEnum):
    LOGIN = "login"


@pytest.mark.parametrize("phase", ["login", Step.LOGIN])
def test_durations_of_a_phase_are_added_up(phase: str) -> None:
    metric = Metric("probe_duration_seconds", "Of each phase.", ("phase",))
    samples = Samples()
    samples.add_phase(metric, phase, 1.5)
    samples.add_phase(metric, phase, 0.25)
    assert samples.get(metric, "login") == 1.75


def test_duration_of_a_phase_needs_a_metric_with_one_label() -> None:
    with pytest.raises(ValueError, match="probe_labelled"):
        Samples().add_phase(LABELLED, "login", 1.5)


def test_sample_not_set_has_no_value() -> None:
    samples = Samples()
    samples.set(LABELLED, 1, "a", "b")
    assert math.isnan(samples.get(PLAIN))
    assert math.isnan(samples.get(LABELLED, "a", "c"))
    assert samples.get(PLAIN, default=-1) == -1
    assert samples.get(LABELLED, "x", "y", default=-1) == -1


def test_samples_of_runs_are_separate() -> None:
    one, other = Samples(), Samples()
    one.set(PLAIN, 1)
    one.registry.register(other)
    assert other.families == {}
    assert not other.has_registry


def exposed(samples: Samples) -> dict[str, float]:
    """Return the text that prometheus_client exposes for the samples."""
    registry = CollectorRegistry()
    registry.register(samples)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        sample.name + "".join(f" {label}={value}" for label, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_samples_are_a_collector() -> None:
    samples = Samples()
    samples.set(PLAIN, 0.25)
    samples.set(LABELLED, math.inf, "resolve", 'a "quoted"\nvalue\\')
    samples.set(Metric("probe_things_total", "Counted.", type="counter"), 3)
    samples.set(Metric("probe_others", "Counted too.", type="counter"), 4)
    assert exposed(samples) == {
        "probe_plain_seconds": 0.25,
        'probe_labelled phase=resolve reason=a "quoted"\nvalue\\': math.inf,
        "probe_things_total": 3,
        "probe_others_total": 4,
    }


def test_number_of_series_includes_those_of_the_registry() -> None:
    samples = Samples()
    assert samples.number == 0
    samples.set(PLAIN, 1)
    samples.set(LABELLED, 1, "a", "b")
    samples.set(LABELLED, 1, "a", "c")
    assert samples.number == 3
    Gauge("probe_own", "Own.", registry=samples.registry).set(5)
    assert samples.number == 4


def test_samples_include_own_registry() -> None:
    samples = Samples()
    samples.set(PLAIN, 1)
    Gauge("probe_theirs", "Of an author.", registry=samples.registry).set(7)
    Counter("probe_their_count", "Of an author.", registry=samples.registry).inc(2)
    assert samples.has_registry
    collected = exposed(samples)
    assert {name: collected[name] for name in collected if not name.endswith("_created")} == {
        "probe_plain_seconds": 1,
        "probe_theirs": 7,
        "probe_their_count_total": 2,
    }


def test_metric_repr_shows_declaration() -> None:
    assert repr(LABELLED) == "Metric('probe_labelled', labels=('phase', 'reason'))"


# --- info and histogram ------------------------------------------------------------------------------------

INFO = Metric("probe_server_info", "What the server says of itself.", ("version",), type="info")
LATENCY = Metric("probe_latency_seconds", "Each round trip.", ("way",), type="histogram", buckets=(0.1, 1))


def test_histogram_counts_observations() -> None:
    samples = Samples()
    for value in (0.05, 0.1, 0.5, 7):
        samples.observe(LATENCY, value, "there")
    samples.observe(LATENCY, 2, "back")
    (family,) = samples.collect()
    assert (family.name, family.type) == ("probe_latency_seconds", "histogram")
    counted = {
        (sample.name.removeprefix(family.name), sample.labels["way"], sample.labels.get("le")): sample.value
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert counted == {
        ("_bucket", "there", "0.1"): 2,
        ("_bucket", "there", "1.0"): 3,
        ("_bucket", "there", "+Inf"): 4,
        ("_count", "there", None): 4,
        ("_sum", "there", None): pytest.approx(7.65),
        ("_bucket", "back", "0.1"): 0,
        ("_bucket", "back", "1.0"): 0,
        ("_bucket", "back", "+Inf"): 1,
        ("_count", "back", None): 1,
        ("_sum", "back", None): 2,
    }


def test_info_metric_has_info_type() -> None:
    samples = Samples()
    samples.set(INFO, 1, "7.0")
    (family,) = samples.collect()
    assert (family.name, family.type) == ("probe_server", "info")
    assert [(sample.name, sample.labels, sample.value) for sample in family.samples] == [
        ("probe_server_info", {"version": "7.0"}, 1)
    ]


def test_histogram_refuses_set_and_gauge_refuses_observe() -> None:
    samples = Samples()
    words = "is a histogram: it takes observations, with 1 label values"
    with pytest.raises(ValueError, match=words):
        samples.set(LATENCY, 1, "there")
    with pytest.raises(ValueError, match=words):
        samples.add(LATENCY, 1, "there")
    with pytest.raises(ValueError, match=words):
        samples.observe(LATENCY, 1)
    with pytest.raises(ValueError, match="probe_plain_seconds is a gauge, and only"):
        samples.observe(PLAIN, 1)


@pytest.mark.parametrize("buckets", [(), (1, 0.1), (1, 1)])
def test_histogram_refuses_unsorted_buckets(buckets: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a histogram has ascending buckets"):
        Metric("probe_x", "help", type="histogram", buckets=buckets)


def test_metric_refuses_options_of_other_types() -> None:
    with pytest.raises(ValueError, match="has buckets but is no histogram"):
        Metric("probe_x", "help", buckets=(1,))
    with pytest.raises(ValueError, match="no label le"):
        Metric("probe_x", "help", ("le",), type="histogram", buckets=(1,))
    with pytest.raises(ValueError, match="ends in _info"):
        Metric("probe_x", "help", type="info")
