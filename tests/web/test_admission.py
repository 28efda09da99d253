"""Test probe slots: queue order, queue limit, cancellation, timeouts and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.web.admission import Admission, patience
from probe_exporter.web.answers import Refused
from tests.clocks import SimulatedLoop
from tests.conftest import NewLoop


@pytest.mark.parametrize(
    ("whole", "timeout", "seconds"),
    [
        (14.5, 5.0, 9.5),  # all except the timeout of the module
        (14.5, 14.5, 7.25),  # a module without a timeout keeps half
        (14.5, 10.0, 7.25),
        (119.5, 119.5, 59.75),
        (0.0, 0.0, 0.0),
        (-0.1, 5.0, 0.0),  # a scrape timeout below the offset
    ],
)
def test_patience_leaves_the_module_timeout_or_half_of_the_request(
    whole: float, timeout: float, seconds: float
) -> None:
    assert patience(whole, timeout) == pytest.approx(seconds)


@pytest.fixture
def new_loop() -> NewLoop:
    """Use a simulated clock, so that each run is the same."""
    return SimulatedLoop


async def take(admission: Admission, seconds: float) -> float:
    """Take a slot as a probe does and return the seconds waited."""
    if admission.free > 0:
        admission.free -= 1
        return 0.0
    return await admission.wait(seconds)


async def test_waiters_get_slots_in_order_of_arrival() -> None:
    admission, order = Admission(1, Telemetry()), []

    async def client(number: int) -> None:
        await take(admission, 60)
        order.append(number)
        await asyncio.sleep(0)
        admission.leave()

    await asyncio.gather(*(client(number) for number in range(2)), return_exceptions=False)
    assert order == [0, 1]
    assert admission.free == 1


async def test_queue_holds_as_many_as_run_and_refuses_more_at_once() -> None:
    telemetry = Telemetry()
    admission = Admission(2, telemetry)
    for _ in range(2):
        await take(admission, 60)
    waiting = [asyncio.ensure_future(take(admission, 60)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Refused, match="Too many probes") as refused:
        await take(admission, 60)
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
    assert (telemetry.waiting, telemetry.rejected) == (2, 1)
    for _ in range(2):
        admission.leave()
    assert all(waited >= 0 for waited in await asyncio.gather(*waiting))
    assert (telemetry.waiting, admission.free) == (0, 0)


async def test_cancelled_waiter_passes_its_slot_to_the_next() -> None:
    admission = Admission(2, Telemetry())
    for _ in range(2):
        await take(admission, 60)
    first, second = (asyncio.ensure_future(take(admission, 60)) for _ in range(2))
    await asyncio.sleep(0)
    admission.leave()  # the first waiter gets the slot, and has not run since
    first.cancel()
    await second
    assert first.cancelled()
    assert admission.free == 0


async def test_close_refuses_all_waiters() -> None:
    telemetry = Telemetry()
    admission = Admission(1, telemetry)
    await take(admission, 60)
    waiting = asyncio.ensure_future(take(admission, 60))
    await asyncio.sleep(0)
    admission.close()
    with pytest.raises(Refused, match="shutting down"):
        await waiting
    assert (telemetry.waiting, telemetry.rejected) == (0, 0)


@pytest.mark.parametrize("seed", range(5))
async def test_number_of_slots_is_constant_under_random_load(seed: int) -> None:
    chance, telemetry = random.Random(seed), Telemetry()
    admission = Admission(5, telemetry)
    most = running = 0

    async def client() -> None:
        nonlocal most, running
        with contextlib.suppress(Refused):
            await take(admission, chance.choice([0.0, 0.001, 0.003, 1.0]))
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(chance.random() * 0.004)
            finally:
                running -= 1
                admission.leave()

    clients = []
    for _ in range(1000):
        clients.append(asyncio.ensure_future(client()))
        if chance.random() < 0.3:
            chance.choice(clients).cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.001)
    await asyncio.gather(*clients, return_exceptions=True)
    assert most == 5
    assert (admission.free, telemetry.waiting) == (5, 0)
    assert telemetry.rejected > 0
