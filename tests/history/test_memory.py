"""Test the history in memory: which results are kept, limits by number and bytes, queries and cost."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import timeit
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import Gauge

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.history import memory
from probe_exporter.history.memory import (
    LARGEST_SHARE,
    MAX_BYTES,
    TOO_LARGE,
    MemoryHistory,
    Query,
    Recent,
    estimated_size,
)
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.runner import Result, run
from probe_exporter.runs.several import Run
from probe_exporter.settings.block import Settings
from probe_exporter.tls import certificates, evidence
from probe_exporter.tls.handshake import Handshake
from tests.cost import expect_cheaper
from tests.targets import Pki

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
    """Return a history after one probe per character: ``s`` succeeds, ``f`` fails."""
    recent = Recent(limit, max_bytes, Counter())
    for index, outcome in enumerate(script):
        recent.add(finished(f"t{index}", failed=outcome == "f"))
        recent.settle()
    return recent


def held(recent: Recent) -> Sequence[int]:
    return [item.id for item in recent]


def a_history(limit: int = 100, max_bytes: int = MAX_BYTES) -> MemoryHistory:
    return MemoryHistory(limit, max_bytes, ProbeLog(logging.DEBUG), Counter())


# --- which results are kept ----------------------------------------------------------------------------------


def test_ids_count_from_zero_and_the_newest_result_is_first() -> None:
    assert held(filled(5, "sfs")) == [2, 1, 0]


def test_success_beyond_the_limit_is_dropped() -> None:
    assert held(filled(2, "ssss")) == [3, 2]


def test_failure_beyond_the_limit_is_kept_after_the_newest() -> None:
    assert held(filled(2, "fsfsss")) == [5, 4, 2, 0]


def test_oldest_kept_failures_are_dropped_beyond_the_limit() -> None:
    assert held(filled(2, "fffffss")) == [6, 5, 4, 3]


def test_history_holds_at_most_twice_the_limit() -> None:
    assert len(held(filled(7, "f" * 100))) == 14


def test_limit_zero_holds_nothing() -> None:
    recent = filled(0, "sff")
    assert held(recent) == []


def test_byte_limit_drops_the_oldest_results() -> None:
    """Half of the bytes is for the newest results, the other half for older failures."""
    one = estimated_size(finished("t0", failed=True))
    recent = filled(100, "f" * 12 + "s" * 8, max_bytes=16 * one + 50)
    assert held(recent) == [*range(19, 11, -1), *range(11, 3, -1)]


def test_too_large_result_is_counted_and_not_kept() -> None:
    lost: Counter[str] = Counter()
    recent = Recent(10, 100_000, lost)
    recent.add(finished("small"))
    recent.add(finished("large", label="x" * 60_000))
    recent.settle()
    assert held(recent) == [0]
    assert lost == {TOO_LARGE: 1}


def test_phases_and_certificates_count(pki: Pki) -> None:
    result = finished("x")
    before = estimated_size(result)
    for _ in range(10):
        with result.probe.phase("p") as phase:
            phase.about = "a" * 1000
    with_phases = estimated_size(result)
    assert with_phases - before > 10 * 1000
    leaf = certificates.read(x509.load_pem_x509_certificate((pki.directory / "leaf.pem").read_bytes()))
    for _ in range(100):
        evidence.keep(result.probe, Handshake("TLS 1.3", "", [leaf] * 100, None), "n" * 5000)
    assert len(result.probe.evidence) == evidence.MAX_HANDSHAKES
    added = estimated_size(result) - with_phases
    assert evidence.MAX_HANDSHAKES * evidence.MAX_CERTIFICATES * leaf.summary.bytes <= added < 200_000


@pytest.mark.parametrize("about", [None, 5, b"x", IPv6Address("::1")])
def test_phase_about_no_text_does_not_lose_results(about: Any) -> None:
    recent = Recent(10, MAX_BYTES, Counter())
    results = [finished("a"), finished("b"), finished("c")]
    with results[1].probe.phase("p") as phase:
        phase.about = about
    for result in results:
        recent.add(result)
    recent.settle()
    assert held(recent) == [2, 1, 0]


def test_runs_count() -> None:
    result = finished("x")
    run = Run("127.0.0.1", 1, 0.0, 1.0, "target_invalid", "", "m" * 1000, True, {"connect": 1.0}, (), "", None, False)
    runs = estimated_size(result._replace(runs=(run,) * 10))
    assert runs - estimated_size(result) > 10 * 1000
    phases = (("connect", 0.0, 1.0, "a" * 100, False),) * 5
    assert estimated_size(result._replace(runs=(run._replace(spans=phases),) * 10)) - runs > 50 * 100


@given(st.lists(st.text(max_size=30)), st.integers(1, 1000))
def test_texts_have_the_size_that_python_says(texts: list[str], times: int) -> None:
    """Short and long ones, of ASCII and of any other characters."""
    texts = [text * times for text in texts]
    assert memory._size_of_texts(texts) == sum(map(sys.getsizeof, texts))


@given(st.integers(1) | st.integers(max_value=-1) | st.floats() | st.binary() | st.text())
@example(2**30 - 1)
@example(2**30)
@example(-(2**30))
@example(10**5000)
@example(b"x" * 100_000)
def test_values_in_the_log_have_the_size_that_python_says(value: object) -> None:
    one, other = finished("x"), finished("x")
    one.probe.log("Something", value=value)
    other.probe.log("Something", value=True)
    assert estimated_size(one) - estimated_size(other) == sys.getsizeof(value) - sys.getsizeof(True)


def test_containers_in_the_log_count_with_what_they_hold() -> None:
    results = [finished("x") for _ in range(4)]
    for result, value in zip(
        results, (None, ["a" * 1000] * 20, [b"a" * 1000, "b" * 20_000], {"k": [["a" * 20_000]]}), strict=True
    ):
        result.probe.log("Something", value=value)
    plain, *others = map(estimated_size, results)
    assert all(20_000 < other - plain < 23_000 for other in others)


class Model(NamedTuple):
    """A simple model of the rule: two lists, each with a limit and half of the bytes, no item above a 16th of all."""

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
def test_history_matches_a_simple_model_for_any_results(
    limit: int, max_bytes: int, probes: list[tuple[bool, int, bool]]
) -> None:
    recent = Recent(limit, max_bytes, Counter())
    model = Model(deque(), deque())
    for number, (failed, size, settle) in enumerate(probes):
        result = finished("t", failed=failed, label="x" * size)
        if estimated_size(result) > max_bytes // LARGEST_SHARE:
            recent.settle()  # a result that waits gives way to a newer one before the size of that one is known
        recent.add(result)
        model.put((number, failed, estimated_size(result)), limit, max_bytes)
        if settle:
            recent.settle()
            assert recent.bytes == sum(item.bytes for item in recent) <= max_bytes
            assert len(held(recent)) <= 2 * limit
    recent.settle()
    assert held(recent) == [number for number, _, _ in (*reversed(model.newest), *reversed(model.failures))]


def test_take_returns_results_in_order_and_empties_the_history() -> None:
    recent = filled(2, "fsfsss")
    assert [result.target for result in recent.take()] == ["t0", "t2", "t4", "t5"]
    assert (held(recent), recent.bytes) == ([], 0)


def test_dropped_results_are_counted_if_a_cause_is_given() -> None:
    lost: Counter[str] = Counter()
    recent = Recent(2, MAX_BYTES, lost, "pushed_out")
    for _ in range(10):
        recent.add(finished("t"))
    recent.settle()
    assert lost == {"pushed_out": 8}


# --- queries -------------------------------------------------------------------------------------------------


async def test_select_combines_filters_and_the_newest_entry_is_first() -> None:
    history = a_history()
    for number, (module, target, failed) in enumerate(
        [("one", "x", False), ("one", "x", True), ("two", "x", False), ("two", "y", True), ("one", "y", False)]
    ):
        history.add(finished(target, module=module, failed=failed, started=1000.0 + number))

    async def found(**query: object) -> list[int]:
        return [entry.id for entry in await history.select(Query(**query))]  # type: ignore[arg-type]  # the keywords come from this test

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


async def test_select_finds_a_kept_failure() -> None:
    history = a_history(limit=1)
    history.add(finished("x", failed=True))
    history.add(finished("y"))
    (entry,) = await history.select(Query(target="x"))
    assert (entry.reason, entry.phase, entry.message) == ("target_invalid", "phase", "no")
    assert not entry.success


async def test_get_finds_a_held_result_by_id() -> None:
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


async def test_results_are_settled_without_a_query() -> None:
    history = a_history(limit=10, max_bytes=100_000)
    for _ in range(5):
        history.add(finished("x", label="x" * 30_000))
    while history._recent._unsettled:  # noqa: ASYNC110  # a timer settles them
        await asyncio.sleep(0.01)
    assert history._recent.bytes <= 100_000


# --- cost ----------------------------------------------------------------------------------------------------


def with_lines(number: int) -> Result:
    result = finished("x")
    result.probe.lines *= number
    return result


def with_series(number: int) -> Result:
    result = finished("x")
    result.probe.samples.series = {(INFO, (str(place),)): 1.0 for place in range(number)}
    return result


def with_registry(_number: int) -> Result:
    result = finished("x")
    Gauge("a", "A.", registry=result.probe.registry)
    return result


@pytest.mark.parametrize("make", [with_lines, with_series, with_registry])
def test_few_large_results_wait_to_be_settled(make: Callable[[int], Result]) -> None:
    """A turn computes the sizes of all results that wait."""
    recent = Recent(100, 16 * MAX_BYTES, Counter())
    waiting = []
    for _ in range(60):
        recent.add(make(memory.MAX_UNSETTLED_PARTS // 5))
        waiting.append(len(recent._unsettled))
    assert max(waiting) == 4
    assert len([*recent]) == 60 - waiting[-1]


def test_pushed_out_results_are_not_among_those_that_wait() -> None:
    recent = Recent(2, MAX_BYTES, Counter())
    for _ in range(memory.MAX_UNSETTLED_PARTS):
        recent.add(with_lines(10))
    assert [*recent] == [], "the timer will settle the two that wait"


def test_largest_result_is_handed_over_although_it_does_not_wait() -> None:
    recent = Recent(10, MAX_BYTES, Counter())
    assert recent.add(with_lines(memory.MAX_UNSETTLED_PARTS)), "`history.file` schedules the write"
    assert len(recent.take()) == 1


async def a_talkative_probe(probe: Probe, settings: Settings) -> None:
    for number in range(8):
        probe.log("A step of the way", step=number, text=f"{probe.target} {number}" * 20)
        probe.set(INFO, number, f"{probe.target} {number}")


@pytest.mark.parametrize("prober", [nothing, a_talkative_probe])
async def test_weight_approximates_the_memory_of_a_result(prober: object) -> None:
    module = Module("m", Prober("p", Settings, prober), Settings(), 0.0, Place("test.yml"))  # type: ignore[arg-type]  # either of the two above
    await run(module, "warm up", 1.0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        results = [await run(module, f"target {number}", 1.0) for number in range(300)]
        taken = (tracemalloc.get_traced_memory()[0] - before) / len(results)
    finally:
        tracemalloc.stop()
    assert 0.7 * taken < sum(map(estimated_size, results)) / len(results) < 2 * taken


async def test_add_neither_weighs_nor_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighing takes microseconds and rendering hundreds: neither delays a probe."""
    done: list[str] = []

    def weigh(result: Result) -> int:
        done.append("weighed")
        return 1

    monkeypatch.setattr(memory, "estimated_size", weigh)
    monkeypatch.setattr(memory, "entry", lambda *_: done.append("rendered"))
    history = a_history(limit=1000)
    for _ in range(memory.MAX_UNSETTLED_RESULTS - 1):
        history.add(finished("x"))
    assert done == []
    history._recent.settle()
    assert done == ["weighed"] * (memory.MAX_UNSETTLED_RESULTS - 1)


