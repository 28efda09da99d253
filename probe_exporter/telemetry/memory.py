"""Give memory back to the system after a burst of probes, such as 2,000 that hang until their timeouts.

How it works:

* Python's allocator returns memory in arenas of 1 MiB, and only if no object is left in them. After a burst a few
  thousand objects lie spread over all arenas: cached results, garbage in cycles, objects that Python keeps for reuse,
  and the names of attributes, which Python's cache of types keeps by their addresses.
* Once few probes are left, those objects are dropped: caches are emptied, and a full collection runs.
* Objects that live on are created anew, close together: see `telemetry.compaction`.
* The C library keeps freed memory in the middle of its heap. `malloc_trim` returns whole pages of it (glibc only).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import linecache
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence

from probe_exporter.cache import forget_all
from probe_exporter.telemetry.compaction import fill_holes, refill

log = logging.getLogger(__name__)

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

ROUNDS = 2
"""Times that changing structures are created anew. While they are, places are freed, and used: some stay behind."""

Recreate = Callable[[], Awaitable[object]]
"""Creates what outlives a burst anew, and returns the old objects."""


class Trimmer:
    """Waits for bursts, and gives back what they leave."""

    def __init__(
        self, probes: Callable[[], int], data: Sequence[Recreate] = (), structures: Sequence[Recreate] = ()
    ) -> None:
        """
        Args:
            probes: returns the number of running probes.
            data: create finished data anew, which stays where it is then.
            structures: create anew what changes all the time, `ROUNDS` times.
        """
        self._probes = probes
        self._data = data
        self._structures = structures
        self._burst = False
        self._quiet = 0

    async def watch(self) -> None:
        """Give memory back after each burst, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if self.burst_is_over():
                try:
                    await self.give_back()
                except Exception as error:  # another release of a library: what it keeps then costs some memory
                    log.error("Memory is not given back after a burst of probes", exc_info=error)

    def burst_is_over(self) -> bool:
        """Return True once after each burst; call this at each check."""
        probes = self._probes()
        self._burst |= probes >= MIN_BURST
        self._quiet = self._quiet + 1 if probes <= MAX_LEFT else 0
        if not self._burst or self._quiet < QUIET_CHECKS:
            return False
        self._burst = False
        return True

    async def give_back(self) -> None:
        """Drop what can be dropped, create anew what can't, and return the free memory to the system."""
        drop_leftovers()
        trim: Callable[[], object] | None = None
        for number in range(ROUNDS):
            kept: list[object] = [await fill_holes()]
            if number == 0:
                trim = await asyncio.to_thread(_find_trim)
                kept += [await recreate() for recreate in self._data]
            kept += [await recreate() for recreate in (refill_loop, *self._structures)]
            kept.clear()
            await asyncio.sleep(0)  # the former and the latter take a few milliseconds each
            drop_leftovers()
        if trim is not None:
            await asyncio.to_thread(trim)


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
    """Drop all remembered results and collect all garbage, so that arenas without other objects are returned."""
    forget_all()
    linecache.clearcache()  # source files of which lines were in a logged traceback
    gc.collect()
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache  # noqa: SLF001  # documented
    clear()


def _find_trim() -> Callable[[], object] | None:
    """Return the function of glibc that returns free pages of its heap; None without glibc.

    This uses the C module of ctypes: the part in Python takes 0.6 MiB.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import _ctypes  # noqa: PLC0415  # for processes with bursts alone

        address = _ctypes.dlsym(
            _ctypes.dlopen(None, 0),  # type: ignore[arg-type]  # the process itself
            "malloc_trim",
        )
        return lambda: _ctypes.call_function(address, (0,))
    return None
