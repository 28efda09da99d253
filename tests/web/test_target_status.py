"""Test the summary of the history for the status page."""

from __future__ import annotations

import re

from probe_exporter.history.record import HistoryEntry
from probe_exporter.web.target_status import BAR_STEP, MAX_RESULTS, StatusFilter, strip, summarise


def entry(id: int, target: str, reason: str = "", module: str = "m") -> HistoryEntry:
    """Return the result of a probe that began at second `id`."""
    return HistoryEntry(id, module, target, float(id), 0.1, 9.5, reason, "connect" if reason else "", reason)


def newest_first(*entries: HistoryEntry) -> list[HistoryEntry]:
    return sorted(entries, key=lambda one: -one.id)


def test_state_begins_with_the_first_of_the_latest_equal_results() -> None:
    (state,) = summarise(newest_first(entry(1, "a", "x"), entry(2, "a"), entry(3, "a", "x"), entry(4, "a", "y")))
    assert (state.success, state.since, state.known) == (False, 3.0, True)
    assert (state.latest.id, state.latest.reason) == (4, "y")


def test_state_without_an_earlier_other_result_may_have_begun_before() -> None:
    (state,) = summarise(newest_first(entry(1, "a", "x"), entry(2, "a", "x")))
    assert (state.since, state.known) == (1.0, False)


def test_failures_come_first_and_the_latest_failure_is_on_top() -> None:
    states = summarise(
        newest_first(
            entry(1, "b", "x"), entry(2, "d"), entry(3, "c"), entry(4, "a", "x"), entry(5, "b", "x"), entry(6, "a", "x")
        )
    )
    assert [state.latest.target for state in states] == ["a", "b", "c", "d"]


def test_modules_of_one_target_are_apart() -> None:
    states = summarise(newest_first(entry(1, "a", module="m"), entry(2, "a", "x", module="n")))
    assert [(state.latest.module, state.success) for state in states] == [("n", False), ("m", True)]


def test_last_results_are_limited_and_the_beginning_of_the_state_is_not() -> None:
    (state,) = summarise(newest_first(entry(0, "a"), *[entry(number, "a", "x") for number in range(1, 101)]))
    assert len(state.results) == MAX_RESULTS
    assert (state.since, state.known) == (1.0, True)


def test_strip_has_the_newest_result_at_the_right_and_failures_are_higher() -> None:
    (state,) = summarise(newest_first(entry(1, "a", "x"), entry(2, "a")))
    picture = strip(state)
    assert picture.text == "1 of the last 2 probes failed"
    assert re.findall(r"M(\d+) (\d+)", picture.good) == [(str((MAX_RESULTS - 1) * BAR_STEP), "10")]
    assert re.findall(r"M(\d+) (\d+)", picture.bad) == [(str((MAX_RESULTS - 2) * BAR_STEP), "0")]


def test_filters_combine() -> None:
    states = summarise(
        newest_first(entry(1, "One", "x"), entry(2, "two", "y"), entry(3, "three"), entry(4, "none", "x", module="n"))
    )

    def found(**filters: str) -> set[str]:
        return {state.latest.target for state in StatusFilter(**filters).select(states)}

    assert found() == {"One", "two", "three", "none"}
    assert found(target="ONE") == {"One", "none"}
    assert found(module="m", result="failure") == {"One", "two"}
    assert found(result="success") == {"three"}
    assert found(reason="x", target="one") == {"One", "none"}
    assert found(reason="x", module="m", target="two") == set()
