"""Order the families and series of an exposition, for the encoders of all formats: by name, then by labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from probe_exporter.prober.metrics import LabelValues, Metric, Samples

Pairs = tuple[tuple[str, str], ...]
"""The labels of a series, sorted by name."""

MAX_PAGES_BYTES = 16 << 20
"""Bytes of the pages that an encoder caches, one for each list of series. Targets choose the values of some labels."""

_RANKED_BY = {"histogram": "le", "gaugehistogram": "le", "summary": "quantile"}

PlainKey = tuple[Metric, ...]
LabelledKey = tuple[tuple[Metric, LabelValues], ...]


class Series(NamedTuple):
    """One series of a run, and the index of its value among the run's values."""

    labels: Pairs
    place: int


def key(samples: Samples) -> tuple[PlainKey, LabelledKey]:
    """Return the series that a run has set, in that order: the arguments of `sorted_series`, and the key of a cache."""
    return tuple(samples.plain), tuple(samples.series)


def values(samples: Samples) -> Iterator[float]:
    """Yield the values of the series of `key`, in the same order."""
    return chain(samples.plain.values(), samples.series.values())


def by_metric(plain: PlainKey, labelled: LabelledKey) -> Iterator[tuple[Metric, list[tuple[LabelValues, int]]]]:
    """Yield the metrics of a run, those without labels first, each with its label values and the places of its values.

    A place is an index of `values`.
    """
    for place, metric in enumerate(plain):
        yield metric, [((), place)]
    found: dict[Metric, list[tuple[LabelValues, int]]] = {}
    for place, (metric, labels) in enumerate(labelled, len(plain)):
        found.setdefault(metric, []).append((labels, place))
    yield from found.items()


def sorted_series(plain: PlainKey, labelled: LabelledKey) -> Iterator[tuple[Metric, list[Series]]]:
    """Yield the metrics of a run sorted by name, each with its series.

    If a prober declares one name twice, which is an error, the first one set is used, so that the exposition is valid.
    """
    blocks: dict[str, tuple[Metric, list[Series]]] = {}
    for metric, found in by_metric(plain, labelled):
        rows = [Series(_pairs(metric, labels), place) for labels, place in found]
        blocks.setdefault(metric.name, (metric, sorted(rows)))
    for name in sorted(blocks):
        yield blocks[name]


def _pairs(metric: Metric, values: LabelValues) -> Pairs:
    return tuple(sorted(zip(metric.labels, values, strict=True)))


def base_name(family: Family) -> str:
    """Return a family's name without the suffix of its samples."""
    return family.name.removesuffix("_total") if family.type == "counter" else family.name


def exported_samples(family: Family) -> list[Sample]:
    """Return the samples of a family that are exported: all but ``_created`` and native histograms."""
    created = f"{base_name(family)}_created"
    return [sample for sample in family.samples if sample.name != created and sample.native_histogram is None]


def by_label_set(family: Family, samples: Iterable[Sample]) -> Mapping[Pairs, list[Sample]]:
    """Group a family's samples by label set: those of one histogram, summary or state set, in the collector's order."""
    ranked = family.name if family.type == "stateset" else _RANKED_BY.get(family.type)
    sets: dict[Pairs, list[Sample]] = {}
    for sample in samples:
        pairs = tuple(sorted([item for item in sample.labels.items() if item[0] != ranked]))
        sets.setdefault(pairs, []).append(sample)
    return dict(sorted(sets.items()))
