"""Measure the longest delay of the event loop during each probe, for `probe_event_loop_delay_seconds`.

How it works:

* While probes run, a timer of the loop is due every `TICK_SECONDS`. How late it runs is a delay of the loop. All probes
  share the timer; without probes there is none.
* A probe asks for the longest delay since it began. So a delay matters only until a later one is at least as long: the
  list of delays is in order of time, each shorter than the one before, and a search finds the first since the begin.
* What blocks the loop between two ticks, for less than a tick, may be missed.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable

TICK_SECONDS = 0.005

RESOLUTION_SECONDS = 0.001
"""The resolution of the loop's timers: a shorter delay counts as none."""


class Delays:
    """The delays of one event loop while probes run."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """
        Args:
            clock: a monotonic clock in seconds that goes on while the loop is blocked.
        """
        self._clock = clock
        self._running = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._times: list[float] = []  # when each delay ended
        self._delays: list[float] = []  # how long it was, longest first

    def is_watching(self) -> bool:
        """Whether a tick is scheduled."""
        return self._timer is not None

    def begin(self) -> float:
        """Watch the loop for one more probe; return the time, for `end`."""
        self._running += 1
        if self._timer is None:
            self._times.clear()
            self._delays.clear()
            self._arm()
        return self._clock()

    def end(self, began: float) -> float:
        """Return the longest delay in seconds since a time of `begin`, and stop watching for that probe."""
        self._running -= 1
        self._note(self._clock())  # a tick may be due that has not run yet
        first = bisect_right(self._times, began)
        if first == len(self._times):
            return 0.0
        # The first delay may have begun before the probe: then only the part since counts, and the next may be longer.
        longest = max([min(self._delays[first], self._times[first] - began), *self._delays[first + 1 : first + 2]])
        return longest if longest > RESOLUTION_SECONDS else 0.0

    def tick(self) -> None:
        """Note how late this call is, and schedule the next one if probes are running."""
        self._timer = None
        self._note(self._clock())
        if self._running:
            self._arm()

    def _arm(self) -> None:
        self._due = self._clock() + TICK_SECONDS
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self.tick)

    def _note(self, now: float) -> None:
        delay = now - self._due
        if delay <= RESOLUTION_SECONDS:
            return
        while self._delays and self._delays[-1] <= delay:
            self._delays.pop()
            self._times.pop()
        self._delays.append(delay)
        self._times.append(now)
