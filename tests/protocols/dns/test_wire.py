"""Names on the wire: compression, and what it may cost."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress

import dns.exception
import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.protocols.dns.message import decode
from probe_exporter.protocols.dns.wire import (
    MAX_NAMES_CHARACTERS,
    MAX_POINTERS,
    NAME_ESCAPES,
    Malformed,
    Wire,
    escaped,
)
from tests.cost import costs_at_most


def read(data: bytes, at: int) -> str:
    return Wire(data, at).name()


def chain(pointers: int) -> bytes:
    """Return a root name and pointers to it, each to the one before; the last is at the end."""
    places = [0, *range(1, 2 * pointers, 2)]
    return b"\0" + b"".join((0xC000 | place).to_bytes(2, "big") for place in places[:pointers])


@pytest.mark.parametrize("pointers", [1, 2, 126])
def test_name_follows_pointers_to_pointers(pointers: int) -> None:
    data = chain(pointers)
    assert read(data, len(data) - 2) == "."


@pytest.mark.parametrize("pointers", [127, 254, 5000])
def test_name_with_too_many_pointers_is_malformed(pointers: int) -> None:
    data = chain(pointers)
    with pytest.raises(Malformed, match="points to itself"):
        read(data, len(data) - 2)


def test_pointer_to_a_remembered_chain_that_is_too_long_is_malformed() -> None:
    """The result does not depend on which names were read before."""
    data = chain(MAX_POINTERS + 1)
    wire = Wire(data)
    for at in range(1, len(data) - 2, 2):
        wire.at = at
        assert wire.name() == "."
    wire.at = len(data) - 2
    with pytest.raises(Malformed, match="points to itself"):
        wire.name()


@pytest.mark.parametrize("data", [b"\xc0\0", b"\1a\xc0\0", b"\xc0\2\xc0\0", b"\1a\1b\xc0\2"])
def test_pointer_loop_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(data, 0)


def test_remembered_suffix_counts_towards_the_length_of_a_name() -> None:
    suffix = (b"\x3f" + b"a" * 63) * 3 + b"\0"  # 193 bytes
    data = suffix + b"\x3c" + b"b" * 60 + b"\xc0\0" + b"\x3e" + b"b" * 62 + b"\xc0\0"
    wire = Wire(data, len(suffix))
    assert len(wire.name()) == 254 - 1
    with pytest.raises(Malformed, match="too long"):
        wire.name()


@given(st.binary(max_size=40), st.integers(0, 39))
def test_name_equals_dnspython_s(data: bytes, at: int) -> None:
    """dnspython follows pointers backwards only. Where it reads a name, the same one is read here."""
    try:
        theirs, _ = dns.name.from_wire(data, at)
    except (dns.exception.DNSException, IndexError):
        return
    labels = [escaped(label, NAME_ESCAPES) for label in theirs.labels[:-1]]
    assert read(data, at) == ".".join(labels) + "."


def message(question: bytes, answers: Sequence[bytes]) -> bytes:
    """Return a response; the name of the question is at offset 12."""
    return struct.pack(">6H", 1, 0x8180, 1, len(answers), 0, 0) + question + b"\0\1\0\1" + b"".join(answers)


def record(owner: bytes, type_: int, data: bytes) -> bytes:
    return owner + struct.pack(">HHIH", type_, 1, 0, len(data)) + data


LONG_NAME = (b"\x3f" + b"a" * 63) * 3 + b"\0"
MANY_LABELS = b"\1a" * 126 + b"\0"


def test_message_of_pointers_to_long_chains_costs_little() -> None:
    """The owner of each of 5,000 records is a pointer to a chain of 100 pointers to a name of 126 labels."""
    at = 12 + len(MANY_LABELS) + 4 + len(record(b"\0", 65280, b""))
    places = [12, *range(at, at + 2 * 100, 2)]
    pointers = [(0xC000 | place).to_bytes(2, "big") for place in places]
    answers = [record(b"\0", 65280, b"".join(pointers[:-1])), *[record(pointers[-1], 1, b"")] * 5000]
    with costs_at_most(3), suppress(Malformed):  # 20 without a memory of names
        decode(message(MANY_LABELS, answers))


def test_message_of_pointers_into_one_name_costs_little() -> None:
    """Each of 5,000 records points to another place of a chain of labels."""
    places = (12 + 2 * (number % 126) for number in range(5000))
    answers = [record((0xC000 | place).to_bytes(2, "big"), 1, b"") for place in places]
    with costs_at_most(3):
        decode(message(MANY_LABELS, answers))


def test_names_of_a_message_have_a_limit_together() -> None:
    """A record of type HIP holds any number of names, each of which may take two bytes."""
    names = b"\xc0\x0c" * (MAX_NAMES_CHARACTERS // 192 + 1)
    assert len(decode(message(LONG_NAME, [record(b"\0", 55, bytes(4) + names[:-20])])).answer) == 1
    with pytest.raises(Malformed, match="too long together"):
        decode(message(LONG_NAME, [record(b"\0", 55, bytes(4) + names)]))
