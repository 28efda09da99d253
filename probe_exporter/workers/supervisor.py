"""The supervisor of ``--workers``: start worker processes, replace those that die, and relay their questions.

How it works:

* It serves no requests. It has no event loop and no threads, so that it can fork at any time.
* Each worker has a socket pair to it. Messages are lines of JSON: ``ask``, ``answer``, ``problem`` and ``end``.
* A worker that needs all workers (metrics, a reload) asks the supervisor. It asks each worker, waits until all have
  answered or `ANSWER_SECONDS` have passed, and returns the answers.
* The supervisor asks for a heartbeat every `HEARTBEAT_SECONDS` seconds. A worker that does not answer is not killed. It
  is reported as late on /health, and as a problem on /-/healthy if it hangs: see `process_state`.
* A worker that exits is replaced: at once if it lived for `STEADY_SECONDS`, otherwise after a growing pause.
* Counters of dead workers are kept in `_settled`, or the sums on /metrics would fall.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from probe_exporter.telemetry import log_output
from probe_exporter.telemetry.counters import worker_restarts
from probe_exporter.workers.process_state import ProcessState, hang_seconds, read_state
from probe_exporter.workers.snapshots import NOTHING, merged, settled, snapshot
from probe_exporter.workers.worker import HISTORY

log = logging.getLogger(__name__)

ANSWER_SECONDS = {"snapshot": 1.0, "reload": 60.0, HISTORY: 0.5}
"""Seconds that a worker may take to answer, by question. If it is late, its last snapshot is used."""

HEARTBEAT_SECONDS = 2.0
"""Seconds between heartbeats, which detect a worker that hangs."""

MAX_HANG_SECONDS = 5.0
"""Seconds that a worker may sleep or compute while it owes a heartbeat; a wait for CPU does not count."""

MAX_CHECK_SECONDS = 1.0
"""Most seconds between two checks that count: if more have passed, the supervisor itself got no CPU."""

STEADY_SECONDS = 10.0
"""A worker that lived this long is replaced at once, others after a pause that doubles each time."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 10.0


@dataclass(eq=False, slots=True)
class Worker:
    """One worker process and the connection to it."""

    number: int
    process: int
    channel: socket.socket
    started: float
    last: str = NOTHING.decode()  # its last snapshot of metrics that was shown
    late: bool = False  # it has not answered in time
    owed: float = 0.0  # since when it owes a heartbeat; 0 if it does not
    hang: float = 0.0  # seconds that count as hanging since then
    state: ProcessState = field(default_factory=ProcessState)  # at the last check
    gone: bool = False  # its end of the connection is closed
    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)


Asker = tuple[Worker, int] | None


@dataclass(eq=False, slots=True)
class Question:
    """A question to several workers: for their metrics, for results, or to reload.

    Args:
        askers: the workers that wait for the answer, each with its own number for the question. None stands for the
            supervisor itself.
        waiting: the workers that have not answered yet.
        due: the time after which the supervisor no longer waits for answers.
    """

    what: str
    askers: list[Asker]
    waiting: set[Worker]
    due: float
    texts: list[str] = field(default_factory=list)


