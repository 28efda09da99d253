"""Metrics as probers see them: a `Metric` is declared once, `Samples` holds one run's values.

Nothing here knows how samples are written out; `exposition` does. A `Samples` is also an ordinary
prometheus_client collector, so whatever consumes those can consume a probe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family

MetricType = Literal["gauge", "counter"]

LabelValues = tuple[str, ...]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class Metric:
    """The declaration of one metric family, made once as a module-level constant.

    Args:
        name: the full name, base unit as its suffix (``probe_dns_lookup_time_seconds``).
        help: one sentence for ``# HELP``.
        labels: label names, in the order in which values are given to `Probe.set`.
        type: ``gauge`` (the default: all that a single probe measures) or ``counter``.

    Raises:
        ValueError: the name or a label is not legal in the Prometheus data model.
    """

    __slots__ = ("arity", "help", "labels", "name", "type")

    def __init__(self, name: str, help: str, labels: tuple[str, ...] = (), *, type: MetricType = "gauge") -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a metric name")
        for label in labels:
            if not _LABEL.fullmatch(label):
                raise ValueError(f"{label!r} is not a label name (metric {name})")
        if len(set(labels)) != len(labels):
            raise ValueError(f"metric {name} declares a label twice")
        self.name = name
        self.help = help
        self.labels = labels
        self.arity = len(labels)
        self.type: MetricType = type

    def __repr__(self) -> str:
        return f"Metric({self.name!r}, labels={self.labels})"


class Samples:
    """The values of one probe run: created with the run, thrown away after the answer.

    Attributes:
        plain: the values of metrics without labels.
        labelled: those of metrics with labels, by the labels' values.
    """

    __slots__ = ("_registry", "labelled", "plain")

    def __init__(self) -> None:
        self.plain: dict[Metric, float] = {}
        self.labelled: dict[Metric, dict[LabelValues, float]] = {}
        self._registry: CollectorRegistry | None = None

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set one sample; `labels` are values in the order of the declaration.

        Raises:
            ValueError: the number of label values is not that of the declaration.
        """
        if len(labels) != metric.arity:
            raise ValueError(f"{metric.name} takes {metric.arity} label values: {metric.labels}")
        if not labels:
            self.plain[metric] = value
        elif metric in self.labelled:
            self.labelled[metric][labels] = value
        else:
            self.labelled[metric] = {labels: value}

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to one sample, which starts at 0."""
        self.set(metric, self.get(metric, *labels, default=0.0) + value, *labels)

    def get(self, metric: Metric, *labels: str, default: float = float("nan")) -> float:
        """The value of one sample, or `default` while it is not set."""
        return self.labelled.get(metric, {}).get(labels, default) if labels else self.plain.get(metric, default)

    @property
    def families(self) -> dict[Metric, dict[LabelValues, float]]:
        """All samples by metric and by the values of its labels, which may be none."""
        return {**{metric: {(): value} for metric, value in self.plain.items()}, **self.labelled}

    def with_labelled(self, labelled: dict[Metric, dict[LabelValues, float]]) -> Samples:
        """The same samples, but for those with labels."""
        other = Samples()
        other.plain, other.labelled, other._registry = self.plain, labelled, self._registry
        return other

    @property
    def registry(self) -> CollectorRegistry:
        """A registry of this run alone for prometheus_client's own types, made when first asked for."""
        if self._registry is None:
            self._registry = CollectorRegistry()
        return self._registry

    @property
    def has_registry(self) -> bool:
        """Whether an author has asked for `registry`."""
        return self._registry is not None

    def collect(self) -> Iterator[Family]:
        """All samples as prometheus_client's families, those of `registry` included."""
        for metric, samples in self.families.items():
            counts = metric.type == "counter"
            family = Family(metric.name.removesuffix("_total") if counts else metric.name, metric.help, metric.type)
            name = f"{family.name}_total" if counts else family.name
            for labels, value in samples.items():
                family.add_sample(name, dict(zip(metric.labels, labels, strict=True)), value)
            yield family
        if self._registry is not None:
            yield from self._registry.collect()
