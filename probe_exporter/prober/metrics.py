"""`Metric`, the declaration of a metric, and `Samples`, the values of one run.

`exposition` formats samples. `Samples` is also a collector of prometheus_client, for programs that use those.
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

LabelledSeries = dict[tuple["Metric", LabelValues], float]
"""The values of metrics with labels: one table for all of them, since a run sets few series of many metrics."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class Metric:
    """The declaration of a metric family, as a constant of a module.

    Args:
        name: the full name, with the base unit as suffix (``probe_dns_lookup_time_seconds``).
        help: the sentence for ``# HELP``.
        labels: label names, in the order of the values in `Probe.set`.
        type: ``gauge`` (the default, for nearly everything that one probe measures), ``counter`` for counters of the
            target, ``info`` for labels alone (the name ends in ``_info``, the value is 1), ``histogram`` for
            `Probe.observe`.
        buckets: upper bounds of a histogram's buckets, ascending; infinity is added.
        series: the usual number of series of one probe, for estimates: how many phases there are, for example. For a
            histogram it is the number of label values, each with all buckets.

    Raises:
        ValueError: the name or a label is illegal in the Prometheus data model, or does not fit the type.
    """

    __slots__ = ("arity", "buckets", "help", "labels", "name", "series", "type")

    def __init__(
        self,
        name: str,
        help: str,
        labels: tuple[str, ...] = (),
        *,
        type: MetricType = "gauge",
        buckets: tuple[float, ...] = (),
        series: int = 1,
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
            raise ValueError(f"metric {name}: a histogram has ascending buckets and no label le")
        if type != "histogram" and buckets:
            raise ValueError(f"metric {name} has buckets but is no histogram")
        self.name = name
        self.help = help
        self.labels = labels
        self.arity = len(labels) if type != "histogram" else -1  # so that `set` always refuses
        self.buckets = buckets
        self.type: MetricType = type
        self.series = series * (len(buckets) + 3) if buckets else series  # with +Inf, sum and count

    def __repr__(self) -> str:
        return f"Metric({self.name!r}, labels={self.labels})"


SUFFIXES = {"counter": "_total", "info": "_info"}
"""Suffixes that samples of these types have beyond the name of their family."""


TO_INTEGER = 1.5 * 2**52
"""Added to a float up to 2**51 and subtracted again, it rounds the float to an integer, as `round` does in twice the
time: the sum has no room for fractions."""


def whole_nanoseconds(seconds: float) -> float:
    """Round a duration of at most 26 days to nanoseconds, since more digits are noise."""
    return (seconds * 1e9 + TO_INTEGER - TO_INTEGER) / 1e9


class NotASample(TypeError):
    """A prober gave something that can't be a sample of a metric; the message names the metric."""


_NUMBERS = (float, int)  # as a constant: Python builds the type `float | int` anew each time


def _checked_number(metric: Metric, value: object) -> float:
    """Return a value that is a number, or that becomes one as a Decimal does.

    Raises:
        NotASample: it is no number. Text that looks like one is none either.
    """
    if isinstance(value, _NUMBERS):
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
        NotASample: a label value is no text. Text that UTF-8 can't encode is one: the encoders replace its characters.
    """
    for name, value in zip(metric.labels, labels, strict=False):
        if not isinstance(value, str):
            raise NotASample(f"metric {metric.name}: label {name} was given {type(value).__name__} in place of text")


class WrongLabels(NotASample, ValueError):
    """A prober gave another number of label values than the metric has labels."""

    def __init__(self, metric: Metric, given: LabelValues) -> None:
        number = len(metric.labels)
        wanted = f"{metric.name} takes {number} label value{'s' if number != 1 else ''}"
        if metric.type == "histogram":
            wanted = f"{metric.name} is a histogram: it takes observations, with {number} label values"
        names = f" ({', '.join(metric.labels)})" if metric.labels else ""
        values = f": {', '.join(map(repr, given))}" if given else ""
        super().__init__(f"{wanted}{names}, and was given {len(given)}{values}")


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class Samples:
    """The values of one run: created with the run, discarded after the response.

    Code of this package that runs in every probe may write to `plain` and `series` itself. `set` takes ten times as
    long, because it checks what the author of a prober gives.

    Attributes:
        plain: the values of metrics without labels.
        series: the values of metrics with labels, by metric and label values.
        has_registry: whether the prober has used `registry`.
    """

    __slots__ = ("_histograms", "_registry", "has_registry", "plain", "series")

    def __init__(self) -> None:
        self.plain: dict[Metric, float] = {}
        self.series: LabelledSeries = {}
        self.has_registry = False
        self._registry: CollectorRegistry | None = None
        self._histograms: dict[Metric, Histogram] | None = None

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set one sample; `labels` are label values in the order of the declaration.

        Raises:
            ValueError: the number of label values differs from the declaration.
            NotASample: the value is no number, or a label value is no text.
        """
        if len(labels) != metric.arity:
            raise WrongLabels(metric, labels)
        if type(value) is not float and type(value) is not int:  # quicker than isinstance
            value = _checked_number(metric, value)
        if not labels:
            self.plain[metric] = value
            return
        try:
            "".join(labels)  # the quickest way to find out whether all of them are texts
        except TypeError:
            _check_labels(metric, labels)
        self.series[metric, labels] = value

    def set_phase(self, metric: Metric, phase: str, seconds: float) -> None:
        """Set the duration of a phase in a metric with the one label ``phase``. The duration is known to be a number.

        Raises:
            ValueError, NotASample: as `set` does.
        """
        if metric.arity == 1 and type(phase) is str:
            self.series[metric, (phase,)] = seconds
        else:
            self.set(metric, seconds, phase)

    def add_phase(self, metric: Metric, phase: str, seconds: float) -> None:
        """Add to the duration of a phase, in a metric with the one label ``phase``; round it to nanoseconds.

        Args:
            phase: may be a member of a StrEnum.

        Raises:
            ValueError, NotASample: as `set` does.
        """
        if metric.arity == 1 and isinstance(phase, str):
            series, key = self.series, (metric, (phase,))
            series[key] = whole_nanoseconds(series.get(key, 0.0) + seconds)
        else:
            self.set(metric, seconds, phase)

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to one sample, which starts at 0.

        Raises:
            ValueError, NotASample: as `set` does.
        """
        self.set(metric, self.get(metric, *labels, default=0.0) + _checked_number(metric, value), *labels)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Count one value in a histogram.

        Raises:
            ValueError: the metric is no histogram, or the number of label values differs from the declaration.
            NotASample: the value is no number, or a label value is no text.
        """
        if metric.type != "histogram":
            raise ValueError(f"{metric.name} is a {metric.type}, and only a histogram takes observations")
        if len(labels) != len(metric.labels):
            raise WrongLabels(metric, labels)
        value = _checked_number(metric, value)
        _check_labels(metric, labels)
        if self._histograms is None:
            self._histograms = {}
        histogram = self._histograms.get(metric)
        if histogram is None:  # histograms are rare, so prometheus_client's cost is acceptable
            histogram = Histogram(
                metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry
            )
            self._histograms[metric] = histogram
        (histogram.labels(*labels) if labels else histogram).observe(value)

    def get(self, metric: Metric, *labels: str, default: float = float("nan")) -> float:
        """Return the value of one sample, or `default` if it is not set."""
        return self.series.get((metric, labels), default) if labels else self.plain.get(metric, default)

    @property
    def number(self) -> int:
        """The number of series."""
        number = len(self.plain) + len(self.series)
        if self.has_registry:
            number += sum([len(family.samples) for family in self.registry.collect()])
        return number

    @property
    def labelled(self) -> dict[Metric, dict[LabelValues, float]]:
        """The samples of metrics with labels, by metric."""
        found: dict[Metric, dict[LabelValues, float]] = {}
        for (metric, labels), value in self.series.items():
            found.setdefault(metric, {})[labels] = value
        return found

    @property
    def families(self) -> dict[Metric, dict[LabelValues, float]]:
        """All samples by metric and label values (an empty tuple for a metric without labels)."""
        return {**{metric: {(): value} for metric, value in self.plain.items()}, **self.labelled}

    def with_series(self, series: LabelledSeries) -> Samples:
        """Return the same samples with another `series`."""
        other = Samples()
        other.plain, other.series = self.plain, series
        other._registry, other.has_registry = self._registry, self.has_registry
        return other

    def as_floats(self) -> Samples:
        """Return the same samples as floats, as Prometheus stores them; larger numbers become infinite."""
        other = self.with_series({series: _as_float(value) for series, value in self.series.items()})
        other.plain = {metric: _as_float(value) for metric, value in self.plain.items()}
        return other

    @property
    def registry(self) -> CollectorRegistry:
        """The registry of this run, for prometheus_client's own types; made on first use."""
        if self._registry is None:
            self._registry = CollectorRegistry()
            self.has_registry = True
        return self._registry

    def collect(self) -> Iterator[Family]:
        """Yield all samples as families of prometheus_client, including those of `registry`."""
        for metric, samples in self.families.items():
            suffix = SUFFIXES.get(metric.type, "")
            family = Family(metric.name.removesuffix(suffix), metric.help, metric.type)
            name = f"{family.name}{suffix}"
            for labels, value in samples.items():
                family.add_sample(name, dict(zip(metric.labels, labels, strict=True)), value)
            yield family
        if self._registry is not None:
            yield from self._registry.collect()


class FixedCollector(Collector):
    """A collector of families that exist already.

    It is for series whose label values the target chooses: `exposition` caches the text of labels in `Samples`, which
    should be the same in every probe.
    """

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Family]:
        yield from self._families
