"""Compare the readers of pages with the writers: prometheus_client, Google's protobuf, and our own encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, Histogram, Info, Summary
from prometheus_client import Counter as Counted
from prometheus_client import Enum as States
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from probe_exporter.exposition import varint
from probe_exporter.exposition.formats import PROTOBUF
from probe_exporter.exposition.protobuf_format import delimited_blocks
from probe_exporter.prober.metrics import FixedCollector
from probe_exporter.scrape import openmetrics, protobuf, text
from probe_exporter.scrape.page import MAX_FAMILIES, MAX_LABELS, Malformed, Page, Selection, TooManySamples
from tests.cost import dearest_call_costs_at_most

Read = Callable[[bytes, Page], Iterator[None]]
Series = tuple[str, tuple[tuple[str, str], ...], float]


def taken(read: Read, body: bytes) -> tuple[Page, list[Series]]:
    """Read a whole page; return it and its series."""
    everything = Selection(lambda _: True, lambda _: True, 10**6)
    page = Page(10**6, everything)
    for _ in read(body, page):
        pass
    return page, [(sample.name, sample.labels, sample.value) for sample in everything.kept]


def refusal(read: Read, body: bytes) -> str | None:
    """Return why a page can't be read; None if it can."""
    try:
        taken(read, body)
    except Malformed as error:
        return str(error)
    return None


def text_of(registry: CollectorRegistry) -> bytes:
    """Return a registry as prometheus_client's text."""
    return generate_text(registry)


def openmetrics_of(registry: CollectorRegistry) -> bytes:
    """Return a registry as OpenMetrics; the library's writer and parser are not typed."""
    body: bytes = generate_openmetrics(registry)  # type: ignore[no-untyped-call]
    return body


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
NUMBERS = st.floats(allow_nan=False) | st.integers(-(10**15), 10**15).map(float)
COUNTS = st.floats(0, 1e12)


@st.composite
def registries(draw: st.DrawFn) -> CollectorRegistry:
    """Draw a registry with metrics of all types and labels that need escapes."""
    registry = CollectorRegistry()
    for number, kind in enumerate(draw(st.lists(st.sampled_from("cghsie"), max_size=6))):
        name, help, label = f"{kind}_{number}", draw(TEXTS), draw(TEXTS)
        if kind == "c":
            Counted(name, help, ["l"], registry=registry).labels(label).inc(draw(COUNTS))
        elif kind == "g":
            gauge = Gauge(name, help, ["l", "m"], registry=registry)
            for other in draw(st.sets(TEXTS, max_size=4)):
                gauge.labels(label, other).set(draw(NUMBERS))
        elif kind == "h":
            histogram = Histogram(name, help, ["l"], buckets=(0.5, 5), registry=registry).labels(label)
            for value in draw(st.lists(COUNTS, max_size=3)):
                histogram.observe(value)
        elif kind == "s":
            Summary(name, help, registry=registry).observe(draw(COUNTS))
        elif kind == "i":
            Info(name, help, registry=registry).info({"l": label})
        else:
            States(name, help, states=["a", "b"], registry=registry).state("b")
    return registry


MORE = settings(max_examples=150)


@MORE
@given(registries())
def test_text_of_prometheus_client_is_read_as_its_parser_reads_it(registry: CollectorRegistry) -> None:
    body = text_of(registry)
    page, series = taken(text.read, body)
    parsed = [sample for family in parse_text(body.decode()) for sample in family.samples]
    assert Counter(series) == Counter([(s.name, tuple(sorted(s.labels.items())), s.value) for s in parsed])
    assert page.samples == len(parsed)
    assert not any(family.duplicates for family in page.families)


@MORE
@given(registries())
def test_openmetrics_of_prometheus_client_is_read_as_its_parser_reads_it(registry: CollectorRegistry) -> None:
    body = openmetrics_of(registry)
    page, series = taken(openmetrics.read, body)
    families = list(parse_openmetrics(body.decode()))  # type: ignore[no-untyped-call]
    parsed = [sample for family in families for sample in family.samples]
    assert Counter(series) == Counter([(s.name, tuple(sorted(s.labels.items())), s.value) for s in parsed])
    with_samples = [family for family in families if family.samples]
    assert Counter(f.type for f in page.families) == Counter(f.type for f in with_samples)


@MORE
@given(registries())
def test_protobuf_of_the_exporter_is_read_like_its_text(registry: CollectorRegistry) -> None:
    body = b"".join(block for _, block in delimited_blocks(registry.collect(), PROTOBUF))
    _, series = taken(protobuf.read, body)
    _, written = taken(text.read, text_of(registry))

    def comparable(found: list[Series]) -> Counter[Series]:
        """Leave out what a message can't hold: creation times; compare bounds as numbers."""
        return Counter(
            (name, tuple((k, str(float(v)) if k in ("le", "quantile") else v) for k, v in labels), value)
            for name, labels, value in found
            if not name.endswith("_created")
        )

    assert comparable(series) == comparable(written)


