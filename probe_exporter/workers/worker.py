"""A worker process's connection to the supervisor: get the other workers' metrics, and reload all workers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from probe_exporter.config.reloading import REFUSALS
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.workers.snapshots import snapshot


class ReloadRefused(Exception):
    """A worker has refused the configuration; the message is the worker's."""


class SupervisorTimeout(Exception):
    """The supervisor of the workers has not answered in time."""


class Workers(Protocol):
    """The requests that a worker can make to the other workers.

    Attributes:
        number: how many workers there are, this one included.
    """

    number: int

    async def snapshots(self) -> Sequence[bytes]:
        """Return `snapshots.snapshot` of each worker, its own first, and `snapshots.settled` of exited ones.

        The result is empty if there are no other workers.

        Raises:
            SupervisorTimeout: the supervisor does not answer.
        """

    async def reload(self, own: Callable[[], Awaitable[None]]) -> None:
        """Make all workers reload the configuration; `own` reloads it in this process.

        Raises:
            ReloadRefused, REFUSALS: a worker refused the configuration.
            SupervisorTimeout: the supervisor does not answer.
        """

    def problem(self) -> str:
        """Return a sentence about workers that have died and are not replaced, or hang; empty if there are none."""

    def late(self) -> str:
        """Return a sentence about workers that have not answered in time, but do not hang; empty if there are none."""


class SingleProcess:
    """The `Workers` of an exporter with a single process."""

    number = 1

    async def snapshots(self) -> Sequence[bytes]:
        """Return nothing: there are no other workers."""
        return ()

    async def reload(self, own: Callable[[], Awaitable[None]]) -> None:
        """Reload the configuration in this process."""
        await own()

    def problem(self) -> str:
        """Return an empty text: there are no workers that could die."""
        return ""

    def late(self) -> str:
        """Return an empty text: there are no workers that could be late."""
        return ""


log = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 << 20
"""The limit of a message in bytes, far above the metrics of a process with thousands of modules."""

GONE = "The supervisor of the workers has exited"

HISTORY = "history"
"""The question for results of other workers: see `workers.shared_history`."""

PATIENCE_SECONDS = {"snapshot": 5.0, "reload": 90.0, HISTORY: 3.0}
"""Seconds to wait for the supervisor, whose own timeout for other workers is shorter."""

Reload = Callable[[], Awaitable[None]]
Answering = Callable[[str], Awaitable[str]]


async def _no_history(_question: str) -> str:
    return "null"


class StopRequests:
    """Requests to stop the process: the first starts to drain it, the second stops it at once.

    They arrive as signals and from the supervisor. Stopping a whole control group causes both; they count as one.
    """

    def __init__(self) -> None:
        self._words: asyncio.Queue[str] = asyncio.Queue()
        self._signals = 0
        self._told = 0

    def signal(self, word: str) -> None:
        """Note a signal."""
        self._signals += 1
        if self._signals > self._told:
            self._words.put_nowait(word)

    def tell(self, word: str, times: int) -> None:
        """Note a request of the supervisor, which has now made `times` of them."""
        for _ in range(max(self._told, self._signals), times):
            self._words.put_nowait(word)
        self._told = max(self._told, times)

    async def wait(self) -> str:
        """Wait for the next request, and return it."""
        return await self._words.get()


