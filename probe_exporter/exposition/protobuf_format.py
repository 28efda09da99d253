"""Encode samples and families as protocol buffers of io.prometheus.client: delimited, text and compact text.

The schema is metrics.proto of prometheus/client_model (syntax 2: a 0 is written). A family becomes a small tree of
fields, which one of three writers encodes. A run's samples have a fast path: from run to run only the numbers of a
message differ, and each number takes eight bytes on the wire.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.exposition import escape_label_name, escape_metric_name
from prometheus_client.samples import Exemplar, Sample

from probe_exporter.cache import remembered
from probe_exporter.exposition import varint
from probe_exporter.exposition.formats import Format, is_plain
from probe_exporter.exposition.sorting import (
    MAX_PAGES_BYTES,
    LabelledKey,
    PlainKey,
    base_name,
    by_label_set,
    exported_samples,
    key,
    sorted_series,
    values,
)
from probe_exporter.exposition.text_format import number
from probe_exporter.prober.metrics import SUFFIXES, Samples

_DOUBLE = struct.Struct("<d")


class Enum(NamedTuple):
    """A value that has a name in the schema."""

    name: str
    number: int


class Field(NamedTuple):
    """One field of a message: its number and name in the schema, and its value: text, a number or a message."""

    number: int
    name: str
    value: Scalar | list[Field]


Scalar = str | float | int | Enum
Message = list[Field]

_TYPES = {
    "counter": Enum("COUNTER", 0),
    "gauge": Enum("GAUGE", 1),
    "summary": Enum("SUMMARY", 2),
    "unknown": Enum("UNTYPED", 3),
    "histogram": Enum("HISTOGRAM", 4),
    "gaugehistogram": Enum("GAUGE_HISTOGRAM", 5),
    "info": Enum("GAUGE", 1),
    "stateset": Enum("GAUGE", 1),
}
_SINGLE = {"COUNTER": (3, "counter"), "GAUGE": (2, "gauge"), "UNTYPED": (5, "untyped")}
"""The field that holds a metric's value, by the family's type; for types with a single value."""

# --- the fast path: from Samples to the wire -----------------------------------------------------------------


def delimited(samples: Samples, format: Format) -> bytes:
    """Encode a run's samples as messages, each preceded by its length."""
    page = _page(key(samples))
    body = bytearray(page.template)
    found = [*values(samples)]
    for offset, place in page.holes:
        _DOUBLE.pack_into(body, offset, found[place])
    return bytes(body)


class _Page(NamedTuple):
    """A template of the exposition, with zeros in the places of the numbers."""

    template: bytes
    holes: tuple[tuple[int, int], ...]  # offset in the template, index among the run's values


def _weight(_key: object, page: _Page) -> int:
    """Return about the bytes of a cached page, as `text_format` does."""
    return 2 * len(page.template) + 400 + 250 * len(page.holes)


@remembered(MAX_PAGES_BYTES, _weight)  # as for text: the same series, for each target and run
def _page(series: tuple[PlainKey, LabelledKey]) -> _Page:
    """Return the page for the series of a run; a metric's value is the end of its message."""
    plain, labelled = series
    template, holes = b"", []
    for metric, rows in sorted_series(plain, labelled):
        name = metric.name
        if metric.type == "counter":
            name = f"{name.removesuffix('_total')}_total"
        type = _TYPES[metric.type]
        head = _wire(_head(name, metric.help, type))
        metrics = [_wire([Field(4, "metric", [*_labels(row.labels), _single(type, 0.0)])]) for row in rows]
        length = len(head) + sum(map(len, metrics))
        template += varint.encode(length) + head
        for row, written in zip(rows, metrics, strict=True):
            template += written
            holes.append((len(template) - _DOUBLE.size, row.place))
    return _Page(template, tuple(holes))


# --- the general path: to a tree of fields -----------------------------------------------------------------


