"""What a finished probe says, for assertions: why it failed, and the seconds of its phases."""

from __future__ import annotations

from probe_exporter.prober.metrics import Metric
from probe_exporter.runner import Result


def why(result: Result) -> tuple[str, str] | None:
    """Return the reason and the phase of a failure; None for success."""
    return None if result.failure is None else (result.failure.reason, result.phase)


def reason_of(result: Result) -> str | None:
    """Return the reason of a failure; None for success."""
    return None if result.failure is None else result.failure.reason


def seconds_of_phases(result: Result, metric: Metric) -> dict[str, float]:
    """Return the seconds of each phase, from a metric with the one label ``phase``; none if it was not set."""
    return {phase: value for (phase,), value in result.probe.samples.labelled.get(metric, {}).items()}
