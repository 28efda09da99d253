"""Settings of values from responses: the metrics, and where in the response their values and labels are.

A value is a node of a JSON document, a match of a regular expression, or a header. Each node or match becomes a series.
Names, types and label names are checked when the configuration is loaded; a response can't add any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import AfterValidator, BeforeValidator, Field

from probe_exporter.prober.metrics import Metric
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Shorthand, Text
from probe_exporter.settings.regexps import Regexp
from probe_exporter.settings.rules import Block, exclusive, required
from probe_exporter.values.jsonpath import JsonPath

OURS = "probe_"
"""Prefix of the metrics that probes measure."""

MAX_LABELS = 10
"""Labels of one metric."""


def _one_source(block: Block) -> Iterator[tuple[str, str]]:
    if not any(block.get(key) for key in ("json", "regexp", "header")):
        yield "json", "expected one of `json`, `regexp` and `header`"
    if block.get("value") and not block.get("json"):
        yield "value", "`value` needs `json`: it is a part of what `json` selects"


class SourceOfValues(Settings):
    """The ``from`` of a metric.

    Args:
        path: JSONPath of the items; each gives a series.
        value: JSONPath of the value within an item.
        regexp: regular expression whose first group is the value.
        header: name of the header that has the value.
    """

    rules = (exclusive("json", "regexp"), exclusive("json", "header"), _one_source)
    path: JsonPath | None = Field(default=None, alias="json")
    value: JsonPath | None = None
    regexp: Regexp | None = None
    header: Text = ""


def _one_label(block: Block) -> Iterator[tuple[str, str]]:
    if not any(block.get(key) for key in ("text", "json", "item", "key", "group", "header")):
        yield "text", "expected one of `text`, `json`, `item`, `key`, `group` and `header`"


class SourceOfLabel(Settings):
    """The source of a label: a text, a part of the document or of the node, the node's key, a group, a header.

    Args:
        text: a constant.
        path: JSONPath in the document.
        item: JSONPath within an item.
        key: the item's own key in its object.
        group: a named group of the regular expression.
        header: name of the header.
    """

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
    """Check the names of a metric and its labels."""
    name, type, labels = block.get("name"), block.get("type", "gauge"), block.get("labels") or {}
    if not isinstance(name, str) or not isinstance(labels, Mapping) or not name:
        return
    if name.startswith(OURS):
        yield "name", f"names that begin with {OURS} are reserved for what probes measure"
    if type == "counter" and not name.endswith("_total"):
        yield "name", "the name of a counter must end in _total"
    if type == "gauge" and name.endswith("_total"):
        yield "name", "_total is for the names of counters"
    if len(labels) > MAX_LABELS:
        yield "labels", f"a metric has at most {MAX_LABELS} labels"
    try:
        Metric(name, "", tuple(map(str, labels)), type=type if type in ("counter", "info") else "gauge")
    except ValueError as error:
        yield "name", str(error)


def _sources_fit(block: Block) -> Iterator[tuple[str, str]]:
    """Check that the labels' sources fit the source of the values."""
    source, labels = block.get("from"), block.get("labels")
    if not isinstance(source, Mapping) or not isinstance(labels, Mapping):
        return
    groups = _groups(source)
    for label in labels.values():
        if not isinstance(label, Mapping):
            continue
        if (label.get("item") or label.get("key")) and not source.get("json"):
            yield "labels", "`item` and `key` need `json`: they are parts of what `json` selects"
        if (group := label.get("group")) and group not in groups:
            yield "labels", f"the regular expression has no group {group}"


def _groups(source: Mapping[str, Any]) -> dict[str, int]:
    """Return the named groups of a source's expression; none if it is invalid, which another rule reports."""
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
        return  # another rule reports it
    if "value" not in regexp.names and not regexp.groups:
        yield "from", "the regular expression needs a group for the value: (…), or (?P<value>…) among several"


class ValueSettings(Settings):
    """One entry of ``metrics``.

    Args:
        name: name of the metric.
        help: HELP text of the metric.
        type: ``gauge``, ``counter`` or ``info``.
        source: where the value stands in the response.
        labels: labels of the metric, by name.
        values: numbers for texts, such as ``{up: 1, down: 0}``.
        scale: factor for the value.
        limit: maximum number of series of the metric.
        label_value_length_limit: maximum number of characters of a label value.
        required: fail the probe if there is no value.
    """

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
        """The declaration of the metric."""
        return Metric(self.name, self.help, tuple(self.labels), type=self.type)


def _check_names(metrics: tuple[ValueSettings, ...]) -> tuple[ValueSettings, ...]:
    """Refuse two metrics with the same name, even if the suffixes of their types differ."""
    seen = set()
    for one in metrics:
        name = one.name.removesuffix("_total").removesuffix("_info")
        if name in seen:
            raise ValueError(f"the metric {one.name} is declared twice")
        seen.add(name)
    return metrics


Metrics = Annotated[tuple[ValueSettings, ...], AfterValidator(_check_names)]
"""The ``metrics`` of a block."""


def need_body(metrics: Sequence[ValueSettings]) -> bool:
    """Return whether any value is searched in the body, and not in headers only."""
    return any(reads_json(one) or (one.source.regexp is not None and not one.source.header) for one in metrics)


def need_json(metrics: Sequence[ValueSettings]) -> bool:
    """Return whether the body is parsed as JSON."""
    return any(map(reads_json, metrics))


def reads_json(one: ValueSettings) -> bool:
    """Return whether one metric needs the body as JSON."""
    return one.source.path is not None or any(label.path is not None for label in one.labels.values())
