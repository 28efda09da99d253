"""Settings of values from responses: which metric, and where in the response its values and labels are.

A value is a node of a JSON document, a match of a regular expression, or a header. Each node or match becomes a series.
Names, types and labels are checked when the file is read; a response can't add any.
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
"""How the names of what probes measure begin."""

MOST_LABELS = 10


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


def need_body(metrics: Sequence[ValueSettings]) -> bool:
    """Whether any value is looked for in the body of an answer, and not in its headers alone."""
    return any(reads_json(one) or (one.source.regexp is not None and not one.source.header) for one in metrics)


def need_json(metrics: Sequence[ValueSettings]) -> bool:
    """Whether the body is read as JSON."""
    return any(map(reads_json, metrics))


def reads_json(one: ValueSettings) -> bool:
    return one.source.path is not None or any(label.path is not None for label in one.labels.values())
