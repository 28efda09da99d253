"""Test work that several tasks wait for: who is cancelled, who gets the result, and that asyncio logs nothing."""

from __future__ import annotations

import asyncio
import gc

import pytest

from probe_exporter.prober.sharing import shared_result
from tests.loops import ON_BOTH_LOOPS

pytestmark = ON_BOTH_LOOPS


async def waiting(work: asyncio.Future[str], number: int) -> list[asyncio.Task[str]]:
    """Return tasks that wait for work."""
    tasks = [asyncio.create_task(shared_result(work)) for _ in range(number)]
    await asyncio.sleep(0)
    return tasks


async def test_all_waiters_get_the_result() -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    tasks = await waiting(work, 3)
    work.set_result("done")
    assert await asyncio.gather(*tasks) == ["done"] * 3
    assert await shared_result(work) == "done"


@pytest.mark.parametrize("failing", [False, True])
async def test_cancelled_waiter_leaves_the_outcome_to_the_others(
    failing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    first, second = await waiting(work, 2)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    if failing:
        work.set_exception(LookupError("failed"))
        with pytest.raises(LookupError, match="failed"):
            await second
    else:
        work.set_result("done")
        assert await second == "done"
    assert not caplog.records


async def test_cancelled_work_cancels_its_waiters() -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    (task,) = await waiting(work, 1)
    work.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize("turns", range(3))
async def test_work_that_fails_as_its_only_waiter_is_cancelled_is_not_logged(
    turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    (task,) = await waiting(work, 1)
    work.set_exception(LookupError("failed"))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or isinstance(task.exception(), LookupError)
    del work, task
    gc.collect()
    assert not caplog.records


async def test_work_that_fails_after_its_only_waiter_was_cancelled_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    (task,) = await waiting(work, 1)
    task.cancel()
    await asyncio.wait([task])
    work.set_exception(LookupError("failed"))
    await asyncio.sleep(0)
    del work, task
    gc.collect()
    assert not caplog.records
