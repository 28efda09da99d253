"""Encode samples so that Prometheus reads back each value exactly, in each format."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import CounterMetricFamily, GaugeHistogramMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as parse_text

from probe_exporter.cache import Cache, forget_all
from probe_exporter.exposition import encoding, protobuf_format, text_format
from probe_exporter.exposition.encoding import encode, encode_families
from probe_exporter.exposition.formats import OPENMETRICS, PROTOBUF, TEXT, Format
from probe_exporter.exposition.text_format import number
from probe_exporter.prober.metrics import Metric, Samples
from tests.exporters import peer
from tests.memory import growth

parse_openmetrics: Callable[[str], Iterable[Family]] = openmetrics_parser.text_string_to_metric_families
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

FORMATS = [pytest.param(TEXT, id="text"), pytest.param(OPENMETRICS, id="openmetrics")]


def parse(body: bytes, format: Format) -> list[Family]:
    """Parse with prometheus_client's own parser of that format."""
    text = body.decode()
    return list((parse_text if format.encoding == "text" else parse_openmetrics)(text))


def series(families: Iterable[Family]) -> Series:
    return {(sample.name, frozenset(sample.labels.items())): sample.value for f in families for sample in f.samples}


def same(one: Series, other: Series) -> bool:
    """Compare two sets of series; NaN equals NaN."""
    return one.keys() == other.keys() and all(
        value == other[key] or (math.isnan(value) and math.isnan(other[key])) for key, value in one.items()
    )


# --- numbers -----------------------------------------------------------------------------------------------

GO = [  # strconv.FormatFloat(x, 'g', -1, 64) as the original's answers show it
    (0.0, "0"),
    (-0.0, "0"),
    (1.0, "1"),
    (-1.0, "-1"),
    (200.0, "200"),
    (1.1, "1.1"),
    (0.1, "0.1"),
    (100000.0, "100000"),
    (999999.0, "999999"),
    (999999.5, "999999.5"),
    (1000000.0, "1e+06"),
    (1000000.5, "1.0000005e+06"),
    (1234567.0, "1.234567e+06"),
    (3668918509.0, "3.668918509e+09"),
    (-62135596800.0, "-6.21355968e+10"),
    (1.795366542085999e09, "1.795366542085999e+09"),
    (123456789012345680.0, "1.2345678901234568e+17"),
    (1e15, "1e+15"),
    (1e16, "1e+16"),
    (9007199254740993.0, "9.007199254740992e+15"),
    (1e21, "1e+21"),
    (1e100, "1e+100"),
    (1.7976931348623157e308, "1.7976931348623157e+308"),
    (5e-324, "5e-324"),
    (0.0001, "0.0001"),
    (0.00012, "0.00012"),
    (0.00001, "1e-05"),
    (5.5e-05, "5.5e-05"),
    (3.836e-06, "3.836e-06"),
    (0.000694947, "0.000694947"),
    (math.inf, "+Inf"),
    (-math.inf, "-Inf"),
    (math.nan, "NaN"),
]


@pytest.mark.parametrize(("value", "text"), GO, ids=[text for _, text in GO])
def test_number_is_written_as_go_writes_it(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("value", [0, 1, 200, 999999, 1000000, -5, 3668918509, True])
def test_whole_number_is_written_alike_as_int_and_float(value: int) -> None:
    assert number(value) == number(float(value))


@given(st.floats())
def test_number_is_read_back(value: float) -> None:
    back = float(number(value))
    assert back == value or (math.isnan(back) and math.isnan(value))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_number_has_an_exponent_where_go_writes_one(value: float) -> None:
    text = number(value)
    assert ("e" in text) == (value != 0 and not 1e-4 <= abs(value) < 1e6)


def plainly(value: float) -> str:
    """Write a number below a million as Go does, from the digits of `repr`."""
    return repr(value).removesuffix(".0")


nanoseconds = st.one_of(st.integers(1, 2 * 10**9), st.integers(1, 10**6), st.sampled_from([10**n for n in range(14)]))


@given(nanoseconds, st.sampled_from([-math.inf, 0.0, math.inf]))
def test_duration_has_its_shortest_digits(nanoseconds: int, towards: float) -> None:
    """In whole nanoseconds, and the floats beside these, which have more digits."""
    seconds = nanoseconds / 1e9
    value = seconds if not towards else math.nextafter(seconds, towards)
    assert number(value) == plainly(value)
    assert float(number(value)) == value


@given(st.floats(0, 1, exclude_min=True), st.integers(0, 17))
def test_number_below_one_has_its_shortest_digits(value: float, digits: int) -> None:
    for one in (value, round(value, digits)):
        assert number(one) == (plainly(one) if one else "0")


# --- samples -----------------------------------------------------------------------------------------------

labels = st.text(max_size=8)
names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)


