"""Memory is given back once after each burst of probes, when few are left."""

from __future__ import annotations

import asyncio
import gc
import linecache
import weakref

import pytest

from probe_exporter.cache import remembered
from probe_exporter.telemetry import memory
from probe_exporter.telemetry.memory import MAX_LEFT, MIN_BURST, QUIET_CHECKS, Trimmer, drop_leftovers


@pytest.mark.parametrize("left", [0, MAX_LEFT])
def test_burst_is_over_once_few_probes_are_left(left: int) -> None:
    numbers = iter([0, MIN_BURST, MIN_BURST * 4, *[left] * QUIET_CHECKS, *[left] * 5])
    trimmer = Trimmer(lambda: next(numbers))
    found = [trimmer.burst_is_over() for _ in range(3 + QUIET_CHECKS + 5)]
    assert found == [False] * (2 + QUIET_CHECKS) + [True] + [False] * 5


def test_few_probes_are_no_burst() -> None:
    numbers = iter([MIN_BURST - 1, 0, 0, 0, 0])
    trimmer = Trimmer(lambda: next(numbers))
    assert not any(trimmer.burst_is_over() for _ in range(5))


def test_burst_goes_on_while_waves_of_probes_follow_each_other() -> None:
    numbers = iter([MIN_BURST, 0, MIN_BURST, 0, MAX_LEFT + 1, 0])
    trimmer = Trimmer(lambda: next(numbers))
    assert not any(trimmer.burst_is_over() for _ in range(6))


class Node:
    """An object that can be in a cycle, and be watched."""

    def __init__(self) -> None:
        self.other = self


def test_leftovers_are_source_files_of_tracebacks() -> None:
    assert linecache.getline(__file__, 1).startswith('"""Memory is given back')
    drop_leftovers()
    assert __file__ not in linecache.cache


def test_leftovers_are_cached_results_and_garbage_in_cycles() -> None:
    calls: list[str] = []

    @remembered()
    def compute(text: str) -> str:
        calls.append(text)
        return text

    compute("a")
    gc.disable()
    try:
        garbage = weakref.ref(Node())
        assert garbage() is not None
        drop_leftovers()
        assert garbage() is None
    finally:
        gc.enable()
    compute("a")
    assert calls == ["a", "a"]


async def test_structures_are_created_anew_twice_and_data_once() -> None:
    calls: list[str] = []

    async def data() -> object:
        calls.append("data")
        return calls

    async def structures() -> object:
        calls.append("structures")
        return calls

    await Trimmer(lambda: 0, [data], [structures]).give_back()
    assert calls == ["data", "structures", "structures"]


async def test_old_objects_are_kept_until_all_have_been_created_anew() -> None:
    references: list[weakref.ref[Node]] = []
    alive: list[bool] = []

    async def first() -> object:
        old = Node()
        references.append(weakref.ref(old))
        return old

    async def last() -> object:
        gc.collect()
        alive.append(references[-1]() is not None)
        return None

    await Trimmer(lambda: 0, [], [first, last]).give_back()
    assert alive == [True, True]
    assert [reference() for reference in references] == [None, None]


async def test_trimmer_goes_on_after_a_failure(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CHECK_SECONDS", 0.0)
    numbers = iter([MIN_BURST, *[0] * QUIET_CHECKS, MIN_BURST, *[0] * QUIET_CHECKS])
    failures = 0

    async def fail() -> object:
        nonlocal failures
        failures += 1
        raise TypeError("another release takes other arguments")

    def probes() -> int:
        number = next(numbers, None)
        if number is None:
            watching.cancel()
            return 0
        return number

    watching = asyncio.create_task(Trimmer(probes, [fail]).watch())
    await asyncio.wait([watching])
    assert failures == 2
    assert "Memory is not given back" in caplog.text
