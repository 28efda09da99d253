"""Tests of workers' vital signs: waiting for CPU is not hanging."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from probe_exporter.workers.vitals import TICKS_PER_SECOND, Vitals, hung_for, look

PROCESS = 42


def write(proc: Path, *threads: tuple[str, int, int]) -> Path:
    """Write what the kernel says of a process whose threads have these states, and ticks of CPU time."""
    for number, (state, user, system) in enumerate(threads, PROCESS):
        stat = proc / str(PROCESS) / "task" / str(number) / "stat"
        stat.parent.mkdir(parents=True, exist_ok=True)
        numbers = f"1 42 42 0 -1 4194560 1000 0 0 0 {user} {system} 0 0 20 0 1 0 1"
        stat.write_text(f"{number} (a name (with) R 1 2) {state} {numbers}\n")
    return proc


@pytest.mark.parametrize(
    ("threads", "runnable", "ticks"),
    [
        ([("S", 3, 4)], False, 7),
        ([("R", 3, 4)], True, 7),
        ([("S", 1, 0), ("R", 2, 5)], True, 8),
        ([("T", 1, 0), ("D", 0, 0)], False, 1),
    ],
    ids=["sleeps", "runs", "one thread runs", "stopped"],
)
def test_vitals_of_all_threads(tmp_path: Path, threads: list[tuple[str, int, int]], runnable: bool, ticks: int) -> None:
    assert look(PROCESS, write(tmp_path, *threads)) == Vitals(runnable, ticks / TICKS_PER_SECOND)


def test_vitals_of_an_exited_process_are_those_of_a_sleeping_one(tmp_path: Path) -> None:
    assert look(PROCESS, tmp_path) == Vitals(False, 0.0)


def test_vitals_of_this_process() -> None:
    before = look(os.getpid())
    assert before.runnable, "this thread runs while it reads"
    while look(os.getpid()).cpu == before.cpu:
        pass
    sleeper = threading.Event()
    thread = threading.Thread(target=sleeper.wait)
    thread.start()
    assert look(os.getpid()).cpu > before.cpu
    sleeper.set()
    thread.join()


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [
        (Vitals(True, 1.0), Vitals(True, 1.0), 0.0),
        (Vitals(True, 1.0), Vitals(True, 1.25), 0.25),
        (Vitals(False, 1.0), Vitals(True, 1.25), 0.25),
        (Vitals(True, 1.0), Vitals(False, 1.25), 0.25),
        (Vitals(False, 1.0), Vitals(False, 1.0), 10.0),
        (Vitals(True, 1.0), Vitals(True, 0.5), 0.0),
    ],
    ids=["gets no CPU", "gets some", "woke up", "fell asleep", "sleeps", "a thread ended"],
)
def test_only_sleep_and_used_cpu_count_as_hanging(before: Vitals, after: Vitals, seconds: float) -> None:
    assert hung_for(before, after, 10.0) == pytest.approx(seconds)
