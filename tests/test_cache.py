"""A cache is bounded in bytes, forgets what is not asked for, and never remembers an error."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from probe_exporter.cache import Cache, forget_all, remembered, size_of


class Counting:
    """A function that counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, text: str) -> str:
        self.calls.append(text)
        if text == "bad":
            raise ValueError(text)
        return text.upper()


def test_second_call_is_answered_from_the_cache() -> None:
    function = Counting()
    cached = remembered()(function)
    assert [cached("a"), cached("a"), cached("b")] == ["A", "A", "B"]
    assert function.calls == ["a", "b"]


def test_forgotten_results_are_computed_again() -> None:
    function = Counting()
    cached = remembered()(function)
    assert [cached("a"), cached("a")] == ["A", "A"]
    forget_all()
    assert [cached("a"), cached("a")] == ["A", "A"]
    assert function.calls == ["a", "a"]


def test_forgetting_empties_both_generations() -> None:
    cache = Cache(str.upper, 1 << 16)
    for number in range(1_000):
        cache[f"number {number}"]
    assert cache.old
    cache.forget()
    assert (len(cache), len(cache.old), cache.bytes) == (0, 0, 0)


def test_entry_is_found_while_another_thread_empties_the_cache() -> None:
    class Key:
        """A key whose comparison stands for the moment at which the other thread runs."""

        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            cache.forget()
            return True

    cache = Cache[Key, str](lambda _: "computed", 1 << 20)
    cache.old = {Key(): "old"}
    assert cache[Key()] == "old"


def test_exception_is_raised_each_time_and_takes_no_memory() -> None:
    function = Counting()
    cache = Cache(function, 1 << 20)
    for _ in range(3):
        with pytest.raises(ValueError, match="bad"):
            cache["bad"]
    assert function.calls == ["bad"] * 3
    assert (len(cache), len(cache.old), cache.bytes) == (0, 0, 0)


@pytest.mark.slow
def test_limit_holds_for_both_generations_together() -> None:
    cache = Cache(str.upper, 1 << 20)
    for number in range(10_000):
        cache[f"{number}-{'x' * 1000}"]
        assert cache.bytes + sum(map(size_of, cache.old.items())) <= 1 << 20
    assert len(cache) + len(cache.old) > 200


def test_size_can_be_given_by_the_caller() -> None:
    cache = Cache(str.upper, 1 << 20, lambda key, value: 1000 * (len(key) + len(value)))
    cache["x"]
    assert 2000 <= cache.bytes < 2200


def test_large_result_is_not_remembered_and_pushes_nothing_out() -> None:
    function = Counting()
    cache = Cache(function, 1 << 20)
    cache["small"]
    for number in range(100):
        assert cache[f"{number}{'x' * 40_000}"].endswith("X")
    assert (list(cache), list(cache.old)) == (["small"], [])


def test_largest_entry_can_be_given_by_the_caller() -> None:
    cache = Cache(str.upper, 1 << 20, max_entry_bytes=1000)
    cache["x" * 100]
    cache["x" * 1000]
    assert list(cache) == ["x" * 100]


def test_entry_in_use_survives_any_number_of_others() -> None:
    function = Counting()
    cache = Cache(function, 1 << 18)
    for number in range(5_000):
        cache[f"other {number}"]
        cache["in use"]
    assert function.calls.count("in use") == 1
    assert function.calls.count("other 0") == 1
    cache["other 0"]
    assert function.calls.count("other 0") == 2


class Row(NamedTuple):
    text: str


class Slotted:
    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Plain(Slotted):
    def __init__(self, text: str) -> None:
        super().__init__("")
        self.more = {"key": [text]}


@pytest.mark.parametrize("make", [str, lambda text: (1, text), lambda text: {text: None}, Row, Slotted, Plain])
def test_size_counts_what_lies_within(make: type) -> None:
    assert size_of(make("x" * 10_000)) - size_of(make("")) == 10_000
