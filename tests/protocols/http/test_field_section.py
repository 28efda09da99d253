"""Encode and decode QPACK field sections: compatible with another implementation, within limits."""

from __future__ import annotations

from contextlib import suppress

import pylsqpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.protocols.http import header_block
from probe_exporter.protocols.http.field_section import STATIC_TABLE, SectionTooLarge, decode, encode
from probe_exporter.protocols.http.header_block import MAX_FIELDS, MAX_HUFFMAN_BYTES, integer
from tests.cost import MAX_TURN_MILLIONS, costs_at_most

PLENTY = 1 << 20

NAMES = st.sampled_from([name for name, _ in STATIC_TABLE]) | st.binary(min_size=1, max_size=300)
VALUES = st.sampled_from([value for _, value in STATIC_TABLE]) | st.binary(max_size=300)
FIELDS = st.lists(st.tuples(NAMES, VALUES) | st.sampled_from(STATIC_TABLE), min_size=1, max_size=20)


@given(FIELDS)
def test_encoded_section_is_read_by_another_decoder(fields: list[tuple[bytes, bytes]]) -> None:
    """The section uses no dynamic table."""
    assert pylsqpack.Decoder(0, 0).feed_header(0, encode(fields))[1] == fields
    assert decode(encode(fields), PLENTY) == fields


@given(FIELDS)
def test_section_of_another_encoder_is_decoded(fields: list[tuple[bytes, bytes]]) -> None:
    """The sections use Huffman's code, the static table and literals."""
    _, section = pylsqpack.Encoder().encode(0, fields)
    assert decode(section, PLENTY) == fields


@given(st.binary(max_size=40))
def test_any_bytes_are_refused_or_decoded_as_another_decoder_does(garbage: bytes) -> None:
    """Only ValueError is raised; the caller refuses empty names."""
    section = b"\0\0" + garbage
    try:
        fields = decode(section, PLENTY)
    except ValueError:
        with pytest.raises((pylsqpack.DecompressionFailed, pylsqpack.StreamBlocked)):
            pylsqpack.Decoder(0, 0).feed_header(0, section)
        return
    if fields and all(name for name, _ in fields):
        assert pylsqpack.Decoder(0, 0).feed_header(0, section)[1] == fields


def test_literals_lack_the_bit_that_older_servers_refuse() -> None:
    """The bit N in literals tells proxies not to index a field (RFC 9204, section 7.1.3). Caddy 2.6 refuses it."""
    by_index = encode([(b"authorization", b"Basic eA==")])
    by_name = encode([(b"x-secret", b"1")])
    assert by_index[2] & 0xF0 == 0x50
    assert by_name[2] & 0xF0 == 0x20


@pytest.mark.parametrize(
    "section",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0", id="half a prefix"),
        pytest.param(b"\2\0\x80", id="an entry of the dynamic table"),
        pytest.param(b"\0\0\x80", id="a relative index"),
        pytest.param(b"\0\0\x10", id="a post-base index"),
        pytest.param(b"\0\0\x40\1a", id="a name of the dynamic table"),
        pytest.param(b"\0\0\x00\1a", id="a post-base name"),
        pytest.param(b"\0\0\xff\x24", id="beyond the static table"),
        pytest.param(b"\0\0\xff" + b"\xff" * 20, id="a number without end"),
        pytest.param(b"\0\0\x51", id="a field without value"),
        pytest.param(b"\0\0\x51\5abc", id="a value cut"),
        pytest.param(b"\0\0\x51\x82\xff\xff", id="a broken Huffman code"),
    ],
)
def test_invalid_section_is_refused(section: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the message is for people
        decode(section, PLENTY)


def test_size_limit_counts_decoded_fields() -> None:
    """Each field counts its name, its value and 32 bytes, as in SETTINGS_MAX_FIELD_SECTION_SIZE."""
    fields = [(b"x", b"y" * 7)] * 10
    assert decode(encode(fields), 400) == fields
    with pytest.raises(SectionTooLarge):
        decode(encode(fields), 399)


def test_bomb_of_short_references_ends_at_the_limit() -> None:
    """One byte stands for a header of 80; the cost is proportional to the limit."""
    longest = max(range(63), key=lambda index: sum(map(len, STATIC_TABLE[index])))
    bomb = b"\0\0" + bytes((0xC0 | longest,)) * PLENTY
    with costs_at_most(50), pytest.raises(SectionTooLarge):
        decode(bomb, PLENTY)


def test_static_table_equals_that_of_the_rfc() -> None:
    """The table of another implementation is the same."""
    references = [b"\0\0" + header_block.integer(index, 6, 0xC0) for index in range(len(STATIC_TABLE))]
    assert tuple(pylsqpack.Decoder(0, 0).feed_header(0, one)[1][0] for one in references) == STATIC_TABLE
    assert len(STATIC_TABLE) == 99


@pytest.mark.parametrize(("count", "valid"), [(MAX_FIELDS + 1, True), (MAX_FIELDS + 2, False)])
def test_number_of_fields_has_a_limit(count: int, valid: bool) -> None:
    section = b"\0\0" + b"\xd9" * count
    if valid:
        assert len(decode(section, 10**9)) == count
    else:
        with pytest.raises(SectionTooLarge):
            decode(section, 10**9)


def test_huffman_coded_bytes_of_a_section_have_a_limit() -> None:
    """In one string or in many: each byte costs a hundred times as much as one of a plain string."""
    long = integer(MAX_HUFFMAN_BYTES + 1, 7, 0x80) + bytes(MAX_HUFFMAN_BYTES + 1)
    with pytest.raises(SectionTooLarge):
        decode(b"\0\0\x51" + long, 10**9)
    many = integer(1000, 7, 0x80) + bytes(1000)
    with pytest.raises(SectionTooLarge):
        decode(b"\0\0" + (b"\x51" + many) * (MAX_HUFFMAN_BYTES // 1000 + 1), 10**9)


BOMBS = {
    "indexed fields": b"\0\0" + b"\xd9" * 1_000_000,
    "tiny fields": b"\0\0" + b"\x21a\x00" * 300_000,
    "large fields": b"\0\0" + (b"\x21a" + integer(100_000, 7) + b"x" * 100_000) * 10,
    "Huffman-coded strings": b"\0\0" + (b"\x21a" + integer(500, 7, 0x80) + bytes(500)) * 2000,
}


@pytest.mark.parametrize("section", BOMBS.values(), ids=BOMBS)
def test_section_is_decoded_within_one_turn_s_budget(section: bytes) -> None:
    with costs_at_most(MAX_TURN_MILLIONS), suppress(SectionTooLarge):
        decode(section, 1024 * 1024)