@MORE
@given(st.binary(max_size=200) | TEXTS.map(str.encode) | st.from_regex(r"# [A-Z]+ a\{b=\"").map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for read in (text.read, openmetrics.read, protobuf.read):
        refusal(read, body)


def everything() -> CollectorRegistry:
    """Return a registry with a metric of each type."""
    registry = CollectorRegistry()
    Counted("c", "h", ["l"], registry=registry).labels('x\n"\\').inc()
    Gauge("g", "", registry=registry).set(-1.5)
    Histogram("h", "h", registry=registry).observe(0.3)
    Summary("s", "h", registry=registry).observe(1)
    Info("i", "h", registry=registry).info({"a": "b"})
    return registry


def test_openmetrics_cut_off_anywhere_is_refused() -> None:
    body = openmetrics_of(everything())
    assert refusal(openmetrics.read, body) is None
    for length in range(len(body)):
        assert refusal(openmetrics.read, body[:length]) is not None, body[:length]


def test_text_cut_off_within_a_line_is_refused() -> None:
    body = text_of(everything())
    for length in range(1, len(body)):
        cut = body[:length]
        assert (refusal(text.read, cut) is None) is cut.endswith(b"\n"), cut


def test_protobuf_cut_off_within_a_message_is_refused() -> None:
    blocks = [block for _, block in delimited_blocks(everything().collect(), PROTOBUF)]
    ends = {sum(map(len, blocks[:number])) for number in range(len(blocks) + 1)}
    body = b"".join(blocks)
    for length in range(len(body) + 1):
        assert (refusal(protobuf.read, body[:length]) is None) is (length in ends)


@pytest.mark.parametrize("place", range(3))
def test_protobuf_message_with_wrong_insides_is_refused(place: int) -> None:
    """Lengths beyond the enclosing message, tags of unknown kinds, numbers that do not end."""
    wrong = [b"\x0a\xff\xff\xff\xff\x0fx", b"\x0b", b"\xff" * 11][place]
    assert refusal(protobuf.read, bytes([len(wrong)]) + wrong) is not None


def test_page_with_more_samples_than_the_limit_is_refused() -> None:
    body = b"".join(b"a%d 1\n" % number for number in range(100))
    for _ in text.read(body, Page(100)):
        pass
    with pytest.raises(TooManySamples):
        for _ in text.read(body, Page(99)):
            pass


def test_labels_of_a_sample_are_limited_in_number() -> None:
    def sample(labels: int) -> bytes:
        return b"a{" + b",".join(b'a%d="1"' % number for number in range(labels)) + b"} 1\n"

    def message(labels: int) -> bytes:
        return of_one_family(b"\x0a\x01a\x18\x01", metric([b"a%d" % number for number in range(labels)]))

    for read, page in (
        (text.read, sample),
        (openmetrics.read, lambda labels: sample(labels) + b"# EOF\n"),
        (protobuf.read, message),
    ):
        assert refusal(read, page(MAX_LABELS)) is None
        assert f"more than {MAX_LABELS} labels" in (refusal(read, page(MAX_LABELS + 1)) or "")


@pytest.mark.parametrize(("read", "end", "kept"), [(text.read, b"", MAX_FAMILIES), (openmetrics.read, b"# EOF\n", 0)])
@pytest.mark.slow
def test_families_are_limited_in_number_also_without_samples(read: Read, end: bytes, kept: int) -> None:
    body = b"".join(b"# HELP a%d b\n" % number for number in range(MAX_FAMILIES))
    assert len(taken(read, body + end)[0].families) == kept
    with pytest.raises(TooManySamples):
        taken(read, body + b"# HELP a b\n" + end)


def sized(field: int, content: bytes) -> bytes:
    """Return a length-delimited field of a message."""
    return bytes([field << 3 | 2]) + varint.encode(len(content)) + content


def metric(labels: Iterable[bytes]) -> bytes:
    """Return a gauge with labels."""
    return b"".join(sized(1, sized(1, name) + sized(2, b"1")) for name in labels) + sized(2, b"\x09" + bytes(8))


def of_one_family(begin: bytes, *metrics: bytes) -> bytes:
    content = begin + b"".join(sized(4, one) for one in metrics)
    return varint.encode(len(content)) + content


MAX_PAGE_BYTES = 4_000_000
LINE = 260_000
HISTOGRAM = b"\x0a\x01a\x18\x04"
UNKNOWN = b"\x48\x01"  # field 9
EVIL_TEXT = {
    "a label of escapes": b'a{b="' + b"\\n" * (LINE // 2) + b'"} 1\n',
    "unknown escapes": b'a{b="' + b"\\x" * (LINE // 2) + b'"} 1\n',
    "quotes that do not end": b'a{b="' + b'\\"' * (LINE // 2) + b"\n",
    "one label many times": b"a{" + b'b="1",' * (LINE // 6) + b"} 1\n",
    "many labels": b"a{" + b",".join(b'a%d="1"' % number for number in range(24_000)) + b"} 1\n",
    "a thousand labels": b"a{" + b",".join(b'a%d="1"' % number for number in range(1000)) + b"} 1\n",
    "a thousand long labels": b"a{" + b",".join(b'a%d="%200d"' % (number, number) for number in range(1000)) + b"} 1\n",
    "empty names": b"a{" + b'""' * (LINE // 2) + b"} 1\n",
    "braces": b"{" * LINE + b"\n",
    "blanks": b"a" + b" " * LINE + b"x\n",
    "HELP of escapes": b"# HELP a " + b"\\n" * (LINE // 2) + b"\n",
    "line ends": b"\n",
    "samples": b"a 1\n",
    "families": b"".join(b"# HELP a%d b\n" % number for number in range(50_000)),
    "a long number": b"a " + b"1" * LINE + b"\n",
    "a long number that is none": b"a " + b"1" * LINE + b"x\n",
    "a line without an end": b"a" * MAX_PAGE_BYTES,
    "a long name": b"a_" * (LINE // 2) + b" 1\n",
    "not UTF-8": b"a 1\n" * 16_000 + b"\xff\n",
}  # fmt: skip
EVIL_MESSAGES: dict[str, Callable[[], bytes]] = {
    "empty metrics": lambda: of_one_family(b"\x0a\x01a\x18\x01", *[b""] * 100_000),
    "unknown fields of a family": lambda: of_one_family(b"\x0a\x01a\x18\x01" + UNKNOWN * 1_000_000),
    "unknown fields of a metric": lambda: of_one_family(b"\x0a\x01a\x18\x01", UNKNOWN * 1_000_000),
    "unknown fields of a label": lambda: of_one_family(b"\x0a\x01a\x18\x01", sized(1, UNKNOWN * 1_000_000)),
    "unknown fields of labels": lambda: of_one_family(b"\x0a\x01a\x18\x01", sized(1, UNKNOWN * 19) * 10_000),
    "unknown fields of a value": lambda: of_one_family(b"\x0a\x01a\x18\x01", sized(2, UNKNOWN * 1_000_000)),
    "labels": lambda: of_one_family(b"\x0a\x01a\x18\x01", *[metric(b"a%d" % n for n in range(1000))] * 20),
    "buckets": lambda: of_one_family(HISTOGRAM, *[sized(7, sized(3, b"\x08\x01" + UNKNOWN * 15) * 9_000)] * 5),
    "fields of a histogram": lambda: of_one_family(HISTOGRAM, sized(7, UNKNOWN * 1_000_000)),
    "names": lambda: of_one_family(sized(1, b"a" * 100_000) * 20),
    "empty families": lambda: b"\x00" * 100_000,
    "families": lambda: b"".join(of_one_family(sized(1, b"%d" % number)) for number in range(50_000)),
}
"""Made by the tests that need them: each process that runs tests reads this file."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read", "make"),
    [
        *(pytest.param(text.read, lambda body=body: body, id=f"text: {name}") for name, body in EVIL_TEXT.items()),
        *(
            pytest.param(openmetrics.read, lambda body=body: body, id=f"openmetrics: {name}")
            for name, body in EVIL_TEXT.items()
        ),
        *(pytest.param(protobuf.read, make, id=f"protobuf: {name}") for name, make in EVIL_MESSAGES.items()),
    ],
)
def test_one_step_of_a_reader_is_a_few_milliseconds_of_work(read: Read, make: Callable[[], bytes]) -> None:
    """Other tasks run between the steps; `reading.read` adds up steps to 5 ms of the budget of 20 ms."""
    body = make()
    if read is not protobuf.read:
        body *= MAX_PAGE_BYTES // len(body)
    steps = read(body, Page(100_000))
    with dearest_call_costs_at_most(0.7) as call, suppress(StopIteration, Malformed, TooManySamples):
        while True:
            call(next, steps)


def test_given_families_are_a_collector() -> None:
    families = list(everything().collect())
    registry = CollectorRegistry()
    registry.register(FixedCollector(families))
    assert list(registry.collect()) == families
