"""Read the protobuf format: length-delimited messages of metrics.proto (prometheus/client_model).

Only as much of protocol buffers is implemented as these messages need; unknown fields are skipped.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Generator, Iterator

from probe_exporter.exposition import varint
from probe_exporter.scrape.page import (
    LINE_COST_BYTES,
    MAX_LABELS,
    STEP_BYTES,
    Family,
    Labels,
    Malformed,
    Page,
    TooManySamples,
)

_TYPES = ("counter", "gauge", "summary", "unknown", "histogram", "gaugehistogram")
_VALUES = {2: "gauge", 3: "counter", 4: "summary", 5: "unknown", 7: "histogram"}
"""The fields of a metric for its value, by number."""

MAX_FIELDS = 10_000
"""Fields of one metric, or of one histogram or summary."""

MAX_SMALL_FIELDS = 20
"""Fields of one label, value, bucket or quantile; metrics.proto has at most four."""

_FIELDS_A_STEP = STEP_BYTES // LINE_COST_BYTES

_DOUBLE = struct.Struct("<d")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Span = tuple[int, int]
"""The beginning and the end of a part of the page."""


def read(body: bytes, page: Page) -> Iterator[None]:
    """Read a page; yield where other tasks may run.

    Raises:
        Malformed, TooManySamples: the message says where and how.
    """
    place, families, names = 0, 0, set[str]()
    while place < len(body):
        families += 1
        try:
            length, place = _varint(body, place, len(body))
            if length > len(body) - place:
                raise Malformed(
                    f"it should have {length} bytes, and the page has {len(body) - place} more: it is cut off"
                )
            yield from _family(body, (place, place + length), page, names)
        except Malformed as error:
            raise Malformed(f"message {families}: {error}") from None
        place += length
        if not families % _FIELDS_A_STEP:
            yield


def _family(body: bytes, span: Span, page: Page, names: set[str]) -> Iterator[None]:
    name, help, type, metrics = yield from _family_fields(body, span, page)
    if not name or name in names:
        raise Malformed(f"the family {name[:60]} is repeated" if name else "a family has no name")
    if type >= len(_TYPES):
        raise Malformed(f"{type} is not a metric type")
    names.add(name)
    family = page.begin(name, _TYPES[type])
    family.help = bool(help)
    work = 0
    bounds = iter(metrics)
    for metric in zip(bounds, bounds, strict=True):
        work += LINE_COST_BYTES + metric[1] - metric[0]
        yield from _metric(body, metric, page, family)
        if work >= STEP_BYTES:
            yield
            work = 0


def _family_fields(body: bytes, span: Span, page: Page) -> Generator[None, None, tuple[str, str, int, array[int]]]:
    """Return name, help and type of a family, and the beginnings and ends of its metrics.

    A list of half a million spans would take 60 MB, and 20 ms to be freed.
    """
    name, help, type, metrics = "", "", 0, array("q")
    for index, (number, value) in enumerate(_fields(body, span), 1):
        if not index % _FIELDS_A_STEP:
            yield
        if number == 4:
            metrics.extend(_span(value))
            if len(metrics) > 2 * page.limit:
                raise TooManySamples(f"the page has more than {page.limit} samples")
        elif number in (1, 2):
            name, help = (_text(body, value), help) if number == 1 else (name, _text(body, value))
        elif number == 3 and isinstance(value, int):
            type = value
    return name, help, type, metrics


def _metric(body: bytes, span: Span, page: Page, family: Family) -> Iterator[None]:
    labels, found, stamp = yield from _metric_fields(body, span)
    kind = "histogram" if family.type == "gaugehistogram" else family.type
    if [kind for kind, _ in found] != [kind]:
        raise Malformed(f"a {family.type} must have one value of its type, and no other: {family.name[:60]}")
    if kind == "histogram":
        yield from _histogram(body, found[0][1], page, family, labels, stamp)
    elif kind == "summary":
        yield from _summary(body, found[0][1], page, family, labels, stamp)
    else:
        values = [value for number, value in _fields(body, found[0][1], MAX_SMALL_FIELDS) if number == 1]
        page.take(family, family.name, labels, _number(values[-1] if values else 0.0), "", stamp)


def _metric_fields(body: bytes, span: Span) -> Generator[None, None, tuple[Labels, list[tuple[str, Span]], str]]:
    """Return the labels of a metric, the kinds and places of its values, and its timestamp."""
    pairs, found, stamp = list[tuple[str, str]](), list[tuple[str, Span]](), ""
    for index, (number, value) in enumerate(_fields(body, span, MAX_FIELDS), 1):
        if not index % _FIELDS_A_STEP:
            yield
        if number == 1:
            if len(pairs) == MAX_LABELS:
                raise Malformed(f"a sample has more than {MAX_LABELS} labels")
            pairs.append(_pair(body, _span(value)))
        elif number in _VALUES:
            found.append((_VALUES[number], _span(value)))
        elif number == 6:
            stamp = str(value)
    if len({label for label, _ in pairs}) < len(pairs):
        raise Malformed("a label is repeated")
    return tuple(pairs), found, stamp


def _summary(body: bytes, span: Span, page: Page, family: Family, labels: Labels, stamp: str) -> Iterator[None]:
    count, total = 0.0, 0.0
    for index, (number, value) in enumerate(_fields(body, span, MAX_FIELDS), 1):
        if not index % _FIELDS_A_STEP:
            yield
        if number == 1:
            count = _number(value)
        elif number == 2:
            total = _number(value)
        elif number == 3:
            of = dict(_fields(body, _span(value), MAX_SMALL_FIELDS))
            rank = ("quantile", repr(_number(of.get(1, 0.0))))
            page.take(family, family.name, (*labels, rank), _number(of.get(2, 0.0)), "quantile", stamp)
    page.take(family, f"{family.name}_sum", labels, total, "", stamp)
    page.take(family, f"{family.name}_count", labels, count, "", stamp)


_COUNT, _SUM, _BUCKET, _COUNT_FLOAT, _SCHEMA = 1, 2, 3, 4, 5


def _histogram(body: bytes, span: Span, page: Page, family: Family, labels: Labels, stamp: str) -> Iterator[None]:
    """Add the buckets, sum and count of a classic histogram, or the one sample of a native histogram."""
    count, total, buckets, native = yield from _histogram_fields(body, span)
    if native:
        page.take(family, family.name, labels, count, "", stamp)
        if not buckets:
            return
    if not buckets or buckets[-1][0] != float("inf"):
        buckets.append((float("inf"), count))
    for index, (bound, value) in enumerate(buckets, 1):
        if not index % _FIELDS_A_STEP:
            yield
        page.take(family, f"{family.name}_bucket", (*labels, ("le", repr(bound))), value, "le", stamp)
    page.take(family, f"{family.name}_sum", labels, total, "", stamp)
    page.take(family, f"{family.name}_count", labels, count, "", stamp)


def _histogram_fields(
    body: bytes, span: Span
) -> Generator[None, None, tuple[float, float, list[tuple[float, float]], bool]]:
    """Return count, sum and buckets of a histogram, and whether it is native."""
    count, total, buckets, native = 0.0, 0.0, list[tuple[float, float]](), False
    for index, (number, value) in enumerate(_fields(body, span, MAX_FIELDS), 1):
        if not index % _FIELDS_A_STEP:
            yield
        if number in (_COUNT, _COUNT_FLOAT):
            count = _number(value)
        elif number == _SUM:
            total = _number(value)
        elif number == _BUCKET:
            of = dict(_fields(body, _span(value), MAX_SMALL_FIELDS))
            buckets.append((_number(of.get(2, 0.0)), _number(of.get(4, of.get(1, 0.0)))))
        elif number == _SCHEMA:
            native = True
    return count, total, buckets, native


# --- the wire ----------------------------------------------------------------------------------------------

Value = int | float | Span
"""The value of a field: a whole number, a double, or the place of its bytes."""


def _fields(body: bytes, span: Span, limit: int = 0) -> Iterator[tuple[int, Value]]:
    """Yield the number and the value of each field of a message.

    Args:
        limit: fields allowed; 0 for any number, if the caller yields between them.
    """
    place, end = span
    count = 0
    while place < end:
        count += 1
        if count == limit:
            raise Malformed(f"a message has {limit} fields or more")
        tag, place = _varint(body, place, end)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = _varint(body, place, end)
            yield number, value
            continue
        length = 8 if kind == _FIXED64 else 4 if kind == _FIXED32 else -1
        if kind == _BYTES:
            length, place = _varint(body, place, end)
        if length < 0 or not number:
            raise Malformed("a field has an unknown wire type")
        if length > end - place:
            raise Malformed("a field is longer than its message")
        if kind == _BYTES:
            yield number, (place, place + length)
        elif kind == _FIXED64:
            yield number, _DOUBLE.unpack_from(body, place)[0]
        place += length


def _varint(body: bytes, place: int, end: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and the place after it."""
    number = 0
    for index in range(min(varint.MAX_VARINT_BYTES, end - place)):
        byte = body[place + index]
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, place + index + 1
    raise Malformed("a number has no end")


def _pair(body: bytes, span: Span) -> tuple[str, str]:
    of = dict(_fields(body, span, MAX_SMALL_FIELDS))
    name = _text(body, of[1]) if 1 in of else ""
    if not name or name == "__name__":
        raise Malformed("a label has no name, or a reserved one")
    return name, _text(body, of[2]) if 2 in of else ""


def _span(value: Value) -> Span:
    if not isinstance(value, tuple):
        raise Malformed("a field has a number instead of a text or a message")
    return value


def _text(body: bytes, value: Value) -> str:
    start, end = _span(value)
    try:
        return body[start:end].decode()
    except UnicodeDecodeError:
        raise Malformed("a text is not UTF-8") from None


def _number(value: Value) -> float:
    if isinstance(value, tuple):
        raise Malformed("a field has a text or a message instead of a number")
    return float(value)
