"""Merge the samples of several probes into one exposition; each series gets the label ``module``, or another one.

A name has one declaration there, even if probers declare it differently: the help of the first, the labels of all, and
the type gauge if the types differ, since any value is valid for a gauge.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from probe_exporter.cache import remembered
from probe_exporter.exposition import sorting
from probe_exporter.exposition.sorting import MAX_PAGES_BYTES, LabelledKey, PlainKey
from probe_exporter.prober.metrics import LabelValues, Metric, Samples

log = logging.getLogger(__name__)

LABEL = "module"


def merged(runs: Mapping[str, Samples], label: str = LABEL) -> Samples:
    """Return all samples of several probes as one.

    Args:
        runs: the samples of each probe, by the value of its label.
        label: the name of the label.
    """
    values = [value for samples in runs.values() for value in sorting.values(samples)]
    together = Samples()
    found = _merged((label, tuple([(value, *sorting.key(samples)) for value, samples in runs.items()])))
    together.series = dict(zip(found.series, [values[place] for place in found.places], strict=True))
    if any(samples.has_registry for samples in runs.values()):
        together.registry.register(_Registries(runs, label))
    return together


class _Merged(NamedTuple):
    """The series of the result, and the places of their values among all runs' values."""

    series: LabelledKey
    places: tuple[int, ...]


def _weight(_key: object, merged: _Merged) -> int:
    """Return about the bytes of a cached result: each series stands in the key and in the result."""
    return sum([350 + 2 * sum(map(sys.getsizeof, labels)) for _, labels in merged.series])


@remembered(MAX_PAGES_BYTES, _weight)  # modules set the same series in the same order, for each target
def _merged(given: tuple[str, tuple[tuple[str, PlainKey, LabelledKey], ...]]) -> _Merged:
    """Return the series of a response, for the name of the label and runs that have set some series."""
    label, runs = given
    measured: list[tuple[str, Metric, LabelValues, int]] = []
    first = 0
    for module, plain, labelled in runs:
        measured += [
            (module, metric, values, first + place)
            for metric, found in sorting.by_metric(plain, labelled)
            for values, place in found
        ]
        first += len(plain) + len(labelled)
    related: dict[str, list[Metric]] = {}
    for _, metric, _, _ in measured:
        relations = related.setdefault(_base(metric), [])
        if metric not in relations:
            relations.append(metric)
    declared = {
        name: _declaration(name, metrics, label) for metrics in related.values() for name in map(_sample_name, metrics)
    }
    places: dict[Metric, dict[LabelValues, int]] = {}
    for module, metric, values, place in measured:
        shared = declared[_sample_name(metric)]
        own = dict(zip(_exported(metric.labels, label), values, strict=True))
        # A label that a metric lacks gets an empty value, which Prometheus treats as absent.
        labels = (module, *[own.get(other, "") for other in shared.labels[1:]])
        places.setdefault(shared, {})[labels] = place
    return _Merged(
        tuple([(metric, labels) for metric, found in places.items() for labels in found]),
        tuple([place for found in places.values() for place in found.values()]),
    )


def _base(metric: Metric) -> str:
    """Return a metric's name without ``_total``; metrics with equal results could be taken for one family."""
    return metric.name.removesuffix("_total")


def _sample_name(metric: Metric) -> str:
    return f"{_base(metric)}_total" if metric.type == "counter" else metric.name


def _declaration(name: str, related: Sequence[Metric], label: str) -> Metric:
    """Return the declaration for samples of this name in an exposition that has all of `related`."""
    types = {metric.type for metric in related}
    same = [metric for metric in related if _sample_name(metric) == name]
    labels = dict.fromkeys([own for metric in same for own in _exported(metric.labels, label)])
    return Metric(name, same[0].help, (label, *labels), type=types.pop() if len(types) == 1 else "gauge")


def _exported(labels: Iterable[str], label: str) -> tuple[str, ...]:
    """Return a metric's own labels; its own ``module`` becomes ``exported_module``, as Prometheus renames it."""
    taken, names = set(labels), list(labels)
    if label in taken:
        name = label
        while name in taken:
            name = f"exported_{name}"
        names[names.index(label)] = name
    return tuple(names)


class _Registries(Collector):
    """Collects the registries of several probers as one."""

    def __init__(self, runs: Mapping[str, Samples], label: str) -> None:
        self._label = label
        self._registries = {module: samples.registry for module, samples in runs.items() if samples.has_registry}

    def collect(self) -> Iterator[Family]:
        """Yield each family once, with the samples of all modules; if types differ, the first is used."""
        families: dict[str, Family] = {}
        for module, registry in self._registries.items():
            for family in registry.collect():
                first = families.setdefault(
                    family.name, Family(family.name, family.documentation, family.type, family.unit)
                )
                if first.type == family.type:
                    first.samples += [
                        sample._replace(labels={self._label: module, **_relabelled(sample.labels, self._label)})
                        for sample in family.samples
                    ]
                else:
                    _warn_of_another_type(family.name)
        yield from families.values()


def _relabelled(labels: Mapping[str, str], label: str) -> dict[str, str]:
    return dict(zip(_exported(labels, label), labels.values(), strict=True))


@lru_cache(maxsize=1024)  # once per name, not per probe
def _warn_of_another_type(name: str) -> None:
    log.warning(
        "The registries of two probers hold a metric of one name and different types: the second is left out",
        extra={"fields": {"metric": name}},
    )
