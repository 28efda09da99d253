"""Encode samples and families as text: the Prometheus formats 0.0.4 and 1.0.0, and OpenMetrics 1.0.

Numbers are written as Go writes them, so that the same samples are always the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.exposition import escape_label_name, escape_metric_name
from prometheus_client.samples import Exemplar, Sample

from probe_exporter.cache import Cache, lookup, remembered
from probe_exporter.exposition.formats import Format, is_plain
from probe_exporter.exposition.sorting import (
    MAX_PAGES_BYTES,
    LabelledKey,
    Pairs,
    PlainKey,
    base_name,
    by_label_set,
    exported_samples,
    key,
    sorted_series,
    values,
)
from probe_exporter.prober.metrics import SUFFIXES, TO_INTEGER, Metric, Samples

END_OF_OPENMETRICS = b"# EOF\n"


MAX_NUMBERS_BYTES = 256 << 10
"""Bytes of the cache of numbers."""

MAX_USUAL_NUMBER = 1000.0
"""Numbers from 1 up to this are cached, whole or not: a timeout of 9.5, a version of 1.1. Larger ones that are not
whole are mostly times, which differ."""

_NUMBER_BYTES = 100  # a number and its text, without its characters


_format = float.__format__


def number(value: float) -> str:
    """Format a value as Go's ``strconv.FormatFloat(value, 'g', -1, 64)`` does, but 0 without a sign.

    Python and Go print the same digits (the shortest that read back the same), but Go uses an exponent from 1e+06 on
    and below 0.0001, Python from 1e+16 on.
    """
    # Most are durations below a second, in whole nanoseconds. Their 9 digits are known to be the shortest, and take
    # half the time of `repr`, which searches for them. Exponents of "g" begin below 0.0001, too.
    if value < 1.0 and value > 0.0 and (value * 1e9 + TO_INTEGER - TO_INTEGER) / 1e9 == value:
        return _format(value, ".9g")
    if not value:
        return "0"
    if -1e6 < value < 1e6:
        text = repr(value + 0)  # adding 0 turns True into 1
        return text[:-2] if text[-2:] == ".0" else text
    if value != value:
        return "NaN"
    text = repr(float(value))
    if "e" in text:
        return text
    if text[-1] == "f":
        return "+Inf" if value > 0 else "-Inf"
    sign, digits = ("-", text[1:]) if value < 0 else ("", text)
    whole_part, _, fraction = digits.partition(".")
    mantissa = (whole_part + fraction).rstrip("0")
    point = "." if len(mantissa) > 1 else ""
    return f"{sign}{mantissa[0]}{point}{mantissa[1:]}e+{len(whole_part) - 1:02d}"


class _Texts(Cache[float, str]):
    """The texts of numbers, but for those that differ in every probe.

    Most numbers are the same in every probe: status codes, versions, flags, sizes, hashes, timeouts.
    """

    __slots__ = ()

    def __missing__(self, value: float) -> str:
        # As in `number`, since a call would cost a quarter of this.
        if value < 1.0 and value > 0.0 and (value * 1e9 + TO_INTEGER - TO_INTEGER) / 1e9 == value:
            return _format(value, ".9g")
        if type(value) is not int and not 1.0 <= value < MAX_USUAL_NUMBER:
            return number(value)
        return super().__missing__(value)


_text_of = lookup(_Texts(number, MAX_NUMBERS_BYTES, lambda _, text: _NUMBER_BYTES + 2 * len(text)))
"""Return the text of a number."""


def _bytes(text: str) -> bytes:
    """Encode text as UTF-8; a label value with characters that can't be encoded must not fail the whole exposition."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


# --- the fast path: from Samples ---------------------------------------------------------------------------


def text(samples: Samples, format: Format) -> bytes:
    """Encode a run's samples in the text format or in OpenMetrics."""
    page = _page((key(samples), format.encoding))
    parts = [*page.parts]
    numbers = [*map(_text_of, values(samples))]
    parts[1::2] = page.sorted(numbers)
    return _bytes("".join(parts))


class _Page(NamedTuple):
    """The text of an exposition, without its numbers."""

    parts: tuple[str, ...]  # each series, and an empty text in the place of its number; at the end a line feed
    sorted: Callable[[list[str]], tuple[str, ...]]  # sorts the numbers of a run as the series are


def _weight(_key: object, page: _Page) -> int:
    """Return about the bytes of a cached page: its text twice, in the key and in the parts, and each series' row.

    The constant is most of a page with a single series.
    """
    return sum(map(len, page.parts)) * 2 + 700 + 120 * len(page.parts)


@remembered(MAX_PAGES_BYTES, _weight)  # a module sets the same series in the same order, for each target and run
def _page(of: tuple[tuple[PlainKey, LabelledKey], str]) -> _Page:
    """Return the page for the series of a run and an encoding."""
    (plain, labelled), encoding = of
    parts, places = [], []
    end = ""
    after = END_OF_OPENMETRICS.decode() if encoding == "openmetrics" else ""
    for metric, rows in sorted_series(plain, labelled):
        sample, head = _naming(metric, encoding)
        for row in rows:
            parts += [f"{end}{head}{sample}{_labels(row.labels)} ", ""]
            places.append(row.place)
            head, end = "", "\n"
    return _Page((*parts, end + after), _picking(places))