class Supervisor:
    """Keeps a number of workers running until a signal ends it."""

    def __init__(
        self,
        number: int,
        work: Callable[[int, socket.socket], int],
        follow: Callable[[], None],
        *,
        follow_interval: float,
        patience: float,
    ) -> None:
        """
        Args:
            number: of workers.
            work: runs a worker in its own process, given its number and its channel to the supervisor; returns the
                exit code.
            follow: reloads the configuration, if it is valid, for workers that start later.
            follow_interval: seconds between such reloads; 0 to reload only on request.
            patience: seconds that workers have to exit before they are killed.
        """
        self._number = number
        self._work = work
        self._follow = follow
        self._follow_interval = follow_interval
        self._patience = patience
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, Worker] = {}  # by process
        self._vacant: dict[int, float] = dict.fromkeys(range(number), 0.0)  # when to start the one of this number
        self._pauses = dict.fromkeys(range(number), MIN_PAUSE_SECONDS)
        self._questions: dict[int, Question] = {}
        self._asking_to_reload: list[Asker] = []
        self._numbers = itertools.count()
        self._settled = NOTHING  # the counters of exited workers
        self._problems: dict[str, str] = {}
        self._next_heartbeat = 0.0
        self._checked = 0.0
        self._told_to_end = 0
        self._ending = 0.0  # when those that still run are killed; 0 while all is to go on
        self._code = 0

    def run(self) -> int:
        """Supervise until all workers have ended, and return the exit code."""
        with log_output.nonblocking():
            return self._run()

    def _run(self) -> int:
        wake, signals = socket.socketpair()
        for end in (wake, signals):
            end.setblocking(False)
        self._selector.register(wake, selectors.EVENT_READ)
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(one, lambda *_: None)
        signal.set_wakeup_fd(signals.fileno(), warn_on_full_buffer=False)
        following = time.monotonic() + self._follow_interval
        while self._workers or not self._ending:
            self._start_missing_workers()
            for key, events in self._selector.select(self._pause()):
                if key.fileobj is wake:
                    for received in wake.recv(100):
                        self._handle_signal(signal.Signals(received))
                else:
                    self._serve(key.data, events)
            self._reap_exited_workers()
            self._send_heartbeats()
            self._finish_questions()
            self._kill_unresponsive()
            self._send_problems()
            if self._follow_interval and time.monotonic() >= following:
                self._follow()
                following = time.monotonic() + self._follow_interval
        return self._code

    def _pause(self) -> float:
        """Return the seconds until the next timer is due; a second at most."""
        due = [question.due for question in self._questions.values()]
        due += [] if self._ending else self._vacant.values()
        return max(0.0, min([time.monotonic() + 1.0, *due]) - time.monotonic())

    # --- signals -----------------------------------------------------------------------------------------------

    def _handle_signal(self, received: signal.Signals) -> None:
        if received is signal.SIGHUP:
            self._ask_to_reload(None)
        elif received in (signal.SIGTERM, signal.SIGINT):
            self._told_to_end += 1
            if not self._ending:
                log.info("Shutting down: the workers are told", extra={"fields": {"signal": received.name}})
                self._ending = time.monotonic() + self._patience
            self._send_to_all({"end": received.name, "times": self._told_to_end})

    def _kill_unresponsive(self) -> None:
        if self._ending and time.monotonic() > self._ending:
            for process in self._workers:
                log.error("A worker did not exit in time and is killed", extra={"fields": {"process": process}})
                os.kill(process, signal.SIGKILL)
            self._ending = time.monotonic() + 1.0

    # --- start, exit and replacement of workers ------------------------------------------------------------

    def _start_missing_workers(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._vacant.items() if due <= now and not self._ending]:
            del self._vacant[number]
            self._start(number)

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        process = os.fork()
        if not process:
            ours.close()
            self._run_as_worker(number, theirs)
        theirs.close()
        ours.setblocking(False)
        worker = Worker(number, process, ours, time.monotonic())
        self._workers[process] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)
        log.info("A worker has started", extra={"fields": {"worker": number, "process": process}})
        if any(self._problems.values()):
            self._queue(worker, self._problems)

    def _run_as_worker(self, number: int, channel: socket.socket) -> NoReturn:
        """Become a worker, in the process that was just forked, and exit with its code."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            # A terminal sends SIGINT to all: the supervisor tells the workers.
            for one, action in (
                (signal.SIGTERM, signal.SIG_DFL), (signal.SIGCHLD, signal.SIG_DFL),
                (signal.SIGINT, signal.SIG_IGN), (signal.SIGHUP, signal.SIG_IGN),
            ):  # fmt: skip
                signal.signal(one, action)
            for key in list(self._selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
            self._selector.close()
            code = self._work(number, channel)
        except BaseException as error:
            log.critical("Unexpected exception: a worker exits", exc_info=error)
        finally:
            try:
                sys.stderr.flush()
            finally:  # even if stderr fails: a child that returns would continue as a second supervisor
                os._exit(code)

    def _reap_exited_workers(self) -> None:
        """Reap all workers that have exited."""
        for process, worker in list(self._workers.items()):
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                self._handle_exit(worker, os.waitstatus_to_exitcode(status))

    def _handle_exit(self, worker: Worker, code: int) -> None:
        del self._workers[worker.process]
        self._process_messages(worker)  # those that it sent before it exited
        if not worker.gone:
            self._selector.unregister(worker.channel)
        worker.channel.close()
        self._settled = snapshot(merged([self._settled, settled(worker.last.encode())]))
        for question in self._questions.values():
            question.waiting.discard(worker)
        if self._ending:
            return
        self._settled = snapshot(merged([self._settled, snapshot([worker_restarts(1)])]))
        lived = time.monotonic() - worker.started
        pause = 0.0 if lived > STEADY_SECONDS else self._pauses[worker.number]
        self._pauses[worker.number] = min(pause * 2, MAX_PAUSE_SECONDS) or MIN_PAUSE_SECONDS
        self._vacant[worker.number] = time.monotonic() + pause
        end = {"signal": signal.Signals(-code).name} if code < 0 else {"code": code}
        fields = {"worker": worker.number, "process": worker.process, **end, "replaced_in_seconds": pause}
        log.error("A worker has died", extra={"fields": fields})

    def _send_heartbeats(self) -> None:
        """Ask for a heartbeat if it is time, and check the state of workers that still owe the last one."""
        now = time.monotonic()
        passed, self._checked = min(now - self._checked, MAX_CHECK_SECONDS), now
        for worker in self._workers.values():
            if worker.owed:
                state = read_state(worker.process)
                worker.hang += hang_seconds(worker.state, state, passed)
                worker.late |= now - worker.owed > HEARTBEAT_SECONDS
                worker.state = state
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_SECONDS
            for worker in self._workers.values():
                self._ask_for_heartbeat(worker, now)

    def _ask_for_heartbeat(self, worker: Worker, now: float) -> None:
        if not worker.owed:
            worker.owed, worker.hang, worker.state = now, 0.0, read_state(worker.process)
            self._queue(worker, {"ask": next(self._numbers), "what": "heartbeat"})

    def _send_problems(self) -> None:
        """Tell all workers when the problems that they report on /-/healthy and /health have changed."""
        dead = len(self._vacant)
        have, are = ("has", "is") if dead == 1 else ("have", "are")
        words = [f"{dead} of {self._number} workers {have} died and {are} not replaced yet."] if dead else []
        unresponsive = [worker for worker in self._workers.values() if worker.hang > MAX_HANG_SECONDS]
        words += [f"Worker {worker.number} does not answer." for worker in unresponsive]
        late = [worker for worker in self._workers.values() if worker.late and worker not in unresponsive]
        problems = {"problem": " ".join(words), "late": " ".join([f"Worker {one.number} is late." for one in late])}
        if problems != self._problems:
            self._problems = problems
            self._send_to_all(problems)

    # --- messages ----------------------------------------------------------------------------------------------

    def _serve(self, worker: Worker, events: int) -> None:
        if events & selectors.EVENT_READ:
            self._process_messages(worker)
        self._send(worker)

    def _process_messages(self, worker: Worker) -> None:
        """Process a worker's messages; the system, not this connection, reports its exit."""
        for line in self._lines(worker):
            match json.loads(line):
                case {"ask": number, "what": "reload"}:
                    self._ask_to_reload((worker, number))
                case {"ask": number, "what": "history", "text": text}:
                    self._ask(HISTORY, [(worker, number)], text)
                case {"ask": number, "what": what, "text": text}:
                    worker.last = text or worker.last
                    self._ask(what, [(worker, number)])
                case {"answer": number, "text": text}:
                    self._note_answer(worker, self._questions.get(number), text)

    def _ask_to_reload(self, asker: Asker) -> None:
        """Make all workers reload; requests that arrive meanwhile share the reload after that one."""
        if all(question.what != "reload" for question in self._questions.values()):
            self._ask("reload", [asker])
        elif asker is not None or None not in self._asking_to_reload:
            self._asking_to_reload.append(asker)

    def _ask(self, what: str, askers: list[Asker], text: str = "") -> None:
        number = next(self._numbers)
        others = set(self._workers.values())
        if what in ("snapshot", HISTORY):
            others.difference_update([asker[0] for asker in askers if asker is not None])
        self._questions[number] = Question(what, askers, others, time.monotonic() + ANSWER_SECONDS[what])
        for worker in others:
            self._queue(worker, {"ask": number, "what": what, "text": text})

    def _note_answer(self, worker: Worker, question: Question | None, text: str) -> None:
        worker.late = False
        worker.owed = worker.hang = 0.0
        if question is not None and worker in question.waiting:
            question.waiting.discard(worker)
            question.texts.append(text)
            if question.what == "snapshot":
                worker.last = text

    def _finish_questions(self) -> None:
        """Return the answers of questions that all workers have answered, or whose time is up."""
        now = time.monotonic()
        for number, question in list(self._questions.items()):
            if question.waiting and now < question.due:
                continue
            del self._questions[number]
            for worker in question.waiting if question.what != HISTORY else ():
                worker.late = True
                late = f"worker {worker.number} did not answer"
                question.texts.append(worker.last if question.what == "snapshot" else late)
            self._finish_question(question)

    def _finish_question(self, question: Question) -> None:
        if question.what == "reload":
            self._follow()
            if self._asking_to_reload:
                askers, self._asking_to_reload = self._asking_to_reload, []
                self._ask("reload", askers)
        elif question.what == "snapshot":
            question.texts.append(self._settled.decode())
        for asker in question.askers:
            if asker is None:
                self._log_reload(question)
            elif asker[0].process in self._workers:
                self._queue(asker[0], {"answer": asker[1], "texts": question.texts})

    def _log_reload(self, question: Question) -> None:
        refused = sorted(filter(None, set(question.texts)))
        for text in refused:
            log.error("The configuration was not reloaded", extra={"fields": {"err": text}})
        if not refused:
            log.info("All workers have reloaded the configuration")

    def _send_to_all(self, message: dict[str, Any]) -> None:
        for worker in self._workers.values():
            self._queue(worker, message)

    def _queue(self, worker: Worker, message: dict[str, Any]) -> None:
        worker.outbox += json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self._send(worker)

    def _send(self, worker: Worker) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while worker.outbox:
                del worker.outbox[: worker.channel.send(worker.outbox)]
        if not worker.gone:
            more = selectors.EVENT_WRITE if worker.outbox else 0
            self._selector.modify(worker.channel, selectors.EVENT_READ | more, worker)

    def _lines(self, worker: Worker) -> Iterator[bytes]:
        """Yield the complete lines that have been received."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while received := worker.channel.recv(1 << 20):
                worker.inbox += received
            if not worker.gone and worker.process in self._workers:  # nothing more will come: it ends
                worker.gone = True
                self._selector.unregister(worker.channel)
        *lines, rest = worker.inbox.split(b"\n")
        worker.inbox = bytearray(rest)
        yield from (bytes(line) for line in lines)
