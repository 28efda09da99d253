"""Messages of io.prometheus.client, each with its length before it: metrics.proto of prometheus/client_model.

Only as much of protocol buffers is read as these messages need; a field that is not known here is passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from probe_exporter.exposition import varint
from probe_exporter.scrape.page import STEP, Family, Labels, Malformed, Page

_TYPES = ("counter", "gauge", "summary", "unknown", "histogram", "gaugehistogram")
_VALUES = {2: "gauge", 3: "counter", 4: "summary", 5: "unknown", 7: "histogram"}
"""The fields of a metric that hold its value."""

_DOUBLE = struct.Struct("<d")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Span = tuple[int, int]
"""Where in the page something stands."""


def read(body: bytes, page: Page) -> Iterator[None]:
    """Read a page; yields where others may run.

    Raises:
        Malformed, TooManySamples: and why.
    """
    place, families, names = 0, 0, set[str]()
    while place < len(body):
        families += 1
        try:
            length, place = _varint(body, place, len(body))
            if length > len(body) - place:
                raise Malformed(f"it has {length} bytes, and the page {len(body) - place} more: it is cut off")
            yield from _family(body, (place, place + length), page, names)
        except Malformed as error:
            raise Malformed(f"message {families}: {error}") from None
        place += length
        if not families % STEP:
            yield


def _family(body: bytes, span: Span, page: Page, names: set[str]) -> Iterator[None]:
    name, help, type, metrics = "", "", 0, list[Span]()
    for number, value in _fields(body, span):
        if number == 4:
            metrics.append(_span(value))
            if not len(metrics) % STEP:
                yield
        elif number in (1, 2):
            name, help = (_text(body, value), help) if number == 1 else (name, _text(body, value))
        elif number == 3 and isinstance(value, int):
            type = value
    if not name or name in names:
        raise Malformed(f"the family {name[:60]} is there twice" if name else "a family has no name")
    if type >= len(_TYPES):
        raise Malformed(f"{type} is no type of a metric")
    names.add(name)
    family = page.begin(name, _TYPES[type])
    family.help = bool(help)
    for index, metric in enumerate(metrics, 1):
        _metric(body, metric, page, family)
        if not index % STEP:
            yield


def _metric(body: bytes, span: Span, page: Page, family: Family) -> None:
    pairs, found, stamp = [], list[tuple[str, Span]](), ""
    for number, value in _fields(body, span):
        if number == 1:
            pairs.append(_pair(body, _span(value)))
        elif number in _VALUES:
            found.append((_VALUES[number], _span(value)))
        elif number == 6:
            stamp = str(value)
    if len({label for label, _ in pairs}) < len(pairs):
        raise Malformed("a label is there twice")
    labels = tuple(pairs)
    kind = "histogram" if family.type == "gaugehistogram" else family.type
    if [kind for kind, _ in found] != [kind]:
        raise Malformed(f"a {family.type} has no value of its type, or more than that one: {family.name[:60]}")
    if kind == "histogram":
        _histogram(body, found[0][1], page, family, labels, stamp)
    elif kind == "summary":
        _summary(body, found[0][1], page, family, labels, stamp)
    else:
        values = [value for number, value in _fields(body, found[0][1]) if number == 1]
        page.take(family, family.name, labels, _number(values[-1] if values else 0.0), "", stamp)


def _summary(body: bytes, span: Span, page: Page, family: Family, labels: Labels, stamp: str) -> None:
    count, total = 0.0, 0.0
    for number, value in _fields(body, span):
        if number == 1:
            count = _number(value)
        elif number == 2:
            total = _number(value)
        elif number == 3:
            of = dict(_fields(body, _span(value)))
            rank = ("quantile", repr(_number(of.get(1, 0.0))))
            page.take(family, family.name, (*labels, rank), _number(of.get(2, 0.0)), "quantile", stamp)
    page.take(family, f"{family.name}_sum", labels, total, "", stamp)
    page.take(family, f"{family.name}_count", labels, count, "", stamp)


_COUNT, _SUM, _BUCKET, _COUNT_FLOAT, _SCHEMA = 1, 2, 3, 4, 5


def _histogram(body: bytes, span: Span, page: Page, family: Family, labels: Labels, stamp: str) -> None:
    """A classic histogram is its buckets, sum and count; a native one is one sample."""
    count, total, buckets, native = 0.0, 0.0, list[tuple[float, float]](), False
    for number, value in _fields(body, span):
        if number in (_COUNT, _COUNT_FLOAT):
            count = _number(value)
        elif number == _SUM:
            total = _number(value)
        elif number == _BUCKET:
            of = dict(_fields(body, _span(value)))
            buckets.append((_number(of.get(2, 0.0)), _number(of.get(4, of.get(1, 0.0)))))
        elif number == _SCHEMA:
            native = True
    if native:
        page.take(family, family.name, labels, count, "", stamp)
        if not buckets:
            return
    if not buckets or buckets[-1][0] != float("inf"):
        buckets.append((float("inf"), count))
    for bound, value in buckets:
        page.take(family, f"{family.name}_bucket", (*labels, ("le", repr(bound))), value, "le", stamp)
    page.take(family, f"{family.name}_sum", labels, total, "", stamp)
    page.take(family, f"{family.name}_count", labels, count, "", stamp)


# --- the wire ----------------------------------------------------------------------------------------------

Value = int | float | Span
"""Of a field: a whole number, a double, or where its bytes stand."""


def _fields(body: bytes, span: Span) -> Iterator[tuple[int, Value]]:
    """The fields of a message: their numbers and values."""
    place, end = span
    while place < end:
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
            raise Malformed("a field is of no known kind")
        if length > end - place:
            raise Malformed("a field is longer than what it is in")
        if kind == _BYTES:
            yield number, (place, place + length)
        elif kind == _FIXED64:
            yield number, _DOUBLE.unpack_from(body, place)[0]
        place += length


def _varint(body: bytes, place: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    number = 0
    for index in range(min(varint.LONGEST, end - place)):
        byte = body[place + index]
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, place + index + 1
    raise Malformed("a number does not end")


def _pair(body: bytes, span: Span) -> tuple[str, str]:
    of = dict(_fields(body, span))
    name = _text(body, of[1]) if 1 in of else ""
    if not name or name == "__name__":
        raise Malformed("a label has no name, or a reserved one")
    return name, _text(body, of[2]) if 2 in of else ""


def _span(value: Value) -> Span:
    if not isinstance(value, tuple):
        raise Malformed("there is a number where a text or a message belongs")
    return value


def _text(body: bytes, value: Value) -> str:
    start, end = _span(value)
    try:
        return body[start:end].decode()
    except UnicodeDecodeError:
        raise Malformed("a text is not UTF-8") from None


def _number(value: Value) -> float:
    if isinstance(value, tuple):
        raise Malformed("there is a text or a message where a number belongs")
    return float(value)
