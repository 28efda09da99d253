"""What comes where in an answer, whatever it is written in: families by name, series by their labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from probe_exporter.prober.metrics import LabelValues, Metric, Samples

Pairs = tuple[tuple[str, str], ...]
"""The labels of a series, sorted by name."""

MAX_PAGES_BYTES = 16 << 20
"""For the pages that an encoder caches, one for each list of series. Targets choose the values of some labels."""

_RANKED_BY = {"histogram": "le", "gaugehistogram": "le", "summary": "quantile"}

PlainKey = tuple[Metric, ...]
LabelledKey = tuple[tuple[Metric, tuple[LabelValues, ...]], ...]


class Series(NamedTuple):
    """One series of a run, and which of the run's values is its own."""

    labels: Pairs
    place: int


def key(samples: Samples) -> tuple[PlainKey, LabelledKey]:
    """Which series a run has set, in the order in which it did: what `arranged` takes, and a cache remembers."""
    labelled = samples.labelled
    return tuple(samples.plain), tuple([(metric, tuple(values)) for metric, values in labelled.items()])


def values(samples: Samples) -> list[float]:
    """The values of those series, in the same order."""
    found = [*samples.plain.values()]
    for family in samples.labelled.values():
        found += family.values()
    return found


def arranged(plain: PlainKey, labelled: LabelledKey) -> Iterator[tuple[Metric, list[Series]]]:
    """The metrics of a run by name, each with its series.

    Of two declarations of one name, against the rule, the first one set stands: the answer stays legal.
    """
    blocks: dict[str, tuple[Metric, list[Series]]] = {}
    for place, metric in enumerate(plain):
        blocks.setdefault(metric.name, (metric, [Series((), place)]))
    place = len(plain)
    for metric, label_values in labelled:
        rows = [Series(_pairs(metric, one), place + index) for index, one in enumerate(label_values)]
        blocks.setdefault(metric.name, (metric, sorted(rows)))
        place += len(label_values)
    for name in sorted(blocks):
        yield blocks[name]


def _pairs(metric: Metric, values: LabelValues) -> Pairs:
    return tuple(sorted(zip(metric.labels, values, strict=True)))


def base_name(family: Family) -> str:
    """A family's name without what its samples add to it."""
    return family.name.removesuffix("_total") if family.type == "counter" else family.name


def shown(family: Family) -> list[Sample]:
    """The samples of a family that are written: not when they were created, and no native histogram."""
    created = f"{base_name(family)}_created"
    return [sample for sample in family.samples if sample.name != created and sample.native_histogram is None]


def by_label_set(family: Family, samples: Iterable[Sample]) -> Mapping[Pairs, list[Sample]]:
    """A family's samples, those of one histogram, summary or state set together and in the collector's order."""
    ranked = family.name if family.type == "stateset" else _RANKED_BY.get(family.type)
    sets: dict[Pairs, list[Sample]] = {}
    for sample in samples:
        pairs = tuple(sorted([item for item in sample.labels.items() if item[0] != ranked]))
        sets.setdefault(pairs, []).append(sample)
    return dict(sorted(sets.items()))
