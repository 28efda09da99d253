"""Other tasks run once a turn has lasted long enough."""

from __future__ import annotations

import asyncio

import pytest

from probe_exporter.prober.turns import TURN_SECONDS, Turn


async def others_run(turn: Turn) -> bool:
    """Give a turn; return whether other tasks could run."""
    ran: list[bool] = []
    asyncio.get_running_loop().call_soon(ran.append, True)
    await turn.give()
    found = bool(ran)
    await asyncio.sleep(0)
    return found


async def test_other_tasks_run_after_the_time_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1.0
    monkeypatch.setattr("probe_exporter.prober.turns.time.perf_counter", lambda: now)
    turn = Turn()
    found = []
    for part in (0.9, 0.2, 0.0):
        now += part * TURN_SECONDS
        found.append((turn.is_over, await others_run(turn)))
    assert found == [(False, False), (True, True), (False, False)]


class Iterations:
    """Counts the iterations of the running loop from now on."""

    def __init__(self) -> None:
        self.number = 0
        self._count()

    def _count(self) -> None:
        self.number += 1
        asyncio.get_running_loop().call_soon(self._count)


async def test_tasks_that_work_long_do_so_in_different_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1.0
    monkeypatch.setattr("probe_exporter.prober.turns.time.perf_counter", lambda: now)
    iterations = Iterations()
    worked: dict[int, list[int]] = {}

    async def work(number: int) -> None:
        nonlocal now
        turn = Turn()
        await turn.begin()
        for _ in range(3):
            worked.setdefault(iterations.number, []).append(number)
            now += 2 * TURN_SECONDS
            await turn.give()

    await asyncio.gather(*[work(number) for number in range(10)])
    order = [number for numbers in worked.values() for number in numbers]
    assert max(map(len, worked.values())) == 1
    assert order == [0, *range(10), *range(10), *range(1, 10)], "one after another; the first one does not wait"


async def test_cancelled_task_leaves_its_turn_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1.0
    monkeypatch.setattr("probe_exporter.prober.turns.time.perf_counter", lambda: now)
    turns = [Turn() for _ in range(3)]
    now += 2 * TURN_SECONDS
    tasks = [asyncio.create_task(turn.give()) for turn in turns]
    await asyncio.sleep(0)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, type(None), type(None)]


async def test_turn_begins_at_once_if_no_task_waits() -> None:
    iterations = Iterations()
    await Turn().begin()
    assert iterations.number == 1
