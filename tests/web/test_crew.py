"""What ends a worker, and the rate limit that several share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from probe_exporter.web.config_file import RateLimit
from probe_exporter.web.crew import Ending
from probe_exporter.web.door import Bucket


async def words(ending: Ending) -> int:
    """How many words have come by now."""
    number = 0
    while True:
        next_one = asyncio.ensure_future(ending.wait())
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
    ending = Ending()
    for one in said:
        if isinstance(one, int):
            ending.tell("SIGTERM", one)
        else:
            ending.signal("SIGTERM")
    assert await words(ending) == counted


@pytest.mark.parametrize(("burst", "workers", "at_once"), [(10, 1, 10), (10, 4, 3), (1, 4, 1), (0, 4, 0)])
def test_each_worker_has_its_share_of_the_rate(burst: int, workers: int, at_once: int) -> None:
    bucket = Bucket(RateLimit(interval="1s", burst=burst), workers, 100.0)
    assert [bucket.take(100.0) for _ in range(at_once + 1)] == [True] * at_once + [False]
    if burst:
        assert not bucket.take(100.0 + 0.9 * workers)
        assert bucket.take(100.0 + 1.1 * workers)


def test_without_an_interval_there_is_no_limit() -> None:
    bucket = Bucket(RateLimit(burst=0), 1, 0.0)
    assert all(bucket.take(0.0) for _ in range(1000))
