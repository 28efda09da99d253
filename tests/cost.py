"""Judge what work costs by CPU time, measured in a unit of the same machine, so that its speed changes no verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
    return sorted(_measure() for _ in range(3))[1]


def _measure() -> float:
    started, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number
    return time.process_time() - started
