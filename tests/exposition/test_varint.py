"""Tests of variable-length integers of protocol buffers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.exposition import varint


@pytest.mark.parametrize(
    ("number", "data"),
    [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\1"), (300, b"\xac\2"), (2**64 - 1, b"\xff" * 9 + b"\1")],
)
def test_varint_has_seven_bits_per_byte_lowest_first(number: int, data: bytes) -> None:
    assert varint.encode(number) == data
    assert varint.decode(b"." + data + b".", 1) == (number, 1 + len(data))


@given(st.integers(0, 2**64 - 1))
def test_varint_round_trips(number: int) -> None:
    data = varint.encode(number)
    assert varint.decode(data, 0) == (number, len(data))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 11, b"\xff" * 9 + b"\2"])
def test_varint_refuses_unterminated_and_oversized_numbers(data: bytes) -> None:
    with pytest.raises(ValueError, match="too long, or does not end"):
        varint.decode(data, 0)
