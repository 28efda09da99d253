"""Provide an event loop whose clock moves only when a test advances it, for servers and clients on real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

HANG_SECONDS = 120.0
"""Real seconds after which the clock jumps forward, so that the timeout of a test that hangs strikes."""


class StandingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves only when `advance` is called. Sockets work as usual."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._hung = time.monotonic() + HANG_SECONDS
        super().__init__()

    def time(self) -> float:
        """Return the simulated time in seconds."""
        return self._now + (1e6 if time.monotonic() > self._hung else 0.0)

    def advance(self, seconds: float) -> None:
        """Move the clock forward. Timers that are due run at the next iteration of the loop."""
        self._now += seconds


async def advance(seconds: float) -> None:
    """Move the clock of the running `StandingLoop` forward and run the timers that are due."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, StandingLoop)
    loop.advance(seconds)
    await turns()


async def turns() -> None:
    """Run some iterations of the loop without moving the clock."""
    for _ in range(10):
        await asyncio.sleep(0)


async def happens(condition: Callable[[], object]) -> None:
    """Wait until a condition is true, without moving the clock."""
    while not condition():  # noqa: ASYNC110  # a sleep of 0 lets other tasks run; no timer would fire
        await asyncio.sleep(0)
