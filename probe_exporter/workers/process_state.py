"""Distinguish a worker that hangs from one that waits for CPU, by the states of its threads in /proc (proc(5)).

A worker that has not answered the supervisor either waits for CPU, or it hangs: it sleeps, was stopped, or computes
without a turn of its event loop. Only the time that it sleeps and the CPU time that it uses count as hanging. So a
process without CPU never counts as hanging, however late its answer is.
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
class ProcessState:
    """The state of a process.

    Attributes:
        runnable: whether a thread runs or waits for CPU.
        cpu: seconds of CPU time that its threads have used.
    """

    runnable: bool = False
    cpu: float = 0.0


def read_state(process: int, proc: Path = Path("/proc")) -> ProcessState:
    """Return the state of a process; one that can't be read counts as sleeping."""
    runnable, ticks = False, 0
    for thread in (proc / str(process) / "task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended
            # The name, in parentheses, may contain spaces and parentheses.
            fields = thread.read_text(errors="replace").rpartition(")")[2].split()
            runnable |= fields[0] == RUNNABLE
            ticks += int(fields[11]) + int(fields[12])
    return ProcessState(runnable, ticks / TICKS_PER_SECOND)


def hang_seconds(before: ProcessState, after: ProcessState, seconds: float) -> float:
    """Return the part of `seconds` without an answer that counts as hanging: sleep, or CPU time for something else."""
    if before.runnable or after.runnable:
        return max(0.0, after.cpu - before.cpu)
    return seconds
