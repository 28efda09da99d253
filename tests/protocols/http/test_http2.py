"""Read HTTP/2 responses: the same result however they are cut, as tolerant as the original."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http.exchange import Unprocessed
from probe_exporter.protocols.http.frames import Code
from probe_exporter.protocols.http.header_block import MAX_FIELDS
from probe_exporter.protocols.http.http1 import MAX_HEAD_BYTES
from probe_exporter.protocols.http.http2 import (
    MAX_IDLE_FRAMES,
    OPENING,
    WINDOW_BYTES,
    request_fields,
    request_head,
)
from probe_exporter.protocols.http.http2 import Http2ResponseReader as SteppedReader
from probe_exporter.protocols.http.request import Request
from probe_exporter.protocols.http.url import parse
from tests.cost import costs_at_most, cpu_seconds, expect_short
from tests.protocols.http.responses import ParsedResponse, cut, dripped, every_way, read_pieces, table
from tests.targets import http2
from tests.targets.http2 import (
    SETTINGS_ACK,
    data,
    frame,
    goaway,
    head,
    headers,
    integer,
    ping,
    raw_headers,
    reset,
    settings,
    window_update,
)

MORE = "more bytes may come: the connection stays open"


class ResponseReader(SteppedReader):
    """A reader that reads all that is fed, in as many steps as it takes."""

    def feed(self, data: bytes) -> None:
        super().feed(data)
        while self.pending:
            self.proceed()


def read(pieces: Iterable[bytes], *, method: str = "GET", end: bool = False) -> ParsedResponse:
    """Feed pieces, then the end of the connection if `end` is set."""
    outcome = read_pieces(ResponseReader(method), pieces, MORE, end=end)
    assert outcome.version == "2.0" or outcome == ParsedResponse(failure=outcome.failure)
    return dataclasses.replace(outcome, version="")


def ok(**differences: object) -> ParsedResponse:
    """Return the usual outcome: a 200 whose body is ``ok``, as announced."""
    usual: dict[str, object] = {"status": 200, "length": 2, "body": b"ok"}
    return ParsedResponse(**usual | differences)  # type: ignore[arg-type]


BEGUN = settings() + SETTINGS_ACK
OK_HEAD = head(200, ("content-length", "2"))
OK = OK_HEAD + data(b"ok")
NOT_HTTP = ParsedResponse(failure=Reason.HTTP_PROTOCOL_ERROR)


def fields(*pairs: tuple[str, str], body: bytes = b"ok") -> bytes:
    """Return a response with only these fields and a body."""
    return headers(*pairs) + data(body)


def said(name: str, value: str) -> bytes:
    """Return a response with one more header."""
    return fields((":status", "200"), (name, value))


def lengths(*values: str) -> bytes:
    return fields((":status", "200"), *(("content-length", value) for value in values))


UNKNOWN = ok(length=-1)

TOLERATED = {
    "plain": (OK, ok()),
    "no length": (head() + data(b"ok"), UNKNOWN),
    "no length nor body": (head(end=True), ok(length=0, body=b"")),
    "an empty body in a frame": (head() + data(b""), ok(length=-1, body=b"")),
    "length with zeros": (lengths("002"), ok()),
    **{
        f"length {name}": (lengths(*values), UNKNOWN)
        for name, values in {
            "empty": [""], "not a number": ["x"], "with a sign": ["+2"], "negative": ["-2"], "as a list": ["2, 2"],
            "twice": ["2", "2"], "twice and different": ["2", "3"], "of 2^63": ["9223372036854775808"],
            "of 20 digits": ["9" * 20], "of another script": ["\N{ARABIC-INDIC DIGIT TWO}"],
        }.items()
    },
    "a body in pieces": (OK_HEAD + data(b"o", end=False) + data(b"k"), ok()),
    "an end in a frame of its own": (OK_HEAD + data(b"ok", end=False) + data(b""), ok()),
    "padding": (OK_HEAD + http2.padded(b"ok", 255), ok()),
    "padding of no bytes": (OK_HEAD + http2.padded(b"ok", 0), ok()),
    "nothing but padding": (OK_HEAD + http2.padded(b"", 9, end=False) + data(b"ok"), ok()),
    "trailers": (OK_HEAD + data(b"ok", end=False) + headers(("x-t", "1"), end=True), ok()),
    "empty trailers": (OK_HEAD + data(b"ok", end=False) + headers(end=True), ok()),
    "headers with padding": (frame(1, b"\x03\x88\0\0\0", 0x4 | 0x8, 1) + data(b"ok"), UNKNOWN),
    "headers with priority": (frame(1, b"\0\0\0\0\x10\x88", 0x4 | 0x20, 1) + data(b"ok"), UNKNOWN),
    "headers with both": (frame(1, b"\x02\0\0\0\0\x10\x88\0\0", 0x2C, 1) + data(b"ok"), UNKNOWN),
    "headers in many frames": (http2.headers((":status", "200"), ("x-a", "b" * 20), size=3) + data(b"ok"), UNKNOWN),
    "headers in empty frames": (
        frame(1, b"", 0, 1) + frame(9, b"", 0, 1) + frame(9, b"\x88", 4, 1) + data(b"ok"),
        UNKNOWN,
    ),
    "connection headers": (said("connection", "close"), UNKNOWN),
    "a transfer coding": (said("transfer-encoding", "chunked"), UNKNOWN),
    "a tab in a value": (said("x-a", "a\tb"), UNKNOWN),
    "bytes that are no UTF-8": (said("x-a", "a\udcfcb"), UNKNOWN),
    "an empty value": (said("x-a", ""), UNKNOWN),
    "a table changed after a field": (raw_headers(b"\x88\x20") + data(b"ok"), UNKNOWN),
    "status of two digits": (head("20") + data(b"ok"), ok(status=20, length=-1)),
    "status with a sign": (head("-20") + data(b"ok"), ok(status=-20, length=-1)),
    "status 000": (head("000") + data(b"ok"), ok(status=0, length=-1)),
    "status 999": (head("999") + data(b"ok"), ok(status=999, length=-1)),
    "status 2000": (head("2000") + data(b"ok"), ok(status=2000, length=-1)),
    "204": (head(204, end=True), ok(status=204, length=0, body=b"")),
    "204 with a length": (head(204, ("content-length", "2"), end=True), ok(status=204, body=b"")),
    "204 with a body": (head(204) + data(b"ok"), ok(status=204, length=-1)),
    "304 with a length": (head(304, ("content-length", "2"), end=True), ok(status=304, body=b"")),
    "100 before": (head(100) + OK, ok()),
    "103 with headers before": (head(103, ("link", "</x>"), ("content-length", "9")) + OK, ok()),
    "a hundred 102 before": (head(102) * 100 + OK, ok()),
    "a ping": (ping() + OK_HEAD + ping() + data(b"ok"), ok()),
    "a ping answered": (ping(flags=1) + OK, ok()),
    "settings again": (settings((4, 10)) + OK_HEAD + settings() + data(b"ok"), ok()),
    "settings unknown": (settings((0xFAFA, 7), (8, 1)) + OK, ok()),
    "settings that allow push": (settings((2, 1)) + OK, ok()),
    "an unknown frame": (frame(0xFA, b"grease", 0xFF, 1) + OK_HEAD + frame(0x0A, b"") + data(b"ok"), ok()),
    "a priority": (frame(2, b"\0\0\0\0\x10", stream=1) + OK, ok()),
    "a window of another stream": (window_update(1, 5) + OK, ok()),
    "headers of another stream": (headers((":status", "500"), stream=3) + OK, ok()),
    "a table filled by another stream": (
        raw_headers(b"\x88\x40\x03x-a\x011", stream=3) + raw_headers(b"\x88\xbe") + data(b"ok"),
        UNKNOWN,
    ),
    "a reset of another stream": (reset(stream=3) + OK, ok()),
    "a reset after the body": (OK + reset(0), ok()),
    "data after the end": (OK + data(b"more"), ok()),
    "nonsense after the end": (OK + b"\xff" * 20, ok()),
    "going away in good order": (goaway(1) + OK, ok()),
    "going away within": (OK_HEAD + goaway(1) + data(b"ok"), ok()),
    "going away twice": (goaway((1 << 31) - 1) + OK_HEAD + goaway(1) + data(b"ok"), ok()),
    "going away with an error": (OK_HEAD + goaway(1, http2.INTERNAL_ERROR, b"sorry") + data(b"ok"), ok()),
}  # fmt: skip


@pytest.mark.parametrize(("response", "expected"), table(TOLERATED))
def test_reader_tolerates_what_the_original_tolerates(response: bytes, expected: ParsedResponse) -> None:
    for pieces in every_way(BEGUN + response):
        assert read(pieces) == expected, pieces


REFUSED = {
    **{
        f"header {name}": said(*field)
        for name, field in {
            "in upper case": ("X-A", "1"), "with a blank in its name": ("x a", "1"), "of UTF-8": ("x-é", "1"),
            "without name": ("", "1"), "with a colon in its name": ("x:a", "1"), "of NUL": ("x-a", "a\0b"),
            "of a line end": ("x-a", "a\r\nb"), "of a control character": ("x-a", "a\x01b"), "of DEL": ("x-a", "a\x7f"),
            "that is a request's": (":path", "/"), "that is unknown and pseudo": (":odd", "1"),
            "that is a second status": (":status", "404"),
        }.items()
    },
    "a status after a header": fields(("x-a", "1"), (":status", "200")),
    "no status": fields(("x-a", "1")),
    "no fields": fields(),
    **{
        f"status {value!r}": fields((":status", value))
        for value in ("", "2x0", " 20", "200 OK", "+", "\N{ARABIC-INDIC DIGIT TWO}00", "1" * 19)
    },
    "101": head(101) + data(b"rest"),
    "a 103 that ends the stream": head(103, end=True),
    "data before the headers": data(b"ok") + OK,
    "data on an idle stream": data(b"ok", stream=3) + OK,
    "data on stream 0 first": data(b"ok", stream=0) + OK,
    "headers on stream 0": headers((":status", "200"), stream=0) + OK,
    "headers with too much padding": frame(1, b"\x09\x88\0\0\0", 0x4 | 0x8, 1),
    "headers of padding without its length": frame(1, b"", 0x4 | 0x8, 1),
    "headers without their priority": frame(1, b"\0\0", 0x4 | 0x20, 1),
    "headers broken off by data": frame(1, b"\x88", 0, 1) + data(b"ok"),
    "headers broken off by a ping": frame(1, b"\x88", 0, 1) + ping() + frame(9, b"", 4, 1) + data(b"ok"),
    "headers broken off by headers": frame(1, b"\x88", 0, 1) + OK,
    "headers continued elsewhere": frame(1, b"\x88", 0, 1) + frame(9, b"", 4, 3) + data(b"ok"),
    "a continuation of nothing": frame(9, b"\x88", 4, 1) + data(b"ok"),
    "a field that is cut": raw_headers(b"\x88\x00\x03x-a\x05abc") + data(b"ok"),
    "an index too high": raw_headers(b"\x88\xff\x80\x01") + data(b"ok"),
    "a push": frame(5, b"\0\0\0\x02\x82\x87\x84\x41\x01x", 4, 1) + OK,
    "a ping of 7 bytes": frame(6, b"1234567") + OK,
    "a ping on a stream": frame(6, b"12345678", stream=1) + OK,
    "a priority of 4 bytes": frame(2, b"1234", stream=1) + OK,
    "a priority on stream 0": frame(2, b"12345") + OK,
    "a reset of 3 bytes": frame(3, b"123", stream=1) + OK,
    "a reset of stream 0": reset(stream=0) + OK,
    "settings of 5 bytes": frame(4, b"12345") + OK,
    "settings on a stream": frame(4, b"", stream=1) + OK,
    "an acknowledgement with settings": frame(4, b"123456", 1) + OK,
    "a second acknowledgement": SETTINGS_ACK + OK,
    "a window setting too large": settings((4, 1 << 31)) + OK,
    "a frame size too small": settings((5, 16383)) + OK,
    "a frame size too large": settings((5, 1 << 24)) + OK,
    "a push setting of 2": settings((2, 2)) + OK,
    "a window growing by nothing": window_update(0) + OK,
    "a window growing too large": window_update((1 << 31) - 1) + OK,
    "a stream's window growing too large": window_update((1 << 31) - 1, 1) + OK,
    "a stream's window growing too large by a setting": window_update((1 << 31) - 65536, 1) + settings((4, 65536)) + OK,
    "a window growing by 3 bytes": frame(8, b"123") + OK,
    "a GOAWAY of 7 bytes": frame(7, b"1234567") + OK,
    "a GOAWAY on a stream": frame(7, b"12345678", stream=1) + OK,
    "a frame too large": frame(0, b"", 1, 1, length=16385),
}  # fmt: skip


@pytest.mark.parametrize("response", table(REFUSED))
def test_reader_refuses_what_the_original_refuses(response: bytes) -> None:
    """The reader fails at once, without a status."""
    for pieces in every_way(BEGUN + response):
        assert read(pieces) == NOT_HTTP, pieces


OPENINGS = {
    "a ping": ping() + settings() + OK,
    "headers": OK,
    "HTTP/1": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno",
    "another protocol": b"220 mail.example.test ESMTP\r\n",
    "binary nonsense": b"\xff" * 9,
}


@pytest.mark.parametrize("opening", table(OPENINGS))
def test_server_must_begin_with_settings(opening: bytes) -> None:
    for pieces in every_way(opening):
        assert read(pieces) == NOT_HTTP, pieces


TRUNCATED = Reason.HTTP_BODY_TRUNCATED
BROKEN = {
    "shorter than announced": (head(200, ("content-length", "9")) + data(b"ok"), ok(length=9, failure=TRUNCATED)),
    "announced and none": (
        head(200, ("content-length", "9"), end=True),
        ok(length=9, body=b"", failure=TRUNCATED),
    ),
    "longer than announced": (OK_HEAD + data(b"okay"), ok(failure=Reason.HTTP_PROTOCOL_ERROR)),
    "longer in a second frame": (
        OK_HEAD + data(b"ok", end=False) + data(b"ay"),
        ok(failure=Reason.HTTP_PROTOCOL_ERROR),
    ),
    "announced as nothing": (
        head(200, ("content-length", "0")) + data(b"ok"),
        ok(length=0, body=b"", failure=Reason.HTTP_PROTOCOL_ERROR),
    ),
    "shorter before trailers": (
        OK_HEAD + data(b"o", end=False) + headers(("x-t", "1"), end=True),
        ok(body=b"o", failure=TRUNCATED),
    ),
    "reset": (OK_HEAD + data(b"o", end=False) + reset(), ok(body=b"o", failure=TRUNCATED)),
    "going away before us": (OK_HEAD + data(b"o", end=False) + goaway(0), ok(body=b"o", failure=TRUNCATED)),
    "reset without an error": (head() + data(b"ok", end=False) + reset(0), ok(length=-1, failure=TRUNCATED)),
    **{
        name: (OK_HEAD + data(b"o", end=False) + breaks, ok(body=b"o", failure=Reason.HTTP_PROTOCOL_ERROR))
        for name, breaks in {
            "headers again": head(200),
            "trailers of a status": headers((":status", "500"), end=True),
            "trailers that do not end it": headers(("x-t", "1")),
            "trailers in upper case": headers(("X-T", "1"), end=True),
            "too much padding": frame(0, b"\x09k", 0x9, 1),
            "padding without its length": frame(0, b"", 0x9, 1),
            "data on stream 0": data(b"k", stream=0),
            "data on an idle stream": data(b"k", stream=3),
            "a frame too large": frame(0, b"", 1, 1, length=0xFFFFFF),
        }.items()
    },
}


@pytest.mark.parametrize(("response", "expected"), table(BROKEN))
def test_broken_body_keeps_what_came_before(response: bytes, expected: ParsedResponse) -> None:
    """The status and the valid part of the body are kept, even if all arrived at once."""
    for pieces in every_way(BEGUN + response):
        assert read(pieces) == expected, pieces


CUT_OFF = {
    "at once": (b"", ParsedResponse(failure=Reason.CONNECT_CLOSED)),
    "in the opening": (BEGUN[:5], ParsedResponse(failure=Reason.CONNECT_CLOSED)),
    "before the headers": (BEGUN, ParsedResponse(failure=Reason.CONNECT_CLOSED)),
    "after a GOAWAY": (BEGUN + goaway(1, 11, b"too_many_pings"), ParsedResponse(failure=Reason.CONNECT_CLOSED)),
    "in the headers": (BEGUN + frame(1, b"\x88", 0, 1), NOT_HTTP),
    "after a 103": (BEGUN + head(103), NOT_HTTP),
    "after the headers": (BEGUN + head(), ok(length=-1, body=b"", failure=TRUNCATED)),
    "in the body": (BEGUN + head() + data(b"ok", end=False), ok(length=-1, failure=TRUNCATED)),
    "in a frame": (BEGUN + OK[:-1], ok(body=b"", failure=TRUNCATED)),
}


@pytest.mark.parametrize(("response", "expected"), table(CUT_OFF))
def test_body_is_truncated_if_the_connection_ends_without_end_stream(response: bytes, expected: ParsedResponse) -> None:
    for pieces in every_way(response):
        assert read(pieces, end=True) == expected, pieces


RESET = {
    "reset": (reset(http2.CANCEL), Reason.CONNECT_RESET, False),
    "reset for calm": (reset(http2.ENHANCE_YOUR_CALM), Reason.CONNECT_RESET, False),
    "refused": (reset(http2.REFUSED_STREAM), Reason.CONNECT_RESET, True),
    "going away before us": (goaway(0), Reason.CONNECT_CLOSED, True),
    "going away before us because of an error": (goaway(0, http2.PROTOCOL_ERROR), Reason.CONNECT_CLOSED, False),
}


@pytest.mark.parametrize(("frames", "reason", "unprocessed"), table(RESET))
def test_failure_tells_whether_the_request_was_processed(frames: bytes, reason: Reason, unprocessed: bool) -> None:
    """A request that the server did not process may be repeated."""
    with pytest.raises(ProbeFailed) as failed:
        ResponseReader("GET").feed(BEGUN + frames)
    assert failed.value.reason is reason
    assert isinstance(failed.value, Unprocessed) == unprocessed


def test_failure_includes_the_goaway_debug_data() -> None:
    reader = ResponseReader("GET")
    reader.feed(BEGUN + goaway(1, http2.ENHANCE_YOUR_CALM, b"too_many_pings"))
    with pytest.raises(ProbeFailed, match=r"ENHANCE_YOUR_CALM.*too_many_pings"):
        reader.feed(b"")


# --- heads -------------------------------------------------------------------------------------------------

HEAD = {
    "a length": (head(200, ("content-length", "12"), end=True), ok(length=12, body=b"")),
    "no length": (head(200, end=True), ok(length=-1, body=b"")),
    "a body all the same": (OK, ok(body=b"")),
    "no end": (head(200), ok(length=-1, body=b"")),
}


@pytest.mark.parametrize(("response", "expected"), table(HEAD))
def test_response_to_head_ends_with_its_head(response: bytes, expected: ParsedResponse) -> None:
    for pieces in every_way(BEGUN + response):
        assert read(pieces, method="HEAD") == expected, pieces


def test_headers_keep_their_order_and_exclude_pseudo_headers() -> None:
    reader = ResponseReader("GET")
    reader.feed(BEGUN + head(103, ("x-a", "early")) + head(200, ("x-a", "one"), ("x-b", "ü\udcff"), ("x-a", "two")))
    assert reader.headers == [("x-a", "one"), ("x-b", "ü\udcff"), ("x-a", "two")]
    assert reader.get_all("x-a") == ["one", "two"]
    assert reader.get(":status") is None


TEXTS = st.sampled_from(["", "a", "text/html", "a\x01", "\N{SNOWMAN}", "x" * 300, "y" * 1000])
NAMES = st.sampled_from(["x-a", "x-b", "date", "content-type", "X-A", ":status", "x" * 100])
BLOCKS = st.lists(st.lists(st.tuples(NAMES, TEXTS), max_size=4), min_size=1, max_size=4)


@given(blocks=BLOCKS, whole=st.lists(st.booleans(), min_size=4, max_size=4))
def test_blocks_in_one_frame_decode_as_those_in_several(blocks: list[list[tuple[str, str]]], whole: list[bool]) -> None:
    """The fields of the first blocks are remembered: for all connections, and with the table of the decoder."""
    encoder = hpack.Encoder()
    statuses = ["103"] * (len(blocks) - 2) + ["200"]
    encoded = [
        encoder.encode([*([(":status", status)] if status else []), *fields])
        for status, fields in zip([*statuses, ""], blocks, strict=False)
    ]

    def outcome(sizes: list[int]) -> list[object]:
        reader = SteppedReader("GET")
        frames = [raw_headers(block, size=size) for block, size in zip(encoded, sizes, strict=False)]
        try:
            for data in (BEGUN, *frames[:-1], raw_headers(encoded[-1], end=len(blocks) > 1, size=sizes[-1])):
                reader.feed(data)
                reader.take_body()
        except ProbeFailed as failed:
            return [failed.reason, failed.message]
        return [reader.status, reader.headers, reader.trailers, reader.complete]

    assert outcome([10_000 if one else 7 for one in whole]) == outcome([7] * 4)
    assert outcome([10_000] * 4) == outcome([7] * 4)


def test_trailers_are_separate_from_headers() -> None:
    reader = ResponseReader("GET")
    reader.feed(BEGUN + OK_HEAD + data(b"ok", end=False) + headers(("x-t", "1"), end=True))
    assert reader.trailers == [("x-t", "1")]
    assert reader.get("x-t") is None


def test_response_begins_with_the_first_valid_headers() -> None:
    """An interim response counts; settings and invalid headers do not, as in the original."""
    reader = ResponseReader("GET")
    seen = []
    for piece in (BEGUN + ping(), frame(1, b"\x08\x03", 0, 1), frame(9, b"103", 4, 1), OK_HEAD):
        reader.feed(piece)
        seen.append((reader.answered, reader.head_complete))
    assert seen == [(False, False), (False, False), (True, False), (True, True)]


# --- what we answer ----------------------------------------------------------------------------------------


def frames_of(sent: bytes) -> list[tuple[int, int, int, bytes]]:
    """Return type, flags, stream and payload of each frame."""
    found = []
    while sent:
        size = int.from_bytes(sent[:3], "big")
        found.append((sent[3], sent[4], int.from_bytes(sent[5:9], "big"), sent[9 : 9 + size]))
        sent = sent[9 + size :]
    return found


def test_reader_acknowledges_settings_and_answers_pings() -> None:
    reader = ResponseReader("GET")
    reader.feed(settings((4, 5)) + ping(b"abcdefgh") + ping(b"answered", flags=1) + SETTINGS_ACK)
    assert frames_of(reader.take_outgoing()) == [
        (http2.SETTINGS, http2.ACK, 0, b""),
        (http2.PING, http2.ACK, 0, b"abcdefgh"),
    ]
    assert reader.take_outgoing() == b""


def test_window_is_given_back_as_the_body_is_taken() -> None:
    """The reader updates both windows when the caller takes data, not when the data arrives."""
    reader = ResponseReader("GET")
    reader.feed(settings() + head())
    reader.take_outgoing()
    for _ in range(200):
        reader.feed(data(b"x" * 16000, end=False))
    assert reader.take_outgoing() == b""
    taken = len(reader.take_body())
    increment = taken.to_bytes(4, "big")
    assert taken == 3_200_000
    assert frames_of(reader.take_outgoing()) == [(http2.WINDOW_UPDATE, 0, stream, increment) for stream in (0, 1)]


@pytest.mark.slow
def test_window_is_given_back_for_padding() -> None:
    """Otherwise a server that pads would run out of window."""
    reader = ResponseReader("GET")
    reader.feed(settings() + head())
    for _ in range(200_000):
        reader.feed(http2.padded(b"x", 255, end=False))
        reader.take_body()
    reader.feed(data(b"y"))
    assert reader.complete


def test_server_that_exceeds_its_window_fails() -> None:
    reader = ResponseReader("GET")
    reader.feed(settings() + head())
    reader.feed(data(b"x" * WINDOW_BYTES, end=False))
    assert len(reader.take_body()) == WINDOW_BYTES
    reader.feed(data(b"x" * (WINDOW_BYTES + 1), end=False))
    assert len(reader.take_body()) >= WINDOW_BYTES - 16384
    with pytest.raises(ProbeFailed, match="more data than its window"):
        reader.take_body()
    assert reader.error_code is Code.FLOW_CONTROL_ERROR


def test_violation_has_the_error_code_for_the_server() -> None:
    reader = ResponseReader("GET")
    with pytest.raises(ProbeFailed):
        reader.feed(BEGUN + raw_headers(b"\x80"))
    assert reader.error_code is Code.COMPRESSION_ERROR


def test_upload_window_follows_the_windows_of_the_server() -> None:
    reader = ResponseReader("POST")
    assert reader.room == 65535
    reader.spend(60000)
    reader.feed(settings((http2.INITIAL_WINDOW_SIZE, 50000)))
    assert reader.room == -10000
    reader.feed(window_update(20000, 1))
    assert reader.room == 5535
    reader.feed(window_update(100000))
    assert reader.room == 10000


# --- limits ------------------------------------------------------------------------------------------------


def large(size: int) -> bytes:
    """Return headers that count as exactly `size` bytes."""
    whole, rest = divmod(size - len(":status200") - 32, 1_000_000)
    sizes = [1_000_000] * (whole - 1) + [500_000, 500_000 + rest]
    return headers((":status", "200"), *(("x-a", "a" * (part - len("x-a") - 32)) for part in sizes), end=True)


def test_header_size_limit_is_inclusive_and_that_of_the_original() -> None:
    assert read(dripped(BEGUN + large(MAX_HEAD_BYTES), 65536)) == ok(length=0, body=b"")
    assert read(dripped(BEGUN + large(MAX_HEAD_BYTES + 1), 65536)) == ParsedResponse(
        failure=Reason.HTTP_HEADERS_TOO_LARGE
    )


def test_header_size_limit_counts_all_interim_responses() -> None:
    early = head(103, ("link", "a" * 5000))
    assert read([BEGUN, *[early] * 3000]) == ParsedResponse(failure=Reason.HTTP_HEADERS_TOO_LARGE)


def test_header_size_limit_counts_trailers() -> None:
    trailers = headers(*[("x-t", "a" * 1_000_000)] * 11, end=True)
    outcome = read(dripped(BEGUN + OK_HEAD + data(b"ok", end=False) + trailers, 65536))
    assert outcome == ok(failure=Reason.HTTP_HEADERS_TOO_LARGE)


FRAMES_WITHOUT_CONTENT = {
    "pings": ping(),
    "answers to pings": ping(flags=1),
    "settings": settings((1, 1)),
    "settings by the thousand": settings(*[(4, 100)] * 2000),
    "priorities": frame(2, b"12345", stream=1),
    "unknown frames": frame(0xFA, b""),
    "large unknown frames": frame(0xFA, bytes(16384)),
    "window updates": window_update(1),
    "resets of other streams": reset(stream=3),
    "headers of other streams": headers(("a", "b"), stream=3),
    "interim responses": head(103),
    "repeated GOAWAY": goaway(1),
    "empty data": head() + data(end=False),
    "padding": head() + http2.padded(b"", 255, end=False),
    "empty continuations": frame(1, b"", 0, 1) + frame(9, b"", 0, 1) * 2 * MAX_IDLE_FRAMES,
    "continuations of a byte": frame(1, b"\0" + integer(100_000, 7), 0, 1) + frame(9, b"x", 0, 1) * 2 * MAX_IDLE_FRAMES,
}


def feed_flood(reader: ResponseReader, flood: bytes) -> None:
    """Feed the same bytes many times, more often than the reader tolerates."""
    for _ in range(2 * MAX_IDLE_FRAMES):
        reader.feed(flood)
        reader.take_body()
        reader.take_outgoing()


@pytest.mark.parametrize("flood", table(FRAMES_WITHOUT_CONTENT))
@pytest.mark.slow
def test_flood_of_frames_without_content_fails(flood: bytes) -> None:
    reader = ResponseReader("GET")
    reader.feed(BEGUN + (head() if flood.startswith(head()) else b""))
    with pytest.raises(ProbeFailed) as failed:
        feed_flood(reader, flood.removeprefix(head()))
    assert failed.value.reason is Reason.HTTP_PROTOCOL_ERROR
    assert reader.error_code is Code.ENHANCE_YOUR_CALM


def test_long_body_may_come_in_bytes_between_pings() -> None:
    """Frames with content do not count as a flood."""
    pieces = [BEGUN, head(), *([data(b"x", end=False)] * 100 + [ping()]) * 300, data(b"y")]
    assert len(read(pieces).body) == 30_001


@pytest.mark.slow
def test_body_that_is_not_taken_is_bounded_by_the_window() -> None:
    tracemalloc.start()
    reader = ResponseReader("GET")
    reader.feed(BEGUN + head())
    for _ in range(1000):
        reader.feed(data(bytes(100_000), end=False))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.error_code is Code.FLOW_CONTROL_ERROR
    assert peak < 2 * WINDOW_BYTES


@pytest.mark.slow
def test_large_headers_in_small_pieces_have_linear_cost() -> None:
    """A reader that scans or copies all data for each piece takes minutes."""
    with costs_at_most(500):
        outcome = read(dripped(BEGUN + large(MAX_HEAD_BYTES), 100))
    assert outcome.status == 200


STEPS = {
    "indexed fields": raw_headers(b"\x88" + b"\x82" * 16000),
    "a large field that is repeated": raw_headers(b"\x88\x40\x01a" + integer(4000, 7) + b"x" * 4000 + b"\xbe" * 12000),
    "large fields of no text": headers((":status", "200"), *[("x-a", "\udcff" * 1_000_000)] * 5),
    "Huffman-coded strings": raw_headers(b"\x88" + (b"\x00\x01a\xff\x21" + bytes(160)) * 90),
    "a body of single bytes": head() + data(b"x", end=False) * 50_000,
    "pings": head() + ping() * 9_000,
    "settings": settings(*[(9, 9)] * 2700) * 30,
    "interim responses": head(103) * 9_000,
    "resets of other streams": frame(3, bytes(4), 0, 3) * 9_000,
}


@pytest.mark.parametrize("flood", STEPS.values(), ids=STEPS)
@pytest.mark.slow
def test_flood_is_read_in_short_steps(flood: bytes) -> None:
    reader = SteppedReader("GET")
    reader.feed(BEGUN)
    steps = []

    def attempt(act: Callable[[], None]) -> None:
        with suppress(ProbeFailed):
            act()

    def step(act: Callable[[], None]) -> None:
        steps.append(cpu_seconds(lambda: attempt(act)))

    with costs_at_most(40):
        step(lambda: reader.feed(flood))
        while reader.pending:
            step(reader.proceed)
    expect_short(max(steps), "a step")


def test_number_of_fields_is_limited() -> None:
    """The status does not count."""

    def response(count: int) -> bytes:
        return BEGUN + raw_headers(b"\x88" + b"\x8f" * (count - 1), end=True)

    assert read([response(MAX_FIELDS + 1)]).status == 200
    assert read([response(MAX_FIELDS + 2)]) == ParsedResponse(failure=Reason.HTTP_HEADERS_TOO_LARGE)


# --- properties --------------------------------------------------------------------------------------------

BODIES = st.binary(max_size=300)
PLACES = st.lists(st.integers(0, 800))


@given(body=BODIES, places=PLACES, size=st.integers(1, 60), padding=st.integers(0, 5), announced=st.booleans())
def test_body_is_read_back_however_it_is_framed_and_cut(
    body: bytes, places: list[int], size: int, padding: int, announced: bool
) -> None:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(http2.padded(part, padding, end=False) for part in parts) + data(b"")
    length = [("content-length", str(len(body)))] if announced else []
    whole = BEGUN + head(200, *length) + framed
    pieces = cut(whole, *(place for place in places if place < len(whole)))
    assert read(pieces) == ok(length=len(body) if announced else -1, body=body)


FRAMES = st.lists(
    st.builds(
        frame,
        st.integers(0, 11),
        st.binary(max_size=40) | st.just(b"\x88") | st.just(bytes(8)),
        st.sampled_from([0, 1, 4, 5, 8, 9, 0x2C, 0xFF]),
        st.sampled_from([0, 1, 1, 1, 2, 3]),
    ),
    max_size=10,
)


@given(frames=FRAMES, rest=st.binary(max_size=40), places=PLACES, method=st.sampled_from(["GET", "HEAD"]))
def test_reader_result_does_not_depend_on_how_the_response_is_cut(
    frames: list[bytes], rest: bytes, places: list[int], method: str
) -> None:
    """Only `ProbeFailed` is raised."""
    for begins in (b"", BEGUN, BEGUN + head()):
        whole = begins + b"".join(frames) + rest
        pieces = cut(whole, *(place for place in places if place < len(whole)))
        assert read(pieces, method=method, end=True) == read([whole], method=method, end=True)


# --- the request -------------------------------------------------------------------------------------------


def asked(method: str = "GET", url: str = "https://example.test/a?b", **more: Any) -> list[tuple[str, str]]:
    """Return the fields of a request as a server reads them."""
    more.setdefault("headers", [])
    sent = frames_of(request_head(request_fields(Request(method, parse(url), "example.test", **more)), ends=True))
    assert [kind for kind, *_ in sent] == [http2.HEADERS] + [http2.CONTINUATION] * (len(sent) - 1)
    assert sent[0][1] & http2.END_STREAM
    assert [bool(flags & http2.END_HEADERS) for _, flags, *_ in sent] == [False] * (len(sent) - 1) + [True]
    assert all(stream == 1 and len(payload) <= http2.MOST for _, _, stream, payload in sent)
    block = b"".join(payload for *_, payload in sent)
    decoded = hpack.Decoder(1 << 20).decode(block, raw=True)
    return [(name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in decoded]


PSEUDO = [(":authority", "example.test"), (":method", "GET"), (":path", "/a?b"), (":scheme", "https")]


def test_request_has_pseudo_headers_first_and_names_in_lower_case() -> None:
    headers = [("User-Agent", "us"), ("X-Odd", "ü"), ("X-Empty", "")]
    assert asked(headers=headers) == [*PSEUDO, ("user-agent", "us"), ("x-odd", "ü"), ("x-empty", "")]


def test_request_omits_connection_headers_of_http1() -> None:
    names = ["Connection", "Keep-Alive", "Proxy-Connection", "Upgrade"]
    assert asked(headers=[(name, "x") for name in names]) == PSEUDO


@pytest.mark.parametrize(("value", "sent"), [("trailers", [("te", "trailers")]), ("gzip", []), ("trailers, gzip", [])])
def test_request_sends_te_only_for_trailers(value: str, sent: list[tuple[str, str]]) -> None:
    assert asked(headers=[("Te", value)]) == PSEUDO + sent


def test_request_sends_each_cookie_in_its_own_field() -> None:
    """The original does so too; servers join the fields (RFC 9113, section 8.2.3)."""
    crumbs = [("cookie", "a=b"), ("cookie", "c=d"), ("cookie", "e=f")]
    assert asked(headers=[("Cookie", "a=b; c=d;")], cookies="e=f") == PSEUDO + crumbs


def test_request_announces_a_body_of_known_length() -> None:
    assert asked(body=b"hello")[-1] == ("content-length", "5")
    assert asked("POST")[-1] == ("content-length", "0")
    assert asked(body_file="some/file")[-1] == PSEUDO[-1]


def test_connect_request_has_neither_path_nor_scheme() -> None:
    assert asked("CONNECT") == [(":authority", "example.test"), (":method", "CONNECT")]


def test_large_headers_are_sent_in_several_frames() -> None:
    value = "a" * 100_000
    assert asked(headers=[("X-A", value)]) == [*PSEUDO, ("x-a", value)]


def test_opening_forbids_push_and_states_the_limits() -> None:
    assert OPENING.startswith(http2.PREFACE)
    opening, window = frames_of(OPENING.removeprefix(http2.PREFACE))
    assert opening == (http2.SETTINGS, 0, 0, settings((2, 0), (4, WINDOW_BYTES), (6, MAX_HEAD_BYTES))[9:])
    assert window == (http2.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big"))
