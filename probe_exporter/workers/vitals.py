"""Tell a worker that hangs from one that waits for CPU, by what the kernel says of its threads (proc(5)).

A worker that owes the supervisor an answer either waits for CPU, or it hangs: it sleeps, was stopped, or computes
without a turn of its event loop. Only time that it sleeps, and CPU time that it uses, count as hanging. So a process
that gets no CPU is never said to hang, however late its answer is.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

RUNNABLE = "R"
"""The state of a thread that runs, or waits for CPU. So does one whose cgroup has used its CPU quota."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the threads of a process do now, and the seconds of CPU time that they have used."""

    runnable: bool = False
    cpu: float = 0.0


def look(process: int, proc: Path = Path("/proc")) -> Vitals:
    """Return the state of a process; one that can't be read counts as sleeping."""
    runnable, ticks = False, 0
    for thread in (proc / str(process) / "task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended
            # The name, in parentheses, may contain spaces and parentheses.
            fields = thread.read_text(errors="replace").rpartition(")")[2].split()
            runnable |= fields[0] == RUNNABLE
            ticks += int(fields[11]) + int(fields[12])
    return Vitals(runnable, ticks / TICKS_PER_SECOND)


def hung_for(before: Vitals, after: Vitals, seconds: float) -> float:
    """Return how long a process hung that owed an answer for `seconds`: it slept, or used CPU for something else."""
    if before.runnable or after.runnable:
        return max(0.0, after.cpu - before.cpu)
    return seconds
