"""Run one probe: its deadline, its verdict and the end of every error.

Whatever a prober does, `run` answers with a `Result`; the only thing that passes through is cancellation, which
means that nobody waits for the answer any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NamedTuple

import uvloop

from probe_exporter.config.module import Module
from probe_exporter.prober.deadline import Deadline
from probe_exporter.prober.failure import TIMEOUTS, OwnReason, ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric, NotASample
from probe_exporter.prober.run import Probe

SUCCESS = Metric("probe_success", "Whether the target passed the probe.")
DURATION = Metric("probe_duration_seconds", "How long the probe took, from its start to its verdict.")
TIMEOUT = Metric("probe_timeout_seconds", "The time this probe was given.")
FAILURE = Metric(
    "probe_failure_info", "Why the probe failed and in which phase; absent on success.", ("reason", "phase")
)

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """A finished probe: what it measured, how it ended and what it was asked."""

    module: Module
    target: str
    probe: Probe
    failure: ProbeFailed | None
    phase: str  # where it failed
    started: float  # Unix seconds
    duration: float  # seconds
    timeout: float  # seconds

    @property
    def success(self) -> bool:
        return self.failure is None


async def run(module: Module, target: str, timeout: float) -> Result:
    """Probe `target` with `module` for at most `timeout` seconds.

    Raises:
        asyncio.CancelledError: the client hung up or the exporter is ending.
    """
    clock = asyncio.get_running_loop().time
    policy = module.network
    probe = Probe(target, clock() + timeout, clock, None if policy is None else policy.for_run())
    started = time.time()
    before = time.perf_counter()
    probe.log("Beginning probe", prober=module.prober.name, timeout_seconds=timeout)
    await _attempt(module, probe)
    duration = round(time.perf_counter() - before, 9)  # what a clock tells beyond nanoseconds is noise
    result = Result(module, target, probe, probe.failure, probe.failed_phase, started, duration, timeout)
    _judge(result)
    return result


async def _attempt(module: Module, probe: Probe) -> None:
    """The prober's run under the deadline; however it ends otherwise than well, the run has failed."""
    limit = Deadline(probe.deadline)
    try:
        with limit:
            await module.prober.probe(probe, module.settings)
    except ProbeFailed as failed:
        probe.fail(failed)
    except TimeoutError as error:
        probe.fail(_timed_out(probe) if limit.expired else _our_bug(probe, module, error))
    except Exception as error:
        probe.fail(_our_bug(probe, module, error))


def _timed_out(probe: Probe) -> ProbeFailed:
    phase = probe.current_phase
    during = f" (in phase {phase})" if phase else ""
    return ProbeFailed(TIMEOUTS.get(phase, Reason.TIMEOUT_PROBE), f"the probe's time ran out{during}")


def _our_bug(probe: Probe, module: Module, error: Exception) -> ProbeFailed:
    log.error(
        "A prober failed in a way it should not: please report this",
        exc_info=error,
        extra={"fields": {"module": module.name, "prober": module.prober.name, "target": probe.target}},
    )
    what = str(error) if isinstance(error, NotASample) else f"{type(error).__name__} in the prober"
    return ProbeFailed(Reason.INTERNAL_ERROR, f"{what}; the exporter's log has more")


def _judge(result: Result) -> None:
    """Set what every answer holds and end the run's log with its verdict."""
    probe, failure = result.probe, result.failure
    probe.set(SUCCESS, 1 if failure is None else 0)
    probe.set(DURATION, result.duration)
    probe.set(TIMEOUT, result.timeout)
    if failure is None:
        probe.log("Probe succeeded", duration_seconds=result.duration)
        return
    if isinstance(failure.reason, OwnReason) and failure.reason not in result.module.prober.reasons:
        failure.message = f"{failure.message} (for the reason {failure.reason}, which the prober does not declare)"
        failure.reason = Reason.INTERNAL_ERROR
    probe.set(FAILURE, 1, failure.reason.value, result.phase)
    verdict = {"reason": failure.reason.value, "phase": result.phase, "err": failure.message}
    # A prober may name its fields as it likes; the verdict's own names stand.
    details = {
        key: value for key, value in failure.fields.items() if key not in (*verdict, "level", "duration_seconds")
    }
    probe.log("Probe failed", level=logging.ERROR, **verdict, **details, duration_seconds=result.duration)


def run_in_new_loop(module: Module, target: str, timeout: float) -> Result:
    """One probe, on an event loop of its own; `timeout` is in seconds."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        return loop.run(run(module, target, timeout))
