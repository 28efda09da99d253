"""Each probe gets the longest delay of the event loop between its begin and its end."""

from __future__ import annotations

import asyncio

import pytest

from probe_exporter.telemetry.delays import RESOLUTION_SECONDS, TICK_SECONDS, Delays


class Watched:
    """Delays with a clock that the test sets, in a loop whose timers the test runs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.delays = Delays(lambda: self.now)

    def tick(self, late: float = 0.0) -> None:
        """Let the timer run, so many seconds late."""
        self.now += TICK_SECONDS + late
        self.delays.tick()


@pytest.fixture
def watched() -> Watched:
    return Watched()


async def test_longest_delay_of_a_probe_is_returned(watched: Watched) -> None:
    began = watched.delays.begin()
    for late in (0.0, 0.02, 0.3, 0.1, 0.0):
        watched.tick(late)
    assert watched.delays.end(began) == pytest.approx(0.3)


async def test_delays_before_a_probe_do_not_count(watched: Watched) -> None:
    first = watched.delays.begin()
    watched.tick(0.3)
    second = watched.delays.begin()
    watched.tick(0.1)
    third = watched.delays.begin()
    watched.tick()
    ends = [watched.delays.end(began) for began in (third, second, first)]
    assert ends == pytest.approx([0.0, 0.1, 0.3])


async def test_delay_that_goes_on_at_the_end_counts(watched: Watched) -> None:
    began = watched.delays.begin()
    watched.now += TICK_SECONDS + 0.2
    assert watched.delays.end(began) == pytest.approx(0.2)


async def test_delay_is_never_longer_than_the_probe(watched: Watched) -> None:
    first = watched.delays.begin()
    watched.now += 1.0
    second = watched.delays.begin()
    watched.now += 0.1
    watched.delays.tick()
    assert watched.delays.end(second) == pytest.approx(0.1)
    assert watched.delays.end(first) == pytest.approx(1.1 - TICK_SECONDS)


@pytest.mark.parametrize(("later", "longest"), [(0.0, 0.002), (0.2, 0.2)])
async def test_part_of_a_delay_before_a_probe_does_not_count(watched: Watched, later: float, longest: float) -> None:
    first = watched.delays.begin()
    watched.now += TICK_SECONDS + 1.0
    second = watched.delays.begin()  # in the turn that is late, before its timer runs
    watched.now += 0.002
    watched.delays.tick()
    watched.tick(later)
    watched.tick()
    assert watched.delays.end(second) == pytest.approx(longest)
    assert watched.delays.end(first) == pytest.approx(1.002)


async def test_resolution_of_timers_is_no_delay(watched: Watched) -> None:
    began = watched.delays.begin()
    watched.tick(RESOLUTION_SECONDS / 2)
    assert watched.delays.end(began) == 0.0


async def test_loop_is_watched_only_while_probes_run(watched: Watched) -> None:
    began = watched.delays.begin()
    assert watched.delays.is_watching()
    watched.delays.end(began)
    watched.tick()
    assert not watched.delays.is_watching()
    watched.delays.begin()
    assert watched.delays.is_watching()


async def test_delays_are_kept_only_while_they_can_be_the_longest(watched: Watched) -> None:
    began = watched.delays.begin()
    for number in range(1_000):
        watched.tick(0.01 + number % 10 / 100)
    assert len(watched.delays._delays) <= 10
    assert watched.delays.end(began) == pytest.approx(0.1)


async def test_blocked_loop_is_noticed_by_its_timer() -> None:
    """The clock is the test's, so that the machine's speed does not matter: it goes on by a minute in one turn."""
    now = 0.0
    delays = Delays(lambda: now)
    began = delays.begin()
    now += 60.0
    await asyncio.sleep(10 * TICK_SECONDS)
    assert delays.end(began) == pytest.approx(60.0 - TICK_SECONDS)
