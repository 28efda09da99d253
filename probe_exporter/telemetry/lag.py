"""Measure the delay of the event loop: how late it runs a task that is due every half second."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable

TICK_SECONDS = 0.5

WINDOW_SECONDS = 15.0
"""Seconds for which a late tick counts: about one scrape interval."""


class Recent:
    """The last numbers of a row, without an object for each, which would outlive a burst of probes."""

    def __init__(self, length: int) -> None:
        self._numbers: array[float] = array("d", bytes(8 * length))
        self._next = 0

    def append(self, number: float) -> None:
        """Replace the oldest number."""
        self._numbers[self._next] = number
        self._next = (self._next + 1) % len(self._numbers)

    def longest(self) -> float:
        """Return the largest number."""
        return max(self._numbers)


class Lag:
    """The recent delays of one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: a monotonic clock in seconds. Not the loop's own, which stands still while the loop is blocked.
        """
        self._clock = clock
        self._recent = Recent(round(WINDOW_SECONDS / TICK_SECONDS))
        self._due = float("inf")

    async def watch(self) -> None:
        """Tick until cancelled."""
        while True:
            self._due = self._clock() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self._recent.append(self.overdue())

    def worst(self) -> float:
        """Return the longest delay in seconds, of the recent ticks and of the one that is due."""
        return max(self.overdue(), self._recent.longest())

    def overdue(self) -> float:
        """Return the seconds since the next tick was due, 0 if it is not due yet; any thread may call this."""
        return max(0.0, self._clock() - self._due)
