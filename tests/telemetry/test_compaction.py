"""Objects that outlive a burst of probes are created anew, away from the free places that the burst left."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from probe_exporter.telemetry.compaction import MAX_FILLER_BYTES, SIZES, fill_holes, recreate, refill

ROOT = Path(__file__).parents[2]

HOLES = """
import asyncio, json, sys
from probe_exporter.telemetry import compaction

SIZE = int(sys.argv[1])

def pools(objects):
    return {id(one) >> compaction.POOL_BITS for one in objects}

async def main():
    burst = [bytes(SIZE - 33) for _ in range(20_000)]
    survivors = burst[10_000::500]
    del burst
    if sys.argv[2] == "fill":
        fillers = await compaction.fill_holes()
    new = [bytes(SIZE - 33) for _ in range(1000)]
    in_holes = [one for one in new if pools([one]) & pools(survivors)]
    print(json.dumps(len(in_holes)))

asyncio.run(main())
"""


def created_in_holes(size: int, what: str) -> int:
    """Return how many of 1,000 objects a new process creates in pools that it had nearly emptied."""
    command = [sys.executable, "-c", HOLES, str(size), what]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={"PYTHONMALLOC": "pymalloc"})
    number: int = json.loads(done.stdout)
    return number


@pytest.mark.skipif(
    not sysconfig.get_config_var("WITH_PYMALLOC") or bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="this Python has another allocator",
)
@pytest.mark.parametrize("size", [48, 112, 512])
@pytest.mark.slow
def test_new_objects_are_not_created_among_the_survivors_of_a_burst(size: int) -> None:
    assert created_in_holes(size, "leave") > 200
    assert created_in_holes(size, "fill") < 50


async def test_fillers_are_bounded() -> None:
    fillers = await fill_holes()
    most = 3 * (1 << 14)  # of one size, in the last turn
    assert sum(map(sys.getsizeof, fillers)) <= MAX_FILLER_BYTES + most * len(SIZES)


async def test_refill_creates_new_objects_before_it_returns_the_old_ones() -> None:
    created: list[object] = []

    def create() -> object:
        created.append(object())
        return created[-1]

    old = await refill(create, 3)
    assert len(created) == 6
    assert old == created[:3]


class Point(NamedTuple):
    x: float
    texts: tuple[str, ...]


class Shared:
    """An object of a type that is not copied."""


class Failed(Exception):
    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


def test_recreate_copies_numbers_and_texts() -> None:
    before = [Point(1234.5, ("a" * 20, "b" * 20)), Point(-0.0, ())]
    after = recreate(before, frozenset({Point}))
    assert after == before
    assert str(after) == str(before)
    assert after[0] is not before[0]
    assert after[0].x is not before[0].x
    assert after[0].texts[0] is not before[0].texts[0]


def test_recreate_shares_objects_of_other_types() -> None:
    shared = Shared()
    [after] = recreate([{"key": [shared, None, True, Point(1.0, ())]}], frozenset())
    assert after["key"][0] is shared
    assert after["key"][1:3] == [None, True]
    assert type(after["key"][3]) is Point


def test_recreate_keeps_what_is_the_same_object() -> None:
    text = "text" * 10
    [first, second] = recreate([[text], [text]], frozenset())
    assert first[0] is second[0]
    assert first[0] is not text


def test_recreate_copies_exceptions_without_their_arguments() -> None:
    before = Failed(5, "text")
    [after] = recreate([before], frozenset({Failed}))
    assert after is not before
    assert (type(after), after.args, after.number) == (Failed, ("text",), 5)


def test_recreate_binds_methods_to_the_copies() -> None:
    numbers = [1, 2]
    point = Point(1.0, ())
    objects: list[Any] = [point, point._asdict, numbers.append]
    copy, method, other = recreate(objects, frozenset({Point}))
    assert method.__self__ is copy
    assert other.__self__ is numbers, "a method in C is shared"


def test_recreate_returns_objects_that_are_nested_too_deeply() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert recreate(deep, frozenset()) is deep
    while deep:  # Python frees it without recursion only piece by piece
        deep = deep[0]  # type: ignore[assignment]
