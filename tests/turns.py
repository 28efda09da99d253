"""Watch how evenly the event loop shares out its turns, by the CPU time of its thread and not by the time of day."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def turns() -> Iterator[list[float]]:
    """Run a task that asks for a turn again and again while the block lasts; yield the CPU time between its turns.

    Yields:
        CPU seconds of this thread from one turn to the next. Other programs and threads don't count.
    """
    taken: list[float] = []
    before = 0.0

    async def watch() -> None:
        nonlocal before
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            taken.append(time.thread_time() - before)

    gc.collect()
    gc.freeze()  # what earlier tests left is not to be collected in one of the turns
    watching = asyncio.get_running_loop().create_task(watch())
    before = time.thread_time()
    try:
        yield taken
    finally:
        taken.append(time.thread_time() - before)  # the turn that ends the block
        watching.cancel()
        gc.unfreeze()
