"""`Turn`: let other tasks run between two pieces of work, whenever enough time has passed."""

from __future__ import annotations

import asyncio
import time

TURN_SECONDS = 0.005
"""Seconds of work after which other tasks run."""


class Turn:
    """The time since other tasks ran."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = time.perf_counter() + TURN_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether it is time to let other tasks run."""
        return time.perf_counter() > self._ends

    async def give(self) -> None:
        """Let other tasks run if it is time. Call it after each small piece of work."""
        if self.is_over:
            await asyncio.sleep(0)
            self._ends = time.perf_counter() + TURN_SECONDS
