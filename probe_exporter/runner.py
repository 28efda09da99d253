"""Run one probe: enforce its deadline, turn every error into a failure, and set the metrics that all probes share.

How a run ends:

* The prober returns: success, unless it noted a failure with `Probe.fail`, or returned after its deadline.
* It raises `ProbeFailed`: failure, with that reason.
* The deadline passes: failure with a timeout reason. The deadline is a timer of the event loop, so a prober that
  blocks the loop (``time.sleep``, a long computation) delays it. `_blocked` judges such a run afterwards, and
  `telemetry.watchdog` logs what blocks while it does.
* It raises anything else: a bug. Log the traceback; failure with reason ``internal_error``.
* The task is cancelled, because the client disconnected or the exporter shuts down: `run` raises `CancelledError`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop

from probe_exporter.config.module import Module
from probe_exporter.prober.deadline import Deadline
from probe_exporter.prober.failure import TIMEOUTS, OutOfFiles, OwnReason, ProbeFailed, Reason, check_files
from probe_exporter.prober.metrics import Metric, NotASample, whole_nanoseconds
from probe_exporter.prober.run import Probe
from probe_exporter.telemetry.delays import Delays

if TYPE_CHECKING:
    from probe_exporter.runs.several import Run

SUCCESS = Metric("probe_success", "Whether the target passed the probe.")
DURATION = Metric("probe_duration_seconds", "Duration of the probe in seconds.")
TIMEOUT = Metric("probe_timeout_seconds", "Timeout of the probe in seconds.")
FAILURE = Metric(
    "probe_failure_info", "Why the probe failed and in which phase; absent on success.", ("reason", "phase")
)
LOOP_DELAY = Metric(
    "probe_event_loop_delay_seconds",
    "Longest delay of the exporter's event loop during the probe in seconds, which durations of phases may include; "
    "absent without --probe.event-loop-delay.",
)

MAX_DELAY_SECONDS = 0.1
"""Seconds that a deadline may be late. A success that comes later than this after its deadline is a timeout."""

LATE = "late_seconds"
"""The field of a failure and of a log line: how long after its deadline a prober that blocked returned."""

log = logging.getLogger(__name__)

_new = tuple.__new__  # a named tuple from a tuple, in half the time of its own function


class Result(NamedTuple):
    """A finished probe: what it measured, how it ended, and which module and target it was for."""

    module: Module
    target: str
    probe: Probe
    failure: ProbeFailed | None
    phase: str  # where it failed
    started: float  # Unix seconds
    duration: float  # seconds
    timeout: float  # seconds
    runs: tuple[Run, ...] = ()  # if the module wants several runs of its prober in one probe

    @property
    def success(self) -> bool:
        """Whether the target passed the probe."""
        return self.failure is None


async def run(
    module: Module,
    target: str,
    timeout: float,
    warning: str = "",
    delays: Delays | None = None,
    task: asyncio.Task[Any] | None = None,
) -> Result:
    """Probe a target with a module, for at most `timeout` seconds.

    Args:
        warning: about the request, for the probe's log; empty if there is none.
        delays: watches the event loop; None to report no delay.
        task: the running task, if the caller knows it: to ask for it takes a system call on Python 3.11.

    Raises:
        asyncio.CancelledError: the client disconnected, or the exporter shuts down.
    """
    clock = (asyncio.get_running_loop() if task is None else task.get_loop()).time
    policy = module.network
    probe = Probe(target, clock() + timeout, clock, None if policy is None else policy.for_run())
    started = time.time()
    probe.begun = started, module.prober.name, timeout, _RUN  # a fifth of the cost of `log`
    if warning:
        probe.log(warning, level=logging.WARNING)
    runs: tuple[Run, ...] = ()
    began = delays.begin() if delays is not None else 0.0
    try:
        if module.several is None:
            await _attempt(module, probe, task)
        else:
            runs = await module.several.perform(policy, probe, partial(_one_of_several, module))
    finally:
        if delays is not None:
            probe.set(LOOP_DELAY, whole_nanoseconds(delays.end(began)))
    probe.handshake = None  # the history keeps the probe, and a peer chooses the size of its certificates
    duration = whole_nanoseconds(time.perf_counter() - probe.started)  # finer than nanoseconds is noise
    if duration > timeout + MAX_DELAY_SECONDS and probe.failure is None:
        probe.fail(_blocked(module, probe, duration - timeout))
    ended = (module, target, probe, probe.failure, probe.failed_phase, started, duration, timeout, runs)
    result = _new(Result, ended)
    _judge(result)
    if module.filter is not None:
        probe.samples = module.filter.apply(probe.samples)
    return result


_RUN = run.__code__
"""The place of the log lines that every probe has: this function, though not a line of it."""


async def _attempt(module: Module, probe: Probe, task: asyncio.Task[Any] | None = None) -> None:
    """Call the prober under the deadline, and note every error as the probe's failure."""
    limit = Deadline(probe.deadline, task)
    try:
        with limit:
            if module.settings.examines_certificates:
                await _probe_and_examine(module, probe)
            else:
                await module.prober.probe(probe, module.settings)
    except ProbeFailed as failed:
        probe.fail(failed)
    except TimeoutError as error:
        probe.fail(_timed_out(probe) if limit.expired else _internal_error(probe, module, error))
    except Exception as error:
        probe.fail(_unexpected(probe, module, error))


