"""Find the values that a module's ``metrics`` name in a response, and report them as metrics of the probe.

Large bodies, and queries with many results, are searched in a helper process, so that the event loop does not wait.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from prometheus_client.metrics_core import Metric as Family

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import SUFFIXES, FixedCollector
from probe_exporter.prober.run import Probe
from probe_exporter.settings.regexps import Regexp
from probe_exporter.values import documents, pool
from probe_exporter.values.jsonpath import Meter, metered
from probe_exporter.values.settings import SourceOfLabel, ValueSettings, need_json, reads_json

MAX_MATCHES = 10_000
"""Matches of a regular expression that are examined, whether they give a series or not."""

MAX_REMARKS = 10
"""Remarks about one metric; there could be one about each match."""

MAX_INLINE_BYTES = 64 * 1024
"""Bytes that are searched on the event loop, those of each regular expression counted."""

MAX_INLINE_ELEMENTS = 1000
"""Elements, about, of a JSON document that is parsed on the event loop."""

MAX_INLINE_STEPS = 2000
"""Elements that queries look at on the event loop."""

MAX_INLINE_ITEMS = 200
"""Matches and nodes that are examined on the event loop."""

Series = dict[tuple[str, ...], float]
"""Values by the values of their labels."""

Found = tuple[Series, list[str]]
"""The series of a metric, and remarks about what was wrong."""


class SearchedAnswer(NamedTuple):
    """A response, as values are searched in it.

    Args:
        header: returns the values of a header, by its lower-case name.
        text: where regular expressions search; None if there is none.
        document: JSON text for JSONPath; None if there is none.
    """

    header: Callable[[str], list[str]]
    text: bytes | None
    document: bytes | None


class _TooLong(Exception):
    """The work takes too long for the event loop."""


async def report(probe: Probe, metrics: Sequence[ValueSettings], answer: SearchedAnswer) -> None:
    """Set all metrics that the response has values for; fail the probe if a required one is missing."""
    labelled = []
    for one, (series, remarks) in zip(metrics, await _find(metrics, answer), strict=True):
        for remark in remarks:
            probe.log("A value of the answer is no metric", level=logging.WARNING, metric=one.name, why=remark)
        if one.labels and series:
            labelled.append(_family(one, series))
        elif series:
            probe.set(one.metric, series[()])
        if not series and one.required:
            why = remarks[0] if remarks else "there is none"
            probe.fail(ProbeFailed(Reason.VALUE_MISSING, f"the answer has no value for {one.name}: {why}"))
    if labelled:
        probe.registry.register(FixedCollector(labelled))


async def _find(metrics: Sequence[ValueSettings], answer: SearchedAnswer) -> Sequence[Found]:
    """Return what was found for each metric, by a helper process if it takes long."""
    headers = {name: answer.header(name) for name in _headers(metrics)}
    if _is_small(metrics, answer, headers):
        with suppress(_TooLong):
            return _find_all(answer.text, answer.document, metrics, headers, inline=True)
    bodies = [body for body in (answer.text, answer.document) if body is not None]
    kinds = (answer.text is not None, answer.document is not None)
    if answer.text is answer.document:  # don't send it twice
        bodies = bodies[:1]
    try:
        return await pool.run(_find_in_helper, bodies, kinds, metrics, headers)
    except pool.HelperFailed as failed:
        return [({}, [str(failed)]) for _ in metrics]


def _headers(metrics: Sequence[ValueSettings]) -> set[str]:
    """Return the names of the headers that metrics are searched in."""
    labels = [label.header for one in metrics for label in one.labels.values()]
    return {name.lower() for name in (*labels, *(one.source.header for one in metrics)) if name}


def _is_small(metrics: Sequence[ValueSettings], answer: SearchedAnswer, headers: Mapping[str, Sequence[str]]) -> bool:
    """Return whether it is worth trying on the event loop."""
    text, document = answer.text or b"", answer.document or b""
    searched = sum(one.source.regexp is not None for one in metrics) * len(text) + len(document)
    searched += len(metrics) * sum(len(value) for values in headers.values() for value in values)
    if searched > MAX_INLINE_BYTES:
        return False
    return sum(map(document.count, (b",", b"[", b"{"))) <= MAX_INLINE_ELEMENTS if need_json(metrics) else True


def _find_in_helper(*arguments: Any) -> list[Found]:
    """Do the same in a helper process, which gets the bodies that there are, and which they are, before all others."""
    *bodies, kinds, metrics, headers = arguments
    text, document = (bodies[0] if kinds[0] else None), (bodies[-1] if kinds[1] else None)
    return _find_all(text, document, metrics, headers)


def _family(one: ValueSettings, series: Series) -> Family:
    """Return a metric with the labels that were found."""
    suffix = SUFFIXES.get(one.type, "")
    family = Family(one.name.removesuffix(suffix), one.help, one.type)
    for labels, value in series.items():
        family.add_sample(one.name, dict(zip(one.labels, labels, strict=True)), value)
    return family


def _find_all(
    text: bytes | None,
    document: bytes | None,
    metrics: Sequence[ValueSettings],
    headers: Mapping[str, Sequence[str]],
    *,
    inline: bool = False,
) -> list[Found]:
    """Return each metric's series and remarks.

    Args:
        inline: raise `_TooLong` if it takes too long for the event loop.
    """
    meter = Meter(MAX_INLINE_STEPS, _TooLong) if inline else Meter()
    where, problem = _Where(text or b"", None, headers), ""
    if document is not None and need_json(metrics):
        try:
            where = where._replace(document=metered(documents.parse(document), meter))
        except ValueError as error:
            problem = str(error)
    found, examined = list[Found](), 0
    for one in metrics:
        series: Series = {}
        remarks: list[str] = []
        try:
            if problem and reads_json(one):
                raise ValueError(problem)
            for number, item in enumerate(_items(one, where)):
                examined += 1
                if inline and examined > MAX_INLINE_ITEMS:
                    raise _TooLong
                if number == MAX_MATCHES:
                    raise ValueError(f"there are more than {MAX_MATCHES} matches")
                objection = _add(one, item, where, series)
                if objection and len(remarks) < MAX_REMARKS:
                    remarks.append(objection)
        except ValueError as error:
            remarks.append(str(error))
        found.append((series, remarks))
    return found


class _Where(NamedTuple):
    """The places to search for values: the text, the parsed document, the values of headers by name."""

    text: bytes
    document: Any
    headers: Mapping[str, Sequence[str]]


class _Item(NamedTuple):
    """The parts of one series."""

    raw: Any  # the value as found
    node: Any = None
    key: str = ""
    groups: Mapping[str, str] = {}


def _items(one: ValueSettings, where: _Where) -> Iterator[_Item]:
    """Yield what could be series of a metric, one more than its limit."""
    source = one.source
    if source.path is not None:
        for key, node in source.path.nodes(where.document, one.limit + 1):
            yield _Item(node if source.value is None else source.value.first(node), node, key)
        return
    texts = [where.text]
    if source.header:
        texts = [value.encode("utf-8", "surrogateescape") for value in where.headers[source.header.lower()]]
    for text in texts:
        if source.regexp is None:
            yield _Item(text.decode("utf-8", "replace").strip())
        else:
            yield from _matches(source.regexp, text)


def _matches(regexp: Regexp, text: bytes) -> Iterator[_Item]:
    for match in regexp.find_all(text):
        groups = {name: (match.group(name) or b"").decode() for name in regexp.names}
        first = match.groups()[0] if regexp.groups else b""
        yield _Item(groups.get("value", (first or b"").decode()), groups=groups)


def _add(one: ValueSettings, item: _Item, where: _Where, series: Series) -> str:
    """Add the series of an item; return why that is not possible, or an empty string.

    Raises:
        ValueError: there are too many.
    """
    if len(series) == one.limit:
        raise ValueError(f"there are more than {one.limit} series")
    labels = tuple([_label(label, item, where) for label in one.labels.values()])
    if max(map(len, labels), default=0) > one.label_value_length_limit:
        return f"the value of a label has more than {one.label_value_length_limit} characters"
    if labels in series:
        return f"there are two series with the same labels: {', '.join(labels) or 'none'}"
    try:
        series[labels] = 1.0 if one.type == "info" else _value(one, item.raw)
    except ValueError as error:
        return str(error)
    return ""


def _label(label: SourceOfLabel, item: _Item, where: _Where) -> str:
    """Return the value of a label; empty if it is missing, which in Prometheus is the same as no label."""
    if label.path is not None:
        return _shown(label.path.first(where.document))
    if label.item is not None:
        return _shown(label.item.first(item.node))
    if label.header:
        return _shown(next(iter(where.headers[label.header.lower()]), ""))
    if label.group:
        return item.groups.get(label.group, "")
    return item.key if label.key else label.text


def _shown(value: Any) -> str:
    """Return a JSON value as text that UTF-8 can encode."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return "" if value is None or isinstance(value, dict | list) else json.dumps(value)


def _value(one: ValueSettings, raw: Any) -> float:
    """Return the number that was found, or that the settings assign to a word.

    Raises:
        ValueError: it is neither.
    """
    word = _shown(raw).strip()
    if word in one.values:
        return one.values[word]
    if isinstance(raw, bool):
        return float(raw)
    try:
        if "_" in word:
            raise ValueError
        number = float(raw if isinstance(raw, int | float) else word) * one.scale
    except (ValueError, OverflowError):
        raise ValueError(f"{word[:60]!r} is not a number" if word else "it is empty, or a list or an object") from None
    if one.type == "counter" and (number < 0 or math.isnan(number)):
        raise ValueError(f"{word[:60]} is not a valid count")
    return number
