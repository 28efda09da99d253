"""Judge work by CPU time, measured in a unit of the same machine, so that neither its speed nor its load matters.

To limit what an act costs, use `costs_at_most`. To compare two acts, use `cpu_seconds` for both: for example, one with
twice the input may cost twice as much. To check that work leaves turns of the event loop to others, use `turns`.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def costs_at_most(millions: float) -> Iterator[None]:
    """Fail if the block takes more CPU time than so many million additions in Python (about 20 ms each in 2026)."""
    started = time.process_time()
    yield
    spent = (time.process_time() - started) / seconds_of_a_million_additions()
    assert spent < millions, f"as much CPU time as {spent:.0f} million additions, and at most {millions:g} are expected"


def seconds_of_a_million_additions() -> float:
    """Return the median of three measurements: others on the machine disturb the work as they disturb these."""
    return sorted(cpu_seconds(_add_a_million_times) for _ in range(3))[1]


def _add_a_million_times() -> None:
    total = 0
    for number in range(1_000_000):
        total += number


def cpu_seconds(act: Callable[[], object], *, runs: int = 1) -> float:
    """Return the CPU time of this process for one call, the least of several runs."""
    return min(_cpu_seconds(act) for _ in range(runs))


def _cpu_seconds(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


@contextmanager
def turns() -> Iterator[list[float]]:
    """Run a task that asks for a turn again and again while the block lasts; yield the CPU time between its turns.

    Yields:
        CPU seconds of this thread from one turn to the next. Other programs and threads don't count.
    """
    taken: list[float] = []

    async def watch() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            taken.append(time.thread_time() - before)

    gc.collect()
    gc.freeze()  # what earlier tests left is not to be collected in one of the turns
    watching = asyncio.get_running_loop().create_task(watch())
    try:
        yield taken
    finally:
        watching.cancel()
        gc.unfreeze()
