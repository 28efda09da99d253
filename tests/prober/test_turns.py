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
