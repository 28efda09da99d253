"""A late event loop is seen: afterwards, and while it is late."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from probe_exporter.telemetry.lag import EVERY, REMEMBERED, Lag


@contextlib.asynccontextmanager
async def watched(lag: Lag) -> AsyncIterator[None]:
    watching = asyncio.ensure_future(lag.watch())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        watching.cancel()


async def test_a_loop_that_is_free_is_not_late() -> None:
    lag = Lag()
    async with watched(lag):
        await asyncio.sleep(EVERY * 1.2)
        assert lag.worst() < EVERY / 2


async def test_a_blocked_loop_is_late_by_as_much_at_once_and_afterwards() -> None:
    lag = Lag()
    async with watched(lag):
        time.sleep(EVERY + 0.3)  # noqa: ASYNC251  # this is what it is about
        assert 0.3 <= lag.worst() < 0.6, "before the loop has had its turn"
        await asyncio.sleep(EVERY * 1.2)
        assert 0.3 <= lag.worst() < 0.6, "after it"


async def test_a_late_tick_is_forgotten_in_time() -> None:
    now = 0.0
    lag = Lag(lambda: now)
    assert lag.worst() == 0, "nothing was due yet"
    async with watched(lag):
        now = 10.0
        lag._recent.append(lag._overdue())
        assert lag.worst() == 10 - EVERY
        lag._due = now + EVERY
        for _ in range(round(REMEMBERED / EVERY) - 1):
            lag._recent.append(lag._overdue())
        assert lag.worst() == 10 - EVERY
        lag._recent.append(lag._overdue())
        assert lag.worst() == 0