@st.composite
def filled(draw: st.DrawFn) -> Samples:
    """Draw the samples of a run: any legal names, label values and numbers."""
    samples = Samples()
    for index in range(draw(st.integers(0, 5))):
        label_names = draw(st.lists(names.filter(lambda n: not n.startswith("__")), max_size=3, unique=True))
        counter = draw(st.booleans())
        name = f"{draw(names)}_{index}{'_total' if counter else '_value'}"
        metric = Metric(name, draw(labels).strip(), tuple(label_names), type="counter" if counter else "gauge")
        values = st.floats(min_value=0, allow_infinity=False) if counter else st.floats()
        for _ in range(draw(st.integers(0, 3))):
            samples.set(metric, draw(values), *[draw(labels) for _ in label_names])
    return samples


def wanted(samples: Samples) -> Series:
    return {
        (metric.name, frozenset(zip(metric.labels, values, strict=True))): value
        for metric, family in samples.families.items()
        for values, value in family.items()
    }


@pytest.mark.parametrize("format", FORMATS)
@given(samples=filled())
def test_samples_are_read_back(format: Format, samples: Samples) -> None:
    families = parse(encode(samples, format), format)
    assert same(series(families), wanted(samples))
    helps = {metric.name.removesuffix("_total"): metric.help for metric in samples.families}
    assert {f.name.removesuffix("_total"): f.documentation for f in families} == helps


@given(samples=filled())
def test_samples_and_collector_encode_alike(samples: Samples) -> None:
    """`Samples` is a collector too: encoding via prometheus_client's families must give the same answer."""
    short = parse(encode(samples, TEXT), TEXT)
    long = parse(encode_families(samples.collect(), TEXT), TEXT)
    assert same(series(short), series(long))
    assert [family.name for family in short] == [family.name for family in long]


def test_text_answer_to_the_byte() -> None:
    samples = Samples()
    samples.set(Metric("probe_success", 'Whether it "worked"\\\nor not.'), 1)
    phases = Metric("probe_http_duration_seconds", "Phases.", ("phase",))
    samples.set(phases, 0.25, "tls")
    samples.set(phases, 5.5e-05, "connect")
    certificate = Metric("probe_ssl_last_chain_info", "Leaf.", ("subject", "issuer"))
    samples.set(certificate, 1, 'CN="x"', "C=\\\n")
    samples.set(Metric("probe_tries_total", "Tries.", type="counter"), 3)
    assert encode(samples).decode() == (
        "# HELP probe_http_duration_seconds Phases.\n"
        "# TYPE probe_http_duration_seconds gauge\n"
        'probe_http_duration_seconds{phase="connect"} 5.5e-05\n'
        'probe_http_duration_seconds{phase="tls"} 0.25\n'
        "# HELP probe_ssl_last_chain_info Leaf.\n"
        "# TYPE probe_ssl_last_chain_info gauge\n"
        'probe_ssl_last_chain_info{issuer="C=\\\\\\n",subject="CN=\\"x\\""} 1\n'
        '# HELP probe_success Whether it "worked"\\\\\\nor not.\n'
        "# TYPE probe_success gauge\n"
        "probe_success 1\n"
        "# HELP probe_tries_total Tries.\n"
        "# TYPE probe_tries_total counter\n"
        "probe_tries_total 3\n"
    )


def test_openmetrics_family_of_a_counter_omits_total_and_ends_with_eof() -> None:
    samples = Samples()
    samples.set(Metric("probe_tries", 'The "tries".', type="counter"), 3)
    assert encode(samples, OPENMETRICS).decode() == (
        '# HELP probe_tries The \\"tries\\".\n# TYPE probe_tries counter\nprobe_tries_total 3\n# EOF\n'
    )


