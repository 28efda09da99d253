"""Bytes that are gathered in pieces: joined once, in little memory, without holding the loop."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.protocols.http.pieces import MAX_INLINE_BYTES, PORTION_BYTES, SMALL_BYTES, Pieces
from tests.cost import short_turns


@given(st.lists(st.sampled_from([b"", b"a", b"bc", b"d" * SMALL_BYTES, b"e" * PORTION_BYTES]), max_size=30))
def test_pieces_are_joined_in_their_order(pieces: list[bytes]) -> None:
    gathered = Pieces()
    for piece in pieces:
        gathered.add(piece)
    assert gathered.length == sum(map(len, pieces))
    assert asyncio.run(gathered.joined()) == b"".join(pieces)


async def test_joined_bytes_are_the_same_object_until_more_arrive() -> None:
    gathered = Pieces()
    for piece in (b"a" * MAX_INLINE_BYTES, b"b" * MAX_INLINE_BYTES):
        gathered.add(piece)
    whole = await gathered.joined()
    assert await gathered.joined() is whole
    gathered.add(b"c")
    assert await gathered.joined() == whole + b"c"


@pytest.mark.slow
def test_single_bytes_take_hardly_more_memory_than_they_are() -> None:
    gathered = Pieces()
    tracemalloc.start()
    for number in range(200_000):
        gathered.add(b"%c" % (number % 256))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000 + 4 * PORTION_BYTES


@pytest.mark.slow
async def test_joining_64_mib_does_not_hold_the_loop() -> None:
    gathered = Pieces()
    for _ in range(1024):
        gathered.add(bytes(PORTION_BYTES))
    with short_turns():
        await gathered.joined()
