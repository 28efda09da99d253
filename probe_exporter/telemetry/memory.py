"""Give memory back to the system after a burst of probes, such as 2,000 that hang until their timeouts.

How it works:

* Python's allocator returns memory in blocks of 1 MiB, and only if no object is left in them. After a burst a few
  thousand objects lie spread over all blocks: cached results, garbage in cycles, objects that Python keeps for reuse,
  and the names of attributes, which Python's cache of types keeps by their addresses.
* Once few probes are left, those objects are dropped: caches are emptied, and a full collection runs.
* The C library keeps freed memory in the middle of its heap. `malloc_trim` returns whole pages of it (glibc only).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable

from probe_exporter.addresses.cache import forget_all

CHECK_SECONDS = 1.0
"""Seconds between two looks at the number of probes."""

MIN_BURST = 300
"""Probes at once that count as a burst: they take some 6 MiB."""

MAX_LEFT = 100
"""Probes left at which the burst is over; a full collection is short then."""

QUIET_CHECKS = 2
"""Checks in a row that must find so few probes, so that a pause between two waves of probes does not count."""


class Trimmer:
    """Waits for bursts, and gives back what they leave."""

    def __init__(self, probes: Callable[[], int]) -> None:
        """
        Args:
            probes: returns the number of running probes.
        """
        self._probes = probes
        self._burst = False
        self._quiet = 0

    async def watch(self) -> None:
        """Give memory back after each burst, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if self.burst_is_over():
                drop_leftovers()
                await asyncio.to_thread(_trim)

    def burst_is_over(self) -> bool:
        """Return True once after each burst; call this at each check."""
        probes = self._probes()
        self._burst |= probes >= MIN_BURST
        self._quiet = self._quiet + 1 if probes <= MAX_LEFT else 0
        if not self._burst or self._quiet < QUIET_CHECKS:
            return False
        self._burst = False
        return True


def drop_leftovers() -> None:
    """Drop all remembered results and collect all garbage, so that blocks without other objects are returned."""
    forget_all()
    gc.collect()
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache  # noqa: SLF001  # documented
    clear()


def _trim() -> None:
    """Return free pages of the C library's heap; without glibc, do nothing."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        from ctypes import CDLL  # noqa: PLC0415  # takes 0.6 MiB, for processes with bursts alone

        CDLL(None).malloc_trim(0)
