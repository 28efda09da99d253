"""Tests of deadlines: they end work that takes too long, and nothing else.

The clock is simulated, so every time here is exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter

import pytest

from probe_exporter.prober.deadline import (
    FAR_SECONDS,
    MAX_EXPIRED_IN_A_TURN,
    TICK,
    Deadline,
    Late,
    _buckets_of,
    within,
)
from tests.clocks import SimulatedLoop, simulated
from tests.conftest import NewLoop

pytestmark = pytest.mark.usefixtures("new_loop")

ROUNDING = 1e-6  # seconds
SECONDS = (0.01, 0.4, 0.99, 1.0, 1.01, 1.7, 2.0, 3.333, 9.5, FAR_SECONDS - 0.2, FAR_SECONDS + 1.3, 200.0)


@pytest.fixture
def new_loop() -> NewLoop:
    return SimulatedLoop


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_deadline_ignores_work_that_ends_in_time() -> None:
    with Deadline(now() + 0.05) as deadline:
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)
    assert not deadline.expired


async def test_deadline_expires_within_a_tick_and_never_early() -> None:
    for seconds in (0.0, 0.004, 0.02, 0.073):
        started = now()
        with pytest.raises(TimeoutError), Deadline(started + seconds):
            await asyncio.sleep(10)
        assert seconds - ROUNDING <= now() - started <= seconds + TICK + ROUNDING


@pytest.mark.parametrize("seconds", [-5.0, -0.001, 0.0])
async def test_deadline_in_the_past_expires_at_first_wait(seconds: float) -> None:
    with pytest.raises(TimeoutError), Deadline(now() + seconds):
        await asyncio.sleep(10)


async def test_deadlines_expire_each_at_their_own_time() -> None:
    async def one(seconds: float) -> float:
        started = now()
        try:
            with Deadline(started + seconds):
                await asyncio.sleep(10)
        except TimeoutError:
            return now() - started
        raise AssertionError("it did not expire")

    wanted = [0.01 * (i % 20) for i in range(400)]
    got = await asyncio.gather(*map(one, wanted))
    assert all(w - ROUNDING <= g <= w + TICK + ROUNDING for w, g in zip(wanted, got, strict=True))


async def test_deadlines_far_away_expire_each_at_their_own_time() -> None:
    """Also those that begin while others are near, and those set while the loop is late."""
    late: list[float] = []

    async def one(begins: float, seconds: float) -> None:
        await asyncio.sleep(begins)
        due = now() + seconds
        with contextlib.suppress(TimeoutError), Deadline(due):
            await asyncio.sleep(1000)
        late.append(now() - due)

    await asyncio.gather(*(one(begins * 0.37, seconds) for begins in range(12) for seconds in SECONDS))
    assert len(late) == 12 * len(SECONDS)
    assert all(-ROUNDING <= seconds <= TICK + ROUNDING for seconds in late)


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 1e300, 1e308, -math.inf])
async def test_deadline_with_odd_time_leaves_others_alone(seconds: float) -> None:
    """An infinite one never expires; what is no time, and what has passed, expires at the first wait."""

    async def one(seconds: float) -> float:
        started = now()
        with contextlib.suppress(TimeoutError), Deadline(started + seconds):
            await asyncio.sleep(20)
        return now() - started

    first = await asyncio.gather(one(0.5), one(seconds), one(1.7))
    second = await asyncio.gather(one(0.5), one(1.7))
    assert [round(waited, 1) for waited in first] == [0.5, 20.0 if seconds > 0 else 0.0, 1.7]
    assert [round(waited, 1) for waited in second] == [0.5, 1.7]


async def test_deadlines_that_end_in_time_leave_no_timer_behind() -> None:
    for seconds in SECONDS * 20:
        with Deadline(now() + seconds) as deadline:
            await asyncio.sleep(0.003)
        assert deadline not in deadline.among
    await asyncio.sleep(200 * TICK)
    assert _buckets_of(asyncio.get_running_loop())._timer is None


async def test_deadlines_that_are_due_together_expires_in_several_turns() -> None:
    """Also those of several buckets, as after a time in which the process did not run; the earliest expire first."""
    turn, ended = 0, list[tuple[int, int]]()

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def work(number: int) -> None:
        with contextlib.suppress(TimeoutError), Deadline(due + number // 500 * TICK):
            await asyncio.Event().wait()
        ended.append((turn, number // 500))

    due = now() + 1.0
    working = [asyncio.create_task(work(number)) for number in range(1000)]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    loop.advance(2.0)
    counting = asyncio.create_task(count())
    await asyncio.gather(*working)
    counting.cancel()
    assert max(Counter(turn for turn, _ in ended).values()) <= MAX_EXPIRED_IN_A_TURN
    assert [bucket for _, bucket in ended] == [0] * 500 + [1] * 500


async def test_deadline_set_later_can_expire_first() -> None:
    order: list[str] = []

    async def one(name: str, seconds: float) -> None:
        try:
            with Deadline(now() + seconds):
                await asyncio.sleep(10)
        except TimeoutError:
            order.append(name)

    await asyncio.gather(one("late", 0.09), one("early", 0.03))
    assert order == ["early", "late"]


async def test_deadline_passes_cancellation_through() -> None:
    async def work() -> None:
        with Deadline(now() + 10):
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_deadline_keeps_simultaneous_cancellation() -> None:
    async def work() -> None:
        with Deadline(now() + 0.02):
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    simulated().advance(0.05)  # both become due before the loop looks again
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_deadline_nested_inner_expires_alone() -> None:
    with Deadline(now() + 10) as outer:
        with pytest.raises(TimeoutError), Deadline(now() + 0.02):
            await asyncio.sleep(10)
        await asyncio.sleep(0)
    assert not outer.expired


async def test_deadline_passes_errors_through() -> None:
    with pytest.raises(ZeroDivisionError), Deadline(now() + 1):
        math.floor(1 / 0)


async def test_within_limits_optional_work() -> None:
    with Deadline(now() + 1) as whole:
        with pytest.raises(Late), within(0.05):
            await asyncio.sleep(5)
        with within(0.5):
            await asyncio.sleep(0)
    assert not whole.expired


async def test_within_does_not_hide_outer_deadline() -> None:
    with pytest.raises(TimeoutError), Deadline(now() + 0.05) as whole, within(5):
        await asyncio.sleep(5)
    assert whole.expired
    with pytest.raises(TimeoutError, match="of somebody else"), within(5):
        raise TimeoutError("of somebody else")