def test_no_samples_give_an_empty_answer() -> None:
    assert encode(Samples(), TEXT) == b""
    assert encode(Samples(), OPENMETRICS) == b"# EOF\n"


def test_first_of_two_declarations_of_one_name_wins() -> None:
    samples = Samples()
    samples.set(Metric("probe_twice", "One."), 1)
    samples.set(Metric("probe_twice", "Other."), 2)
    assert encode(samples).decode() == "# HELP probe_twice One.\n# TYPE probe_twice gauge\nprobe_twice 1\n"


def test_text_that_is_not_utf8_loses_a_character_and_not_the_answer() -> None:
    samples = Samples()
    samples.set(Metric("probe_expect_info", "What was said.", ("word",)), 1, "caf\udce9")
    assert b'probe_expect_info{word="caf?"} 1\n' in encode(samples)


# --- an author's own registry ------------------------------------------------------------------------------


def a_registry() -> CollectorRegistry:
    """Return a registry with one metric of each of prometheus_client's types."""
    registry = CollectorRegistry()
    counter = Counter("hits", "Hits.", ["path"], registry=registry)
    counter.labels("/").inc(2, exemplar={"trace": "b"})
    counter.labels('"\\\n').inc()
    Gauge("size", "Size.", unit="bytes", registry=registry).set(5e9)
    lag = Histogram("lag", "Lag.", ["place"], buckets=(0.5, 1, 10), registry=registry)
    for place in ("far", "away"):
        lag.labels(place).observe(0.7, {"trace": "a"})
    Summary("weight", "Weight.", registry=registry).observe(3)
    Info("build", "Build.", registry=registry).info({"version": "1"})
    Enum("mood", "Mood.", states=["good", "bad"], registry=registry).state("bad")
    return registry


@pytest.mark.parametrize("format", FORMATS)
def test_prometheus_client_types_are_read_back(format: Format) -> None:
    registry = a_registry()
    created = {key: value for key, value in series(registry.collect()).items() if key[0].endswith("_created")}
    expected = {key: value for key, value in series(registry.collect()).items() if key not in created}
    assert created, "prometheus_client adds these samples, which are left out"
    assert series(parse(encode_families(registry.collect(), format), format)) == expected


def test_type_names_are_those_of_each_format() -> None:
    families = list(a_registry().collect())

    def types(format: Format) -> dict[str, str]:
        lines = encode_families(families, format).decode().splitlines()
        return dict(line.split(" ")[2:4] for line in lines if line.startswith("# TYPE"))

    assert types(OPENMETRICS) == {
        "build": "info",
        "hits": "counter",
        "lag": "histogram",
        "mood": "stateset",
        "size_bytes": "gauge",
        "weight": "summary",
    }
    assert types(TEXT) == {
        "build_info": "gauge",
        "hits_total": "counter",
        "lag": "histogram",
        "mood": "gauge",
        "size_bytes": "gauge",
        "weight": "summary",
    }


def test_families_and_label_sets_are_sorted_and_buckets_keep_their_order() -> None:
    lines = encode_families(a_registry().collect()).decode().splitlines()
    names = [line.split(" ")[2] for line in lines if line.startswith("# TYPE")]
    assert names == sorted(names)
    assert [line.split(" ")[0] for line in lines if line.startswith("lag")] == [
        f'lag{suffix}place="{place}"}}'
        for place in ("away", "far")
        for suffix in (
            '_bucket{le="0.5",',
            '_bucket{le="1.0",',
            '_bucket{le="10.0",',
            '_bucket{le="+Inf",',
            "_count{",
            "_sum{",
        )
    ]


def test_exemplars_are_written_in_openmetrics_only() -> None:
    families = list(a_registry().collect())
    body = encode_families(families, OPENMETRICS)
    exemplars = [s.exemplar for f in parse(body, OPENMETRICS) for s in f.samples if s.exemplar is not None]
    assert sorted((e.labels["trace"], e.value) for e in exemplars) == [("a", 0.7), ("a", 0.7), ("b", 2.0)]
    assert b"trace" not in encode_families(families, TEXT)