async def _one_of_several(module: Module, probe: Probe) -> None:
    """Call the prober for one of several runs, whose reasons become labels before `_judge`."""
    await _attempt(module, probe)
    if probe.failure is not None:
        _refuse_undeclared(module, probe.failure)


async def _probe_and_examine(module: Module, probe: Probe) -> None:
    """Call the prober, then examine the certificates of its TLS connection, whether or not the target passed."""
    from probe_exporter.tls.loading import EXAMINATION, load  # noqa: PLC0415  # few modules need it

    await load(EXAMINATION)
    from probe_exporter.protocols.pki.examination import examine, prepare  # noqa: PLC0415  # few modules need it

    prepare(probe, module.settings)
    try:
        await module.prober.probe(probe, module.settings)
    except ProbeFailed as failed:
        probe.fail(failed)
    await examine(probe, module.settings)


def _timed_out(probe: Probe) -> ProbeFailed:
    phase = probe.current_phase
    during = f" (in phase {phase})" if phase else ""
    return ProbeFailed(TIMEOUTS.get(phase, Reason.TIMEOUT_PROBE), f"the probe's time ran out{during}")


def _unexpected(probe: Probe, module: Module, error: Exception) -> ProbeFailed:
    """Return the failure for an exception of a prober: a bug, unless no file descriptor was left, for an import say."""
    try:
        check_files(error, "the probe")
    except OutOfFiles as failed:
        return failed
    return _internal_error(probe, module, error)


def _internal_error(probe: Probe, module: Module, error: Exception) -> ProbeFailed:
    log.error("Unexpected exception in a prober", exc_info=error, extra={"fields": _names(module, probe)})
    what = str(error) if isinstance(error, NotASample) else f"{type(error).__name__} in the prober"
    return ProbeFailed(Reason.INTERNAL_ERROR, f"{what}; the exporter's log has more")


def _blocked(module: Module, probe: Probe, late: float) -> ProbeFailed:
    """Log a prober that blocked the event loop past its deadline, and return the failure.

    The loop runs timers before tasks, so it would have cancelled a task that was awaiting something when the deadline
    passed. Only a task that ran at that moment can return later: it blocked the loop, or (seldom) one that was ready
    in the same turn and ran before it. `telemetry.watchdog` logs the stack of what blocks for more than a second.

    Args:
        late: seconds between the deadline and the end.
    """
    fields = _names(module, probe) | {LATE: round(late, 3)}
    log.error("A prober blocked the event loop past its deadline", extra={"fields": fields})
    message = f"the prober blocked the event loop until {late:.1f} s after its deadline"
    return ProbeFailed(Reason.TIMEOUT_PROBE, message, **{LATE: round(late, 3)})


def _names(module: Module, probe: Probe) -> dict[str, object]:
    """Return the log fields that identify a run."""
    return {"module": module.name, "prober": module.prober.name, "target": probe.target}


def identify(frame: FrameType | None) -> dict[str, object]:
    """Return the log fields of the run that a stack belongs to; empty if it is none.

    Args:
        frame: the innermost frame of the event loop's thread.
    """
    while frame is not None:
        if frame.f_code is _attempt.__code__:
            return _names(frame.f_locals["module"], frame.f_locals["probe"])
        frame = frame.f_back
    return {}


def _judge(result: Result) -> None:
    """Set the metrics that every response has, and end the probe's log with the verdict."""
    probe, failure = result.probe, result.failure
    plain = probe.samples.plain  # `set` would check what a prober gives
    plain[SUCCESS] = 1 if failure is None else 0
    plain[DURATION] = result.duration
    plain[TIMEOUT] = result.timeout
    if failure is None:
        probe.succeeded = time.time(), result.duration, _RUN
        return
    _refuse_undeclared(result.module, failure)
    probe.set(FAILURE, 1, failure.reason.value, result.phase)
    verdict = {"reason": failure.reason.value, "phase": result.phase, "err": failure.message}
    # A prober chooses the names of its fields; they can't replace those of the verdict.
    details = {
        key: value for key, value in failure.fields.items() if key not in (*verdict, "level", "duration_seconds")
    }
    probe.log("Probe failed", level=logging.ERROR, **verdict, **details, duration_seconds=result.duration)


def _refuse_undeclared(module: Module, failure: ProbeFailed) -> None:
    """Replace a reason that the prober does not declare, so that the list of reasons stays closed."""
    if isinstance(failure.reason, OwnReason) and failure.reason not in module.prober.reasons:
        failure.message = f"{failure.message} (for the reason {failure.reason}, which the prober does not declare)"
        failure.reason = Reason.INTERNAL_ERROR


def run_in_new_loop(module: Module, target: str, timeout: float) -> Result:
    """Run one probe on a new event loop; `timeout` is in seconds."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        return loop.run(run(module, target, timeout))
