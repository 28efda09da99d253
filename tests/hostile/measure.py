"""Run a probe of a hostile peer and measure what it costs the process: turns of the loop, lateness, memory.

All times are CPU times. Those beyond a limit are given in the time of a reference machine, on which a million additions
in Python take 20 ms, and without the time of slow memory (`tests.cost`): so neither a busy machine nor a slow one
changes a verdict. Times within the limits are left as they are, since to measure this machine takes longer than most
cases. The peers run in another process (`stage`).

* The worst turn: CPU time of the loop's thread between two beats of a task that asks for a turn again and again.
* The worst hold: the same of the whole process, since a thread that keeps the interpreter's lock stops the loop too.
* Lateness: CPU time of the loop's thread between the last beat before the deadline and the end of the probe.
* Growth: the peak of resident memory during the probe, less what was resident before.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import resource
import socket
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import uvloop

from probe_exporter import runner
from probe_exporter.config import one_module
from probe_exporter.config.module import Module
from probe_exporter.config.reloading import Configuration, Source
from probe_exporter.history.memory import MemoryHistory
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.network.connection import Connection
from probe_exporter.plugins import loader
from probe_exporter.runner import Result
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.telemetry.garbage_collection import MAX_BUSY, Collector
from probe_exporter.web.accepting import Acceptor
from probe_exporter.web.connections import Connections
from probe_exporter.web.listening import BACKLOG, Place
from probe_exporter.web.routes import Web
from tests.cost import seconds_of_slow_memory
from tests.hostile.cases import SUCCESS, Case
from tests.hostile.peer_process import PeerProcess

MAX_TURN_SECONDS = 0.020
MAX_HOLD_SECONDS = 0.050
"""Longer than a turn: threads that share the interpreter's lock change every 5 ms, and the loop needs it several
times in each turn."""
MAX_LATE_SECONDS = 0.100

_STARTED_IN_A_TURN = 10
"""Probes: Prometheus asks for many, but never for all in the same turn."""

_ADDITIONS = 200_000
_REFERENCE_SECONDS = 0.020 * _ADDITIONS / 1_000_000

PROBERS = loader.load_probers([])
_STATUS = Path("/proc/self/status")


class Cost(NamedTuple):
    """What a case cost, in seconds and in bytes.

    Attributes:
        turn, hold, late: see above.
        cpu: CPU time of the process from the start of the probes to their end.
        seconds: time of day of the same.
        growth: bytes.
        verdicts: the reason of each probe, or `SUCCESS`.
    """

    turn: float
    hold: float
    late: float
    cpu: float
    seconds: float
    growth: int
    verdicts: tuple[str, ...]

    def faults(self, case: Case, margin: float = 1.0) -> list[str]:
        """Return what is beyond the limits, in words.

        Args:
            margin: factor for the limits of CPU time.
        """
        found = [
            f"{what} of {1000 * spent:.0f} ms, and {1000 * most:.0f} ms are allowed"
            for what, spent, most in (
                ("a turn", self.turn, MAX_TURN_SECONDS),
                ("a hold", self.hold, MAX_HOLD_SECONDS),
                ("a delay", self.late, MAX_LATE_SECONDS),
            )
            if spent > margin * most
        ]
        if self.growth > case.memory:
            found.append(f"{self.growth >> 20} MiB more memory, and {case.memory >> 20} MiB are allowed")
        wrong = sorted(set(self.verdicts) - case.ends)
        if wrong:
            found.append(f"ends with {', '.join(wrong)}, and one of {', '.join(sorted(case.ends))} is expected")
        return found


def measure(case: Case, stage: PeerProcess) -> Cost:
    """Run the probes of a case against its peer, and return what they cost."""
    _allow_files(3 * case.probes)
    with stage.peer(case) as words, asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        modules = [_module(case, words)] * case.probes
        return loop.run(_measure(case, modules, _fill(case.target, words)))


def _allow_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _module(case: Case, words: Mapping[str, str]) -> Module:
    settings = json.loads(
        _fill(json.dumps(case.settings), {key: json.dumps(word)[1:-1] for key, word in words.items()})
    )
    prober = PROBERS[case.prober]
    return one_module.with_settings(prober, json.dumps(settings).encode(), "settings")


def _fill(text: str, words: Mapping[str, Any]) -> str:
    for key, word in words.items():
        text = text.replace(f"{{{key}}}", word)
    return text


async def _measure(case: Case, modules: list[Module], target: str) -> Cost:
    async with watched() as watching:
        began, began_cpu = time.perf_counter(), time.process_time()
        results, deadline = await _run(case, modules, target)
        ended, ended_cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
    _drop_connections()
    late = own - watching.thread_time_before(deadline) if ended > deadline else 0.0
    if late > MAX_LATE_SECONDS:
        watching.look_at_the_machine()
    return Cost(
        turn=watching.turn,
        hold=watching.hold,
        late=watching.on_the_reference_machine(late),
        cpu=watching.on_the_reference_machine(ended_cpu - began_cpu),
        seconds=ended - began,
        growth=watching.growth,
        verdicts=tuple(_verdict(result) for result in results),
    )


async def _run(case: Case, modules: list[Module], target: str) -> tuple[list[Result], float]:
    """Run the probes, a few more in each turn; return their results and the deadline of the last, by perf_counter."""
    running = []
    for number, module in enumerate(modules, 1):
        running.append(asyncio.ensure_future(runner.run(module, target, case.timeout)))
        if number % _STARTED_IN_A_TURN == 0:
            await asyncio.sleep(0.002)
    deadline = time.perf_counter() + case.timeout
    return await asyncio.gather(*running), deadline


def _drop_connections() -> None:
    """Abort connections whose peer does not take what was sent to it: closing the loop would wait for them."""
    for found in gc.get_objects():
        if isinstance(found, Connection):
            found.abort()


def _verdict(result: Result) -> str:
    return SUCCESS if result.failure is None else result.failure.reason.value


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[TurnObserver]:
    """Watch the loop while the block runs; the results are there after it."""
    _tidy_up()
    watching = TurnObserver()
    resident = _memory("VmRSS")
    beating = asyncio.create_task(watching.run())
    collector = Collector(lambda: MAX_BUSY + 1)
    collecting = asyncio.create_task(collector.watch())
    await asyncio.sleep(0.005)
    try:
        with collector.instead_of_python():
            yield watching
            for _ in range(3):
                await asyncio.sleep(0.002)  # the turn in which the block ended counts, too
    finally:
        beating.cancel()
        collecting.cancel()
    watching.growth = max(0, _memory("VmHWM") - resident)
    if watching.turn > MAX_TURN_SECONDS or watching.hold > MAX_HOLD_SECONDS:
        watching.look_at_the_machine()


class TurnObserver:
    """A task that asks for a turn of the loop again and again, and notes what CPU time passed in between.

    Attributes:
        growth: bytes by which the process grew at most.
    """

    def __init__(self) -> None:
        self.growth = 0
        self._speed = 1.0
        self._slow_memory = 0.0
        self._turns = [0.0]
        self._holds = [0.0]
        self._noted: list[tuple[float, float]] = []

    @property
    def turn(self) -> float:
        """The worst turn, in seconds."""
        return self.on_the_reference_machine(max(self._turns))

    @property
    def hold(self) -> float:
        """The worst hold, in seconds."""
        return self.on_the_reference_machine(max(self._holds))

    def look_at_the_machine(self) -> None:
        """Find out by how much this machine is slower than the reference: for a time that is beyond a limit."""
        self._speed = max(1.0, _speed())
        self._slow_memory = seconds_of_slow_memory()

    def on_the_reference_machine(self, seconds: float) -> float:
        """Return what a CPU time here is there; the same if nothing was beyond a limit."""
        return max(0.0, seconds - self._slow_memory) / self._speed

    async def run(self) -> None:
        """Go on until cancelled."""
        thread, process = time.thread_time(), time.process_time()
        while True:
            await asyncio.sleep(0.001)
            before, whole_before, thread, process = thread, process, time.thread_time(), time.process_time()
            self._turns.append(thread - before)
            self._holds.append(process - whole_before)
            self._noted.append((time.perf_counter(), thread))

    def thread_time_before(self, moment: float) -> float:
        """Return the CPU time of the thread at the last beat before a moment."""
        return max((thread for when, thread in self._noted if when <= moment), default=self._noted[0][1])


class WebServer:
    """The exporter's web server with the shipped modules, on the running loop; an async context manager.

    Attributes:
        port: where it listens, on 127.0.0.1.
    """

    def __init__(self) -> None:
        self.port = 0
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        telemetry = Telemetry()
        probe_log = ProbeLog(logging.CRITICAL, "logfmt")
        web = Web(
            Configuration(Source(), telemetry),
            telemetry,
            MemoryHistory(100, 10 << 20, probe_log, telemetry.history_lost),
            probe_log,
            timeout_offset=0.5,
            max_probes=1000,
            place=Place("/", ""),
        )
        connections = Connections(web)
        self._open.push_async_callback(connections.close)
        listener = self._open.enter_context(socket.create_server(("127.0.0.1", 0), backlog=BACKLOG))
        acceptor = Acceptor(listener, connections)
        self._open.callback(acceptor.close)
        acceptor.start()
        web.health.started()
        self.port = listener.getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()


def _tidy_up() -> None:
    """Let what earlier cases left neither cost a collection in one of the turns nor hide what this case needs.

    What is frozen stays so until `thaw`: then the next case need not go through it again.
    """
    gc.collect()
    gc.freeze()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of resident memory


def thaw() -> None:
    """Let the garbage collector see all objects again, once all cases have run."""
    gc.unfreeze()


def _memory(key: str) -> int:
    """Return a line of the process' status, in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def _speed() -> float:
    """Return by how much this machine is slower than the reference now: the least of several tries."""
    return min(_seconds_of_additions() for _ in range(5)) / _REFERENCE_SECONDS


def _seconds_of_additions() -> float:
    started, total = time.thread_time(), 0
    for number in range(_ADDITIONS):
        total += number
    return time.thread_time() - started
