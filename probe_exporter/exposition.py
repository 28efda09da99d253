"""Samples and families to text: the Prometheus formats 0.0.4 and 1.0.0, and OpenMetrics 1.0.

Families are sorted by name, samples by label, and numbers are written as Go writes them, so that the same
samples are always the same bytes. `encode` takes a probe's `Samples` the short way; `encode_families` takes
whatever prometheus_client can collect. A format is a row in `_OFFERED`, an encoding a row in `_ENCODERS`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.exposition import escape_label_name, escape_metric_name
from prometheus_client.samples import Exemplar, Sample

from probe_exporter.metrics import LabelValues, Metric, Samples

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Format:
    """What an answer is written in: the row of `_ENCODERS`, and what the client is told."""

    encoding: str
    media: str
    escaping: str = "underscores"

    @property
    def content_type(self) -> str:
        """The value of the Content-Type header."""
        return f"{self.media}; escaping={self.escaping}"


TEXT = Format("text", "text/plain; version=0.0.4; charset=utf-8")
TEXT_1_0 = Format("text", "text/plain; version=1.0.0; charset=utf-8")
OPENMETRICS = Format("openmetrics", "application/openmetrics-text; version=1.0.0; charset=utf-8")

_OFFERED = {
    ("*/*", ""): TEXT,
    ("text/*", ""): TEXT,
    ("text/plain", ""): TEXT,
    ("text/plain", "0.0.4"): TEXT,
    ("text/plain", "1.0.0"): TEXT_1_0,
    ("application/openmetrics-text", ""): OPENMETRICS,
    ("application/openmetrics-text", "1.0.0"): OPENMETRICS,
}
_ESCAPINGS = frozenset({"allow-utf-8", "underscores", "dots", "values"})


@lru_cache(maxsize=256)  # a Prometheus sends the same header for ever
def negotiate(accept: str) -> Format:
    """The format for an Accept header: the offered entry of the highest quality, the first among equals.

    Text 0.0.4 if nothing on offer was asked for: better a readable answer than a refusal.
    """
    best, best_quality = TEXT, 0.0
    for entry in accept.split(","):
        media, *pairs = (part.strip() for part in entry.split(";"))
        parameters = {key.strip().lower(): value.strip() for key, _, value in (p.partition("=") for p in pairs)}
        offered = _OFFERED.get((media.lower(), parameters.get("version", "")))
        quality = _quality(parameters.get("q", "1"))
        if offered is not None and quality > best_quality:
            escaping = parameters.get("escaping", "")
            best_quality = quality
            best = Format(offered.encoding, offered.media, escaping) if escaping in _ESCAPINGS else offered
    return best


def _quality(text: str) -> float:
    """RFC 9110 section 12.4.2; what is not a weight asks for nothing."""
    return float(text) if re.fullmatch(r"[01](\.[0-9]*)?", text) else 0.0


def encode(samples: Samples, format: Format = TEXT) -> bytes:
    """One probe's samples, and what its author put into `Probe.registry`, as an answer in `format`."""
    return _ENCODERS[format.encoding].samples(samples, format)


def encode_families(families: Iterable[Family], format: Format = TEXT) -> bytes:
    """prometheus_client's families as an answer in `format`: ``encode_families(registry.collect(), …)``."""
    return _ENCODERS[format.encoding].families(families, format)


def number(value: float) -> str:
    """A value as Go's ``strconv.FormatFloat(value, 'g', -1, 64)`` prints it, with one zero and no sign on it.

    Python and Go agree on the digits (the shortest that read back the same) and disagree on when to use an
    exponent: Go from 1e+06 on and below 0.0001, Python from 1e+16 on.
    """
    if not value:
        return "0"
    if -1e6 < value < 1e6:
        text = repr(value + 0)  # which makes a number of True
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


def _bytes(text: str) -> bytes:
    """UTF-8, whatever a label value holds: what can't be encoded must not cost the whole answer."""
    return text.encode("utf-8", "replace")


class Encoder(NamedTuple):
    """How one encoding is written."""

    samples: Callable[[Samples, Format], bytes]
    families: Callable[[Iterable[Family], Format], bytes]


# --- the short way: from Samples ---------------------------------------------------------------------------


def _text(samples: Samples, format: Format) -> bytes:
    return _bytes(_joined(samples, format))


def _openmetrics(samples: Samples, format: Format) -> bytes:
    return _bytes(_joined(samples, format) + "# EOF\n")


def _joined(samples: Samples, format: Format) -> str:
    if samples.has_registry:
        return _merged(samples, format)
    plain, labelled = samples.plain, samples.labelled
    page = _page(tuple(plain), tuple([(metric, tuple(values)) for metric, values in labelled.items()]), format.encoding)
    values = [*plain.values()]
    for family in labelled.values():
        values += family.values()
    return page.template % tuple([number(values[place]) for place in page.places])


def _merged(samples: Samples, format: Format) -> str:
    """The long way, for authors who use prometheus_client's types beside ours."""
    blocks: dict[str, str] = {}
    for name, block in _family_blocks(samples.collect(), format):
        if blocks.setdefault(name, block) is not block:
            _warn_of_duplicate(name)
    return "".join([blocks[name] for name in sorted(blocks)])


@lru_cache(maxsize=1024)  # once per name, not per probe
def _warn_of_duplicate(name: str) -> None:
    log.warning(
        "A prober's registry holds a metric that the probe reports too: the registry's is left out",
        extra={"fields": {"metric": name}},
    )


class _Page(NamedTuple):
    """All of an answer but the numbers, which go where the template says ``%s``."""

    template: str
    places: tuple[int, ...]  # of the numbers, among the values in the order in which they were set


