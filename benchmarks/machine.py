"""Give the processes of a benchmark cores of their own, and tell whether the machine was too noisy to judge the result.

CPU time depends on what else the machine does: other programs push an exporter out of a core's caches, and a virtual
machine may lose the core to another one ("steal"). Neither can be corrected afterwards, so it is reported.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

MAX_SPREAD = 0.10
"""Spread of one exporter's rounds, (highest - lowest) / median, beyond which a difference of 10 % shows nothing."""

MAX_STEAL = 0.01
"""Share of the machine's time that the hypervisor gave to others."""

MAX_LOAD = 0.5
"""Load average per core before the benchmark begins."""

STEAL = 7  # the field of /proc/stat, after the name


class Cores(NamedTuple):
    """The cores of each role."""

    exporters: frozenset[int]
    targets: frozenset[int]
    load: frozenset[int]


def share(available: Collection[int]) -> Cores:
    """Divide cores: with three or more, load and targets get one each and the exporters the others.

    With two, load and targets share one, and the exporters may use both: on a single core, Go does without its idle
    threads, so that the original takes less CPU per probe than as people run it. A single core can't be divided.
    """
    every = sorted(available)
    if len(every) == 1:
        return Cores(*[frozenset(every)] * 3)
    if len(every) == 2:
        return Cores(frozenset(every), frozenset(every[1:]), frozenset(every[1:]))
    return Cores(frozenset(every[:-2]), frozenset(every[-2:-1]), frozenset(every[-1:]))


@contextlib.contextmanager
def on(cores: Collection[int]) -> Iterator[None]:
    """Run the processes that the block starts on these cores: a child has the affinity of its parent."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def spread(values: Sequence[float]) -> float:
    """Return the distance of the highest from the lowest value, as a share of the median."""
    return (max(values) - min(values)) / median(values)


def stolen(before: Sequence[int], after: Sequence[int]) -> float:
    """Return the share of the time between two results of `ticks` that the hypervisor gave to others."""
    passed = [late - early for early, late in zip(before, after, strict=True)]
    return passed[STEAL] / (sum(passed) or 1)


def ticks() -> list[int]:
    """Return the machine's time by kind: user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5))."""
    first, _, _ = Path("/proc/stat").read_text().partition("\n")
    return [int(field) for field in first.split()[1 : STEAL + 2]]


def complaints(load: float, cores: int, steal: float, spreads: dict[str, float]) -> list[str]:
    """Return why the machine was too noisy to judge the result; empty if it was quiet.

    Args:
        load: the load average before the benchmark.
        steal: from `stolen`.
        spreads: of the rounds, by the name of what was measured.
    """
    found = []
    if load > MAX_LOAD * cores:
        found.append(f"the load average was {load:.1f} before the benchmark, on {cores} cores")
    if steal > MAX_STEAL:
        found.append(f"the hypervisor gave {steal:.1%} of the time to others")
    for name, value in spreads.items():
        if value > MAX_SPREAD:
            found.append(f"the rounds of {name} differ by {value:.0%}")
    return found