def _trees(families: Iterable[Family], format: Format) -> Iterator[tuple[str, Message]]:
    """Yield each family's sample name and its message; skip families without samples."""
    for family in families:
        samples = exported_samples(family)
        if samples:
            name = base_name(family) + SUFFIXES.get(family.type, "")
            head = _head(_escaped(name, format, escape_metric_name), family.documentation, _TYPES[family.type])
            unit = [Field(5, "unit", family.unit)] if family.unit else []
            yield name, [*head, *[Field(4, "metric", one) for one in _metrics(family, samples, format)], *unit]


def _head(name: str, help: str, type: Enum) -> Message:
    return [Field(1, "name", name), Field(2, "help", help), Field(3, "type", type)]


def _metrics(family: Family, samples: list[Sample], format: Format) -> Iterator[Message]:
    """Yield a message for each series of a family: for each histogram or summary, or each sample of another type."""
    type = _TYPES[family.type]
    for labels, group in by_label_set(family, samples).items():
        if type.name in _SINGLE:
            for sample in group:
                pairs = _labels(sorted(sample.labels.items()), format)
                yield [*pairs, _single(type, sample.value, sample.exemplar), *_timestamp(sample)]
        else:
            compound = _summary(group) if family.type == "summary" else _histogram(group)
            yield [*_labels(labels, format), compound, *_timestamp(group[0])]


def _labels(pairs: Iterable[tuple[str, str]], format: Format | None = None) -> Message:
    """Return the fields of labels; without a format their names are not escaped."""
    return [
        Field(
            1,
            "label",
            [
                Field(1, "name", _escaped(name, format, escape_label_name) if format else name),
                Field(2, "value", value),
            ],
        )
        for name, value in pairs
    ]


def _single(type: Enum, value: float, exemplar: Exemplar | None = None) -> Field:
    extra = [_exemplar(2, exemplar)] if exemplar is not None and type.name == "COUNTER" else []
    place, name = _SINGLE[type.name]
    return Field(place, name, [Field(1, "value", float(value)), *extra])


def _histogram(samples: list[Sample]) -> Field:
    """Return the field of one histogram; its bucket ``+Inf`` is its count."""
    count, total, buckets = 0, 0.0, []
    for sample in samples:
        if sample.name.endswith("_bucket"):
            count = _count(sample.value)
            bound = float(sample.labels["le"])
            exemplar = [_exemplar(3, sample.exemplar)] if sample.exemplar is not None else []
            if exemplar or not math.isinf(bound):
                fields = [Field(1, "cumulative_count", count), Field(2, "upper_bound", bound), *exemplar]
                buckets.append(Field(3, "bucket", fields))
        elif sample.name.endswith("sum"):
            total = float(sample.value)
    return Field(7, "histogram", [Field(1, "sample_count", count), Field(2, "sample_sum", total), *buckets])


def _summary(samples: list[Sample]) -> Field:
    count, total, quantiles = 0, 0.0, []
    for sample in samples:
        if "quantile" in sample.labels:
            rank = Field(1, "quantile", float(sample.labels["quantile"]))
            quantiles.append(Field(3, "quantile", [rank, Field(2, "value", float(sample.value))]))
        elif sample.name.endswith("_count"):
            count = _count(sample.value)
        else:
            total = float(sample.value)
    return Field(4, "summary", [Field(1, "sample_count", count), Field(2, "sample_sum", total), *quantiles])


def _count(value: float) -> int:
    """Return a count as an unsigned 64-bit integer; 0 if the value is none, since an author may set any number."""
    return int(value) if 0 <= value < 1 << 64 else 0


def _exemplar(number: int, exemplar: Exemplar) -> Field:
    labels = _labels(sorted(exemplar.labels.items()))
    stamp = []
    if exemplar.timestamp is not None:
        seconds, fraction = divmod(float(exemplar.timestamp), 1)
        parts = [Field(1, "seconds", int(seconds)), Field(2, "nanos", int(fraction * 1e9))]
        stamp.append(Field(3, "timestamp", parts))
    return Field(number, "exemplar", [*labels, Field(2, "value", float(exemplar.value)), *stamp])


