"""`Turn`: let other tasks run between two pieces of work, whenever enough time has passed.

Tasks whose turn is over wait in a queue, and one of them continues in each iteration of the event loop. Otherwise ten
tasks that parse large responses would each work for `TURN_SECONDS` in the same iteration, and all others wait ten times
as long.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial

TURN_SECONDS = 0.005
"""Seconds of work after which other tasks run."""


class Turn:
    """The time since other tasks ran."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = time.perf_counter() + TURN_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether it is time to let other tasks run."""
        return time.perf_counter() > self._ends

    async def begin(self) -> None:
        """Wait for a turn if other tasks do, so that tasks that begin in the same iteration work in different ones."""
        if _waiting:
            await self._wait()

    async def give(self) -> None:
        """Let other tasks run if it is time. Call it after each small piece of work."""
        if self.is_over:
            await self._wait()

    async def _wait(self) -> None:
        await pause()
        self._ends = time.perf_counter() + TURN_SECONDS


async def pause() -> None:
    """Let other tasks run; call it after some milliseconds of work."""
    loop = asyncio.get_running_loop()
    continues = loop.create_future()
    continue_later(loop, partial(_resolve, continues))
    await continues


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():  # otherwise its task was cancelled
        future.set_result(None)


_waiting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, deque[Callable[[], object]]] = (
    weakref.WeakKeyDictionary()
)
"""What waits for a turn, by event loop; without an entry if nothing waits."""


def continue_later(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
    """Call a function that works for about `TURN_SECONDS`, in an iteration of the loop in which no other one does."""
    waiting = _waiting.get(loop)
    if waiting is None:
        waiting = _waiting[loop] = deque()
        loop.call_soon(_continue_next, loop)
    waiting.append(work)


def _continue_next(loop: asyncio.AbstractEventLoop) -> None:
    waiting = _waiting[loop]
    if not waiting:  # the last one may have continued in this iteration, so a new one has to wait for the next
        del _waiting[loop]
        return
    loop.call_soon(_continue_next, loop)
    waiting.popleft()()
