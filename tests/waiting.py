"""Wait for an event. Only a test that hangs reaches the end of its patience.

`tests.clocks` says what to use when.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.clocks import StandingLoop

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which an awaited event counts as absent; no test waits so long on a machine that works."""

_LOOKS_EVERY = 0.01  # seconds


async def until(happened: Callable[[], object]) -> None:
    """Let the event loop run until `happened()` is true. A simulated clock does not move meanwhile.

    Raises:
        AssertionError: it is still false after `PATIENCE` seconds.
    """
    pause = 0.0 if isinstance(asyncio.get_running_loop(), StandingLoop) else 0.001
    give_up = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < give_up, "the awaited event did not happen"
        await asyncio.sleep(pause)


def wait_until(happened: Callable[[], object], *, looks_every: float = _LOOKS_EVERY) -> None:
    """Block until `happened()` is true: for what threads and other processes do.

    Args:
        looks_every: seconds between two calls; more than the default for a call that starts a program.

    Raises:
        AssertionError: it is still false after `PATIENCE` seconds.
    """
    give_up = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < give_up, "the awaited event did not happen"
        time.sleep(looks_every)


async def eventually(attempt: Callable[[], Awaitable[T]], good: Callable[[T], object]) -> T:
    """Repeat an attempt until its outcome is good; return that. The time limit of the test ends the others."""
    while not good(outcome := await attempt()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return outcome
