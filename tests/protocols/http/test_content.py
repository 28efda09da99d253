"""Decode a body: the same result however it is cut, an exact count, and a size limit."""

from __future__ import annotations

import asyncio
import gzip
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress

import brotli  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http.content import DEFAULT_MAX_BODY_BYTES, STEP_BYTES, Body
from tests.cost import dearest_call_costs_at_most


def deflate(data: bytes) -> bytes:
    """Compress as raw DEFLATE, which the original expects for ``deflate``."""
    return zlib.compress(data, wbits=-15)


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "deflate": deflate,
    "br": lambda data: bytes(brotli.compress(data, quality=5)),
}
COMPRESSED = ["gzip", "deflate", "br"]
PLAIN = b"compressed text " * 64


def feed(body: Body, pieces: Iterable[bytes]) -> int:
    """Feed all pieces; return how often other tasks could run meanwhile."""
    return sum(len(list(body.feed(piece))) for piece in pieces)


def fed(pieces: Iterable[bytes], coding: str = "", *, limit: int = 0, hold: bool = True) -> Body:
    """Return a body that has received all pieces."""
    body = Body(coding, limit=limit, hold=hold)
    feed(body, pieces)
    body.end()
    return body


def text(body: Body) -> bytes:
    """Return the bytes that a body has kept."""
    return asyncio.run(body.text())


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("coding", ENCODERS)
def test_body_is_decoded_and_counted(coding: str) -> None:
    encoded = ENCODERS[coding](PLAIN)
    places = range(0, len(encoded), 1 if coding in COMPRESSED else 20)  # without a coding, all places are alike
    for pieces in ([encoded], byte_by_byte(encoded), *([encoded[:at], encoded[at:]] for at in places)):
        body = fed(pieces, coding)
        assert (text(body), body.length) == (PLAIN, len(PLAIN))


@pytest.mark.parametrize("coding", ENCODERS)
@given(data=st.data())
def test_body_is_read_back_however_it_is_cut(coding: str, data: st.DataObject) -> None:
    plain = data.draw(st.lists(st.binary(min_size=1, max_size=50), max_size=20).map(lambda parts: b"".join(parts * 9)))
    encoded = ENCODERS[coding](plain)
    places = sorted(data.draw(st.sets(st.integers(0, len(encoded)), max_size=8)))
    pieces = [encoded[start:end] for start, end in zip([0, *places], [*places, len(encoded)], strict=True)]
    body = fed(pieces, coding)
    assert (text(body), body.length) == (plain, len(plain))


@pytest.mark.parametrize("coding", COMPRESSED)
@settings(max_examples=40)
@given(beyond=st.integers(-600, 600), steps=st.integers(1, 3), piece=st.sampled_from([1, 7, 1000, 10**6]))
def test_body_is_complete_if_decoding_steps_end_with_the_input(
    coding: str, beyond: int, steps: int, piece: int
) -> None:
    """If a decoding step ends exactly with the input, the decoder may still hold output."""
    plain = bytes(steps * STEP_BYTES + beyond)
    encoded = ENCODERS[coding](plain)
    pieces = [encoded[at : at + piece] for at in range(0, len(encoded), piece)]
    assert fed(pieces, coding, hold=False).length == len(plain)


@pytest.mark.parametrize("coding", ENCODERS)
def test_body_is_counted_but_not_held_if_no_check_needs_it(coding: str) -> None:
    body = fed([ENCODERS[coding](PLAIN)], coding, hold=False)
    assert (text(body), body.length) == (b"", len(PLAIN))


def test_empty_body_is_valid() -> None:
    assert fed([]).length == 0
    assert text(fed([], "identity")) == b""


# --- what is not in its coding -----------------------------------------------------------------------------


@pytest.mark.parametrize("coding", COMPRESSED)
def test_truncated_stream_fails_and_keeps_what_was_decoded(coding: str) -> None:
    encoded = ENCODERS[coding](PLAIN)
    for size in range(len(encoded)):
        body = Body(coding, hold=True)
        feed(body, [encoded[:size]])
        with pytest.raises(ProbeFailed) as failed:
            body.end()
        assert failed.value.reason is Reason.HTTP_CONTENT_ENCODING
        assert PLAIN.startswith(text(body))
        assert body.length == len(text(body))


@pytest.mark.parametrize("coding", COMPRESSED)
def test_body_that_is_not_in_its_coding_fails(coding: str) -> None:
    with pytest.raises(ProbeFailed) as failed:
        fed([b"<!doctype html><title>plain text</title>"], coding)
    assert failed.value.reason is Reason.HTTP_CONTENT_ENCODING