class SupervisorClient:
    """The `Workers` of a worker process, reached through the supervisor.

    Attributes:
        index: of this worker, from 0.
        history: answers other workers' questions for this worker's results.
    """

    def __init__(self, telemetry: Telemetry, number: int) -> None:
        """
        Args:
            telemetry: the metrics of this worker.
            number: the number of workers, this one included.
        """
        self.number = number
        self.index = 0
        self.history: Answering = _no_history
        self._telemetry = telemetry
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshots")
        self._channel: socket.socket | None = None
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._questions: dict[int, asyncio.Future[list[str]]] = {}
        self._numbers = itertools.count()
        self._problem = self._late = ""

    def join(self, channel: socket.socket, index: int = 0) -> None:
        """Store the channel to the supervisor; call it once in the worker process, before its event loop runs.

        Args:
            index: of this worker, from 0.
        """
        self._channel = channel
        self.index = index

    async def snapshots(self) -> Sequence[bytes]:
        """Return the snapshots of all workers, this one's first, and the counters of exited ones."""
        own = await self._snapshot()
        # The supervisor gets the snapshot with the request and keeps it, so that no counter that was exported falls
        # if this process exits.
        return [own, *[text.encode() for text in await self._ask("snapshot", own.decode())]]

    async def _snapshot(self) -> bytes:
        """Return the snapshot of this worker. It is made in a thread: that of 2,000 modules takes 0.4 s."""
        families = self._telemetry.families()
        return await asyncio.get_running_loop().run_in_executor(self._thread, snapshot, families)

    async def ask_others(self, what: str, text: str) -> Sequence[str]:
        """Return the answers of the other workers to a question; a worker that is late has none.

        Raises:
            SupervisorTimeout: the supervisor does not answer.
        """
        return await self._ask(what, text)

    async def reload(self, own: Reload) -> None:
        """Make all workers reload the configuration, this one among them."""
        problems = sorted({text for text in await self._ask("reload") if text})
        if problems:
            raise ReloadRefused("\n".join(problems))

    def problem(self) -> str:
        """Return the problem that the supervisor reported last."""
        return self._problem

    def late(self) -> str:
        """Return the sentence about late workers that the supervisor reported last."""
        return self._late

    async def connect(self) -> None:
        """Open the streams to the supervisor; call it before the server accepts connections."""
        self._line = await asyncio.open_unix_connection(sock=self._channel, limit=MAX_LINE_BYTES)

    async def answer_requests(self, reload: Reload, stop_requests: StopRequests) -> None:
        """Answer the supervisor's requests until it exits.

        Args:
            reload: reloads the configuration in this process.
            stop_requests: is notified when the supervisor asks the worker to stop, or has exited.
        """
        assert self._line is not None
        reader, _ = self._line
        answering: set[asyncio.Task[None]] = set()
        try:
            # A supervisor that was killed may have sent an incomplete line.
            while (line := await reader.readline()).endswith(b"\n"):
                self._process_message(json.loads(line), answering, reload, stop_requests)
        except ConnectionError:
            pass  # the supervisor exited with unread data
        finally:
            for question in self._questions.values():
                if not question.done():
                    question.set_exception(SupervisorTimeout(GONE))
            stop_requests.tell("the end of the supervisor", 1)

    def _process_message(
        self, message: dict[str, Any], answering: set[asyncio.Task[None]], reload: Reload, stop_requests: StopRequests
    ) -> None:
        match message:
            case {"ask": number, "what": what, **rest}:
                task = asyncio.ensure_future(self._answer(number, what, rest.get("text", ""), reload))
                answering.add(task)
                task.add_done_callback(answering.discard)
            case {"answer": number, "texts": texts}:
                question = self._questions.get(number)
                if question is not None and not question.done():  # otherwise the client has disconnected
                    question.set_result(texts)
            case {"problem": problem, "late": late}:
                self._problem, self._late = problem, late
            case {"end": word, "times": times}:
                stop_requests.tell(word, times)

    async def _ask(self, what: str, text: str = "") -> list[str]:
        number = next(self._numbers)
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        try:
            self._send({"ask": number, "what": what, "text": text})
            async with asyncio.timeout(PATIENCE_SECONDS[what]):
                return await answer
        except TimeoutError:
            raise SupervisorTimeout("The supervisor of the workers does not answer") from None
        finally:
            self._questions.pop(number, None)

    async def _answer(self, number: int, what: str, asked: str, reload: Reload) -> None:
        text = ""
        if what == HISTORY:
            try:
                text = await self.history(asked)
            except Exception as error:
                log.error("Unexpected exception in a question for the history", exc_info=error)
                text = "null"
        elif what == "snapshot":
            text = (await self._snapshot()).decode()
        elif what == "reload":
            try:
                await reload()
            except REFUSALS as refusal:
                text = str(refusal)
            except Exception as error:
                log.error("Unexpected exception in a reload", exc_info=error)
                text = f"{type(error).__name__}; the exporter's log has more"
        with contextlib.suppress(SupervisorTimeout):
            self._send({"answer": number, "text": text})

    def _send(self, message: dict[str, Any]) -> None:
        """Send a message to the supervisor.

        Raises:
            SupervisorTimeout: it has exited.
        """
        assert self._line is not None
        if self._line[1].is_closing():
            raise SupervisorTimeout(GONE)
        self._line[1].write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
