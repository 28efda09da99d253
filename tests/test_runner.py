"""Tests of the runner: each run ends in time with a result, a reason and the metrics set before."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.exposition.encoding import encode
from probe_exporter.network import opening
from probe_exporter.prober.deadline import TICK
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import TIMEOUTS, OutOfFiles, OwnReason, ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.runner import DURATION, FAILURE, SUCCESS, TIMEOUT, Result, identify, run, run_in_new_loop
from probe_exporter.settings.block import Settings
from probe_exporter.telemetry.delays import TICK_SECONDS, Delays
from tests.clocks import SimulatedLoop, simulated
from tests.conftest import NewLoop
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("new_loop")

ROUNDING = 1e-6  # seconds

MEASURED = Metric("probe_measured", "Something.")
NAMED = Metric("probe_named", "Something with a name.", ("name",))

Act = Callable[[Probe], Awaitable[None]]


@pytest.fixture
def new_loop() -> NewLoop:
    """Return a loop with a simulated clock, so that deadlines expire at exact times."""
    return SimulatedLoop


def module(act: Act) -> Module:
    """Return a module whose prober runs `act`."""

    async def probe_act(probe: Probe, settings: Settings) -> None:
        await act(probe)

    return Module("a_module", Prober("act", Settings, probe_act), Settings(), 0.0, Place("test.yml"))


async def ran(act: Act, timeout: float = 5.0) -> Result:
    """Return the result of a run and check that it ended within its timeout."""
    started = simulated().time()
    result = await run(module(act), "a target", timeout)
    assert simulated().time() - started <= max(timeout, 0) + TICK + ROUNDING
    return result


def series(result: Result) -> dict[str, dict[tuple[str, ...], float]]:
    return {metric.name: samples for metric, samples in result.probe.samples.families.items()}


async def succeed(probe: Probe) -> None:
    probe.set(MEASURED, 1)


async def hang(probe: Probe) -> None:
    await asyncio.Event().wait()


# --- success -----------------------------------------------------------------------------------------------


async def test_run_succeeds_if_prober_returns() -> None:
    before, began = time.time(), time.perf_counter()
    result = await ran(succeed)
    took = time.perf_counter() - began
    assert result.success
    assert result.failure is None
    assert result.phase == ""
    assert (result.module.name, result.target, result.timeout) == ("a_module", "a target", 5.0)
    assert before <= result.started <= time.time()
    assert 0 < result.duration <= took
    assert series(result) == {
        "probe_measured": {(): 1},
        "probe_success": {(): 1},
        "probe_duration_seconds": {(): result.duration},
        "probe_timeout_seconds": {(): 5.0},
    }


async def test_run_reports_the_delay_of_the_event_loop_that_it_saw() -> None:
    now = 0.0
    delays = Delays(lambda: now)

    async def block(probe: Probe) -> None:
        nonlocal now
        now += 2.0

    result = await run(module(block), "a target", 5.0, delays=delays)
    assert result.success
    assert series(result)["probe_event_loop_delay_seconds"] == {(): pytest.approx(2.0 - TICK_SECONDS)}
    assert "probe_event_loop_delay_seconds" not in series(await run(module(block), "a target", 5.0))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        ImportError(f"libssl.so.3: cannot open shared object file: {os.strerror(errno.ENFILE)}"),
    ],
)
async def test_run_says_that_files_are_missing_if_a_prober_finds_none(error: Exception) -> None:
    """A prober that imports a library at its first probe finds none either, and that is no bug of its own."""

    async def import_late(probe: Probe) -> None:
        raise error

    failure = (await ran(import_late)).failure
    assert isinstance(failure, OutOfFiles)
    assert "no file descriptor left" in failure.message


async def test_cancelled_run_no_longer_watches_the_event_loop() -> None:
    delays = Delays()
    running = asyncio.create_task(run(module(hang), "a target", 5.0, delays=delays))
    await asyncio.sleep(0)
    assert delays.is_watching()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    delays.tick()
    assert not delays.is_watching()


async def test_run_passes_settings_and_remaining_time() -> None:
    seen: list[object] = []
    settings = Settings()

    async def probe_look(probe: Probe, given: Settings) -> None:
        seen.extend([probe.target, given, probe.remaining])

    await run(Module("m", Prober("look", Settings, probe_look), settings, 9.0, Place("test.yml")), "a target", 5.0)
    assert seen == ["a target", settings, 5.0]


async def test_run_logs_beginning_and_end() -> None:
    async def act(probe: Probe) -> None:
        probe.log("In between")

    events = (await ran(act)).probe.events
    assert [event.message for event in events] == ["Beginning probe", "In between", "Probe succeeded"]
    assert events[0].fields == {"prober": "act", "timeout_seconds": 5.0}


# --- failure -----------------------------------------------------------------------------------------------


async def test_run_fails_in_phase_that_raised() -> None:
    async def act(probe: Probe) -> None:
        probe.set(MEASURED, 1)
        with probe.phase("processing"):
            raise ProbeFailed(Reason.HTTP_STATUS, "the status code is 500", status_code=500)

    result = await ran(act)
    assert not result.success
    assert result.failure is not None
    assert (result.failure.reason, result.phase) == (Reason.HTTP_STATUS, "processing")
    assert series(result)["probe_success"] == {(): 0}
    assert series(result)["probe_measured"] == {(): 1}
    assert series(result)["probe_failure_info"] == {("http_status", "processing"): 1}
    last = result.probe.events[-1]
    assert (last.level, last.message) == (logging.ERROR, "Probe failed")
    assert last.fields == {
        "reason": "http_status",
        "phase": "processing",
        "err": "the status code is 500",
        "status_code": 500,
        "duration_seconds": result.duration,
    }


async def test_run_fails_if_failure_was_noted() -> None:
    async def act(probe: Probe) -> None:
        with probe.phase("validation"):
            probe.fail(ProbeFailed(Reason.HTTP_STATUS, "first"))
        probe.set(MEASURED, 1)

    result = await ran(act)
    assert series(result)["probe_failure_info"] == {("http_status", "validation"): 1}
    assert series(result)["probe_measured"] == {(): 1}


async def test_run_reports_first_failure() -> None:
    """Later failures, exceptions and timeouts are not reported."""

    async def note(probe: Probe) -> None:
        probe.fail(ProbeFailed(Reason.HTTP_STATUS, "first"))
        probe.fail(ProbeFailed(Reason.HTTP_BODY_MISMATCH, "second"))

    async def raise_later(probe: Probe) -> None:
        probe.fail(ProbeFailed(Reason.HTTP_STATUS, "first"))
        raise ProbeFailed(Reason.HTTP_BODY_MISMATCH, "second")

    async def run_out_later(probe: Probe) -> None:
        probe.fail(ProbeFailed(Reason.HTTP_STATUS, "first"))
        await asyncio.sleep(60)

    async def break_later(probe: Probe) -> None:
        probe.fail(ProbeFailed(Reason.HTTP_STATUS, "first"))
        raise RuntimeError

    for act in (note, raise_later, run_out_later, break_later):
        result = await ran(act, timeout=0.05)
        assert result.failure is not None
        assert result.failure.message == "first"
        assert list(result.probe.samples.families[FAILURE]) == [("http_status", "")]


# --- time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "reason"),
    [*TIMEOUTS.items(), ("validation", Reason.TIMEOUT_PROBE), ("", Reason.TIMEOUT_PROBE)],
)
async def test_run_timeout_reason_depends_on_phase(phase: str, reason: Reason) -> None:
    async def act(probe: Probe) -> None:
        probe.set(MEASURED, 1)
        if not phase:
            await asyncio.sleep(60)
        with probe.phase(phase):
            await asyncio.sleep(60)

    started = simulated().time()
    result = await ran(act, timeout=0.05)
    assert result.failure is not None
    assert result.failure.reason is reason
    assert result.phase == phase
    assert simulated().time() - started >= 0.05 - ROUNDING
    assert series(result)["probe_measured"] == {(): 1}
    assert series(result)["probe_timeout_seconds"] == {(): 0.05}


async def test_run_reports_own_timeout_error_as_internal_error() -> None:
    """The prober should have raised `ProbeFailed`; this is a bug of the prober."""

    async def act(probe: Probe) -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    result = await ran(act)
    assert result.failure is not None
    assert result.failure.reason is Reason.INTERNAL_ERROR


async def test_run_lets_prober_clean_up_after_timeout() -> None:
    """An exception raised during the clean-up is reported."""

    async def act(probe: Probe) -> None:
        try:
            with probe.phase("processing"):
                await asyncio.sleep(60)
        finally:
            probe.set(MEASURED, 1)

    async def turn(probe: Probe) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ProbeFailed(Reason.HTTP_STATUS, "turned") from None

    assert series(await ran(act, timeout=0.05))["probe_measured"] == {(): 1}
    result = await ran(turn, timeout=0.05)
    assert result.failure is not None
    assert result.failure.reason is Reason.HTTP_STATUS


@pytest.mark.parametrize("timeout", [0.0, -1.0])
async def test_run_without_time_fails_at_first_wait(timeout: float) -> None:
    async def act(probe: Probe) -> None:
        probe.set(MEASURED, 1)
        await asyncio.sleep(60)

    result = await ran(act, timeout=timeout)
    assert result.failure is not None
    assert result.failure.reason is Reason.TIMEOUT_PROBE


async def test_runs_end_each_at_their_own_timeout() -> None:
    async def act(probe: Probe) -> None:
        await asyncio.sleep(60)

    async def one(timeout: float) -> float:
        started = simulated().time()
        await run(module(act), "target", timeout)
        return simulated().time() - started

    timeouts = [0.02 * number for number in range(1, 21)]
    for timeout, took in zip(timeouts, await asyncio.gather(*map(one, timeouts)), strict=True):
        assert timeout - ROUNDING <= took <= timeout + TICK + ROUNDING


async def test_run_duration_includes_waiting() -> None:
    waited = 0.0

    async def act(probe: Probe) -> None:
        nonlocal waited
        began = time.perf_counter()
        time.sleep(0.02)  # noqa: ASYNC251  # the loop's clock is simulated, that of durations is not
        waited = time.perf_counter() - began

    assert (await ran(act)).duration >= round(waited, 9) > 0.01


async def test_run_accepts_huge_timeout() -> None:
    assert (await ran(succeed, timeout=1e300)).success


# --- bugs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("hush"), ValueError("hush"), AssertionError("hush"), OSError("hush")])
async def test_run_reports_bug_as_internal_error_with_traceback(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Metrics set before are kept; the error's text, which may be a secret, is only in the log."""

    async def act(probe: Probe) -> None:
        probe.set(MEASURED, 1)
        with probe.phase("processing"):
            raise error

    result = await ran(act)
    assert series(result)["probe_failure_info"] == {("internal_error", "processing"): 1}
    assert series(result)["probe_success"] == {(): 0}
    assert series(result)["probe_measured"] == {(): 1}
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert record.__dict__["fields"] == {"module": "a_module", "prober": "act", "target": "a target"}
    assert "hush" in caplog.text
    assert "hush" not in str([event.fields for event in result.probe.events])


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda probe: probe.set(MEASURED, "1"), "metric probe_measured was given str in place of a number"),
        (lambda probe: probe.add(MEASURED, None), "metric probe_measured was given NoneType in place of a number"),
        (lambda probe: probe.set(NAMED, 1, 5), "metric probe_named: label name was given int in place of text"),
    ],
)
async def test_run_names_metric_that_was_given_no_sample(give: Callable[[Probe], None], said: str) -> None:
    """Else the response could not be written, and would be lost with all that the probe measured."""

    async def act(probe: Probe) -> None:
        probe.set(MEASURED, 1)
        give(probe)

    result = await ran(act)
    assert series(result)["probe_failure_info"] == {("internal_error", ""): 1}
    assert series(result)["probe_measured"] == {(): 1}
    assert result.failure is not None
    assert result.failure.message == f"{said}; the exporter's log has more"
    assert encode(result.probe.samples)


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("declared", [True, False])
async def test_run_reports_own_reason_only_if_declared(noted: bool, declared: bool) -> None:
    """The list of reasons is closed, because probes are counted by reason."""
    tired = OwnReason("act_tired", "The actor sleeps.")

    async def probe_act(probe: Probe, settings: Settings) -> None:
        failed = ProbeFailed(tired, "it sleeps")
        if not noted:
            raise failed
        probe.fail(failed)

    prober = Prober("act", Settings, probe_act, reasons=(tired,) if declared else ())
    result = await run(Module("a_module", prober, Settings(), 0.0, Place("test.yml")), "a target", 5.0)
    reason = "act_tired" if declared else "internal_error"
    assert series(result)["probe_failure_info"] == {(reason, ""): 1}


