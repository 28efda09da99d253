"""Judge what work costs by CPU time, measured in a unit of the same machine, so that its speed changes no verdict."""

from __future__ import annotations

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


@contextmanager
def dearest_call_costs_at_most(millions: float) -> Iterator[Callable[..., None]]:
    """Yield a function that calls another one; fail if a call takes more CPU time than so many million additions.

    What earlier tests have left is not collected in the block, because that could fall into any call.
    """
    spent = [0.0]

    def call(work: Callable[..., object], *arguments: object) -> None:
        started = time.thread_time()
        try:
            work(*arguments)
        finally:
            spent.append(time.thread_time() - started)

    gc.collect()
    gc.freeze()
    try:
        yield call
    finally:
        gc.unfreeze()
    dearest = max(spent) / seconds_of_a_million_additions()
    assert dearest < millions, f"a call takes as much CPU time as {dearest:.2f} million additions"


def seconds_of_a_million_additions() -> float:
    """Return the median of three measurements: others on the machine disturb the work as they disturb these."""
    return sorted(_measure() for _ in range(3))[1]


def _measure() -> float:
    started, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number
    return time.process_time() - started
