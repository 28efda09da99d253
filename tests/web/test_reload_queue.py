"""Test reloads: one runs at a time, at most one waits, and each request gets the result of one that began later."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from probe_exporter.config.reloading import Configuration
from probe_exporter.web.reload_queue import Reloads
from tests.clocks import settle


class SlowConfiguration:
    """A configuration whose reloads end when the test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.looks = 0
        self.error: Exception | None = None
        self.go_on = asyncio.Semaphore(0)

    async def reload(self) -> None:
        assert self.begun == self.ended, "two reloads at once"
        self.begun += 1
        await self.go_on.acquire()
        self.ended += 1
        if self.error is not None:
            raise self.error

    async def reload_if_changed(self) -> None:
        self.looks += 1


def reloads_of(slow: SlowConfiguration) -> Reloads:
    return Reloads(cast("Configuration", slow))


async def test_many_requests_cause_two_reloads() -> None:
    slow = SlowConfiguration()
    reloads = reloads_of(slow)
    asking = [asyncio.ensure_future(reloads.reload()) for _ in range(150)]
    await settle()
    assert (slow.begun, reloads.full) == (1, True)
    slow.go_on.release()
    await settle()
    assert [task.done() for task in asking] == [True] + [False] * 149
    assert (slow.begun, reloads.full) == (2, False)
    slow.go_on.release()
    await asyncio.gather(*asking)
    assert slow.ended == 2


async def test_request_during_the_second_reload_gets_a_third() -> None:
    slow = SlowConfiguration()
    reloads = reloads_of(slow)
    first, second = (asyncio.ensure_future(reloads.reload()) for _ in range(2))
    await settle()
    slow.go_on.release()
    await first
    third = asyncio.ensure_future(reloads.reload())
    await settle()
    slow.go_on.release()
    await second
    assert not third.done()
    slow.go_on.release()
    await third
    assert slow.ended == 3


async def test_error_reaches_everybody_who_waits_and_the_next_reload_runs() -> None:
    slow = SlowConfiguration()
    slow.error = OSError("no such file")
    reloads = reloads_of(slow)
    asking = [asyncio.ensure_future(reloads.reload()) for _ in range(3)]
    slow.go_on.release()
    slow.go_on.release()
    assert [str(error) for error in await asyncio.gather(*asking, return_exceptions=True)] == ["no such file"] * 3
    slow.error = None
    slow.go_on.release()
    await reloads.reload()


async def test_cancelled_request_leaves_the_reload_to_the_others() -> None:
    slow = SlowConfiguration()
    reloads = reloads_of(slow)
    impatient, patient, third = (asyncio.ensure_future(reloads.reload()) for _ in range(3))
    await settle()
    impatient.cancel()
    patient.cancel()
    await settle()
    slow.go_on.release()
    slow.go_on.release()
    await third
    assert slow.ended == 2


async def test_timer_looks_for_changes_only_between_reloads() -> None:
    slow = SlowConfiguration()
    reloads = reloads_of(slow)
    await reloads.reload_if_changed()
    asking = asyncio.ensure_future(reloads.reload())
    await settle()
    await reloads.reload_if_changed()
    assert slow.looks == 1
    slow.go_on.release()
    await asking
    await reloads.reload_if_changed()
    assert slow.looks == 2


async def test_error_that_nobody_waits_for_is_not_reported_by_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    slow = SlowConfiguration()
    slow.error = OSError("no such file")
    asking = asyncio.ensure_future(reloads_of(slow).reload())
    await settle()
    asking.cancel()
    slow.go_on.release()
    await settle()
    assert caplog.text == ""
