"""Count the series that a module makes for each target, before any target is probed: from declarations alone.

A metric with labels counts as often as its declaration says (`Metric.series`): once, or once for each phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from probe_exporter.config.module import Module
from probe_exporter.plugins.inventory import measured
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.metrics import Metric

OF_EVERY_PROBE = ("probe_success", "probe_duration_seconds", "probe_timeout_seconds")
OF_A_FAILURE = "probe_failure_info"
"""The metrics of the runner, which stands above this file; a test compares them."""

OF_TLS = ("probe_ssl_", "probe_tls_", "probe_address_ssl_")
"""What the names of metrics of a TLS connection begin with."""

OF_A_FAILED_TLS = "probe_ssl_verify_error_info"
OF_A_FAILED_RUN = ("probe_address_failure_info", "probe_attempt_failure_info")

MAX_PROBERS = 256


class SeriesInfo(BaseModel, frozen=True):
    """The most series that a target has, by kind of target: plain, over TLS, and after a failure of any kind.

    `tls` is null if the prober has no TLS. Labels whose values the target chooses count once.
    """

    plain: int
    tls: int | None
    failed: int


def series_of(module: Module) -> SeriesInfo:
    """Return how many series a module makes for each target."""
    metrics = [metric for metric in metrics_of(module) if module.filter is None or module.filter.keeps(metric.name)]
    tls = [metric for metric in metrics if metric.name.startswith(OF_TLS)]
    failures = [metric for metric in metrics if metric.name in (OF_A_FAILURE, OF_A_FAILED_TLS, *OF_A_FAILED_RUN)]
    everything, plain = _count(metrics), _count([one for one in metrics if one not in tls and one not in failures])
    has_tls = any(metric.name.startswith(OF_TLS) for metric in _measured(module.prober))
    return SeriesInfo(plain=plain, tls=everything - _count(failures) if has_tls else None, failed=everything)


def metrics_of(module: Module) -> list[Metric]:
    """Return the metrics that a module's probes may have: of every probe, its prober, its `metrics`, several runs."""
    values = [value.metric for value in getattr(module.settings, "metrics", ())]
    several = module.several.metrics if module.several else ()
    return [*_RUNNER, *_measured(module.prober), *values, *several, *_examined(module)]


def _examined(module: Module) -> list[Metric]:
    """Return the metrics of a closer look at certificates, which the runner sets for the module's prober."""
    if not module.settings.examines_certificates:
        return []
    from probe_exporter.protocols.pki.examination import metrics_for  # noqa: PLC0415  # few modules need it

    return metrics_for(module.settings)


_RUNNER = [
    *[Metric(name, "") for name in OF_EVERY_PROBE],
    Metric(OF_A_FAILURE, "", ("reason", "phase")),
]


def _count(metrics: Sequence[Metric]) -> int:
    return sum(metric.series for metric in metrics)


@lru_cache(maxsize=MAX_PROBERS)
def _measured(prober: Prober[Any]) -> tuple[Metric, ...]:
    """Return the metrics that a prober can set; the search of its code is too slow to be made for each module."""
    return tuple(measured(prober))
