"""Values from answers: parts of what a target says as metrics, declared in the module's ``metrics``.

A declaration names a metric and where its values are: nodes of a JSON document, matches of a regular expression, or a
header. Each node or match is a series. Names, types and labels are checked at load; what an answer holds can't add any.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Le
from prometheus_client.metrics_core import Metric as Family
from pydantic import AfterValidator, BeforeValidator, Field

from probe_exporter.fields import Regexp, Shorthand, Text
from probe_exporter.jsonpath import JsonPath, metered
from probe_exporter.metrics import SUFFIXES, Given, Metric
from probe_exporter.prober import Probe, ProbeFailed, Reason, Settings
from probe_exporter.rules import Block, exclusive, required

OURS = "probe_"
"""How the names of what probes measure begin."""

MOST_LABELS = 10
MOST_MATCHES = 10_000
"""Matches of a regular expression that are looked at, good for a series or not."""

MOST_REMARKS = 10
"""Of a metric, on what was wrong; there may be one on each match."""

OFF_THE_LOOP = 64 * 1024
"""Bodies from this size on are searched in a thread."""


def _one_source(block: Block) -> Iterator[tuple[str, str]]:
    if not any(block.get(key) for key in ("json", "regexp", "header")):
        yield "json", "expected one of `json`, `regexp` and `header`"
    if block.get("value") and not block.get("json"):
        yield "value", "`value` is a part of what `json` selects, and needs it"


class SourceOfValues(Settings):
    """The ``from`` of a metric."""

    rules = (exclusive("json", "regexp"), exclusive("json", "header"), _one_source)
    path: JsonPath | None = Field(default=None, alias="json")
    value: JsonPath | None = None
    regexp: Regexp | None = None
    header: Text = ""


def _one_label(block: Block) -> Iterator[tuple[str, str]]:
    if not any(block.get(key) for key in ("text", "json", "item", "key", "group", "header")):
        yield "text", "expected one of `text`, `json`, `item`, `key`, `group` and `header`"


class SourceOfLabel(Settings):
    """Where the value of a label is: written here, in the document, in the node, its name, a group, a header."""

    rules = (exclusive("text", "json", "item", "key", "group", "header"), _one_label)
    text: Text = ""
    path: JsonPath | None = Field(default=None, alias="json")
    item: JsonPath | None = None
    key: bool = False
    group: Text = ""
    header: Text = ""


Label = Annotated[
    SourceOfLabel,
    Shorthand("string"),
    BeforeValidator(
        lambda written: {"text": written} if isinstance(written, str) else written,
        json_schema_input_type=Text | SourceOfLabel,
    ),
]


def _declaration(block: Block) -> Iterator[tuple[str, str]]:
    """What is wrong with the names of a metric."""
    name, type, labels = block.get("name"), block.get("type", "gauge"), block.get("labels") or {}
    if not isinstance(name, str) or not isinstance(labels, Mapping) or not name:
        return
    if name.startswith(OURS):
        yield "name", f"names that begin with {OURS} are for what probes measure"
    if type == "counter" and not name.endswith("_total"):
        yield "name", "the name of a counter ends in _total"
    if type == "gauge" and name.endswith("_total"):
        yield "name", "_total is for the name of a counter"
    if len(labels) > MOST_LABELS:
        yield "labels", f"a metric has at most {MOST_LABELS} labels"
    try:
        Metric(name, "", tuple(map(str, labels)), type=type if type in ("counter", "info") else "gauge")
    except ValueError as error:
        yield "name", str(error)


def _sources_fit(block: Block) -> Iterator[tuple[str, str]]:
    """What a label can't have from where the values are."""
    source, labels = block.get("from"), block.get("labels")
    if not isinstance(source, Mapping) or not isinstance(labels, Mapping):
        return
    groups = _groups(source)
    for label in labels.values():
        if not isinstance(label, Mapping):
            continue
        if (label.get("item") or label.get("key")) and not source.get("json"):
            yield "labels", "`item` and `key` are of what `json` selects, and need it"
        if (group := label.get("group")) and group not in groups:
            yield "labels", f"the regular expression has no group {group}"


def _groups(source: Mapping[str, Any]) -> dict[str, int]:
    """The named groups of a source's expression; that it may be none is said where it stands."""
    try:
        return Regexp(str(source.get("regexp", ""))).names
    except ValueError:
        return {}


def _has_value(block: Block) -> Iterator[tuple[str, str]]:
    source = block.get("from")
    if block.get("type") == "info" or not isinstance(source, Mapping) or not source.get("regexp"):
        return
    try:
        regexp = Regexp(str(source["regexp"]))
    except ValueError:
        return  # said where it stands
    if "value" not in regexp.names and not regexp.groups:
        yield "from", "the regular expression needs a group for the value: (…), or (?P<value>…) among several"


class ValueSettings(Settings):
    """One entry of ``metrics``."""

    rules = (required("name", "help", "from"), _declaration, _sources_fit, _has_value)
    name: Text = ""
    help: Text = ""
    type: Literal["gauge", "counter", "info"] = "gauge"
    source: SourceOfValues = Field(default_factory=SourceOfValues.model_construct, alias="from")
    labels: dict[Text, Label] = Field(default_factory=dict)
    values: dict[Text, float] = Field(default_factory=dict)
    scale: float = 1.0
    limit: Annotated[int, Ge(1), Le(1000)] = 100
    label_value_length_limit: Annotated[int, Ge(1), Le(4096)] = 256
    required: bool = False

    @cached_property
    def metric(self) -> Metric:
        """The declaration, made once."""
        return Metric(self.name, self.help, tuple(self.labels), type=self.type)


def _check_names(metrics: tuple[ValueSettings, ...]) -> tuple[ValueSettings, ...]:
    """Refuse two of one name, also if only the suffix of a type tells them apart."""
    seen = set()
    for one in metrics:
        name = one.name.removesuffix("_total").removesuffix("_info")
        if name in seen:
            raise ValueError(f"the metric {one.name} is there twice")
        seen.add(name)
    return metrics


Metrics = Annotated[tuple[ValueSettings, ...], AfterValidator(_check_names)]
"""The ``metrics`` of a block."""


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
            if broken and _reads_json(one):
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


def need_body(metrics: Sequence[ValueSettings]) -> bool:
    """Whether any value is looked for in the body of an answer, and not in its headers alone."""
    return any(_reads_json(one) or (one.source.regexp is not None and not one.source.header) for one in metrics)


def need_json(metrics: Sequence[ValueSettings]) -> bool:
    """Whether the body is read as JSON."""
    return any(map(_reads_json, metrics))


def _reads_json(one: ValueSettings) -> bool:
    return one.source.path is not None or any(label.path is not None for label in one.labels.values())


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