def _timestamp(sample: Sample) -> Message:
    if sample.timestamp is None:
        return []
    return [Field(6, "timestamp_ms", int(float(sample.timestamp) * 1000))]


def _escaped(name: str, format: Format, escape: Callable[[str, str], str]) -> str:
    """Return a name in the negotiated escaping; protocol buffers need no quotes."""
    return name if is_plain(name) or format.escaping == "allow-utf-8" else escape(name, format.escaping)


# --- the wire ----------------------------------------------------------------------------------------------


def delimited_blocks(families: Iterable[Family], format: Format) -> Iterator[tuple[str, bytes]]:
    """Yield each family as a message, preceded by its length."""
    for name, tree in _trees(families, format):
        message = _wire(tree)
        yield name, varint.encode(len(message)) + message


def _wire(message: Message) -> bytes:
    """Encode a message for the wire: each field's number and kind, then the value."""
    return b"".join([_wire_field(number, value) for number, _, value in message])


def _wire_field(number: int, value: Scalar | Message) -> bytes:
    if isinstance(value, Enum):
        return varint.encode(number << 3) + varint.encode(value.number)
    if isinstance(value, float):
        return varint.encode(number << 3 | 1) + _DOUBLE.pack(value)
    if isinstance(value, int):
        return varint.encode(number << 3) + varint.encode(
            value & 0xFFFF_FFFF_FFFF_FFFF
        )  # negative ones: two's complement
    payload = value.encode("utf-8", "replace") if isinstance(value, str) else _wire(value)
    return varint.encode(number << 3 | 2) + varint.encode(len(payload)) + payload


# --- the text forms ----------------------------------------------------------------------------------------


def text(samples: Samples, format: Format) -> bytes:
    """Encode a run's samples as messages in text format, one line for each field."""
    return b"".join([block for _, block in sorted(text_blocks(samples.collect(), format))])


def compact(samples: Samples, format: Format) -> bytes:
    """Encode a run's samples as messages in text format, one line for each family."""
    return b"".join([block for _, block in sorted(compact_blocks(samples.collect(), format))])


def text_blocks(families: Iterable[Family], format: Format) -> Iterator[tuple[str, bytes]]:
    """Yield each family as lines, followed by an empty one."""
    for name, tree in _trees(families, format):
        yield name, ("\n".join(_lines(tree, "")) + "\n\n").encode("utf-8", "replace")


def compact_blocks(families: Iterable[Family], format: Format) -> Iterator[tuple[str, bytes]]:
    """Yield each family as one line."""
    for name, tree in _trees(families, format):
        yield name, (_line(tree) + "\n").encode("utf-8", "replace")


def _lines(message: Message, indent: str) -> Iterator[str]:
    for _, name, value in message:
        if isinstance(value, list):
            yield f"{indent}{name}: {{"
            yield from _lines(value, f"{indent}  ")
            yield f"{indent}}}"
        else:
            yield f"{indent}{name}: {_scalar(value)}"


def _line(message: Message) -> str:
    return " ".join(
        [
            f"{name}:{{{_line(value)}}}" if isinstance(value, list) else f"{name}:{_scalar(value)}"
            for _, name, value in message
        ]
    )


def _scalar(value: Scalar) -> str:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, str):
        return '"' + value.translate(_ESCAPES) + '"'
    return _SPECIAL.get(written := number(value), written)


_SPECIAL = {"NaN": "nan", "+Inf": "inf", "-Inf": "-inf"}
_ESCAPES = {code: f"\\{code:03o}" for code in (*range(0x20), 0x7F)} | {
    ord("\\"): "\\\\",
    ord('"'): '\\"',
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}
