"""The newest results are held, failures outlive the successes around them, number and bytes stay in their bounds."""

from __future__ import annotations

import asyncio
import logging
import time
import timeit
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.history import memory
from probe_exporter.history.memory import MAX_BYTES, TOO_LARGE, MemoryHistory, Query, Recent, weight
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.runner import Result, run
from probe_exporter.settings.block import Settings

INFO = Metric("probe_test_info", "A label.", ("value",))


async def nothing(probe: Probe, settings: Settings) -> None:
    """Succeed."""


PROBER = Prober("nothing", Settings, nothing)
MODULES = {name: Module(name, PROBER, Settings(), 0.0, Place("test.yml")) for name in ("one", "two")}


def finished(
    target: str, *, module: str = "one", failed: bool = False, label: str = "", started: float = 1000.0
) -> Result:
    probe = Probe(target, 0.0)
    probe.log("Something", level=logging.DEBUG, number=1)
    if label:
        probe.set(INFO, 1, label)
    failure = ProbeFailed(Reason.TARGET_INVALID, "no") if failed else None
    return Result(MODULES[module], target, probe, failure, "phase" if failed else "", started, 0.5, 1.0)


def filled(limit: int, script: str, max_bytes: int = MAX_BYTES) -> Recent:
    """What is recent after one probe per character: ``s`` succeeds, ``f`` fails."""
    recent = Recent(limit, max_bytes, Counter())
    for index, outcome in enumerate(script):
        recent.add(finished(f"t{index}", failed=outcome == "f"))
        recent.settle()
    return recent


def held(recent: Recent) -> Sequence[int]:
    return [item.id for item in recent]


def a_history(limit: int = 100, max_bytes: int = MAX_BYTES) -> MemoryHistory:
    return MemoryHistory(limit, max_bytes, ProbeLog(logging.DEBUG), Counter())


# --- which are held ----------------------------------------------------------------------------------------


def test_numbers_count_from_zero_and_the_newest_comes_first() -> None:
    assert held(filled(5, "sfs")) == [2, 1, 0]


def test_a_success_pushed_out_is_gone() -> None:
    assert held(filled(2, "ssss")) == [3, 2]


def test_a_failure_pushed_out_is_kept_after_the_newest() -> None:
    assert held(filled(2, "fsfsss")) == [5, 4, 2, 0]


def test_of_the_kept_failures_the_oldest_are_dropped_at_the_limit() -> None:
    assert held(filled(2, "fffffss")) == [6, 5, 4, 3]


def test_no_more_than_twice_the_limit_is_ever_held() -> None:
    assert len(held(filled(7, "f" * 100))) == 14


def test_a_limit_of_none_holds_none_and_still_counts() -> None:
    recent = filled(0, "sff")
    assert held(recent) == []


def test_bytes_push_out_as_numbers_do() -> None:
    """Half of the bytes is for the newest; failures that they push out have the other half."""
    one = weight(finished("t0", failed=True))
    recent = filled(100, "f" * 12 + "s" * 8, max_bytes=16 * one + 50)
    assert held(recent) == [*range(19, 11, -1), *range(11, 3, -1)]


def test_a_result_larger_than_its_share_pushes_nothing_out_and_is_counted() -> None:
    lost: Counter[str] = Counter()
    recent = Recent(10, 100_000, lost)
    recent.add(finished("small"))
    recent.add(finished("large", label="x" * 60_000))
    recent.settle()
    assert held(recent) == [0]
    assert lost == {TOO_LARGE: 1}


class Model(NamedTuple):
    """The rule, said once more and slowly: two lists, each with a limit and half of the bytes, no item above a 16th."""

    newest: deque[tuple[int, bool, int]]
    failures: deque[tuple[int, bool, int]]

    def put(self, item: tuple[int, bool, int], limit: int, max_bytes: int) -> None:
        if item[2] > max_bytes // 16:
            return
        self.newest.append(item)
        while len(self.newest) > limit or sum(bytes for _, _, bytes in self.newest) > max_bytes // 2:
            oldest = self.newest.popleft()
            if oldest[1]:
                self.failures.append(oldest)
        while len(self.failures) > limit or sum(bytes for _, _, bytes in self.failures) > max_bytes // 2:
            self.failures.popleft()


@given(
    limit=st.integers(0, 8),
    max_bytes=st.integers(1, 300_000),
    probes=st.lists(st.tuples(st.booleans(), st.integers(0, 20_000), st.booleans()), max_size=60),
)
def test_the_bounds_hold_whatever_comes_and_whenever_it_is_weighed(
    limit: int, max_bytes: int, probes: list[tuple[bool, int, bool]]
) -> None:
    recent = Recent(limit, max_bytes, Counter())
    model = Model(deque(), deque())
    for number, (failed, size, settle) in enumerate(probes):
        result = finished("t", failed=failed, label="x" * size)
        recent.add(result)
        model.put((number, failed, weight(result)), limit, max_bytes)
        if settle:
            recent.settle()
            assert recent.bytes == sum(item.bytes for item in recent) <= max_bytes
            assert len(held(recent)) <= 2 * limit
    recent.settle()
    assert held(recent) == [number for number, _, _ in (*reversed(model.newest), *reversed(model.failures))]


