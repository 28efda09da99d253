"""The samples of several modules' probes as those of one answer: every series says which module measured it.

A name has one declaration in an answer, whatever the probers declare: the help of the first, all their labels, and
where they disagree about the type, it is a gauge, which may do whatever a number does.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from probe_exporter.addresses.cache import remembered
from probe_exporter.exposition import arrangement
from probe_exporter.exposition.arrangement import MAX_PAGES_BYTES, LabelledKey, PlainKey
from probe_exporter.prober.metrics import LabelValues, Metric, Samples

log = logging.getLogger(__name__)

LABEL = "module"


def merged(runs: Mapping[str, Samples]) -> Samples:
    """All samples of some probes in one.

    Args:
        runs: what each probe measured, by the name of its module.
    """
    values = [value for samples in runs.values() for value in arrangement.values(samples)]
    together = Samples()
    for family in _families(tuple([(module, *arrangement.key(samples)) for module, samples in runs.items()])):
        together.labelled[family.metric] = dict(
            zip(family.series, [values[place] for place in family.places], strict=True)
        )
    if any(samples.has_registry for samples in runs.values()):
        together.registry.register(_Registries(runs))
    return together


class _Joint(NamedTuple):
    """One family of an answer: its declaration, its series, and where their values are among those of all runs."""

    metric: Metric
    series: tuple[LabelValues, ...]
    places: tuple[int, ...]


def _weight(_key: object, families: list[_Joint]) -> int:
    """Return about the bytes of cached families: each series stands in the key and in a family."""
    return sum(500 + sum(200 + 2 * sum(map(sys.getsizeof, labels)) for labels in family.series) for family in families)


@remembered(MAX_PAGES_BYTES, _weight)  # modules set the same series in the same order, for each target
def _families(runs: tuple[tuple[str, PlainKey, LabelledKey], ...]) -> list[_Joint]:
    """Return the families of a response, for runs of some modules that have set some series."""
    measured = [
        (module, metric, values)
        for module, plain, labelled in runs
        for metric, series in (*[(metric, [()]) for metric in plain], *labelled)
        for values in series
    ]
    related: dict[str, list[Metric]] = {}
    for _, metric, _ in measured:
        relations = related.setdefault(_base(metric), [])
        if metric not in relations:
            relations.append(metric)
    declared = {
        name: _declaration(name, metrics) for metrics in related.values() for name in map(_sample_name, metrics)
    }
    found: dict[Metric, dict[LabelValues, int]] = {}
    for place, (module, metric, values) in enumerate(measured):
        joint = declared[_sample_name(metric)]
        own = dict(zip(_exported(metric.labels), values, strict=True))
        # The value of a label that a metric lacks is empty, which in Prometheus is the same.
        labels = (module, *[own.get(label, "") for label in joint.labels[1:]])
        found.setdefault(joint, {})[labels] = place
    return [_Joint(metric, tuple(places), tuple(places.values())) for metric, places in found.items()]


def _base(metric: Metric) -> str:
    """What two metrics share that could be taken for one family."""
    return metric.name.removesuffix("_total")


def _sample_name(metric: Metric) -> str:
    return f"{_base(metric)}_total" if metric.type == "counter" else metric.name


def _declaration(name: str, related: Sequence[Metric]) -> Metric:
    """What samples of this name are in an answer that has all of `related`."""
    types = {metric.type for metric in related}
    same = [metric for metric in related if _sample_name(metric) == name]
    labels = dict.fromkeys([label for metric in same for label in _exported(metric.labels)])
    return Metric(name, same[0].help, (LABEL, *labels), type=types.pop() if len(types) == 1 else "gauge")


def _exported(labels: Iterable[str]) -> tuple[str, ...]:
    """A metric's own labels; its own ``module`` steps aside as Prometheus would have it, as ``exported_module``."""
    taken, names = set(labels), list(labels)
    if LABEL in taken:
        name = LABEL
        while name in taken:
            name = f"exported_{name}"
        names[names.index(LABEL)] = name
    return tuple(names)


class _Registries(Collector):
    """What the authors of several probers put into their registries, as the families of one."""

    def __init__(self, runs: Mapping[str, Samples]) -> None:
        self._registries = {module: samples.registry for module, samples in runs.items() if samples.has_registry}

    def collect(self) -> Iterator[Family]:
        """Each family once, with the samples of all modules; of two types of one name, the first stands."""
        families: dict[str, Family] = {}
        for module, registry in self._registries.items():
            for family in registry.collect():
                first = families.setdefault(
                    family.name, Family(family.name, family.documentation, family.type, family.unit)
                )
                if first.type == family.type:
                    first.samples += [
                        sample._replace(labels={LABEL: module, **_relabelled(sample.labels)})
                        for sample in family.samples
                    ]
                else:
                    _warn_of_another_type(family.name)
        yield from families.values()


def _relabelled(labels: Mapping[str, str]) -> dict[str, str]:
    return dict(zip(_exported(labels), labels.values(), strict=True))


@lru_cache(maxsize=1024)  # once per name, not per probe
def _warn_of_another_type(name: str) -> None:
    log.warning(
        "The registries of two probers hold a metric of one name and different types: the second is left out",
        extra={"fields": {"metric": name}},
    )
