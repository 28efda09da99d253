"""Merge the samples of several modules into one answer: each series has its module, and the answer is always legal."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from probe_exporter.exposition import merging
from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.formats import OPENMETRICS, PROTOBUF, TEXT
from probe_exporter.exposition.merging import merged
from probe_exporter.prober.metrics import Metric, Samples
from tests.exporters import peer

PLAIN = Metric("probe_up", "Up.")
PHASES = Metric("probe_seconds", "Seconds.", ("phase",))


def samples(*values: tuple[Metric, float, tuple[str, ...]]) -> Samples:
    """Return the samples of a probe."""
    made = Samples()
    for metric, value, labels in values:
        made.set(metric, value, *labels)
    return made


def lines(runs: dict[str, Samples]) -> list[str]:
    """Return the lines of the merged answer as text."""
    return encode(merged(runs)).decode().splitlines()


def test_merged_series_have_a_module_label_and_families_one_head() -> None:
    first = samples((PLAIN, 1, ()), (PHASES, 0.5, ("a",)), (PHASES, 2, ("b",)))
    second = samples((PLAIN, 0, ()), (PHASES, 3, ("a",)))
    assert lines({"one": first, "two": second}) == [
        "# HELP probe_seconds Seconds.",
        "# TYPE probe_seconds gauge",
        'probe_seconds{module="one",phase="a"} 0.5',
        'probe_seconds{module="one",phase="b"} 2',
        'probe_seconds{module="two",phase="a"} 3',
        "# HELP probe_up Up.",
        "# TYPE probe_up gauge",
        'probe_up{module="one"} 1',
        'probe_up{module="two"} 0',
    ]


def test_merged_series_may_have_another_label() -> None:
    own = Metric("probe_seconds", "Seconds.", ("target",))
    runs = {"one": samples((own, 1, ("a",))), "two": samples((PLAIN, 2, ()))}
    assert [line for line in encode(merged(runs, "target")).decode().splitlines() if line[0] != "#"] == [
        'probe_seconds{exported_target="a",target="one"} 1',
        'probe_up{target="two"} 2',
    ]
    twice = merged({"x": merged({"one": runs["one"]}), "y": merged({"two": runs["two"]})}, "target")
    assert 'probe_up{module="two",target="y"} 2' in encode(twice).decode().splitlines()


def test_merged_declarations_use_the_first_help_and_all_labels() -> None:
    other = Metric("probe_seconds", "Otherwise.", ("way",))
    assert lines({"one": samples((PHASES, 1, ("a",))), "two": samples((other, 2, ("b",)))}) == [
        "# HELP probe_seconds Seconds.",
        "# TYPE probe_seconds gauge",
        'probe_seconds{module="one",phase="a",way=""} 1',
        'probe_seconds{module="two",phase="",way="b"} 2',
    ]


def test_merged_families_of_two_types_become_gauges() -> None:
    """A family can't have two types, and no sample may be lost."""
    counter = Metric("probe_things_total", "Counted.", type="counter")
    gauge = Metric("probe_things_total", "Seen.")
    base = Metric("probe_things", "Base.")
    runs = {"one": samples((counter, 1, ())), "two": samples((gauge, 2, ())), "three": samples((base, 3, ()))}
    assert [line for line in lines(runs) if not line.startswith("# HELP")] == [
        "# TYPE probe_things gauge",
        'probe_things{module="three"} 3',
        "# TYPE probe_things_total gauge",
        'probe_things_total{module="one"} 1',
        'probe_things_total{module="two"} 2',
    ]


def test_merged_counter_is_recognised_by_either_spelling() -> None:
    short = Metric("probe_things", "Counted.", type="counter")
    long = Metric("probe_things_total", "Counted.", type="counter")
    assert lines({"one": samples((short, 1, ())), "two": samples((long, 2, ()))})[1:] == [
        "# TYPE probe_things_total counter",
        'probe_things_total{module="one"} 1',
        'probe_things_total{module="two"} 2',
    ]