async def test_run_logs_no_traceback_for_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def act(probe: Probe) -> None:
        raise ProbeFailed(Reason.HTTP_STATUS, "as it happens")

    await ran(act)
    assert caplog.records == []


# --- cancellation ------------------------------------------------------------------------------------------


async def test_run_cancelled_releases_socket() -> None:
    connected, left = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        left.set()
        writer.close()

    async def act(probe: Probe) -> None:
        connection = await opening.connect(probe, "127.0.0.1", port)
        try:
            await connection.read()
        finally:
            connection.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        running = asyncio.create_task(run(module(act), "target", 60.0))
        await asyncio.wait_for(connected.wait(), PATIENCE)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.wait_for(left.wait(), PATIENCE)


async def test_run_leaves_no_cancellation_behind() -> None:
    """The task continues with other work, such as writing the response."""
    await ran(succeed)
    task = asyncio.current_task()
    assert task is not None

    async def act(probe: Probe) -> None:
        await asyncio.sleep(60)

    await ran(act, timeout=0.02)
    assert task.cancelling() == 0
    await asyncio.sleep(0.05)


# --- declarations ------------------------------------------------------------------------------------------


def test_run_metrics_have_stable_names() -> None:
    assert [metric.name for metric in (SUCCESS, DURATION, TIMEOUT, FAILURE)] == [
        "probe_success",
        "probe_duration_seconds",
        "probe_timeout_seconds",
        "probe_failure_info",
    ]
    assert FAILURE.labels == ("reason", "phase")
    assert all(metric.type == "gauge" for metric in (SUCCESS, DURATION, TIMEOUT, FAILURE))


