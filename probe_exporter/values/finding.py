"""Find the values that a module's ``metrics`` ask for in a response, and report them as metrics of the probe."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.metrics_core import Metric as Family

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import SUFFIXES, Given
from probe_exporter.prober.run import Probe
from probe_exporter.settings.regexps import Regexp
from probe_exporter.values.jsonpath import metered
from probe_exporter.values.settings import SourceOfLabel, ValueSettings, need_json, reads_json

MOST_MATCHES = 10_000
"""Matches of a regular expression that are looked at, good for a series or not."""

MOST_REMARKS = 10
"""Of a metric, on what was wrong; there may be one on each match."""

OFF_THE_LOOP = 64 * 1024
"""Bodies from this size on are searched in a thread."""


Series = dict[tuple[str, ...], float]
"""Values by the values of their labels."""


class Answer(NamedTuple):
    """What values are looked for in.

    Args:
        header: the values of a header, by its lower-case name.
        text: what regular expressions are tried on; None if there is none.
        document: what JSONPath is; JSON text, or None.
    """

    header: Callable[[str], list[str]]
    text: bytes | None
    document: bytes | None


async def report(probe: Probe, metrics: Sequence[ValueSettings], answer: Answer) -> None:
    """Set all metrics that the answer has values for.

    Notes that the probe has failed where one is missing that is required.
    """
    size = max(len(answer.text or b""), len(answer.document or b""))
    if size < OFF_THE_LOOP:
        found = _find(metrics, answer)
    else:
        found = await asyncio.to_thread(_find, metrics, answer)
    labelled = []
    for one, series, remarks in found:
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
        probe.registry.register(Given(labelled))


def _family(one: ValueSettings, series: Series) -> Family:
    """A metric whose labels the answer has filled."""
    suffix = SUFFIXES.get(one.type, "")
    family = Family(one.name.removesuffix(suffix), one.help, one.type)
    for labels, value in series.items():
        family.add_sample(one.name, dict(zip(one.labels, labels, strict=True)), value)
    return family


def _find(metrics: Sequence[ValueSettings], answer: Answer) -> list[tuple[ValueSettings, Series, list[str]]]:
    """Each metric with its series, and with what was wrong."""
    document, broken = None, ""
    if answer.document is not None and need_json(metrics):
        try:
            document = metered(json.loads(answer.document))
        except (ValueError, RecursionError):
            broken = "the body is not JSON, or is nested too deep"
    found = []
    for one in metrics:
        series: Series = {}
        remarks: list[str] = []
        try:
            if broken and reads_json(one):
                raise ValueError(broken)
            for number, item in enumerate(_items(one, answer, document)):
                if number == MOST_MATCHES:
                    raise ValueError(f"there are more than {MOST_MATCHES} matches")
                objection = _add(one, item, answer, document, series)
                if objection and len(remarks) < MOST_REMARKS:
                    remarks.append(objection)
        except ValueError as error:
            remarks.append(str(error))
        found.append((one, series, remarks))
    return found


class _Item(NamedTuple):
    """What makes one series."""

    raw: Any  # the value, as it was found
    node: Any = None
    key: str = ""
    groups: Mapping[str, str] = {}


def _items(one: ValueSettings, answer: Answer, document: Any) -> Iterator[_Item]:
    """All that could be series of a metric, one beyond its limit included."""
    source = one.source
    if source.path is not None:
        for key, node in source.path.nodes(document, one.limit + 1):
            yield _Item(node if source.value is None else source.value.first(node), node, key)
        return
    texts = [answer.text or b""]
    if source.header:
        texts = [value.encode("utf-8", "surrogateescape") for value in answer.header(source.header.lower())]
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


def _add(one: ValueSettings, item: _Item, answer: Answer, document: Any, series: Series) -> str:
    """Make a series of an item; why it is none, or nothing.

    Raises:
        ValueError: there are too many.
    """
    if len(series) == one.limit:
        raise ValueError(f"there are more than {one.limit} series")
    labels = tuple([_label(label, item, answer, document) for label in one.labels.values()])
    if max(map(len, labels), default=0) > one.label_value_length_limit:
        return f"the value of a label has more than {one.label_value_length_limit} characters"
    if labels in series:
        return f"a series is there twice: {', '.join(labels) or 'without labels'}"
    try:
        series[labels] = 1.0 if one.type == "info" else _value(one, item.raw)
    except ValueError as error:
        return str(error)
    return ""


def _label(label: SourceOfLabel, item: _Item, answer: Answer, document: Any) -> str:
    """The value of a label; what is missing is empty, which in Prometheus is the same as no label."""
    if label.path is not None:
        return _shown(label.path.first(document))
    if label.item is not None:
        return _shown(label.item.first(item.node))
    if label.header:
        return next(iter(answer.header(label.header.lower())), "")
    if label.group:
        return item.groups.get(label.group, "")
    return item.key if label.key else label.text


def _shown(value: Any) -> str:
    """A value of JSON as text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return "" if value is None or isinstance(value, dict | list) else json.dumps(value)


def _value(one: ValueSettings, raw: Any) -> float:
    """The number that something found stands for.

    Raises:
        ValueError: it stands for none.
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
        raise ValueError(f"{word[:60]!r} is no number" if word else "it is empty, or no plain value") from None
    if one.type == "counter" and (number < 0 or math.isnan(number)):
        raise ValueError(f"{word[:60]} is no count")
    return number