def test_timestamps_are_seconds_in_openmetrics_and_milliseconds_in_text() -> None:
    family = GaugeMetricFamily("seen", "Seen.")
    family.add_metric([], 1, timestamp=1700000000.5)
    assert b"seen 1 1700000000500\n" in encode_families([family], TEXT)
    assert b"seen 1 1700000000.5\n" in encode_families([family], OPENMETRICS)


def test_gauge_histogram_sum_is_a_gauge_in_text() -> None:
    family = GaugeHistogramMetricFamily("age", "Age.", buckets=[("1.0", 2), ("+Inf", 3)], gsum_value=7)
    types = {f.name: f.type for f in parse(encode_families([family], TEXT), TEXT)}
    assert types == {"age": "histogram", "age_gsum": "gauge", "age_gcount": "gauge"}
    assert {f.type for f in parse(encode_families([family], OPENMETRICS), OPENMETRICS)} == {"gaugehistogram"}


def test_family_without_samples_is_omitted() -> None:
    registry = CollectorRegistry()
    Gauge("never_set", "Has labels and no children.", ["a"], registry=registry)
    assert encode_families(registry.collect()) == b""


@pytest.mark.parametrize(
    ("escaping", "text", "openmetrics"),
    [
        ("underscores", b'a_b{c_d="1"} 2\n', b'a_b{c_d="1"} 2\n'),
        ("dots", b'a_dot_b{c_dot_d="1"} 2\n', b'a_dot_b{c_dot_d="1"} 2\n'),
        ("values", b'U__a_2e_b{U__c_2e_d="1"} 2\n', b'U__a_2e_b{U__c_2e_d="1"} 2\n'),
        ("allow-utf-8", b'{"a.b","c.d"="1"} 2\n', b'{"a.b","c.d"="1"} 2\n'),
    ],
)
def test_utf8_names_are_escaped_as_negotiated(escaping: str, text: bytes, openmetrics: bytes) -> None:
    family = GaugeMetricFamily("a.b", "Dotted.", labels=["c.d"])
    family.add_metric(["1"], 2)
    assert text in encode_families([family], Format("text", TEXT.media, escaping))
    assert openmetrics in encode_families([family], Format("openmetrics", OPENMETRICS.media, escaping))


@pytest.mark.parametrize("escaping", ["underscores", "dots", "values", "allow-utf-8"])
def test_legacy_names_are_never_escaped(escaping: str) -> None:
    family = CounterMetricFamily("probe_tries", "Tries.", value=1)
    assert b"\nprobe_tries_total 1\n" in encode_families([family], Format("text", TEXT.media, escaping))


@pytest.mark.parametrize("format", FORMATS)
def test_registry_of_an_author_is_merged_and_sorted(format: Format) -> None:
    samples = Samples()
    samples.set(Metric("probe_success", "Verdict."), 1)
    samples.set(Metric("probe_zeal", "Last."), 2)
    Gauge("probe_tasks", "Between.", registry=samples.registry).set(3)
    Counter("probe_a", "First.", registry=samples.registry).inc()
    names = [family.name for family in parse(encode(samples, format), format)]
    assert names == ["probe_a", "probe_success", "probe_tasks", "probe_zeal"]


def test_own_metric_wins_over_the_registry_of_an_author(caplog: pytest.LogCaptureFixture) -> None:
    """Two families of one name are illegal, and only the runner may set `probe_success`."""
    encoding._warn_of_duplicate.cache_clear()  # another test may have caused the warning
    samples = Samples()
    samples.set(Metric("probe_success", "Verdict."), 0)
    Gauge("probe_success", "A lie.", registry=samples.registry).set(1)
    assert encode(samples).decode() == "# HELP probe_success Verdict.\n# TYPE probe_success gauge\nprobe_success 0\n"
    encode(samples)
    assert len(caplog.records) == 1, "said once, not with each probe"


# --- Prometheus's own judge --------------------------------------------------------------------------------


