"""An event loop whose clock stands still until the test moves it, for servers and clients on real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

HANG_SECONDS = 120.0
"""Real seconds after which the clock of a test that hangs jumps, so that the test's own timeout ends it."""


class StandingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when `advance` is called; I/O happens as usual."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._hung = time.monotonic() + HANG_SECONDS
        super().__init__()

    def time(self) -> float:
        """Seconds of the test's own making."""
        return self._now + (1e6 if time.monotonic() > self._hung else 0.0)

    def advance(self, seconds: float) -> None:
        """Let time pass: timers that have become due run at the loop's next turn."""
        self._now += seconds


async def advance(seconds: float) -> None:
    """Let time pass on a `StandingLoop`, and let run what has become due, with what follows from that."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, StandingLoop)
    loop.advance(seconds)
    await turns()


async def turns() -> None:
    """Give the loop some turns, in which no time passes."""
    for _ in range(10):
        await asyncio.sleep(0)


async def happens(true: Callable[[], object]) -> None:
    """Wait for something that other tasks do, without time."""
    while not true():  # noqa: ASYNC110  # the clock stands still: this is what other tasks get their turns by
        await asyncio.sleep(0)
