"""Encode and decode HPACK header blocks (RFC 7541), however they are cut, at bounded cost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.prober.failure import Reason
from probe_exporter.protocols.http.frames import Code, Violation
from probe_exporter.protocols.http.header_block import (
    MAX_FIELDS,
    MAX_HUFFMAN_BYTES,
    MAX_INDEXED_BYTES,
    Decoder,
    Field,
    encode,
)
from probe_exporter.protocols.http.http1 import MAX_FIELD_BYTES
from tests.cost import costs_at_most
from tests.targets.http2 import integer

LIMIT = 10 * 1024 * 1024

FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b":status", b"content-type", b"x-a", b"date", b"etag"]) | st.binary(min_size=1, max_size=20),
        st.sampled_from([b"200", b"404", b"", b"text/html"]) | st.binary(max_size=300),
    ),
    max_size=12,
)
PLACES = st.lists(st.integers(0, 3000))


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if place < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def decode(decoder: Decoder, *pieces: bytes) -> list[Field]:
    for piece in pieces:
        decoder.feed(piece)
    decoder.end()
    return decoder.take()


# --- what is read ------------------------------------------------------------------------------------------

PLAIN = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
SECURE = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com")]
EXAMPLES = {
    "C.2.2": [("040c2f73616d706c652f70617468", [(b":path", b"/sample/path")])],
    "C.2.3": [("100870617373776f726406736563726574", [(b"password", b"secret")])],
    "C.2.4": [("82", [(b":method", b"GET")])],
    "C.3": [
        ("828684410f7777772e6578616d706c652e636f6d", PLAIN),
        ("828684be58086e6f2d6361636865", [*PLAIN, (b"cache-control", b"no-cache")]),
    ],
    "C.4": [
        ("828684418cf1e3c2e5f23a6ba0ab90f4ff", PLAIN),
        ("828684be5886a8eb10649cbf", [*PLAIN, (b"cache-control", b"no-cache")]),
        ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", [*SECURE, (b"custom-key", b"custom-value")]),
    ],
}


@pytest.mark.parametrize("blocks", EXAMPLES.values(), ids=EXAMPLES)
def test_decoder_reads_the_examples_of_the_rfc(blocks: list[tuple[str, list[Field]]]) -> None:
    """Appendix C: the blocks of an example belong to one connection."""
    whole, bytewise = Decoder(LIMIT), Decoder(LIMIT)
    for block, fields in blocks:
        data = bytes.fromhex(block)
        assert decode(whole, data) == fields
        assert decode(bytewise, *cut(data, range(len(data)))) == fields


@given(blocks=st.lists(FIELDS, max_size=4), huffman=st.booleans(), places=PLACES)
def test_decoder_reads_what_another_encoder_writes(blocks: list[list[Field]], huffman: bool, places: list[int]) -> None:
    """Several blocks of one connection, cut anywhere."""
    encoder, decoder = hpack.Encoder(), Decoder(LIMIT)
    for fields in blocks:
        assert decode(decoder, *cut(encoder.encode(fields, huffman), places)) == fields


@given(data=st.binary(max_size=200), places=PLACES)
def test_decoder_result_does_not_depend_on_how_the_block_is_cut(data: bytes, places: list[int]) -> None:
    """Only `Violation` is raised."""

    def outcome(pieces: list[bytes]) -> list[Field] | str:
        try:
            return decode(Decoder(LIMIT), *pieces)
        except Violation as broken:
            return broken.reason.value

    assert outcome(cut(data, places)) == outcome([data])


@given(blocks=st.lists(FIELDS, min_size=1, max_size=3), last=FIELDS)
def test_copy_of_a_decoder_goes_on_with_the_same_table(blocks: list[list[Field]], last: list[Field]) -> None:
    encoder, decoder = hpack.Encoder(), Decoder(LIMIT)
    for fields in blocks:
        decode(decoder, encoder.encode(fields))
    data = encoder.encode(last)
    assert decode(decoder.copy(), data) == last
    assert decode(decoder, data) == last  # a copy does not change the original


def test_copy_of_a_decoder_has_the_limits_and_the_table_size_of_the_original() -> None:
    decoder = Decoder(100)
    decode(decoder, b"\x20\x40\x01a\x01b")  # a table of 0 bytes, which keeps no field; then a field of 34
    copy = decoder.copy()
    assert decode(copy, b"\x40\x01a\x01b") == [(b"a", b"b")]
    for one in (copy, decoder.copy(), decoder):
        with pytest.raises(Violation):
            decode(one, b"\xbe")
    with pytest.raises(Violation) as failed:
        decode(decoder.copy(), b"\x00\x01a\x01b" * 3)
    assert failed.value.reason is Reason.HTTP_HEADERS_TOO_LARGE


def test_decoder_evicts_old_entries_from_the_dynamic_table() -> None:
    decoder = Decoder(LIMIT)
    large = b"\x40\x01a" + integer(2000, 7) + b"x" * 2000
    assert decode(decoder, large, large, b"\xbe")[2] == (b"a", b"x" * 2000)
    with pytest.raises(Violation):
        decode(decoder, large, large, large, b"\xc0")  # the third entry of a table with room for two


def test_decoder_evicts_entries_if_the_table_size_shrinks() -> None:
    decoder = Decoder(LIMIT)
    decode(decoder, b"\x40\x01a\x01b")
    assert decode(decoder, b"\xbe") == [(b"a", b"b")]
    with pytest.raises(Violation):
        decode(decoder, b"\x20\xbe")


REFUSED = {
    "index zero": b"\x80",
    "an index too high": b"\xff\x80\x01",
    "an index of a name too high": b"\x7f\x80\x01\x01a",
    "a string that is cut": b"\x00\x03x-a\x05abc",
    "a name that is cut": b"\x00\x03x",
    "no value": b"\x00\x03x-a",
    "a number that is cut": b"\x00\x7f\xff",
    "a number without end": b"\xff" + b"\xff" * 20,
    "zeros without end": b"\xff" + b"\x80" * 20,
    "a Huffman code that is none": b"\x00\x03x-a\x84\xff\xff\xff\xff",
    "a Huffman code badly padded": b"\x00\x03x-a\x81\x00",
    "a table larger than we keep": integer(4097, 5, 0x20),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_decoder_refuses_invalid_hpack(data: bytes) -> None:
    with pytest.raises(Violation) as refused:
        decode(Decoder(LIMIT), data)
    assert refused.value.reason is Reason.HTTP_PROTOCOL_ERROR
    assert refused.value.code is Code.COMPRESSION_ERROR


# --- limits ------------------------------------------------------------------------------------------------


def test_size_limit_of_fields_is_inclusive() -> None:
    """Each field counts 32 bytes more (RFC 9113, section 6.5.2)."""
    block = b"\x88" + b"\x00\x01a" + integer(1000, 7) + b"x" * 1000
    size = (7 + 3 + 32) + (1 + 1000 + 32)
    assert len(decode(Decoder(size), block)) == 2
    with pytest.raises(Violation) as refused:
        decode(Decoder(size - 1), block)
    assert refused.value.reason is Reason.HTTP_HEADERS_TOO_LARGE


def test_size_limit_counts_all_blocks_of_a_connection() -> None:
    decoder = Decoder(100 * 42)
    for _ in range(100):
        decode(decoder, b"\x88")
    with pytest.raises(Violation, match="too large"):
        decode(decoder, b"\x88")


def test_string_longer_than_the_limit_is_refused_by_its_announced_length() -> None:
    with pytest.raises(Violation, match="too large"):
        Decoder(LIMIT).feed(b"\x00\x01a" + integer(LIMIT + 1, 7))


@pytest.mark.parametrize(("size", "valid"), [(MAX_FIELD_BYTES, True), (MAX_FIELD_BYTES + 1, False)])
def test_string_has_a_limit(size: int, valid: bool) -> None:
    block = b"\x00\x01a" + integer(size, 7) + b"x" * size
    if valid:
        assert decode(Decoder(LIMIT), block) == [(b"a", b"x" * size)]
    else:
        with pytest.raises(Violation, match="too large"):
            decode(Decoder(LIMIT), block)


def test_huffman_coded_string_has_a_limit() -> None:
    """Each byte of it costs a hundred times as much as one of a plain string."""

    coded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(b"0" * (MAX_HUFFMAN_BYTES * 8 // 5))
    assert len(coded) == MAX_HUFFMAN_BYTES
    assert len(decode(Decoder(LIMIT), b"\x00\x01a" + integer(len(coded), 7, 0x80) + coded)[0][1]) > MAX_HUFFMAN_BYTES
    with pytest.raises(Violation, match="too large"):
        Decoder(LIMIT).feed(b"\x00\x01a" + integer(len(coded) + 1, 7, 0x80))


@pytest.mark.parametrize(("count", "valid"), [(MAX_FIELDS + 1, True), (MAX_FIELDS + 2, False)])
def test_number_of_fields_has_a_limit(count: int, valid: bool) -> None:
    decoder = Decoder(LIMIT)
    if valid:
        assert len(decode(decoder, b"\x88" * count)) == count
    else:
        with pytest.raises(Violation, match="too many"):
            decode(decoder, b"\x88" * count)


def test_references_to_the_table_have_a_limit_together() -> None:
    remembered = b"\x40\x01a" + integer(4000, 7) + b"x" * 4000
    whole = MAX_INDEXED_BYTES // 4001
    assert len(decode(Decoder(LIMIT), remembered + b"\xbe" * whole)) == whole + 1
    with pytest.raises(Violation, match="too large"):
        decode(Decoder(LIMIT), remembered + b"\xbe" * (whole + 1))


BOMBS = {
    "references to a large field": b"\x40\x01a" + integer(4000, 7) + b"x" * 4000 + b"\xbe" * 16000,
    "references to a small field": b"\x88" * 300_000,
    "tiny fields": b"\x00\x01a\x00" * 400_000,
    "tiny fields to be remembered": b"\x40\x01a\x01b" * 400_000,
    "changes of the table": b"\x20" * 400_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("block", BOMBS.values(), ids=BOMBS)
def test_bomb_ends_at_the_limit_in_bounded_time_and_memory(block: bytes) -> None:
    """A decoder that copies the rest of the block for each field takes 20 times as long."""
    decoder = Decoder(LIMIT)
    with costs_at_most(300), pytest.raises(Violation) as refused:
        decode(decoder, *cut(block, range(0, len(block), 16384)))
    assert refused.value.reason is Reason.HTTP_HEADERS_TOO_LARGE
    smaller = LIMIT // 8  # tracing slows the decoder
    tracemalloc.start()
    with pytest.raises(Violation):
        decode(Decoder(smaller), block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * smaller


@pytest.mark.slow
def test_long_field_in_small_pieces_is_joined_once() -> None:
    value = b"x" * 1_000_000
    block = b"\x00\x01a" + integer(len(value), 7) + value
    with costs_at_most(20):
        assert decode(Decoder(LIMIT), *cut(block, range(0, len(block), 100))) == [(b"a", value)]


# --- what is written ---------------------------------------------------------------------------------------


@given(fields=FIELDS)
def test_encoded_block_is_read_by_another_decoder(fields: list[Field]) -> None:
    """The other decoder indexes nothing, because any header may be a secret."""
    decoder = hpack.Decoder(LIMIT)
    decoded = list(decoder.decode(encode(fields), raw=True))
    assert decoded == fields
    assert not decoder.header_table.dynamic_entries


def test_encoder_marks_fields_outside_the_static_table_as_never_indexed() -> None:
    fields = [(b":method", b"GET"), (b"authorization", b"Basic eDp5"), (b"x-token", b"secret")]
    _, authorization, token = hpack.Decoder().decode(encode(fields), raw=True)
    assert not authorization.indexable
    assert not token.indexable