@pytest.mark.slow
def test_promtool_accepts_the_answer() -> None:
    samples = Samples()
    for metric in (Metric("probe_success", "Verdict."), Metric("probe_tries_total", "Tries.", type="counter")):
        samples.set(metric, 1)
    hard = Metric("probe_hard_info", "Hard \\ to \n quote.", ("a", "b"))
    samples.set(hard, 1, '"\\\n', "é{}=,")
    samples.set(hard, 1e300, "", " ")
    Histogram("probe_lag_seconds", "Lag.", registry=samples.registry).observe(1)
    command = [peer("promtool"), "check", "metrics"]
    judged = subprocess.run(command, input=encode(samples), capture_output=True, timeout=60)
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, b"", b"")


# --- info and histogram, as authors declare them -----------------------------------------------------------


def test_info_and_histogram_are_encoded_in_each_format() -> None:
    samples = Samples()
    samples.set(Metric("probe_server_info", "Itself.", ("version",), type="info"), 1, "7")
    assert encode(samples, TEXT).decode().splitlines() == [
        "# HELP probe_server_info Itself.",
        "# TYPE probe_server_info gauge",
        'probe_server_info{version="7"} 1',
    ]
    samples.observe(Metric("probe_trip_seconds", "Each.", type="histogram", buckets=(1.0,)), 0.5)
    assert encode(samples, OPENMETRICS).decode().splitlines() == [
        "# HELP probe_server Itself.",
        "# TYPE probe_server info",
        'probe_server_info{version="7"} 1',
        "# HELP probe_trip_seconds Each.",
        "# TYPE probe_trip_seconds histogram",
        'probe_trip_seconds_bucket{le="1.0"} 1',
        'probe_trip_seconds_bucket{le="+Inf"} 1',
        "probe_trip_seconds_count 1",
        "probe_trip_seconds_sum 0.5",
        "# EOF",
    ]
    text = encode(samples, TEXT).decode()
    assert "# TYPE probe_server_info gauge\n" in text
    assert "# TYPE probe_trip_seconds histogram\n" in text


@pytest.mark.parametrize("format", [TEXT, OPENMETRICS, PROTOBUF])
def test_number_too_large_for_a_float_is_infinite(format: Format) -> None:
    """A peer may announce any size; the answer must still be encoded."""
    samples = Samples()
    samples.set(Metric("probe_claim_bytes", "Claimed."), 10**400)
    samples.set(Metric("probe_debts", "Owed.", ("whom",)), -(10**400), "all")
    assert encode(samples, format) == encode(samples.as_floats(), format)
    if format is TEXT:
        text = encode(samples, format).decode()
        assert "probe_claim_bytes +Inf\n" in text
        assert 'probe_debts{whom="all"} -Inf\n' in text


@pytest.mark.parametrize("format", [TEXT, OPENMETRICS, PROTOBUF])
def test_number_too_large_for_a_float_is_infinite_beside_a_registry(format: Format) -> None:
    samples = Samples()
    samples.set(Metric("probe_claim_bytes", "Claimed."), 10**400)
    samples.observe(Metric("probe_trip_seconds", "Each.", type="histogram", buckets=(1.0,)), 0.5)
    assert encode(samples, format) == encode(samples.as_floats(), format)


# --- memory ------------------------------------------------------------------------------------------------

VALUED = [Metric(f"probe_test_{number}", "About it.", ("value",)) for number in range(4)]


def labelled(run: int, number: int, length: int) -> Samples:
    """Return samples with label values that no other run has."""
    samples = Samples()
    for one in range(number):
        samples.set(VALUED[one % 4], 1, f"{run}-{one}".ljust(length, "x"))
    return samples


@pytest.mark.parametrize("length", [0, 2000])
@pytest.mark.parametrize("number", [1, 2, 50])
@pytest.mark.parametrize(
    ("page", "format"), [(text_format._page, TEXT), (protobuf_format._page, PROTOBUF)], ids=["text", "protobuf"]
)
@pytest.mark.slow
def test_cached_pages_take_about_the_memory_that_they_weigh(
    page: Any, format: Format, number: int, length: int
) -> None:
    cache = page.__self__
    assert isinstance(cache, Cache)
    forget_all()
    encode(labelled(0, number, length), format)
    weighed = cache.bytes
    try:
        with growth() as grown:
            for run in range(1, 1 + 1000 // number):
                encode(labelled(run, number, length), format)
        assert 0 < grown[0] <= 1.1 * (cache.bytes - weighed)
    finally:
        forget_all()