def test_module_label_of_a_prober_becomes_exported_module() -> None:
    own = Metric("probe_parts", "Parts.", ("module", "exported_module"))
    assert lines({"one": samples((own, 1, ("core", "x")))})[2:] == [
        'probe_parts{exported_exported_module="core",exported_module="x",module="one"} 1'
    ]


def with_registry(kind: type[Counter | Gauge | Histogram], *labels: str) -> Samples:
    """Return a run whose author uses prometheus_client's own types."""
    made = samples((PLAIN, 1, ()))
    thing = kind("probe_own", "Own.", labels, registry=made.registry)
    child = thing.labels(*labels) if labels else thing
    child.observe(1.5) if isinstance(child, Histogram) else child.inc(2)
    return made


def test_merged_answer_includes_registries_of_authors() -> None:
    runs = {
        "one": with_registry(Histogram),
        "two": with_registry(Histogram, "module"),
        "three": samples((PLAIN, 1, ())),
    }
    shown = lines(runs)
    assert shown.count("# TYPE probe_own histogram") == 1
    assert 'probe_own_sum{module="one"} 1.5' in shown
    assert 'probe_own_bucket{exported_module="module",le="2.5",module="two"} 1' in shown
    assert 'probe_up{module="three"} 1' in shown


def test_merged_registries_with_two_types_keep_the_first(caplog: pytest.LogCaptureFixture) -> None:
    merging._warn_of_another_type.cache_clear()  # another test may have caused the warning
    shown = lines({"one": with_registry(Counter), "two": with_registry(Histogram)})
    assert [line for line in shown if line.startswith("probe_own")] == ['probe_own_total{module="one"} 2']
    assert "different types" in caplog.text


# --- arbitrary declarations --------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "a_total", "b", "b_total"])
LABELS = st.lists(st.sampled_from(["module", "exported_module", "x", "y"]), unique=True, max_size=3).map(tuple)
METRICS = st.builds(
    lambda name, help, labels, kind: Metric(name, help, labels, type=kind),
    NAMES, st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=5), LABELS,
    st.sampled_from(["gauge", "counter"]),
)  # fmt: skip


@st.composite
def runs_of_modules(draw: st.DrawFn) -> dict[str, Samples]:
    """Draw two or three runs; each declares a name once."""
    runs = {}
    for module in ("one", "two", "three")[: draw(st.integers(2, 3))]:
        metrics = draw(st.lists(METRICS, unique_by=lambda m: m.name.removesuffix("_total"), max_size=4))
        runs[module] = samples(*[(m, draw(st.integers(0, 9)), tuple(map(str.upper, m.labels))) for m in metrics])
    return runs


def parsed(text: str, openmetrics: bool) -> Iterator[tuple[str, dict[str, str], float]]:
    families = parse_openmetrics(text) if openmetrics else parse_text(text)  # type: ignore[no-untyped-call]  # it has no types
    for family in families:
        for sample in family.samples:
            yield sample.name, {key: value for key, value in sample.labels.items() if value}, sample.value


@given(runs=runs_of_modules())
def test_merged_answer_is_legal_and_complete_for_any_declarations(runs: dict[str, Samples]) -> None:
    expected = sum(len(series) for run in runs.values() for series in run.families.values())
    together = merged(runs)
    for format in (TEXT, OPENMETRICS):
        text = encode(together, format).decode()
        found = list(parsed(text, format is OPENMETRICS))
        assert len(found) == expected
        for module, run in runs.items():
            values = sorted(value for series in run.families.values() for value in series.values())
            assert sorted(value for _, labels, value in found if labels["module"] == module) == values
        heads = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(heads) == len(set(heads))
    assert encode(together, PROTOBUF) or not expected


def test_promtool_accepts_the_merged_answer() -> None:
    runs = {"one": with_registry(Counter), "two": samples((PLAIN, 1, ()), (PHASES, 1, ("a",)))}
    done = subprocess.run(
        [peer("promtool"), "check", "metrics"], input=encode(merged(runs)), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