@lru_cache(maxsize=2048)  # a module sets the same series in the same order, target after target, run after run
def _page(
    plain: tuple[Metric, ...], labelled: tuple[tuple[Metric, tuple[LabelValues, ...]], ...], encoding: str
) -> _Page:
    """The page for some series: families sorted by name, series by their labels.

    Of two declarations of one name, against the rule, the first one set stands: the answer stays legal.

    Args:
        plain: the metrics without labels, in the order of their values.
        labelled: each metric with labels, and the label values of its series in the same order.
    """
    blocks: dict[str, tuple[Metric, list[tuple[str, int]]]] = {}
    for place, metric in enumerate(plain):
        blocks.setdefault(metric.name, (metric, [("", place)]))
    place = len(plain)
    for metric, series in labelled:
        rows = [(_labels(metric, labels), place + index) for index, labels in enumerate(series)]
        blocks.setdefault(metric.name, (metric, sorted(rows)))
        place += len(series)
    text, places = [], []
    for _, (metric, rows) in sorted(blocks.items()):
        sample, head = _naming(metric, encoding)
        text.append(head.replace("%", "%%"))
        text += [f"{sample}{labels} %s\n" for labels, _ in rows]
        places += [place for _, place in rows]
    return _Page("".join(text), tuple(places))


def _naming(metric: Metric, encoding: str) -> tuple[str, str]:
    """What a family's samples are called, and the comments before them."""
    family = sample = metric.name
    if metric.type == "counter":
        family = family.removesuffix("_total")
        sample = f"{family}_total"
    return sample, _head(family if encoding == "openmetrics" else sample, metric.type, metric.help, encoding)


def _labels(metric: Metric, values: LabelValues) -> str:
    """The labels of a series, sorted by name, with ``%`` doubled for the template."""
    pairs = sorted(zip(metric.labels, values, strict=True))
    return ("{" + ",".join([f'{name}="{_escape(value)}"' for name, value in pairs]) + "}").replace("%", "%%")


def _escape(value: str) -> str:
    """A label value between its quotes; the same in all text formats."""
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


# --- the long way: from whatever prometheus_client collects -------------------------------------------------

_LEGACY_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_TEXT_TYPES = {"info": "gauge", "stateset": "gauge", "gaugehistogram": "histogram", "unknown": "untyped"}
_SUFFIXES = {"counter": "_total", "info": "_info"}
_WITH_BUCKETS = frozenset({"histogram", "gaugehistogram"})


def _families_as_text(families: Iterable[Family], format: Format) -> bytes:
    return _bytes("".join([block for _, block in sorted(_family_blocks(families, format))]))


def _families_as_openmetrics(families: Iterable[Family], format: Format) -> bytes:
    return b"".join([_families_as_text(families, format), b"# EOF\n"])


def _family_blocks(families: Iterable[Family], format: Format) -> Iterator[tuple[str, str]]:
    """Each family's sample name and its lines; families without samples are absent."""
    for family in families:
        base = family.name.removesuffix("_total") if family.type == "counter" else family.name
        kept = [s for s in family.samples if s.name != f"{base}_created" and s.native_histogram is None]
        if not kept:
            continue
        name = base + _SUFFIXES.get(family.type, "")
        if format.encoding == "openmetrics":
            head = _head(_metric_name(base, format), family.type, family.documentation, "openmetrics", family.unit)
            yield name, head + _lines(family, kept, format)
            continue
        # The sum and count of a gauge histogram have no place in the text format's histogram.
        extra = {f"{base}_gsum", f"{base}_gcount"} & {s.name for s in kept}
        own = [s for s in kept if s.name not in extra]
        type = _TEXT_TYPES.get(family.type, family.type)
        head = _head(_metric_name(name, format), type, family.documentation, "text")
        yield name, head + _lines(family, own, format)
        for other in extra:
            head = _head(_metric_name(other, format), "gauge", family.documentation, "text")
            yield other, head + _lines(family, [s for s in kept if s.name == other], format)


def _lines(family: Family, samples: list[Sample], format: Format) -> str:
    """The samples' lines: label sets sorted, and within one of them in the collector's order (buckets!)."""
    ranked = {
        "histogram": "le",
        "gaugehistogram": "le",
        "summary": "quantile",
        "stateset": family.name,
    }.get(family.type)

    def label_set(sample: Sample) -> list[tuple[str, str]]:
        return sorted([item for item in sample.labels.items() if item[0] != ranked])

    return "".join([_line(family, sample, format) for sample in sorted(samples, key=label_set)])


def _line(family: Family, sample: Sample, format: Format) -> str:
    pairs = [f'{_label_name(k, format)}="{_escape(v)}"' for k, v in sorted(sample.labels.items())]
    name = _metric_name(sample.name, format)
    if name.startswith('"'):  # UTF-8 names stand among the labels
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
    """OpenMetrics permits exemplars on buckets and counters only; elsewhere they are left out."""
    given: Exemplar | None = sample.exemplar
    bucket = family.type in _WITH_BUCKETS and sample.name.endswith("_bucket")
    if given is None or not (bucket or family.type == "counter"):
        return ""
    pairs = ",".join([f'{k}="{_escape(v)}"' for k, v in sorted(given.labels.items())])
    stamp = f" {given.timestamp}" if given.timestamp is not None else ""
    return f" # {{{pairs}}} {number(given.value)}{stamp}"


def _metric_name(name: str, format: Format) -> str:
    return name if _LEGACY_NAME.fullmatch(name) else escape_metric_name(name, format.escaping)


def _label_name(name: str, format: Format) -> str:
    legacy = _LEGACY_NAME.fullmatch(name) and ":" not in name
    return name if legacy else escape_label_name(name, format.escaping)


_ENCODERS = {
    "text": Encoder(_text, _families_as_text),
    "openmetrics": Encoder(_openmetrics, _families_as_openmetrics),
}
