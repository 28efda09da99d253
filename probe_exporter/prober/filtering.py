"""Drop metrics of a finished probe, as the keys `keep` and `drop` of its module say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from prometheus_client.metrics_core import Metric as Family

from probe_exporter.prober.metrics import SUFFIXES, FixedCollector, Samples

ALWAYS_KEPT = "probe_success"


class Pattern(Protocol):
    """A `settings.regexps.Regexp`."""

    def matches_all(self, text: str) -> bool:
        """Return whether the expression matches the whole of `text`."""


class MetricFilter:
    """The metrics that a module's probes expose, by name. ``probe_success`` is always one of them."""

    def __init__(self, keep: Sequence[Pattern], drop: Sequence[Pattern]) -> None:
        """
        Args:
            keep: of the names to expose; empty for all.
            drop: of names that are not exposed, even if `keep` has them.
        """
        self._keep = keep
        self._drop = drop
        self._known: dict[str, bool] = {}  # of declared metrics; the configuration bounds their number

    def keeps(self, name: str) -> bool:
        """Return whether a metric is exposed."""
        if name == ALWAYS_KEPT:
            return True
        wanted = not self._keep or any(pattern.matches_all(name) for pattern in self._keep)
        return wanted and not any(pattern.matches_all(name) for pattern in self._drop)

    def apply(self, samples: Samples) -> Samples:
        """Return the samples that are exposed."""
        kept = Samples()
        kept.plain = {metric: value for metric, value in samples.plain.items() if self._keeps_declared(metric.name)}
        kept.series = {one: value for one, value in samples.series.items() if self._keeps_declared(one[0].name)}
        if samples.has_registry:
            families = [family for family in samples.registry.collect() if self._keeps_family(family)]
            if families:
                kept.registry.register(FixedCollector(families))
        return kept

    def _keeps_declared(self, name: str) -> bool:
        kept = self._known.get(name)
        if kept is None:
            kept = self._known[name] = self.keeps(name)
        return kept

    def _keeps_family(self, family: Family) -> bool:
        return self.keeps(f"{family.name}{SUFFIXES.get(family.type, '')}")