async def test_add_costs_little_cpu_time() -> None:
    """The CPU time of `add` is compared with that of a list's append."""
    result = finished("x", label="x" * 1000)
    history = a_history()
    history.add(result)  # schedules the settling
    plain: list[Result] = []

    def cost(work: Callable[[], object]) -> float:
        return min(timeit.repeat(work, timer=time.process_time, number=40, repeat=5))

    expect_cheaper(cost(lambda: history.add(result)), 30 * cost(lambda: plain.append(result)), "40 additions")


async def test_recreated_history_has_equal_results_in_the_same_order() -> None:
    history = a_history()
    for number in range(3 * memory.RECREATED_IN_A_TURN):
        result = finished(f"target-{number}", failed=number % 3 == 0, label=f"label-{number}")
        history.add(result)
    before = await history.select(Query())
    documents = [await history.get(entry.id) for entry in before]
    originals = await history.recreate()
    assert await history.select(Query()) == before
    assert [await history.get(entry.id) for entry in before] == documents
    assert isinstance(originals, list)
    kept = {id(item.result.probe) for item in history._recent}
    assert not kept & {id(item.result.probe) for item in originals}


async def test_history_keeps_results_that_are_added_while_it_is_recreated() -> None:
    history = a_history(limit=50)
    for number in range(50):
        history.add(finished(f"before-{number}"))
    recreating = asyncio.ensure_future(history.recreate())
    await asyncio.sleep(0)
    history.add(finished("meanwhile"))
    await history.select(Query())
    await recreating
    targets = [entry.target for entry in await history.select(Query(limit=50))]
    assert targets == ["meanwhile", *[f"before-{number}" for number in reversed(range(1, 50))]]


async def test_recreated_results_share_modules_and_metrics() -> None:
    history = a_history()
    history.add(finished("target", failed=True, label="value"))
    await history.recreate()
    [item] = history._recent
    result = item.result
    assert result.module is MODULES["one"]
    assert list(result.probe.samples.labelled) == [INFO]
    assert result.failure is not None
    assert (result.failure.reason, result.failure.message, str(result.failure)) == (Reason.TARGET_INVALID, "no", "no")


async def test_large_results_are_not_recreated() -> None:
    history = a_history()
    history.add(finished("large", label="x" * memory.MAX_RECREATED_BYTES))
    assert await history.recreate() == []
