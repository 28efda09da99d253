"""Copy series of a scraped target into the result of its probe, by an allowlist and within limits.

Names that begin with ``probe_`` are dropped, so that a target can't forge what a probe measures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated

from annotated_types import Ge
from prometheus_client.metrics_core import Metric as Family
from pydantic import AfterValidator

from probe_exporter.prober.metrics import FixedCollector
from probe_exporter.prober.run import Probe
from probe_exporter.prober.turns import Turn
from probe_exporter.scrape.page import Sample, Selection
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Text
from probe_exporter.settings.regexps import Regexp

OURS = "probe_"
"""Prefix of the metrics that probes measure."""

_PREFIX = re.compile(r"(?:[a-zA-Z_][a-zA-Z0-9_]*)?")
_GLOB = re.compile(r"[a-zA-Z0-9_:*?]+")


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise ValueError("expected the beginning of a metric name, such as app_")
    if text.startswith(OURS):
        raise ValueError(f"names that begin with {OURS} are reserved for what probes measure")
    return text


def _glob(text: str) -> str:
    if not _GLOB.fullmatch(text):
        raise ValueError("expected a metric name, in which * and ? are wildcards")
    return text


class ReexposeSettings(Settings):
    """The ``reexpose`` block of the exporter prober.

    Args:
        names: names of metrics to copy, with ``*`` and ``?``.
        prefix: text to put before each name.
        limit: maximum number of series.
        label_limit: maximum number of labels of a series.
        label_value_length_limit: maximum number of characters of a label value.
    """

    names: tuple[Annotated[Text, AfterValidator(_glob)], ...] = ()
    prefix: Annotated[Text, AfterValidator(_prefix)] = ""
    limit: Annotated[int, Ge(1)] = 100
    label_limit: Annotated[int, Ge(1)] = 30
    label_value_length_limit: Annotated[int, Ge(1)] = 256

    @cached_property
    def _allowed(self) -> Regexp:
        """The globs as one regular expression."""
        globs = [name.replace("*", ".*").replace("?", ".") for name in self.names]
        return Regexp("|".join(globs))

    def selection(self) -> Selection:
        """Return the selection of the series to copy."""
        return Selection(self._fits, self._is_allowed, self.limit)

    def _is_allowed(self, name: str) -> bool:
        return bool(self.names) and not (self.prefix + name).startswith(OURS) and self._allowed.matches_all(name)

    def _fits(self, sample: Sample) -> bool:
        longest = max([len(value) for _, value in sample.labels], default=0)
        return len(sample.labels) <= self.label_limit and longest <= self.label_value_length_limit

    async def hand_over(self, probe: Probe, taken: Selection) -> None:
        """Add the series to the result of the probe, in short turns: 20,000 take 60 ms."""
        if taken.kept:
            probe.registry.register(FixedCollector(await self._families(taken.kept)))

    async def _families(self, samples: Iterable[Sample]) -> list[Family]:
        """Return the series as families that any format can represent.

        A part of a histogram or summary is a family of its own, without a type: other parts may be missing.
        """
        families: dict[str, Family] = {}
        turn = Turn()
        await turn.begin()
        for sample in samples:
            name = f"{self.prefix}{sample.name}"
            family = families.get(name)
            if family is None:
                type = _type(sample)
                base = name.removesuffix("_total") if type == "counter" else name
                families[name] = family = Family(base, f"{sample.name} of the target.", type)
            family.add_sample(name, dict(sample.labels), sample.value)
            await turn.give()
        return [*families.values()]


def _type(sample: Sample) -> str:
    if sample.type == "counter" and sample.name.endswith("_total"):
        return "counter"
    return "gauge" if sample.type in ("gauge", "info", "stateset") else "unknown"
