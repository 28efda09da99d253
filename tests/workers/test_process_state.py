"""Test the states of workers: a wait for CPU is not a hang."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe_exporter.workers import supervisor
from probe_exporter.workers.process_state import TICKS_PER_SECOND, ProcessState, hang_seconds, read_state
from probe_exporter.workers.supervisor import MAX_HANG_SECONDS, Supervisor, Worker

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
def test_state_of_all_threads(tmp_path: Path, threads: list[tuple[str, int, int]], runnable: bool, ticks: int) -> None:
    assert read_state(PROCESS, write(tmp_path, *threads)) == ProcessState(runnable, ticks / TICKS_PER_SECOND)


def test_state_of_an_exited_process_is_that_of_a_sleeping_one(tmp_path: Path) -> None:
    assert read_state(PROCESS, tmp_path) == ProcessState(False, 0.0)


def test_state_of_this_process() -> None:
    before = read_state(os.getpid())
    assert before.runnable, "this thread runs while it reads"
    while read_state(os.getpid()).cpu == before.cpu:
        pass
    sleeper = threading.Event()
    thread = threading.Thread(target=sleeper.wait)
    thread.start()
    assert read_state(os.getpid()).cpu > before.cpu
    sleeper.set()
    thread.join()


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [
        (ProcessState(True, 1.0), ProcessState(True, 1.0), 0.0),
        (ProcessState(True, 1.0), ProcessState(True, 1.25), 0.25),
        (ProcessState(False, 1.0), ProcessState(True, 1.25), 0.25),
        (ProcessState(True, 1.0), ProcessState(False, 1.25), 0.25),
        (ProcessState(False, 1.0), ProcessState(False, 1.0), 10.0),
        (ProcessState(True, 1.0), ProcessState(True, 0.5), 0.0),
    ],
    ids=["gets no CPU", "gets some", "woke up", "fell asleep", "sleeps", "a thread ended"],
)
def test_only_sleep_and_used_cpu_count_as_hanging(before: ProcessState, after: ProcessState, seconds: float) -> None:
    assert hang_seconds(before, after, 10.0) == pytest.approx(seconds)


class SupervisedWorker:
    """A supervisor with one worker that owes a heartbeat, and a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.state = ProcessState()
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        monkeypatch.setattr(supervisor, "read_state", lambda process: self.state)
        monkeypatch.setattr(supervisor, "time", self)
        one = Supervisor(1, lambda number, channel: 0, lambda: None, follow_interval=0, patience=1)
        one._vacant.clear()
        self.worker = Worker(0, PROCESS, self.ours, self.now)
        one._workers[PROCESS] = self.worker
        one._selector.register(self.ours, selectors.EVENT_READ, self.worker)
        self.supervisor = one
        self.pass_seconds(0.0)

    def monotonic(self) -> float:
        """The clock of the supervisor."""
        return self.now

    def pass_seconds(self, seconds: float, cpu_share: float = 0.0, *, at_once: bool = False) -> None:
        """Let time pass, in turns of half a second; the worker uses a share of a core."""
        turn = seconds if at_once else 0.5
        for _ in range(round(seconds / turn) if seconds else 1):
            self.now += turn if seconds else 0.0
            self.state = ProcessState(self.state.runnable, self.state.cpu + turn * cpu_share)
            self.supervisor._send_heartbeats()
            self.supervisor._send_problems()

    @property
    def told(self) -> tuple[str, str]:
        """Return the problem that /-/healthy reports, and the warning of /health."""
        return self.supervisor._problems["problem"], self.supervisor._problems["late"]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[SupervisedWorker]:
    one = SupervisedWorker(monkeypatch)
    yield one
    one.ours.close()
    one.theirs.close()
    one.supervisor._selector.close()


HANGS, LATE = ("Worker 0 does not answer.", ""), ("", "Worker 0 is late.")


def test_worker_without_cpu_is_late_and_does_not_hang(watched: SupervisedWorker) -> None:
    watched.state = ProcessState(runnable=True)
    watched.pass_seconds(3600.0, cpu_share=0.001)
    assert watched.told == LATE


@pytest.mark.parametrize(("runnable", "cpu_share"), [(False, 0.0), (True, 1.0)], ids=["sleeps", "computes"])
def test_worker_that_sleeps_or_computes_hangs(watched: SupervisedWorker, runnable: bool, cpu_share: float) -> None:
    watched.state = ProcessState(runnable)
    watched.pass_seconds(MAX_HANG_SECONDS, cpu_share)
    assert watched.told == LATE
    watched.pass_seconds(1.0, cpu_share)
    assert watched.told == HANGS


def test_supervisor_without_cpu_does_not_blame_its_workers(watched: SupervisedWorker) -> None:
    """It could not read their answers."""
    watched.pass_seconds(60.0, at_once=True)
    assert watched.told == LATE


def test_answer_of_a_late_worker_ends_its_problem(watched: SupervisedWorker) -> None:
    watched.pass_seconds(MAX_HANG_SECONDS + 1.0)
    assert watched.told == HANGS
    watched.theirs.sendall(b'{"answer":0,"text":""}\n')
    watched.supervisor._process_messages(watched.worker)
    watched.supervisor._send_problems()
    assert watched.told == ("", "")
    watched.pass_seconds(MAX_HANG_SECONDS)
    assert watched.told == LATE, "it starts anew with the next heartbeat"