def test_deflate_is_raw_deflate_and_not_zlib() -> None:
    """RFC 9110 says zlib; the original reads raw DEFLATE, and modules rely on that."""
    with pytest.raises(ProbeFailed) as failed:
        fed([zlib.compress(PLAIN)], "deflate")
    assert failed.value.reason is Reason.HTTP_CONTENT_ENCODING


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_corrupted_byte_fails_decoding(coding: str) -> None:
    encoded = bytearray(ENCODERS[coding](PLAIN))
    encoded[len(encoded) // 2] ^= 0xFF
    with pytest.raises(ProbeFailed) as failed:
        fed([bytes(encoded)], coding)
    assert failed.value.reason is Reason.HTTP_CONTENT_ENCODING


def test_gzip_may_have_several_members() -> None:
    """A member may also end between two pieces (RFC 1952, section 2.2)."""
    members = [gzip.compress(part) for part in (b"one ", b"", b"two ", b"three")]
    stream = b"".join(members)
    for pieces in (members, [stream], byte_by_byte(stream)):
        assert text(fed(pieces, "gzip")) == b"one two three"


GZIP_HEADERS = {
    "extra field": b"\x1f\x8b\x08\x04" + bytes(6) + b"\x05\x00extra",
    "name and comment": b"\x1f\x8b\x08\x18" + bytes(6) + b"name\0comment\0",
    "longest name": b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 511 + b"\0",
    "unknown flags": b"\x1f\x8b\x08\xe0" + bytes(6),
    "checksum": b"\x1f\x8b\x08\x02" + bytes(6)
    + (zlib.crc32(b"\x1f\x8b\x08\x02" + bytes(6)) & 0xFFFF).to_bytes(2, "little"),
}  # fmt: skip
BROKEN_GZIP_HEADERS = {
    "other method": b"\x1f\x8b\x07\x00" + bytes(6),
    "name too long": b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 512 + b"\0",
    "name without end": b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 5000,
    "wrong checksum": b"\x1f\x8b\x08\x02" + bytes(6) + b"ab",
}
MEMBER = gzip.compress(PLAIN, mtime=0)[10:]  # without its header


@pytest.mark.parametrize("header", GZIP_HEADERS.values(), ids=GZIP_HEADERS)
def test_gzip_header_is_accepted_as_in_the_original(header: bytes) -> None:
    for pieces in ([header + MEMBER], byte_by_byte(header + MEMBER), [header + MEMBER + header, MEMBER]):
        assert text(fed(pieces, "gzip")) in (PLAIN, 2 * PLAIN)


@pytest.mark.parametrize("header", BROKEN_GZIP_HEADERS.values(), ids=BROKEN_GZIP_HEADERS)
def test_gzip_header_is_refused_as_in_the_original(header: bytes) -> None:
    for pieces in ([header + MEMBER], byte_by_byte(header + MEMBER)):
        with pytest.raises(ProbeFailed) as failed:
            fed(pieces, "gzip")
        assert failed.value.reason is Reason.HTTP_CONTENT_ENCODING


@pytest.mark.parametrize("place", [-8, -1], ids=["checksum", "size"])
def test_gzip_with_a_wrong_trailer_fails_and_counts_all_that_was_decoded(place: int) -> None:
    """So does the original."""
    encoded = bytearray(gzip.compress(PLAIN))
    encoded[place] ^= 1
    for pieces in ([bytes(encoded)], byte_by_byte(bytes(encoded))):
        body = Body("gzip", hold=True)
        with pytest.raises(ProbeFailed) as failed:
            feed(body, pieces)
        assert failed.value.reason is Reason.HTTP_CONTENT_ENCODING
        assert (text(body), body.length) == (PLAIN, len(PLAIN))


@pytest.mark.parametrize("rest", [b"x", b"no gzip", gzip.compress(b"two")[:-1]], ids=["byte", "text", "cut member"])
def test_data_after_a_gzip_member_must_be_gzip(rest: bytes) -> None:
    with pytest.raises(ProbeFailed) as failed:
        fed([gzip.compress(b"one"), rest], "gzip")
    assert failed.value.reason is Reason.HTTP_CONTENT_ENCODING


def test_data_after_raw_deflate_is_ignored() -> None:
    encoded = deflate(PLAIN)
    for pieces in ([encoded + b"more"], [encoded, b"more"], byte_by_byte(encoded + b"more")):
        assert text(fed(pieces, "deflate")) == PLAIN


def test_small_gzip_body_takes_few_calls() -> None:
    """A small body is decoded in one go: this is the path of nearly all probes with `compression`."""
    body, encoded, calls = Body("gzip"), gzip.compress(PLAIN), []
    sys.setprofile(lambda frame, event, argument: calls.append(event) if event in ("call", "c_call") else None)
    try:
        feed(body, [encoded])
        body.end()
    finally:
        sys.setprofile(None)
    assert body.length == len(PLAIN)
    assert len(calls) <= 30


# --- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("coding", ENCODERS)
def test_body_size_limit_is_inclusive(coding: str, hold: bool) -> None:
    encoded = ENCODERS[coding](PLAIN)
    assert fed([encoded], coding, limit=len(PLAIN), hold=hold).length == len(PLAIN)
    for pieces in ([encoded], byte_by_byte(encoded)):
        body = Body(coding, limit=len(PLAIN) - 1, hold=hold)
        with pytest.raises(ProbeFailed) as failed:
            feed(body, pieces)
        assert failed.value.reason is Reason.HTTP_BODY_TOO_LARGE
        assert body.length == len(PLAIN) - 1
        assert text(body) == (PLAIN[:-1] if hold else b"")


def test_body_that_is_only_counted_has_no_default_limit() -> None:
    piece = bytes(STEP_BYTES)
    assert (
        fed([piece] * (DEFAULT_MAX_BODY_BYTES // STEP_BYTES + 1), hold=False).length
        == DEFAULT_MAX_BODY_BYTES + STEP_BYTES
    )


def test_body_that_is_held_has_a_default_limit() -> None:
    body = Body(hold=True)
    with pytest.raises(ProbeFailed) as failed:
        feed(body, [bytes(DEFAULT_MAX_BODY_BYTES + 1)])
    assert failed.value.reason is Reason.HTTP_BODY_TOO_LARGE
    assert body.length == DEFAULT_MAX_BODY_BYTES


@pytest.fixture(scope="module", params=COMPRESSED)
def bomb(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    """Return a coding, and less than a megabyte in it that decodes to twice the limit."""
    coding: str = request.param
    size = 2 * DEFAULT_MAX_BODY_BYTES
    if coding == "br":
        stream = brotli.Compressor(quality=1)
        encoded = b"".join(stream.process(bytes(1 << 20)) for _ in range(size >> 20)) + stream.finish()
    else:
        packer = zlib.compressobj(wbits=31 if coding == "gzip" else -15)
        encoded = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()
    assert len(encoded) < 1 << 20
    return coding, encoded


@pytest.mark.slow
@pytest.mark.parametrize("hold", [True, False])
def test_decompression_bomb_ends_at_the_limit_in_bounded_memory(bomb: tuple[str, bytes], hold: bool) -> None:
    """Memory is bounded by the held body and a few steps, however the body arrives."""
    coding, encoded = bomb
    body = Body(coding, hold=hold)
    tracemalloc.start()
    with pytest.raises(ProbeFailed) as failed:
        feed(body, [encoded])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert failed.value.reason is Reason.HTTP_BODY_TOO_LARGE
    assert body.length == DEFAULT_MAX_BODY_BYTES
    assert peak < (DEFAULT_MAX_BODY_BYTES if hold else 0) + 8 * STEP_BYTES


async def test_held_body_takes_at_most_about_twice_its_size() -> None:
    body = Body(hold=True)
    tracemalloc.start()
    for _ in range(64):
        feed(body, [bytes(STEP_BYTES)])
    whole = await body.text()
    assert len(whole) == 64 * STEP_BYTES
    assert await body.text() is whole
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.2 * 64 * STEP_BYTES


# --- the work of one step ----------------------------------------------------------------------------------

READ_BYTES = 512 * 1024
"""Bytes that one read from a connection returns at most."""

HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty gzip members": ("gzip", lambda: gzip.compress(b"", mtime=0) * (READ_BYTES // 20)),
    "tiny gzip members": ("gzip", lambda: gzip.compress(b"a", mtime=0) * (READ_BYTES // 21)),
    "gzip header of 64 KiB": (
        "gzip",
        lambda: (b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff" + bytes(65535) + MEMBER) * 8,
    ),
    "empty deflate blocks": ("deflate", lambda: b"\x00\x00\x00\xff\xff" * (READ_BYTES // 5)),
    "zeros by gzip": ("gzip", lambda: gzip.compress(bytes(48 << 20), mtime=0)),
    "zeros by brotli": ("br", lambda: brotli.compress(bytes(48 << 20), quality=1)),
    "text by brotli": (
        "br",
        lambda: brotli.compress(b"".join(b"%d " % number for number in range(300_000)), quality=11),
    ),
    "empty brotli metadata": ("br", lambda: b"\x0c" * READ_BYTES),
}
"""Codings and functions that make a body: the file is collected often, and some bodies take seconds."""


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_one_step_is_a_few_milliseconds_of_work(name: str) -> None:
    """The budget for one turn of the event loop is 20 ms, about a million additions."""
    coding, make = HOSTILE[name]
    body = Body(coding)
    steps = body.feed(make())
    with dearest_call_costs_at_most(0.7) as call, suppress(StopIteration, ProbeFailed):
        while True:
            call(next, steps)
