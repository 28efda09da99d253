"""The watchdog logs the stack of what blocks the event loop, once each time."""

from __future__ import annotations

import inspect
import linecache
import logging
from types import FrameType

import pytest

from probe_exporter.telemetry.lag import Lag
from probe_exporter.telemetry.watchdog import MAX_STACK_FRAMES, Watchdog, _stack


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watchdog(clock: Clock) -> Watchdog:
    """A watchdog of a loop whose next tick is due at 0."""

    def identify(frame: FrameType | None) -> dict[str, object]:
        assert frame is None, "no loop runs in this test"
        return {"prober": "act"}

    lag = Lag(clock)
    lag._due = 0.0
    return Watchdog(lag, identify)


def test_watchdog_is_silent_if_the_loop_is_a_little_late(
    watchdog: Watchdog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.now = 0.9
    watchdog.check()
    assert caplog.records == []


def test_watchdog_logs_a_blocked_loop_once_and_its_end(
    watchdog: Watchdog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for now in (1.1, 2.1, 3.1):
        clock.now = now
        watchdog.check()
    watchdog._lag._recent.append(watchdog._lag.overdue())
    watchdog._lag._due = 4.0
    watchdog.check()
    watchdog.check()
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, "The event loop is blocked"),
        (logging.WARNING, "The event loop is no longer blocked"),
    ]
    first, last = [record.__dict__["fields"] for record in caplog.records]
    assert (first["prober"], first["held_seconds"]) == ("act", 1.1)
    assert last == {"prober": "act", "held_seconds": 3.1}


def test_stack_has_the_innermost_frames_and_reads_no_source_file() -> None:
    linecache.clearcache()
    frame = inspect.currentframe()
    assert frame is not None
    frames = _stack(frame).split(", ")
    assert len(frames) == MAX_STACK_FRAMES
    place, name = frames[-1].split()
    assert (place.rpartition(":")[0], name) == (__file__, frame.f_code.co_name)
    assert __file__ not in linecache.cache
