"""The newest results are held, and failures outlive the successes around them."""

from __future__ import annotations

from collections.abc import Sequence

from probe_exporter.config import Module
from probe_exporter.document import Place
from probe_exporter.history import History
from probe_exporter.prober import Probe, ProbeFailed, Prober, Reason, Settings
from probe_exporter.runner import Result


async def nothing(probe: Probe, settings: Settings) -> None:
    """Succeed."""


PROBER = Prober("nothing", Settings, nothing)
MODULES = {name: Module(name, PROBER, Settings(), 0.0, Place("test.yml")) for name in ("one", "two")}


def finished(target: str, *, module: str = "one", failed: bool = False) -> Result:
    failure = ProbeFailed(Reason.TARGET_INVALID, "no") if failed else None
    return Result(MODULES[module], target, Probe(target, 0.0), failure, "", 0.0, 0.0, 1.0)


def filled(limit: int, script: str) -> History:
    """A history after one probe per character: ``s`` succeeds, ``f`` fails."""
    history = History(limit)
    for index, outcome in enumerate(script):
        assert history.add(finished(f"t{index}", failed=outcome == "f")) == index
    return history


def held(history: History) -> Sequence[int]:
    return [entry.id for entry in history.recent()]


def test_numbers_count_from_zero_and_the_newest_comes_first() -> None:
    assert held(filled(5, "sfs")) == [2, 1, 0]


def test_a_success_pushed_out_is_gone() -> None:
    assert held(filled(2, "ssss")) == [3, 2]


def test_a_failure_pushed_out_is_kept_after_the_newest() -> None:
    history = filled(2, "fsfsss")
    assert held(history) == [5, 4, 2, 0]


def test_of_the_kept_failures_the_oldest_are_dropped_at_the_limit() -> None:
    assert held(filled(2, "fffffss")) == [6, 5, 4, 3]


def test_no_more_than_twice_the_limit_is_ever_held() -> None:
    assert len(held(filled(7, "f" * 100))) == 14


def test_a_limit_of_none_holds_none_and_still_counts() -> None:
    history = filled(0, "sff")
    assert held(history) == []
    assert history.add(finished("x")) == 3
    assert history.get(3) is None


def test_a_result_is_found_by_its_number_while_it_is_held() -> None:
    history = filled(2, "fsss")
    for number, target in ((3, "t3"), (2, "t2"), (0, "t0")):
        result = history.get(number)
        assert result is not None
        assert result.target == target
    assert history.get(1) is None
    assert history.get(4) is None
    assert history.get(-1) is None


def test_a_target_is_found_by_its_newest_result() -> None:
    """The original gives the oldest, which is the one that nobody looks for."""
    history = History(3)
    first, second, other = finished("x"), finished("x"), finished("x", module="two")
    for result in (first, second, other):
        history.add(result)
    assert history.find("x") is other
    assert history.find("x", "one") is second
    assert history.find("x", "three") is None
    assert history.find("y") is None


def test_a_kept_failure_is_found_where_nothing_newer_is() -> None:
    history = History(1)
    failed = finished("x", failed=True)
    history.add(failed)
    history.add(finished("y"))
    assert history.find("x") is failed
