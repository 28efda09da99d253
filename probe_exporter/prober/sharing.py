"""Wait for work that several tasks share: cancelling one of them does not cancel it for the others.

`asyncio.shield` does so, too, but logs errors that are none. Some releases of Python 3.14 log the exception of the work
if any of its waiters was cancelled, though the others get it (python/cpython issue 156321). Others log that nobody
retrieved it, if the only waiter is cancelled in the turn in which the work fails.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

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


def _retrieve(work: asyncio.Future[T]) -> None:
    """Keep asyncio from logging an exception that nobody asks for."""
    if not work.cancelled():
        work.exception()
