"""A worker process: its connection to the supervisor, and what it can learn of the other workers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from probe_exporter.config.current import REFUSALS
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.workers.snapshots import snapshot


class ReloadRefused(Exception):
    """A worker has refused the configuration; says why, as the worker did."""


class SupervisorTimeout(Exception):
    """The supervisor of the workers has not answered in time."""


class Workers(Protocol):
    """What a worker may ask about the others."""

    async def snapshots(self) -> Sequence[bytes]:
        """`snapshots.snapshot` of each worker, its own first, and `snapshots.settled` of those that have ended.

        Nothing if there are no others.

        Raises:
            SupervisorTimeout: the others can't be asked.
        """

    async def reload(self, own: Callable[[], Awaitable[None]]) -> None:
        """Have all read the configuration again; `own` does it in this process.

        Raises:
            ReloadRefused, REFUSALS: it was refused.
            SupervisorTimeout: the others can't be asked.
        """

    def problem(self) -> str:
        """One sentence if a worker has died and was not replaced; nothing if all is well."""


class Alone:
    """There are no others."""

    async def snapshots(self) -> Sequence[bytes]:
        """None."""
        return ()

    async def reload(self, own: Callable[[], Awaitable[None]]) -> None:
        """That of this process is all."""
        await own()

    def problem(self) -> str:
        """None."""
        return ""


log = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 << 20
"""Bytes of a message: far above the metrics of a process with thousands of modules."""

GONE = "The supervisor of the workers has exited"

PATIENCE_SECONDS = {"snapshot": 5.0, "reload": 90.0}
"""For the supervisor, which gives up on others before that."""

Reload = Callable[[], Awaitable[None]]


class Ending:
    """The words that end the process: the first begins to drain it, the second waits no longer.

    They come as signals and from the supervisor. Who stops a whole control group sends both: then they count once.
    """

    def __init__(self) -> None:
        self._words: asyncio.Queue[str] = asyncio.Queue()
        self._signals = 0
        self._told = 0

    def signal(self, word: str) -> None:
        """The system has said so."""
        self._signals += 1
        if self._signals > self._told:
            self._words.put_nowait(word)

    def tell(self, word: str, times: int) -> None:
        """The supervisor says so, by now so many times."""
        for _ in range(max(self._told, self._signals), times):
            self._words.put_nowait(word)
        self._told = max(self._told, times)

    async def wait(self) -> str:
        """The next word."""
        return await self._words.get()


class Crew:
    """The other workers, by way of the supervisor."""

    def __init__(self, telemetry: Telemetry, number: int) -> None:
        """
        Args:
            telemetry: this worker's.
            number: of workers, this one included.
        """
        self.number = number
        self._telemetry = telemetry
        self._channel: socket.socket | None = None
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._questions: dict[int, asyncio.Future[list[str]]] = {}
        self._numbers = itertools.count()
        self._problem = ""

    def join(self, channel: socket.socket) -> None:
        """Become a worker: called once, in the process that is one, before its event loop runs."""
        self._channel = channel

    async def snapshots(self) -> Sequence[bytes]:
        """Those of all workers, this one's first, and of what those counted that have ended."""
        own = snapshot(self._telemetry.registry.collect())
        # Together with the question: what has been shown once is remembered, should this process end.
        return [own, *[text.encode() for text in await self._ask("snapshot", own.decode())]]

    async def reload(self, own: Reload) -> None:
        """Have all workers read the configuration again, this one among them."""
        problems = sorted({text for text in await self._ask("reload") if text})
        if problems:
            raise ReloadRefused("\n".join(problems))

    def problem(self) -> str:
        """What the supervisor has last said to be wrong."""
        return self._problem

    async def connect(self) -> None:
        """Be able to ask; comes before the first client does."""
        self._line = await asyncio.open_unix_connection(sock=self._channel, limit=MAX_LINE_BYTES)

    async def attend(self, reload: Reload, ending: Ending) -> None:
        """Answer the supervisor until it ends.

        Args:
            reload: reads the configuration again, in this process.
            ending: told when the supervisor says so, or is gone itself.
        """
        assert self._line is not None
        reader, _ = self._line
        answering: set[asyncio.Task[None]] = set()
        try:
            # A supervisor that was killed may leave a part of a line.
            while (line := await reader.readline()).endswith(b"\n"):
                self._hear(json.loads(line), answering, reload, ending)
        except ConnectionError:
            pass  # it ended with something unread
        finally:
            for question in self._questions.values():
                if not question.done():
                    question.set_exception(SupervisorTimeout(GONE))
            ending.tell("the end of the supervisor", 1)

    def _hear(
        self, message: dict[str, Any], answering: set[asyncio.Task[None]], reload: Reload, ending: Ending
    ) -> None:
        match message:
            case {"ask": number, "what": what}:
                task = asyncio.ensure_future(self._answer(number, what, reload))
                answering.add(task)
                task.add_done_callback(answering.discard)
            case {"answer": number, "texts": texts}:
                question = self._questions.get(number)
                if question is not None and not question.done():  # else whoever asked has hung up
                    question.set_result(texts)
            case {"problem": text}:
                self._problem = text
            case {"end": word, "times": times}:
                ending.tell(word, times)

    async def _ask(self, what: str, text: str = "") -> list[str]:
        number = next(self._numbers)
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        try:
            self._say({"ask": number, "what": what, "text": text})
            async with asyncio.timeout(PATIENCE_SECONDS[what]):
                return await answer
        except TimeoutError:
            raise SupervisorTimeout("The supervisor of the workers does not answer") from None
        finally:
            self._questions.pop(number, None)

    async def _answer(self, number: int, what: str, reload: Reload) -> None:
        text = ""
        if what == "snapshot":
            text = snapshot(self._telemetry.registry.collect()).decode()
        elif what == "reload":
            try:
                await reload()
            except REFUSALS as refusal:
                text = str(refusal)
            except Exception as error:
                log.error("Unexpected exception in a reload", exc_info=error)
                text = f"{type(error).__name__}; the exporter's log has more"
        with contextlib.suppress(SupervisorTimeout):
            self._say({"answer": number, "text": text})

    def _say(self, message: dict[str, Any]) -> None:
        """Send a message to the supervisor.

        Raises:
            SupervisorTimeout: it has exited.
        """
        assert self._line is not None
        if self._line[1].is_closing():
            raise SupervisorTimeout(GONE)
        self._line[1].write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
