"""Read HTTP/3 responses without I/O: the same result however they are cut, everything bounded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import pytest
from aioquic.buffer import encode_uint_var
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http.http3 import (
    MAX_HEAD_BYTES,
    FrameSplitter,
    Http3ResponseReader,
    ServerStreams,
    describe,
    read_varint,
)
from tests.protocols.http.responses import ParsedResponse
from tests.targets.http3 import (
    CONTROL,
    DATA,
    DECODER,
    ENCODER,
    GOAWAY,
    HEADERS,
    MAX_PUSH_ID,
    PUSH,
    SETTINGS,
    data,
    frame,
    head,
    headers,
)

MORE = "more bytes may come: the stream has not ended"


def read(pieces: Iterable[bytes], *, method: str = "GET", end: bool = True) -> ParsedResponse:
    """Feed pieces, then the end of the stream; take the body after each."""
    reader = Http3ResponseReader(method)
    body = b""
    failure: Reason | str | None = None
    try:
        for piece in pieces:
            reader.feed(piece, end=False)
            body += reader.take_body()
        if end:
            reader.feed(b"", end=True)
        failure = None if reader.complete else MORE
        while piece := reader.take_body():
            body += piece
    except ProbeFailed as failed:
        failure = failed.reason
    if not reader.head_complete:
        return ParsedResponse(failure=failure)
    return ParsedResponse(reader.status, reader.content_length, body, failure)


OK = head(200, ("content-length", "5"), ("x-a", "b")) + data(b"he") + data() + data(b"llo")
ODD = b"".join(
    (
        frame(0x21, b"grease"),
        head(103, ("link", "</style.css>")),
        head(404),
        frame(0x2F00, b"more grease"),
        data(b"not"),
        frame(0x40),
        data(b" here"),
        headers(("x-checksum", "1")),
    )
)
TRUNCATED = head(200, ("content-length", "9")) + data(b"five!")
BROKEN = head(200) + data(b"good") + frame(SETTINGS) + data(b"bad")


@given(st.sampled_from([OK, ODD, TRUNCATED, BROKEN]), st.data())
def test_reader_result_does_not_depend_on_how_the_response_is_cut(response: bytes, cuts: st.DataObject) -> None:
    """The reader keeps only the necessary part of an incomplete frame."""
    places = sorted(cuts.draw(st.lists(st.integers(0, len(response)), max_size=12)))
    pieces = [response[start:end] for start, end in zip([0, *places], [*places, len(response)], strict=True)]
    assert read(pieces) == read([response])


def test_reader_returns_status_length_body_and_failure() -> None:
    assert read([OK]) == ParsedResponse(200, 5, b"hello")
    assert read([ODD]) == ParsedResponse(404, -1, b"not here")
    assert read([TRUNCATED]) == ParsedResponse(200, 9, b"five!", Reason.HTTP_BODY_TRUNCATED)
    assert read([BROKEN]) == ParsedResponse(200, -1, b"good", Reason.HTTP_PROTOCOL_ERROR)


def test_version_is_that_of_the_setting() -> None:
    """``valid_http_versions`` says HTTP/3.0, and the metric 3."""
    reader = Http3ResponseReader("GET")
    reader.feed(head(200), end=True)
    assert reader.version == "3.0"
    assert float(reader.version) == 3


def test_headers_keep_their_bytes_and_order() -> None:
    reader = Http3ResponseReader("GET")
    reader.feed(head(200, ("x-a", "grün"), ("set-cookie", "a=1"), ("set-cookie", "b=\udcff")), end=False)
    assert reader.headers == [("x-a", "grün"), ("set-cookie", "a=1"), ("set-cookie", "b=\udcff")]


@pytest.mark.parametrize(
    ("method", "response", "expected"),
    [
        pytest.param("HEAD", head(200, ("content-length", "12")), ParsedResponse(200, 12), id="to HEAD"),
        pytest.param("GET", head(304, ("content-length", "12")), ParsedResponse(304, 12), id="not modified"),
        pytest.param("GET", head(204), ParsedResponse(204, 0), id="no content"),
        pytest.param("GET", head(200), ParsedResponse(200, -1), id="none at all"),
        pytest.param("GET", head(200, ("content-length", "0")), ParsedResponse(200, 0), id="an empty one"),
        pytest.param(
            "HEAD", head(200, ("content-length", "0" * 5000 + "7")), ParsedResponse(200, 7), id="length of many zeros"
        ),
        pytest.param(
            "GET",
            head(200, ("content-length", "2")) + data(b"long"),
            ParsedResponse(200, 2, b"lo", Reason.HTTP_PROTOCOL_ERROR),
            id="longer than announced",
        ),
        pytest.param(
            "GET",
            head(200) + frame(DATA, b"cut", length=9),
            ParsedResponse(200, -1, b"cut", Reason.HTTP_BODY_TRUNCATED),
            id="cut",
        ),
    ],
)
def test_response_that_must_not_have_a_body_is_complete_without_one(
    method: str, response: bytes, expected: ParsedResponse
) -> None:
    assert read([response], method=method) == expected


def test_body_ends_only_with_the_stream() -> None:
    """A body of its announced length is not complete: trailers or an error may follow."""
    assert read([OK], end=False) == ParsedResponse(200, 5, b"hello", MORE)


@pytest.mark.parametrize("cut", [b"", head(103)])
def test_stream_that_ends_without_a_response_has_a_reason(cut: bytes) -> None:
    assert read([cut]).failure is (Reason.HTTP_PROTOCOL_ERROR if cut else Reason.CONNECT_CLOSED)


@given(st.integers(0, 2**62 - 1))
def test_varints_of_every_length_are_read_back(number: int) -> None:
    """Another implementation writes them; an incomplete one is not read."""
    encoded = encode_uint_var(number)
    assert read_varint(b"x" + encoded + b"y", 1) == (number, 1 + len(encoded))
    assert all(read_varint(encoded[:size]) is None for size in range(len(encoded)))


@given(st.lists(st.tuples(st.integers(0, 2**62 - 1), st.binary(max_size=30)), max_size=8), st.data())
def test_frame_splitter_returns_frames_as_they_were_sent(frames: list[tuple[int, bytes]], cuts: st.DataObject) -> None:
    stream = b"".join(frame(kind, payload) for kind, payload in frames)
    places = sorted(cuts.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    splitter, whole, payload = FrameSplitter(), [], b""
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        for kind, piece, last in splitter.split(stream[start:end]):
            payload += piece
            if last:
                whole.append((kind, payload))
                payload = b""
    assert whole == frames
    assert not splitter.within


# --- bounds ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        pytest.param([frame(HEADERS, length=1 << 40), b"\x51" * 1200], Reason.HTTP_HEADERS_TOO_LARGE, id="one header"),
        pytest.param([b"", head(103, ("link", "a" * 1000))], Reason.HTTP_HEADERS_TOO_LARGE, id="interim responses"),
        pytest.param([b"", frame(0x21)], Reason.HTTP_HEADERS_TOO_LARGE, id="empty frames before the head"),
        pytest.param([head(200), frame(0x21)], Reason.HTTP_PROTOCOL_ERROR, id="empty frames after the head"),
        pytest.param([head(200), data() * 100], Reason.HTTP_PROTOCOL_ERROR, id="empty frames of data"),
        pytest.param(
            [head(200) + frame(HEADERS, length=1 << 40), b"\x51" * 1200], Reason.HTTP_PROTOCOL_ERROR, id="trailers"
        ),
    ],
)
def test_data_other_than_content_is_bounded(stream: list[bytes], reason: Reason) -> None:
    """Memory stays bounded however long it goes on."""
    tracemalloc.start()
    try:
        first, again = stream
        reader = Http3ResponseReader("GET")
        with pytest.raises(ProbeFailed) as failed:  # noqa: PT012  # any of the calls may raise
            reader.feed(first, end=False)
            for _ in range(1 << 17):
                reader.feed(again, end=False)
                reader.take_body()
        assert failed.value.reason is reason
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_HEAD_BYTES
    finally:
        tracemalloc.stop()


def test_frame_of_unknown_type_is_not_held() -> None:
    """The frame may be as long as the limit of data other than content."""
    tracemalloc.start()
    try:
        reader = Http3ResponseReader("GET")
        reader.feed(frame(0x21, length=MAX_HEAD_BYTES - 10_000), end=False)
        for _ in range((MAX_HEAD_BYTES - 10_000) // 1000):
            reader.feed(b"x" * 1000, end=False)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_large_head_within_the_limit_is_read() -> None:
    fields = [(f"x-{number}", "a" * 900) for number in range(1000)]
    reader = Http3ResponseReader("GET")
    reader.feed(head(200, *fields), end=True)
    assert reader.headers == fields


# --- the server's own streams ------------------------------------------------------------------------------

SETTLED = [(3, encode_uint_var(CONTROL) + frame(SETTINGS))]


def on_control(content: bytes) -> list[tuple[int, bytes]]:
    return [*SETTLED, (3, content)]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(SETTLED, id="settings"),
        pytest.param(
            [(3, encode_uint_var(CONTROL) + frame(0x21) + frame(SETTINGS, b"\x06\x40\xff"))], id="grease first"
        ),
        pytest.param(on_control(frame(GOAWAY, b"\x04")), id="goaway"),
        pytest.param(on_control(frame(MAX_PUSH_ID, b"\5") + frame(0x3, b"\5")), id="push frames"),
        pytest.param(
            [*SETTLED, (7, encode_uint_var(ENCODER)), (11, encode_uint_var(DECODER))], id="QPACK streams without data"
        ),
        pytest.param([(11, encode_uint_var(DECODER) + b"\x40")], id="a cancellation of the request's field section"),
        pytest.param([(3, encode_uint_var(0x1F21) + b"anything")], id="a stream of unknown type"),
        pytest.param([(3, b"\x40"), (3, b"\x00"), (3, frame(SETTINGS))], id="a type cut in two"),
    ],
)
def test_server_streams_tolerate_what_the_rfc_allows(said: list[tuple[int, bytes]]) -> None:
    """The data is also fed byte by byte."""
    for step in (1, 1000):
        streams = ServerStreams()
        for stream, content in said:
            for start in range(0, len(content), step):
                streams.feed(stream, content[start : start + step], end=False)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([(3, encode_uint_var(CONTROL) + frame(GOAWAY, b"\0"))], id="no settings"),
        pytest.param(on_control(frame(SETTINGS)), id="settings twice"),
        pytest.param([(3, encode_uint_var(CONTROL) + frame(SETTINGS, b"\6\1\6\1"))], id="one setting twice"),
        pytest.param([(3, encode_uint_var(CONTROL) + frame(SETTINGS, b"\6"))], id="a setting without value"),
        pytest.param(on_control(data(b"x")), id="data"),
        pytest.param(on_control(head(200)), id="headers"),
        pytest.param(on_control(frame(0x6, b"12345678")), id="HTTP/2's ping"),
        pytest.param(on_control(frame(GOAWAY, b"\x01")), id="goaway with an invalid stream"),
        pytest.param([*SETTLED, (7, encode_uint_var(CONTROL))], id="a second control stream"),
        pytest.param([*SETTLED, (7, encode_uint_var(PUSH) + b"\0")], id="a push"),
        pytest.param([(7, encode_uint_var(ENCODER) + b"\x3f\xe1\x1f")], id="a dynamic table"),
        pytest.param([(7, encode_uint_var(DECODER) + b"\x80")], id="acknowledgement without a dynamic table"),
        pytest.param([(7, encode_uint_var(DECODER) + b"\x40\x01")], id="an increment after a cancellation"),
        pytest.param([*SETTLED, (3, frame(0x21) * (1 << 16))], id="a flood of frames"),
        pytest.param([*SETTLED, (3, frame(GOAWAY, length=1 << 40) + b"\0" * (1 << 21))], id="endless goaway"),
    ],
)
def test_server_streams_refuse_what_the_rfc_forbids(said: list[tuple[int, bytes]]) -> None:
    streams = ServerStreams()
    with pytest.raises(ProbeFailed) as failed:  # noqa: PT012  # the last of the calls raises
        for stream, content in said:
            streams.feed(stream, content, end=False)
    assert failed.value.reason is Reason.HTTP_PROTOCOL_ERROR


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("kind", [CONTROL, ENCODER, DECODER])
def test_server_streams_of_the_connection_must_not_end(kind: int, reset: bool) -> None:
    """Neither the end of the stream nor a reset is allowed; other streams may end."""
    streams = ServerStreams()
    streams.feed(3, encode_uint_var(kind), end=False)
    streams.feed(7, encode_uint_var(0x21) + b"over", end=True)
    streams.end(11)
    with pytest.raises(ProbeFailed):
        streams.end(3) if reset else streams.feed(3, b"", end=True)


def test_error_codes_have_their_rfc_names() -> None:
    assert describe(0x10B) == "REQUEST_REJECTED"
    assert describe(0x200) == "QPACK_DECOMPRESSION_FAILED"
    assert describe(0x1234) == "error 0x1234"
