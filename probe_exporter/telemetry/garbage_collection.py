"""Run full garbage collections while few objects are alive, so that they do not hold the event loop.

A full collection goes through all objects: 50 ms while 4,000 probes wait for their targets, and Python starts one
whenever enough of them have survived the collections of young objects. Those run as usual. Nearly all objects of a
probe are freed without any collection, so a full one can wait.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CHECK_SECONDS = 1.0
"""Seconds between two looks at whether to collect."""

MIN_PENDING = 10
"""Collections of the second generation after which a full one is due: Python's own default."""

MAX_BUSY = 200
"""Probes and connections up to which a full collection is short: about 5 ms."""

MAX_WAIT_SECONDS = 60.0
"""Seconds after which a collection that is due runs in any case."""

MAX_GROWTH = 3
"""Collections of the second generation between two looks, which is some 20,000 more objects, up to which nothing
large is being made. While a thread reads a large file, a full collection goes through all of it: 2 s for 4 MiB."""

_NEVER = 2**31 - 1


class Collector:
    """Decides when to collect."""

    def __init__(self, busy: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            busy: returns the number of running probes and open connections.
            clock: a monotonic clock in seconds.
        """
        self._busy = busy
        self._clock = clock
        self._last = clock()
        self._pending = 0

    @contextmanager
    def instead_of_python(self) -> Iterator[None]:
        """Keep Python from full collections within the block; `watch` runs them."""
        before = gc.get_threshold()
        gc.set_threshold(*before[:2], _NEVER)
        try:
            yield
        finally:
            gc.set_threshold(*before)

    async def watch(self) -> None:
        """Collect whenever it is due, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.collect_if_due()

    def collect_if_due(self) -> None:
        """Collect if a collection is due and will be short, or is overdue."""
        before, self._pending = self._pending, gc.get_count()[2]
        if self._pending < MIN_PENDING:
            return
        short = self._busy() <= MAX_BUSY and self._pending - before <= MAX_GROWTH
        if short or self._clock() - self._last > MAX_WAIT_SECONDS:
            gc.collect()
            self._pending = 0
            self._last = self._clock()
