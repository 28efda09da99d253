"""Hold the event loop to its budget: no single turn may work long on what a peer sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cost import seconds_of_a_million_additions
from tests.turns import turns

MILLION_ADDITIONS = 1.0
"""The budget of one turn: 20 ms of CPU time in 2026. A test fails beyond twice that, since others on the machine
disturb single measurements."""


@contextmanager
def short_turns() -> Iterator[list[float]]:
    """Fail if one turn of the running loop takes more CPU time than the budget while the block lasts.

    Yields:
        CPU seconds of this thread from one turn to the next. Work in other threads does not count.
    """
    with turns() as taken:
        yield taken
    longest = max(taken, default=0.0) / seconds_of_a_million_additions()
    assert longest < 2 * MILLION_ADDITIONS, f"a turn took as much CPU time as {longest:.1f} million additions"
