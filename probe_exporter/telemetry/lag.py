"""How late the event loop runs what is due: each tick tells afterwards, and whoever asks sees the one overdue."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

EVERY = 0.5
"""Seconds between two ticks."""

REMEMBERED = 15.0
"""Seconds for which a late tick counts: about one scrape interval."""


class Lag:
    """The delays of one event loop of late.

    Args:
        clock: seconds, without jumps; not the loop's own, which stands still as long as the loop does.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent = deque([0.0], maxlen=round(REMEMBERED / EVERY))
        self._due = float("inf")

    async def watch(self) -> None:
        """Tick until cancelled."""
        while True:
            self._due = self._clock() + EVERY
            await asyncio.sleep(EVERY)
            self._recent.append(self._overdue())

    def worst(self) -> float:
        """The longest delay in seconds among the last ticks and the one that should have come by now."""
        return max(self._overdue(), *self._recent)

    def _overdue(self) -> float:
        return max(0.0, self._clock() - self._due)
