"""Metrics as probers see them: a `Metric` is declared once, `Samples` holds one run's values.

Nothing here knows how samples are written out; `exposition` does. A `Samples` is also an ordinary
prometheus_client collector, so whatever consumes those can consume a probe.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Literal

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

MetricType = Literal["gauge", "counter", "info", "histogram"]

LabelValues = tuple[str, ...]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class Metric:
    """The declaration of one metric family, made once as a module-level constant.

    Args:
        name: the full name, base unit as its suffix (``probe_dns_lookup_time_seconds``).
        help: one sentence for ``# HELP``.
        labels: label names, in the order in which values are given to `Probe.set`.
        type: ``gauge`` (the default: nearly all that a single probe measures), ``counter`` for what the target counts,
            ``info`` for labels alone (the name ends in ``_info``, the value is 1), ``histogram`` for `Probe.observe`.
        buckets: upper bounds of a histogram's buckets, rising; infinity is added.

    Raises:
        ValueError: the name or a label is not legal in the Prometheus data model, or they don't fit the type.
    """

    __slots__ = ("arity", "buckets", "help", "labels", "name", "type")

    def __init__(
        self,
        name: str,
        help: str,
        labels: tuple[str, ...] = (),
        *,
        type: MetricType = "gauge",
        buckets: tuple[float, ...] = (),
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a metric name")
        for label in labels:
            if not _LABEL.fullmatch(label):
                raise ValueError(f"{label!r} is not a label name (metric {name})")
        if len(set(labels)) != len(labels):
            raise ValueError(f"metric {name} declares a label twice")
        if type == "info" and not name.endswith("_info"):
            raise ValueError(f"the name of an info metric ends in _info: {name}")
        if type == "histogram" and (not buckets or list(buckets) != sorted(set(buckets)) or "le" in labels):
            raise ValueError(f"metric {name}: a histogram has buckets, rising ones, and no label le")
        if type != "histogram" and buckets:
            raise ValueError(f"metric {name} has buckets and is no histogram")
        self.name = name
        self.help = help
        self.labels = labels
        self.arity = len(labels) if type != "histogram" else -1  # which no `set` fits
        self.buckets = buckets
        self.type: MetricType = type

    def __repr__(self) -> str:
        return f"Metric({self.name!r}, labels={self.labels})"


SUFFIXES = {"counter": "_total", "info": "_info"}
"""What the samples of a family are called beyond the family's name."""


class NotASample(TypeError):
    """A prober gave something that can't be a sample of a metric; the message names the metric."""


def _checked_number(metric: Metric, value: object) -> float:
    """Return a value that is a number, or that becomes one as a Decimal does.

    Raises:
        NotASample: it is no number. Text that looks like one is none either.
    """
    if isinstance(value, float | int):
        return value
    if isinstance(value, str | bytes | bytearray):
        raise NotASample(f"metric {metric.name} was given {type(value).__name__} in place of a number")
    try:
        return float(value)  # type: ignore[arg-type]  # whether it can is what we find out
    except (TypeError, ValueError):
        raise NotASample(f"metric {metric.name} was given {type(value).__name__} in place of a number") from None


def _check_labels(metric: Metric, labels: LabelValues) -> None:
    """
    Raises:
        NotASample: a label value is no text, or text that UTF-8 can't encode.
    """
    for name, value in zip(metric.labels, labels, strict=False):
        if not isinstance(value, str):
            raise NotASample(f"metric {metric.name}: label {name} was given {type(value).__name__} in place of text")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise NotASample(f"metric {metric.name}: label {name} was given text that is not UTF-8") from None


def _misfit(metric: Metric) -> str:
    if metric.type == "histogram":
        return f"{metric.name} is a histogram: it takes observations, with {len(metric.labels)} label values"
    return f"{metric.name} takes {len(metric.labels)} label values: {metric.labels}"


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class Samples:
    """The values of one probe run: created with the run, thrown away after the answer.

    Attributes:
        plain: the values of metrics without labels.
        labelled: those of metrics with labels, by the labels' values.
    """

    __slots__ = ("_histograms", "_registry", "labelled", "plain")

    def __init__(self) -> None:
        self.plain: dict[Metric, float] = {}
        self.labelled: dict[Metric, dict[LabelValues, float]] = {}
        self._registry: CollectorRegistry | None = None
        self._histograms: dict[Metric, Histogram] | None = None

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set one sample; `labels` are values in the order of the declaration.

        Raises:
            ValueError: the number of label values is not that of the declaration.
            NotASample: the value is no number, or a label value is no text.
        """
        if len(labels) != metric.arity:
            raise ValueError(_misfit(metric))
        if type(value) is not float and type(value) is not int:  # quicker than isinstance
            value = _checked_number(metric, value)
        if not labels:
            self.plain[metric] = value
            return
        for label in labels:
            if type(label) is not str or not label.isascii():
                _check_labels(metric, labels)
        if metric in self.labelled:
            self.labelled[metric][labels] = value
        else:
            self.labelled[metric] = {labels: value}

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to one sample, which starts at 0.

        Raises:
            ValueError, NotASample: as `set` does.
        """
        self.set(metric, self.get(metric, *labels, default=0.0) + _checked_number(metric, value), *labels)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Count one value in a histogram.

        Raises:
            ValueError: the metric is no histogram, or the number of label values is not that of the declaration.
            NotASample: the value is no number, or a label value is no text.
        """
        if metric.type != "histogram":
            raise ValueError(f"{metric.name} is a {metric.type}, and only a histogram takes observations")
        if len(labels) != len(metric.labels):
            raise ValueError(_misfit(metric))
        value = _checked_number(metric, value)
        _check_labels(metric, labels)
        if self._histograms is None:
            self._histograms = {}
        histogram = self._histograms.get(metric)
        if histogram is None:  # rare enough to be prometheus_client's affair
            histogram = Histogram(
                metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry
            )
            self._histograms[metric] = histogram
        (histogram.labels(*labels) if labels else histogram).observe(value)

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

    def as_floats(self) -> Samples:
        """The same samples as the floats that Prometheus keeps; what is beyond them is infinite."""
        other = self.with_labelled(
            {
                metric: {labels: _as_float(value) for labels, value in series.items()}
                for metric, series in self.labelled.items()
            }
        )
        other.plain = {metric: _as_float(value) for metric, value in self.plain.items()}
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
            suffix = SUFFIXES.get(metric.type, "")
            family = Family(metric.name.removesuffix(suffix), metric.help, metric.type)
            name = f"{family.name}{suffix}"
            for labels, value in samples.items():
                family.add_sample(name, dict(zip(metric.labels, labels, strict=True)), value)
            yield family
        if self._registry is not None:
            yield from self._registry.collect()


class Given(Collector):
    """Families that are there already, for a registry.

    Series whose labels a target chooses go this way: what is written of `Samples` is remembered by its labels, which
    should be the same from probe to probe.
    """

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Family]:
        yield from self._families
