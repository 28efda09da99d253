"""Wait for work that several tasks share: cancelling one of them does not cancel it for the others.

`asyncio.shield` does so, too, but logs errors that are none. Some releases of Python 3.14 log the exception of the work
if one task that waited was cancelled, although the other tasks get the exception (python/cpython issue 156321). Other
releases log it as never retrieved, if the only task that waits is cancelled in the turn in which the work fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


async def shared_result(work: asyncio.Future[T]) -> T:
    """Return the result of a task or a future, or raise its exception, when it is done.

    The exception is the same object for all waiters.

    Raises:
        asyncio.CancelledError: the caller or the work was cancelled.
    """
    try:
        await asyncio.wait((work,))
    except asyncio.CancelledError:
        work.add_done_callback(_retrieve)
        raise
    return work.result()


class SharedTask(Generic[T]):
    """A task that is cancelled when the last of those that wait for it is cancelled.

    Attributes:
        waiting: the number of those that wait.
    """

    __slots__ = ("_task", "waiting")

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._task = asyncio.create_task(work)
        self.waiting = 0

    @property
    def is_over(self) -> bool:
        """Whether nobody may wait for it any more."""
        return self._task.done() or not self.waiting

    async def result(self) -> T:
        """Wait for the task: see `shared_result`."""
        self.waiting += 1
        try:
            return await shared_result(self._task)
        finally:
            self.waiting -= 1
            if not self.waiting:
                self._task.cancel()


def _retrieve(work: asyncio.Future[T]) -> None:
    """Ask for the exception of some work. asyncio logs one that no task has asked for."""
    if not work.cancelled():
        work.exception()
