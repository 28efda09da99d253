"""Give memory back to the system after a burst of probes, such as 2,000 that hang until their timeouts.

How it works:

* Python's allocator returns memory in blocks of 1 MiB, and only if no object is left in them. After a burst a few
  thousand objects lie spread over all blocks: cached results, garbage in cycles, objects that Python keeps for reuse,
  and the names of attributes, which Python's cache of types keeps by their addresses.
* Once few probes are left, those objects are dropped: caches are emptied, and a full collection runs.
* Those that live on are created anew, close together: see `telemetry.compaction`.
* The C library keeps freed memory in the middle of its heap. `malloc_trim` returns whole pages of it (glibc only).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Awaitable, Callable, Sequence

from probe_exporter.addresses.cache import forget_all
from probe_exporter.telemetry.compaction import fill_holes, refill

CHECK_SECONDS = 1.0
"""Seconds between two looks at the number of probes."""

MIN_BURST = 300
"""Probes at once that count as a burst: they take some 6 MiB."""

MAX_LEFT = 100
"""Probes left at which the burst is over; a full collection is short then."""

QUIET_CHECKS = 2
"""Checks in a row that must find so few probes, so that a pause between two waves of probes does not count."""

KEPT_BY_LOOP = 255
"""Handles, timers, and iterators of futures that uvloop and asyncio keep for reuse, of each kind at most."""


class Trimmer:
    """Waits for bursts, and gives back what they leave."""

    def __init__(self, probes: Callable[[], int], recreate: Sequence[Callable[[], Awaitable[object]]] = ()) -> None:
        """
        Args:
            probes: returns the number of running probes.
            recreate: functions that create what outlives a burst anew, and return the old objects.
        """
        self._probes = probes
        self._recreate = recreate
        self._burst = False
        self._quiet = 0

    async def watch(self) -> None:
        """Give memory back after each burst, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if self.burst_is_over():
                drop_leftovers()
                for _ in range(2):
                    trim = await self._move_survivors()
                    drop_leftovers()
                if trim is not None:
                    await asyncio.to_thread(trim, 0)

    def burst_is_over(self) -> bool:
        """Return True once after each burst; call this at each check."""
        probes = self._probes()
        self._burst |= probes >= MIN_BURST
        self._quiet = self._quiet + 1 if probes <= MAX_LEFT else 0
        if not self._burst or self._quiet < QUIET_CHECKS:
            return False
        self._burst = False
        return True

    async def _move_survivors(self) -> Callable[[int], int] | None:
        """Create anew what outlives the burst, while all free places elsewhere are filled."""
        fillers = await fill_holes()
        trim = await asyncio.to_thread(_find_trim)
        old: list[object] = [fillers, await refill_loop()]
        for recreate in self._recreate:
            old.append(await recreate())
        return trim


async def refill_loop() -> object:
    """Replace what the event loop keeps for reuse; return the old objects."""
    loop = asyncio.get_running_loop()
    kinds = (lambda: loop.call_soon(_nothing), _cancelled_timer, lambda: loop.create_future().__await__())
    return [await refill(create, KEPT_BY_LOOP) for create in kinds]


def _cancelled_timer() -> asyncio.TimerHandle:
    timer = asyncio.get_running_loop().call_later(1, _nothing)
    timer.cancel()
    return timer


def _nothing() -> None:
    """For handles that do nothing."""


def drop_leftovers() -> None:
    """Drop all remembered results and collect all garbage, so that blocks without other objects are returned."""
    forget_all()
    gc.collect()
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache  # noqa: SLF001  # documented
    clear()


def _find_trim() -> Callable[[int], int] | None:
    """Return the function of glibc that returns free pages of its heap; None without glibc."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        from ctypes import CDLL  # noqa: PLC0415  # takes 0.6 MiB, for processes with bursts alone

        trim: Callable[[int], int] = CDLL(None).malloc_trim
        return trim
    return None
