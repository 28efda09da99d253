"""CPU time of a call, for the benchmarks that compare libraries in one process."""

from __future__ import annotations

import time
from collections.abc import Callable

ROUNDS = 7
LONG_ENOUGH = 0.05
"""Seconds of CPU for one round: far more than the clock's resolution."""


def cpu_per_call(call: Callable[[], object]) -> float:
    """Return the CPU seconds of one call: the best of some rounds, which other processes disturb least."""
    times = 1
    while _cpu(call, times) < LONG_ENOUGH:
        times *= 2
    return min(_cpu(call, times) for _ in range(ROUNDS)) / times


def _cpu(call: Callable[[], object], times: int) -> float:
    begun = time.process_time()
    for _ in range(times):
        call()
    return time.process_time() - begun
