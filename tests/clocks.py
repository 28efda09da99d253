"""Time for tests: wait for an event, measure CPU time, and an event loop whose clock jumps instead of waiting."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Outcome = TypeVar("Outcome")

PATIENCE = 60.0
"""Seconds after which an awaited event counts as absent; no test waits so long on a machine that works."""


async def until(happened: Callable[[], object]) -> None:
    """Let the event loop run until `happened()` is true.

    Raises:
        AssertionError: it is still false after `PATIENCE` seconds.
    """
    give_up = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < give_up, "the awaited event did not happen"
        await asyncio.sleep(0.001)


def wait_until(happened: Callable[[], object]) -> None:
    """Block until `happened()` is true: for what threads and other processes do.

    Raises:
        AssertionError: it is still false after `PATIENCE` seconds.
    """
    give_up = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < give_up, "the awaited event did not happen"
        time.sleep(0.01)


def cpu_seconds(act: Callable[[], object], *, runs: int = 1) -> float:
    """Return the CPU time of this process for one call, the least of several runs."""
    return min(_cpu_seconds(act) for _ in range(runs))


def _cpu_seconds(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


TIMEOUTS = (0.5, 3.0, 12.0)
"""Seconds that a probe gets, one after another, where it must run out of time."""


def timed_out(
    probe: Callable[[float], Outcome], reached: Callable[[Outcome], object], timeouts: Sequence[float] = TIMEOUTS
) -> Outcome:
    """Return the outcome of a probe that had time enough to reach the phase in which it must run out of time.

    A slow machine may need all of a short timeout to get there, so the probe is run again with a longer one.

    Args:
        probe: runs it with a timeout in seconds.
        reached: whether an outcome is that of the phase.
    """
    *shorter, longest = timeouts
    for timeout in shorter:
        if reached(outcome := probe(timeout)):
            return outcome
    return probe(longest)


async def async_timed_out(
    probe: Callable[[float], Awaitable[Outcome]],
    reached: Callable[[Outcome], object],
    timeouts: Sequence[float] = TIMEOUTS,
) -> Outcome:
    """Do the same with a coroutine function."""
    *shorter, longest = timeouts
    for timeout in shorter:
        if reached(outcome := await probe(timeout)):
            return outcome
    return await probe(longest)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own, which no machine can slow down.

    Where tasks wait for timers alone, the clock jumps to the next timer at once. Where a socket is registered, the loop
    waits for it as usual, and the clock moves only when a timer comes first.
    """

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Return the simulated time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock, as if the loop had been blocked for so long."""
        self._now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for sockets; without any but the loop's own, returns at once and moves the clock instead."""

    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        only_the_loop_itself = len(self.get_map()) <= 1
        found = super().select(0 if only_the_loop_itself and timeout is not None else timeout)
        if not found and timeout is not None and timeout > 0:
            self._loop.advance(timeout)
        return found


def simulated() -> SimulatedLoop:
    """Return the running loop, which a test's `new_loop` fixture has made a `SimulatedLoop`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    return loop
