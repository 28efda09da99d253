"""Judge work by CPU time, measured in a unit of the same machine, so that neither its speed nor its load matters.

* To limit what a block costs, use `costs_at_most`; to limit each of many calls, `dearest_call_costs_at_most`.
* To limit the work of one turn of the event loop, use `short_turns`; to look at the turns, `turns` and `expect_short`.
* To compare two acts, use `cpu_seconds` for both, and `expect_cheaper`: for example, twice the input may cost twice as
  much. tests/test_suite.py refuses a plain `assert` on CPU time.

The host of a virtual machine may move away memory that was not used for some seconds. There the next use of a page
takes 20 us, not 0.3, and no calibration by additions shows it. So `seconds_of_slow_memory` is taken off what is
measured.

Others on the machine can only add to a measured cost, never take from it. So a test that raises `TooExpensive` runs
again, twice at most (`tests.repeating`), and fails if each run is too expensive.

`tests.clocks` says when to use something else.
"""

from __future__ import annotations

import asyncio
import gc
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PAGES = 1000
"""Pages of memory that work may use without being charged for slow memory: 4 MiB."""

_EACH_PAGE = slice(0, None, mmap.PAGESIZE)
_UNUSED = mmap.mmap(-1, PAGES * mmap.PAGESIZE)
_UNUSED[_EACH_PAGE] = bytes(PAGES)

MAX_TURN_MILLIONS = 2.0
"""Million additions that one turn may cost in `short_turns`: twice the budget of a turn, which is 20 ms in 2026,
because others on the machine disturb single measurements."""


class TooExpensive(AssertionError):
    """Work took more CPU time than it may."""


def expect_cheaper(spent: float, most: float, what: str) -> None:
    """Raise `TooExpensive` unless one CPU time is below another one, both in seconds."""
    if spent >= most:
        raise TooExpensive(f"{what}: {spent:.6f} s of CPU, and less than {most:.6f} s are expected")


# --- limits --------------------------------------------------------------------------------------------------


@contextmanager
def costs_at_most(millions: float) -> Iterator[None]:
    """Fail if the block takes more CPU time than so many million additions in Python (about 20 ms each in 2026)."""
    ignore_earlier_objects()
    started = time.process_time()
    yield
    spent = in_million_additions(time.process_time() - started)
    if spent >= millions:
        raise TooExpensive(f"as much CPU time as {spent:.0f} million additions, and at most {millions:g} are expected")


@contextmanager
def dearest_call_costs_at_most(millions: float) -> Iterator[Callable[..., None]]:
    """Yield a function that calls another one; fail if a call takes more CPU time than so many million additions."""
    spent = [0.0]

    def call(work: Callable[..., object], *arguments: object) -> None:
        started = time.thread_time()
        try:
            work(*arguments)
        finally:
            spent.append(time.thread_time() - started)

    ignore_earlier_objects()
    yield call
    dearest = in_million_additions(max(spent))
    if dearest >= millions:
        raise TooExpensive(f"a call takes as much CPU time as {dearest:.2f} million additions")


def in_million_additions(seconds: float) -> float:
    """Return how many million additions this machine does in so much CPU time, apart from the time for `PAGES`."""
    return max(0.0, seconds - seconds_of_slow_memory()) / seconds_of_a_million_additions()


def seconds_of_slow_memory() -> float:
    """Return the CPU time for writing to `PAGES` pages that are new, or were not used since the last call."""
    with mmap.mmap(-1, len(_UNUSED)) as new:
        return max(_write_to_pages(new), _write_to_pages(_UNUSED))


def _write_to_pages(memory: mmap.mmap) -> float:
    return cpu_seconds(lambda: memory.__setitem__(_EACH_PAGE, bytes(PAGES)))


def seconds_of_a_million_additions() -> float:
    """Return the median of five measurements: others on the machine disturb the work as they disturb these."""
    return 10 * sorted(cpu_seconds(_add_a_hundred_thousand_times) for _ in range(5))[2]


def _add_a_hundred_thousand_times() -> None:
    total = 0
    for number in range(100_000):
        total += number


# --- comparisons ---------------------------------------------------------------------------------------------


def cpu_seconds(act: Callable[[], object], *, runs: int = 1) -> float:
    """Return the CPU time of this process for one call, the least of several runs."""
    return min(_cpu_seconds(act) for _ in range(runs))


def _cpu_seconds(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


# --- turns of the event loop ---------------------------------------------------------------------------------


@contextmanager
def short_turns() -> Iterator[list[float]]:
    """Fail if one turn of the running loop takes more CPU time than `MAX_TURN_MILLIONS` while the block lasts.

    Yields:
        CPU seconds of this thread from one turn to the next, as `turns` does.
    """
    with turns() as taken:
        yield taken
    expect_short(max(taken, default=0.0))


def expect_short(seconds: float, what: str = "a turn of the event loop") -> None:
    """Raise `TooExpensive` unless so much CPU time is less than `MAX_TURN_MILLIONS`."""
    millions = in_million_additions(seconds)
    if millions >= MAX_TURN_MILLIONS:
        raise TooExpensive(f"{what}: as much CPU time as {millions:.1f} million additions")


@contextmanager
def turns() -> Iterator[list[float]]:
    """Run a task that asks for a turn again and again while the block lasts; yield the CPU time between its turns.

    Yields:
        CPU seconds of this thread from one turn to the next. Other programs and threads don't count.
    """
    taken: list[float] = []
    before = 0.0

    async def watch() -> None:
        nonlocal before
        taken.append(time.thread_time() - before)  # the turn that began the block
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            taken.append(time.thread_time() - before)

    ignore_earlier_objects()
    before = time.thread_time()
    watching = asyncio.get_running_loop().create_task(watch())
    try:
        yield taken
    finally:
        taken.append(time.thread_time() - before)  # the turn that ends the block
        watching.cancel()


def ignore_earlier_objects() -> None:
    """Keep the garbage collector from all objects that there are: that could fall into any turn or call.

    They stay ignored. tests/conftest.py does this once for the tests themselves, half a million objects, so that a
    collection takes milliseconds later on.
    """
    gc.collect()
    gc.freeze()