def _picking(places: Sequence[int]) -> Callable[[list[str]], tuple[str, ...]]:
    """Return a function that returns the numbers in these places; for one place, `itemgetter` returns no tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda numbers: tuple([numbers[place] for place in places])


def _naming(metric: Metric, encoding: str) -> tuple[str, str]:
    """Return the name of a family's samples, and the comments before them."""
    suffix = SUFFIXES.get(metric.type, "")
    family = metric.name.removesuffix(suffix)
    sample = f"{family}{suffix}"
    if encoding == "openmetrics":
        return sample, _head(family, metric.type, metric.help, encoding)
    return sample, _head(sample, _TEXT_TYPES.get(metric.type, metric.type), metric.help, encoding)


def _labels(pairs: Pairs) -> str:
    """Format the labels of a series."""
    return "{" + ",".join([f'{name}="{_escape(value)}"' for name, value in pairs]) + "}" if pairs else ""


def _escape(value: str) -> str:
    """Escape a label value; the rules are the same in all text formats."""
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return value


def _head(name: str, type: str, help: str, encoding: str, unit: str = "") -> str:
    text = help.replace("\\", r"\\").replace("\n", r"\n")
    if encoding == "openmetrics":
        text = text.replace('"', r"\"")
        unit = f"# UNIT {name} {unit}\n" if unit else ""
        return f"# HELP {name} {text}\n# TYPE {name} {type}\n{unit}"
    return f"# HELP {name} {text}\n# TYPE {name} {type}\n"


# --- the general path: from the families of prometheus_client -----------------------------------------------

_TEXT_TYPES = {"info": "gauge", "stateset": "gauge", "gaugehistogram": "histogram", "unknown": "untyped"}
_WITH_BUCKETS = frozenset({"histogram", "gaugehistogram"})


def blocks(families: Iterable[Family], format: Format) -> Iterator[tuple[str, bytes]]:
    """Yield each family's sample name and its lines; skip families without samples."""
    for family in families:
        kept = exported_samples(family)
        if kept:
            for name, block in _blocks_of_one(family, kept, format):
                yield name, _bytes(block)


def _blocks_of_one(family: Family, kept: list[Sample], format: Format) -> Iterator[tuple[str, str]]:
    base = base_name(family)
    name = base + SUFFIXES.get(family.type, "")
    if format.encoding == "openmetrics":
        head = _head(_metric_name(base, format), family.type, family.documentation, "openmetrics", family.unit)
        yield name, head + _lines(family, kept, format)
        return
    # The text format's histogram has no sum and count of a gauge histogram.
    extra = {f"{base}_gsum", f"{base}_gcount"} & {s.name for s in kept}
    type = _TEXT_TYPES.get(family.type, family.type)
    head = _head(_metric_name(name, format), type, family.documentation, "text")
    yield name, head + _lines(family, [s for s in kept if s.name not in extra], format)
    for other in extra:
        head = _head(_metric_name(other, format), "gauge", family.documentation, "text")
        yield other, head + _lines(family, [s for s in kept if s.name == other], format)


def _lines(family: Family, samples: list[Sample], format: Format) -> str:
    """Format samples as lines, sorted by label set; within one set the collector's order stays, for buckets."""
    sets = by_label_set(family, samples)
    return "".join([_line(family, sample, format) for one in sets.values() for sample in one])


def _line(family: Family, sample: Sample, format: Format) -> str:
    pairs = [f'{_label_name(k, format)}="{_escape(v)}"' for k, v in sorted(sample.labels.items())]
    name = _metric_name(sample.name, format)
    if name.startswith('"'):  # UTF-8 names are written inside the braces, before the labels
        pairs.insert(0, name)
        name = ""
    labels = f"{{{','.join(pairs)}}}" if pairs else ""
    stamp, exemplar = "", ""
    if format.encoding == "openmetrics":
        stamp = f" {sample.timestamp}" if sample.timestamp is not None else ""
        exemplar = _exemplar(family, sample)
    elif sample.timestamp is not None:
        stamp = f" {int(float(sample.timestamp) * 1000)}"
    return f"{name}{labels} {number(sample.value)}{stamp}{exemplar}\n"


def _exemplar(family: Family, sample: Sample) -> str:
    """Format an exemplar; empty for samples other than buckets and counters, where OpenMetrics permits none."""
    given: Exemplar | None = sample.exemplar
    bucket = family.type in _WITH_BUCKETS and sample.name.endswith("_bucket")
    if given is None or not (bucket or family.type == "counter"):
        return ""
    pairs = ",".join([f'{k}="{_escape(v)}"' for k, v in sorted(given.labels.items())])
    stamp = f" {given.timestamp}" if given.timestamp is not None else ""
    return f" # {{{pairs}}} {number(given.value)}{stamp}"


def _metric_name(name: str, format: Format) -> str:
    return name if is_plain(name) else escape_metric_name(name, format.escaping)


def _label_name(name: str, format: Format) -> str:
    return name if is_plain(name) and ":" not in name else escape_label_name(name, format.escaping)
