"""The samples of several modules' probes as those of one answer: every series says which module measured it.

A name has one declaration in an answer, whatever the probers declare: the help of the first, all their labels, and
where they disagree about the type, it is a gauge, which may do whatever a number does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from probe_exporter.metrics import LabelValues, Metric, Samples

log = logging.getLogger(__name__)

LABEL = "module"


def merged(runs: Mapping[str, Samples]) -> Samples:
    """All samples of some probes in one.

    Args:
        runs: what each probe measured, by the name of its module.
    """
    declarations: dict[str, dict[Metric, None]] = {}
    for samples in runs.values():
        for metric in samples.families:
            declarations.setdefault(_base(metric), {})[metric] = None
    together = Samples()
    for module, samples in runs.items():
        for metric, series in samples.families.items():
            joint = _joint(_sample_name(metric), tuple(declarations[_base(metric)]))
            for values, value in series.items():
                together.set(joint, value, *_joint_values(joint, metric, module, values))
    if any(samples.has_registry for samples in runs.values()):
        together.registry.register(_Registries(runs))
    return together


def _base(metric: Metric) -> str:
    """What two metrics share that could be taken for one family."""
    return metric.name.removesuffix("_total")


def _sample_name(metric: Metric) -> str:
    return f"{_base(metric)}_total" if metric.type == "counter" else metric.name


@lru_cache(maxsize=2048)  # always the same objects, so that the layout of an answer is worked out once
def _joint(name: str, related: tuple[Metric, ...]) -> Metric:
    """The one declaration of what samples of this name are, where the answer has all of `related`."""
    types = {metric.type for metric in related}
    same = [metric for metric in related if _sample_name(metric) == name]
    labels = dict.fromkeys([label for metric in same for label in _exported(metric.labels)])
    return Metric(name, same[0].help, (LABEL, *labels), type=types.pop() if len(types) == 1 else "gauge")


def _joint_values(joint: Metric, metric: Metric, module: str, values: LabelValues) -> LabelValues:
    """The values of a series' labels in the order of `joint`; a label that it has not is empty, which is the same."""
    given = dict(zip(_exported(metric.labels), values, strict=True))
    return (module, *[given.get(label, "") for label in joint.labels[1:]])


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
