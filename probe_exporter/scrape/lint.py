"""Check the families of a page of metrics against the conventions of Prometheus.

The rules are those of `promtool check metrics`. Their source are Prometheus' documents "Metric and label naming" and
"Writing exporters"; which names promtool reports was found by running it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from probe_exporter.scrape.page import Family


class Finding(NamedTuple):
    """A family that violates a rule."""

    rule: str
    metric: str
    message: str


_BASE_UNITS = {
    **dict.fromkeys(["minutes", "hours", "days", "weeks"], "seconds"),
    **dict.fromkeys(["inches", "yards", "miles"], "meters"),
    **dict.fromkeys(["fahrenheit", "rankine"], "celsius"),
    **dict.fromkeys(["pounds", "ounces"], "grams"),
    "kelvins": "kelvin",
    "bits": "bytes",
    "calories": "joules",
} | {unit: unit for unit in ("amperes", "bytes", "celsius", "grams", "joules", "kelvin", "meters", "seconds", "volts")}
_PREFIXES = (
    "pico", "nano", "micro", "milli", "centi", "deci", "deca", "hecto", "kilo", "kibi", "mega", "mibi", "giga", "gibi",
    "tera", "tebi", "peta", "pebi",
)  # fmt: skip
_ABBREVIATED = frozenset({"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"})
MAX_WORDS = 64
"""Words of a name that are checked."""

MAX_SHOWN_CHARACTERS = 200
"""Characters of a name in a finding."""

_CAMEL = re.compile("[a-z][A-Z]")
_NAMED_TYPES = ("counter", "gauge", "histogram", "summary")
_WITH_BUCKETS = ("histogram", "gaugehistogram")


def _help(family: Family) -> Iterator[str]:
    if not family.help:
        yield "HELP is missing"


def _base_unit(family: Family) -> Iterator[str]:
    for word in family.name.split("_", MAX_WORDS)[:MAX_WORDS]:
        plain = next((word.removeprefix(p) for p in _PREFIXES if word.removeprefix(p) in _BASE_UNITS), word)
        if plain in _BASE_UNITS:
            if _BASE_UNITS[plain] != word:
                yield f"{word[:60]} instead of the base unit {_BASE_UNITS[plain]}"
            return


def _abbreviated(family: Family) -> Iterator[str]:
    for word in family.name.lower().split("_", MAX_WORDS)[1:MAX_WORDS]:
        if word in _ABBREVIATED:
            yield f"the unit {word} is abbreviated"
            return


def _counter_total(family: Family) -> Iterator[str]:
    if family.type == "counter" and not family.name.endswith("_total"):
        yield "the name of a counter must end in _total"


def _total_counter(family: Family) -> Iterator[str]:
    if family.type not in ("counter", "unknown") and family.name.endswith("_total"):
        yield f"the name of a {family.type} ends in _total, which is for counters"


def _reserved_suffix(family: Family) -> Iterator[str]:
    if family.type == "unknown":
        return
    if family.name.endswith("_bucket") and family.type not in _WITH_BUCKETS:
        yield f"the name of a {family.type} ends in _bucket, which is for parts of histograms"
    if family.name.endswith(("_count", "_sum")) and family.type not in (*_WITH_BUCKETS, "summary"):
        suffix = family.name.rpartition("_")[2]
        yield f"the name of a {family.type} ends in _{suffix}, which is for parts of histograms and summaries"


def _reserved_label(family: Family) -> Iterator[str]:
    if family.type == "unknown":
        return
    if "le" in family.labels and family.type not in _WITH_BUCKETS:
        yield f"a {family.type} has the label le, which is for histograms"
    if "quantile" in family.labels and family.type != "summary":
        yield f"a {family.type} has the label quantile, which is for summaries"


def _type_in_name(family: Family) -> Iterator[str]:
    if family.type in _NAMED_TYPES and family.type in family.name.lower().split("_", MAX_WORDS)[1:MAX_WORDS]:
        yield f"the name contains the type {family.type}"


def _colon(family: Family) -> Iterator[str]:
    if ":" in family.name:
        yield "colons are for the names of recording rules"


def _camel_name(family: Family) -> Iterator[str]:
    if _CAMEL.search(family.name):
        yield "words must be separated by underscores, not by capitals"


def _camel_label(family: Family) -> Iterator[str]:
    for label in sorted([label[:MAX_SHOWN_CHARACTERS] for label in family.labels]):
        if _CAMEL.search(label):
            yield f"words must be separated by underscores, not by capitals: label {label}"


def _duplicates(family: Family) -> Iterator[str]:
    if family.duplicates:
        yield f"{family.duplicates} samples repeat a series; Prometheus drops them"


RULES: dict[str, Callable[[Family], Iterator[str]]] = {
    "help_missing": _help,
    "unit_not_base": _base_unit,
    "unit_abbreviated": _abbreviated,
    "counter_without_total": _counter_total,
    "total_without_counter": _total_counter,
    "suffix_reserved": _reserved_suffix,
    "label_reserved": _reserved_label,
    "type_in_name": _type_in_name,
    "colon_in_name": _colon,
    "camel_case_name": _camel_name,
    "camel_case_label": _camel_label,
    "duplicate_series": _duplicates,
}
"""The rules, by their names in metrics and settings."""


def findings(family: Family) -> Iterator[Finding]:
    """Yield what is wrong with a family; one without samples is ignored, as in promtool."""
    if family.samples:
        for rule, check in RULES.items():
            for message in check(family):
                yield Finding(rule, family.name[:MAX_SHOWN_CHARACTERS], message)