@pytest.mark.slow
@pytest.mark.parametrize("module", ["runner", "config.module"])
def test_module_imports_no_yaml(module: str) -> None:
    """Files of modules are read by others: a run needs none of that."""
    code = f"""
import probe_exporter.{module}, sys
print(*[name for name in sys.modules if name.split(".")[0] == "yaml" or name == "probe_exporter.config.loading"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


# --- probers that block ------------------------------------------------------------------------------------


def block(seconds: float) -> Act:
    """Return a prober that blocks the event loop, which is a bug in a prober."""

    async def act(probe: Probe) -> None:
        probe.set(MEASURED, 1)
        time.sleep(seconds)  # noqa: ASYNC251  (the subject of the test)

    return act


@pytest.mark.slow
def test_prober_that_blocks_past_its_deadline_is_a_timeout_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    result = run_in_new_loop(module(block(0.5)), "a target", 0.2)
    assert result.failure is not None
    assert result.failure.reason is Reason.TIMEOUT_PROBE
    assert result.failure.message.startswith("the prober blocked the event loop until ")
    assert series(result)["probe_success"] == {(): 0}
    assert series(result)["probe_measured"] == {(): 1}
    [record] = [record for record in caplog.records if record.name == "probe_exporter.runner"]
    fields = record.__dict__["fields"]
    assert (fields["module"], fields["prober"], fields["target"]) == ("a_module", "act", "a target")
    assert fields["late_seconds"] >= 0.3


@pytest.mark.slow
def test_prober_held_up_past_its_deadline_by_another_is_a_timeout_too(caplog: pytest.LogCaptureFixture) -> None:
    async def both() -> Result:
        waiting = asyncio.ensure_future(run(module(wait), "a target", 0.2))
        await asyncio.sleep(0)
        time.sleep(0.5)  # noqa: ASYNC251  (something else blocks the loop)
        event.set()
        return await waiting

    async def wait(probe: Probe) -> None:
        await event.wait()

    event = asyncio.Event()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        result = loop.run(both())
    assert result.failure is not None
    assert (result.failure.reason, result.failure.message) == (Reason.TIMEOUT_PROBE, "the probe's time ran out")
    assert "blocked" not in caplog.text


def test_identify_names_the_prober_on_a_stack() -> None:
    found: list[dict[str, object]] = []

    async def act(probe: Probe) -> None:
        found.append(identify(sys._getframe()))

    run_in_new_loop(module(act), "a target", PATIENCE)
    assert found == [{"module": "a_module", "prober": "act", "target": "a target"}]
    assert identify(sys._getframe()) == {}
