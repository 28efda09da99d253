"""Tests of the event loop lag: it is visible during a delay and afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from probe_exporter.telemetry import lag as lags
from probe_exporter.telemetry.lag import TICK_SECONDS, WINDOW_SECONDS, Lag
from tests.clocks import SimulatedLoop, simulated
from tests.conftest import NewLoop

pytestmark = pytest.mark.usefixtures("new_loop")


@pytest.fixture
def new_loop() -> NewLoop:
    return SimulatedLoop


@contextlib.asynccontextmanager
async def watched(lag: Lag) -> AsyncIterator[None]:
    watching = asyncio.ensure_future(lag.watch())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        watching.cancel()


async def test_lag_is_zero_if_loop_is_free() -> None:
    lag = Lag(simulated().time)
    async with watched(lag):
        await asyncio.sleep(TICK_SECONDS * 1.2)
        assert lag.worst() == pytest.approx(0)


async def test_lag_shows_blocked_loop_during_and_after() -> None:
    loop = simulated()
    lag = Lag(loop.time)
    async with watched(lag):
        loop.advance(TICK_SECONDS + 0.3)
        assert lag.worst() == pytest.approx(0.3), "before the loop has had its turn"
        await asyncio.sleep(TICK_SECONDS * 1.2)
        assert lag.worst() == pytest.approx(0.3), "after it"


async def test_lag_uses_its_own_clock_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop's clock may stand still while the loop is blocked."""
    monkeypatch.setattr(lags, "TICK_SECONDS", 0.01)
    lag = Lag()
    async with watched(lag):
        time.sleep(0.05)  # noqa: ASYNC251  # this is what it is about
        assert lag.worst() >= 0.04
        await asyncio.sleep(0.01)
        assert lag.worst() >= 0.04


async def test_lag_forgets_late_tick() -> None:
    now = 0.0
    lag = Lag(lambda: now)
    assert lag.worst() == 0, "nothing was due yet"
    async with watched(lag):
        now = 10.0
        lag._recent.append(lag.overdue())
        assert lag.worst() == 10 - TICK_SECONDS
        lag._due = now + TICK_SECONDS
        for _ in range(round(WINDOW_SECONDS / TICK_SECONDS) - 1):
            lag._recent.append(lag.overdue())
        assert lag.worst() == 10 - TICK_SECONDS
        lag._recent.append(lag.overdue())
        assert lag.worst() == 0
