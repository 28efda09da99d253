"""A worker's questions to its supervisor, and how signals end it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.workers.worker import PATIENCE_SECONDS, StopRequests, SupervisorClient, SupervisorTimeout


async def test_worker_stops_waiting_for_a_supervisor_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PATIENCE_SECONDS, "snapshot", 0.01)
    channel, supervisor = socket.socketpair()
    client = SupervisorClient(Telemetry(), 2)
    client.join(channel)
    await client.connect()
    assert client._line is not None
    writer = client._line[1]
    with supervisor:
        with pytest.raises(SupervisorTimeout, match="The supervisor of the workers does not answer"):
            await client.snapshots()
        writer.close()
        await writer.wait_closed()


async def words(stop_requests: StopRequests) -> int:
    """How many words have come by now."""
    number = 0
    while True:
        next_one = asyncio.ensure_future(stop_requests.wait())
        await asyncio.sleep(0)
        if not next_one.done():
            next_one.cancel()
            return number
        number += 1


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        (["signal"], 1),
        (["signal", "signal"], 2),
        ([1], 1),
        ([1, 2], 2),
        (["signal", 1], 1),
        ([1, "signal"], 1),
        (["signal", 1, "signal", 2], 2),
        ([1, 2, "signal", "signal"], 2),
        ([2, 1], 2),
    ],
)
async def test_a_word_that_comes_as_a_signal_and_from_the_supervisor_counts_once(
    said: Sequence[str | int], counted: int
) -> None:
    stop_requests = StopRequests()
    for one in said:
        if isinstance(one, int):
            stop_requests.tell("SIGTERM", one)
        else:
            stop_requests.signal("SIGTERM")
    assert await words(stop_requests) == counted