def test_what_is_taken_is_in_order_and_leaves_nothing() -> None:
    recent = filled(2, "fsfsss")
    assert [result.target for result in recent.take()] == ["t0", "t2", "t4", "t5"]
    assert (held(recent), recent.bytes) == ([], 0)


def test_what_is_pushed_out_is_counted_for_those_who_ask() -> None:
    lost: Counter[str] = Counter()
    recent = Recent(2, MAX_BYTES, lost, "pushed_out")
    for _ in range(10):
        recent.add(finished("t"))
    recent.settle()
    assert lost == {"pushed_out": 8}


# --- what is asked for -------------------------------------------------------------------------------------


async def test_filters_narrow_and_the_newest_comes_first() -> None:
    history = a_history()
    for number, (module, target, failed) in enumerate(
        [("one", "x", False), ("one", "x", True), ("two", "x", False), ("two", "y", True), ("one", "y", False)]
    ):
        history.add(finished(target, module=module, failed=failed, started=1000.0 + number))

    async def found(**query: object) -> list[int]:
        return [entry.id for entry in await history.select(Query(**query))]  # type: ignore[arg-type]  # of the tests' own

    assert await found() == [4, 3, 2, 1, 0]
    assert await found(module="two") == [3, 2]
    assert await found(target="x") == [2, 1, 0]
    assert await found(success=False) == [3, 1]
    assert await found(success=True, module="one") == [4, 0]
    assert await found(reason="target_invalid", target="y") == [3]
    assert await found(reason="connect_refused") == []
    assert await found(since=1003.0) == [4, 3]
    assert await found(limit=2) == [4, 3]
    assert await found(module="three") == []


async def test_a_kept_failure_is_found_where_nothing_newer_is() -> None:
    history = a_history(limit=1)
    history.add(finished("x", failed=True))
    history.add(finished("y"))
    (entry,) = await history.select(Query(target="x"))
    assert (entry.reason, entry.phase, entry.message) == ("target_invalid", "phase", "no")
    assert not entry.success


async def test_a_probe_is_found_by_its_number_while_it_is_held() -> None:
    history = a_history(limit=1)
    for target in ("a", "b"):
        history.add(finished(target, label="shown"))
    found = await history.get(1)
    assert found is not None
    entry, document = found
    assert (entry.target, entry.started, entry.duration, entry.timeout) == ("b", 1000.0, 0.5, 1.0)
    assert document.details["families"] == [
        {
            "name": "probe_test_info",
            "type": "gauge",
            "help": "A label.",
            "samples": [{"name": "probe_test_info", "labels": {"value": "shown"}, "value": 1}],
        }
    ]
    assert 'probe_test_info{value="shown"} 1' in document.debug
    for number in (0, 2, -1, 1 << 70):
        assert await history.get(number) is None


async def test_results_are_weighed_soon_though_nobody_asks() -> None:
    history = a_history(limit=10, max_bytes=100_000)
    for _ in range(5):
        history.add(finished("x", label="x" * 30_000))
    while history._recent._unsettled:  # noqa: ASYNC110  # a timer does it
        await asyncio.sleep(0.01)
    assert history._recent.bytes <= 100_000


# --- what it costs -----------------------------------------------------------------------------------------


async def a_talkative_probe(probe: Probe, settings: Settings) -> None:
    for number in range(8):
        probe.log("A step of the way", step=number, text=f"{probe.target} {number}" * 20)
        probe.set(INFO, number, f"{probe.target} {number}")


@pytest.mark.parametrize("prober", [nothing, a_talkative_probe])
async def test_the_weight_is_about_what_a_result_takes(prober: object) -> None:
    module = Module("m", Prober("p", Settings, prober), Settings(), 0.0, Place("test.yml"))  # type: ignore[arg-type]  # one of the two above
    await run(module, "warm up", 1.0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        results = [await run(module, f"target {number}", 1.0) for number in range(300)]
        taken = (tracemalloc.get_traced_memory()[0] - before) / len(results)
    finally:
        tracemalloc.stop()
    assert 0.7 * taken < sum(map(weight, results)) / len(results) < 2 * taken


async def test_a_probe_pays_an_append(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighing takes microseconds, rendering hundreds: neither is done while a probe waits."""
    done: list[str] = []

    def weigh(result: Result) -> int:
        done.append("weighed")
        return 1

    monkeypatch.setattr(memory, "weight", weigh)
    monkeypatch.setattr(memory, "entry", lambda *_: done.append("rendered"))
    history = a_history(limit=1000)
    for _ in range(memory.MOST_UNSETTLED - 1):
        history.add(finished("x"))
    assert done == []
    history._recent.settle()
    assert done == ["weighed"] * (memory.MOST_UNSETTLED - 1)


async def test_an_append_costs_little() -> None:
    """Against the cheapest thing that the same interpreter can do, in its own CPU time."""
    result = finished("x", label="x" * 1000)
    history = a_history()
    history.add(result)  # which calls for settling
    plain: list[Result] = []

    def cost(work: Callable[[], object]) -> float:
        return min(timeit.repeat(work, timer=time.process_time, number=40, repeat=5))

    assert cost(lambda: history.add(result)) < 30 * cost(lambda: plain.append(result))
