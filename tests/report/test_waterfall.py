"""Tests of the waterfall: places and sizes of bars, phases within phases, limits."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.report.waterfall import MAX_ABOUT_CHARACTERS, MAX_BARS, bars


def phase(name: str, start: float, seconds: float, about: str = "", *, failed: bool = False) -> dict[str, Any]:
    return {"name": name, "start": start, "seconds": seconds, "about": about, "failed": failed}


def test_bars_have_places_in_percent_of_the_duration() -> None:
    found = bars([phase("resolve", 0, 0.2), phase("connect", 0.2, 0.3, "127.0.0.1", failed=True)], 1.0)
    assert [(bar.name, bar.left, bar.width) for bar in found] == [("resolve", 0, 20), ("connect", 20, 30)]
    assert [(bar.about, bar.failed) for bar in found] == [("", False), ("127.0.0.1", True)]


def test_phases_of_one_name_within_each_other_are_one_bar() -> None:
    found = bars([phase("resolve", 0, 0.5), phase("resolve", 0.1, 0.3, "localhost", failed=True)], 1.0)
    assert [(bar.name, bar.start, bar.seconds, bar.about, bar.failed) for bar in found] == [
        ("resolve", 0, 0.5, "localhost", True)
    ]


def test_phase_within_another_is_deeper() -> None:
    found = bars([phase("dialogue", 0, 0.5), phase("tls", 0.1, 0.2), phase("tls", 0.4, 0.1), phase("query", 0.6, 1)], 2)
    assert [(bar.name, bar.depth) for bar in found] == [("dialogue", 0), ("tls", 1), ("tls", 1), ("query", 0)]


def test_same_phase_twice_in_a_row_is_two_bars() -> None:
    found = bars([phase("connect", 0, 0.1, "::1", failed=True), phase("connect", 0.1, 0.1, "127.0.0.1")], 0.2)
    assert [bar.about for bar in found] == ["::1", "127.0.0.1"]


def test_many_phases_and_long_texts_are_cut() -> None:
    found = bars([phase(f"p{index}", index, 1, "x" * 10_000) for index in range(1000)], 1000)
    assert len(found) == MAX_BARS
    assert len(found[0].about) == MAX_ABOUT_CHARACTERS + 1


def test_probe_without_phases_has_no_bars() -> None:
    assert bars([], 0.0) == []


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=20), st.floats(0, 1e6))
def test_bars_stay_within_the_chart(times: list[tuple[float, float]], duration: float) -> None:
    for bar in bars([phase("p", start, seconds) for start, seconds in times], duration):
        assert bar.left >= 0
        assert bar.width >= 0.99
        assert bar.left + bar.width <= 100.01
