"""Read HTTP/1 responses: the same result however they are cut, as tolerant as the original."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http.http1 import (
    MAX_CHUNK_STEPS,
    MAX_FIELD_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    MAX_INFORMATIONAL_RESPONSES,
    Http1ResponseReader,
    check_headers,
    check_method,
    chunk,
    header_lines,
    request_head,
)
from tests.cost import costs_at_most, dearest_call_costs_at_most
from tests.protocols.http.responses import ParsedResponse, cut, dripped, every_way, read_pieces, table

MORE = "more bytes may come: the connection stays open"


def read(pieces: Iterable[bytes], *, method: str = "GET", end: bool = True) -> ParsedResponse:
    """Feed pieces, then the end of the connection unless the response was complete before it."""
    return read_pieces(Http1ResponseReader(method), pieces, MORE, end=end)


def ok(**differences: object) -> ParsedResponse:
    """Return the usual outcome: a 200 of HTTP/1.1 whose body is ``ok``, as announced."""
    usual: dict[str, object] = {"status": 200, "version": "1.1", "length": 2, "body": b"ok"}
    return ParsedResponse(**usual | differences)  # type: ignore[arg-type]


NOT_HTTP = ParsedResponse(failure=Reason.HTTP_PROTOCOL_ERROR)


def status(line: bytes) -> bytes:
    return line + b"\r\nContent-Length: 2\r\n\r\nok"


def head(*lines: bytes, body: bytes = b"ok") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", body])


def chunks(body: bytes, *lines: bytes) -> bytes:
    return head(b"Transfer-Encoding: chunked", *lines, body=body)


TOLERATED = {
    "plain": (status(b"HTTP/1.1 200 OK"), ok()),
    "bare LF": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", ok()),
    "bare LF, and a body that has lines with CRLF": (
        b"HTTP/1.1 200 OK\nContent-Length: 16\n\nok\r\nName: text\r\n\r\n",
        ok(length=16, body=b"ok\r\nName: text\r\n"),
    ),
    "LF and CRLF mixed": (b"HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 2\n\r\nok", ok()),
    "HTTP/1.0": (status(b"HTTP/1.0 200 OK"), ok(version="1.0")),
    "HTTP/1.2": (status(b"HTTP/1.2 200 OK"), ok(version="1.2")),
    "HTTP/2.0": (status(b"HTTP/2.0 200 OK"), ok(version="2.0")),
    "HTTP/3.0": (status(b"HTTP/3.0 200 OK"), ok(version="3.0")),
    "HTTP/0.9 with headers": (status(b"HTTP/0.9 200 OK"), ok(version="0.9")),
    "no reason phrase": (status(b"HTTP/1.1 200 "), ok()),
    "no reason phrase nor blank": (status(b"HTTP/1.1 200"), ok()),
    "two blanks before the code": (status(b"HTTP/1.1  200 OK"), ok()),
    "Latin-1 in the reason phrase": (status(b"HTTP/1.1 200 \xe9"), ok()),
    "NUL in the reason phrase": (status(b"HTTP/1.1 200 a\0b"), ok()),
    "code 099": (status(b"HTTP/1.1 099 X"), ok(status=99)),
    "code 000": (status(b"HTTP/1.1 000 X"), ok(status=0)),
    "code 600": (status(b"HTTP/1.1 600 X"), ok(status=600)),
    "code 999": (status(b"HTTP/1.1 999 X"), ok(status=999)),
    "code with a plus sign": (status(b"HTTP/1.1 +20 X"), ok(status=20)),
    "no headers, body to the end": (head(body=b"to the end"), ok(length=-1, body=b"to the end")),
    "no headers, no body": (head(body=b""), ok(length=-1, body=b"")),
    "keep-alive without a length": (head(b"Connection: keep-alive"), ok(length=-1)),
    "more than was announced": (head(b"Content-Length: 2", body=b"ok and more"), ok()),
    "length empty": (head(b"Content-Length: "), ok(length=-1)),
    "length between blanks": (head(b"Content-Length:   2  "), ok()),
    "length with zeros": (head(b"Content-Length: 002"), ok()),
    "length twice the same": (head(b"Content-Length: 2", b"Content-Length: 2"), ok()),
    "length zero": (head(b"Content-Length: 0", body=b""), ok(length=0, body=b"")),
    "blank before the colon": (head(b"Content-Length : 2"), ok(length=-1)),
    "blank within a name": (head(b"X A: v", b"Content-Length: 2"), ok()),
    "folded value": (head(b"X-A: one", b" two", b"Content-Length: 2"), ok()),
    "Latin-1 in a value": (head(b"X-A: a\xe9b", b"Content-Length: 2"), ok()),
    "tab in a value": (head(b"X-A: a\tb", b"Content-Length: 2"), ok()),
    "location on a 200": (head(b"Location: /x", b"Content-Length: 2"), ok()),
    "chunked": (chunks(b"2\r\nok\r\n0\r\n\r\n"), ok(length=-1)),
    "chunked in two": (chunks(b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"), ok(length=-1)),
    "chunked in mixed case": (head(b"Transfer-Encoding: ChunKed", body=b"2\r\nok\r\n0\r\n\r\n"), ok(length=-1)),
    "length with 5000 zeros": (head(b"Content-Length: " + b"0" * 5000 + b"2"), ok()),
    "code with a minus sign and zeros": (status(b"HTTP/1.1 -00 X"), ok(status=0)),
    "chunked empty": (chunks(b"0\r\n\r\n"), ok(length=-1, body=b"")),
    "chunk extension": (chunks(b"2;a=b\r\nok\r\n0;x\r\n\r\n"), ok(length=-1)),
    "chunk size in capitals": (chunks(b"A\r\n0123456789\r\n0\r\n\r\n"), ok(length=-1, body=b"0123456789")),
    "chunk size with zeros": (chunks(b"0000000000000002\r\nok\r\n0\r\n\r\n"), ok(length=-1)),
    "chunk size and blanks": (chunks(b"2  \r\nok\r\n0\r\n\r\n"), ok(length=-1)),
    "chunk size and a tab": (chunks(b"2\t\r\nok\r\n0\r\n\r\n"), ok(length=-1)),
    "trailer folded": (chunks(b"2\r\nok\r\n0\r\nX-T: a\r\n b\r\n\r\n"), ok(length=-1)),
    "chunked with trailers": (chunks(b"2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"), ok(length=-1)),
    "chunked wins over a length": (chunks(b"2\r\nok\r\n0\r\n\r\n", b"Content-Length: 9"), ok(length=-1)),
    "chunked means nothing in HTTP/1.0": (
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ok(version="1.0", length=-1, body=b"2\r\nok\r\n0\r\n\r\n"),
    ),
    "chunked with a length in HTTP/1.0": (
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nok",
        ok(version="1.0"),
    ),
    "204 with a body": (b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok", ok(status=204, length=0, body=b"")),
    "204 chunked": (
        b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ok(status=204, length=0, body=b""),
    ),
    "304 with a length": (b"HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\n", ok(status=304, length=0, body=b"")),
    "205 with a body": (status(b"HTTP/1.1 205 Reset"), ok(status=205)),
    "100 before": (b"HTTP/1.1 100 Continue\r\n\r\n" + status(b"HTTP/1.1 200 OK"), ok()),
    "103 with headers before": (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + status(b"HTTP/1.1 200 OK"), ok()),
    "a hundred 102 before": (b"HTTP/1.1 102 P\r\n\r\n" * 100 + status(b"HTTP/1.1 200 OK"), ok()),
    "199 before": (b"HTTP/1.1 199 X\r\n\r\n" + status(b"HTTP/1.1 200 OK"), ok()),
    "100 announcing a body": (b"HTTP/1.1 100 C\r\nContent-Length: 2\r\n\r\n" + status(b"HTTP/1.1 200 OK"), ok()),
    "101 without upgrade": (b"HTTP/1.1 101 Switching\r\n\r\nok", ok(status=101, length=0, body=b"")),
    "101 with a protocol and no upgrade": (
        b"HTTP/1.1 101 Switching\r\nUpgrade: foo\r\n\r\nok",
        ok(status=101, length=0, body=b""),
    ),
    "101 with an upgrade to nothing": (
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\n\r\nok",
        ok(status=101, length=0, body=b""),
    ),
    "101 with upgrade": (
        b"HTTP/1.1 101 Switching\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\nok",
        ok(status=101, length=0, body=b"ok"),
    ),
}

REFUSED = {
    "HTTP/1": status(b"HTTP/1 200 OK"),
    "HTTP/2": status(b"HTTP/2 200 OK"),
    "HTTP/11.1": status(b"HTTP/11.1 200 OK"),
    "http in lower case": status(b"http/1.1 200 OK"),
    "ICY": status(b"ICY 200 OK"),
    "code of two digits": status(b"HTTP/1.1 99 X"),
    "code of four digits": status(b"HTTP/1.1 1000 X"),
    "code with a minus sign": status(b"HTTP/1.1 -20 X"),
    "code with a letter": status(b"HTTP/1.1 2x0 X"),
    "tab after the version": status(b"HTTP/1.1\t200 OK"),
    "line end first": b"\r\n" + status(b"HTTP/1.1 200 OK"),
    "blank first": b" " + status(b"HTTP/1.1 200 OK"),
    "HTTP/0.9": b"hello",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "garbage": b"hello world foo\r\n\r\n",
    "end after the status line": b"HTTP/1.1 200 OK\r\n",
    "end in the status line": b"HTTP/1.1 2",
    "end in a header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "end after a 103": b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n",
    "length twice and different": head(b"Content-Length: 2", b"Content-Length: 3"),
    "length empty and not": head(b"Content-Length:", b"Content-Length: 2"),
    "length in two spellings": head(b"Content-Length: 02", b"Content-Length: 2"),
    "length before that is none": b"HTTP/1.1 103 E\r\nContent-Length: x\r\n\r\n" + status(b"HTTP/1.1 200 OK"),
    "no colon before": b"HTTP/1.1 103 E\r\nNoColonHere\r\n\r\n" + status(b"HTTP/1.1 200 OK"),
    "coding before": b"HTTP/1.1 103 E\r\nTransfer-Encoding: gzip\r\n\r\n" + status(b"HTTP/1.1 200 OK"),
    "length as a list": head(b"Content-Length: 2, 2"),
    "length with a plus sign": head(b"Content-Length: +2"),
    "length negative": head(b"Content-Length: -2"),
    "length not a number": head(b"Content-Length: x"),
    "length in hexadecimal": head(b"Content-Length: 0x2"),
    "length of 20 digits": head(b"Content-Length: 99999999999999999999"),
    "length of 2^63": head(b"Content-Length: 9223372036854775808"),
    "first header folded": head(b" Content-Length: 2"),
    "no colon": head(b"NoColonHere", b"Content-Length: 2"),
    "no name": head(b": v", b"Content-Length: 2"),
    "parentheses in a name": head(b"X(A): v", b"Content-Length: 2"),
    "UTF-8 in a name": head("X-é: v".encode(), b"Content-Length: 2"),
    "NUL in a value": head(b"X-A: a\0b", b"Content-Length: 2"),
    "control character in a value": head(b"X-A: a\x01b", b"Content-Length: 2"),
    "DEL in a value": head(b"X-A: a\x7fb", b"Content-Length: 2"),
    "bare CR in a value": head(b"X-A: a\rb", b"Content-Length: 2"),
    "coding gzip, chunked": head(b"Transfer-Encoding: gzip, chunked", body=b"2\r\nok\r\n0\r\n\r\n"),
    "coding identity": head(b"Transfer-Encoding: identity"),
    "coding unknown": head(b"Transfer-Encoding: foo"),
    "coding empty": head(b"Transfer-Encoding: "),
    "chunked twice": chunks(b"2\r\nok\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
}

BROKEN = {
    "shorter than announced": (head(b"Content-Length: 10"), ok(length=10, failure=Reason.HTTP_BODY_TRUNCATED)),
    "much shorter than announced": (
        head(b"Content-Length: 9223372036854775807"),
        ok(length=9223372036854775807, failure=Reason.HTTP_BODY_TRUNCATED),
    ),
    "no last chunk": (chunks(b"2\r\nok\r\n"), ok(length=-1, failure=Reason.HTTP_BODY_TRUNCATED)),
    "end in a chunk": (chunks(b"5\r\nok"), ok(length=-1, failure=Reason.HTTP_BODY_TRUNCATED)),
    "end after the last chunk": (chunks(b"2\r\nok\r\n0\r\n"), ok(length=-1, failure=Reason.HTTP_BODY_TRUNCATED)),
    "chunk larger than the body": (
        chunks(b"ffffffffffffffff\r\nok\r\n0\r\n\r\n"),
        ok(length=-1, body=b"ok\r\n0\r\n\r\n", failure=Reason.HTTP_BODY_TRUNCATED),
    ),
    "no line end after a chunk": (chunks(b"2\r\nokxx0\r\n\r\n"), ok(length=-1, failure=Reason.HTTP_PROTOCOL_ERROR)),
    "trailer that ends in a bare LF": (
        chunks(b"2\r\nok\r\n0\r\nX-T: a\n\r\n"),
        ok(length=-1, failure=Reason.HTTP_BODY_TRUNCATED),
    ),
    "trailer without colon": (
        chunks(b"2\r\nok\r\n0\r\nbad trailer\r\n\r\n"),
        ok(length=-1, failure=Reason.HTTP_PROTOCOL_ERROR),
    ),
    **{
        f"chunk size {name}": (
            chunks(size + b"ok\r\n0\r\n\r\n"),
            ok(length=-1, body=b"", failure=Reason.HTTP_PROTOCOL_ERROR),
        )
        for name, size in {
            "not a number": b"zz\r\n",
            "empty": b"\r\n",
            "with 0x": b"0x2\r\n",
            "of 17 digits": b"00000000000000002\r\n",
            "before a bare LF": b"2\n",
            "before a blank and an extension": b'2 ;a="b;c"\r\n',
        }.items()
    },
}


@pytest.mark.parametrize(("data", "expected"), table(TOLERATED))
def test_reader_tolerates_what_the_original_tolerates(data: bytes, expected: ParsedResponse) -> None:
    for pieces in every_way(data):
        assert read(pieces) == expected, pieces


@pytest.mark.parametrize("data", table(REFUSED))
def test_reader_refuses_what_the_original_refuses(data: bytes) -> None:
    """The response is not HTTP and has no status."""
    for pieces in every_way(data):
        assert read(pieces) == NOT_HTTP, pieces


@pytest.mark.parametrize(("data", "expected"), table(BROKEN))
def test_broken_body_keeps_what_came_before(data: bytes, expected: ParsedResponse) -> None:
    """The status and the valid part of the body are kept, even if all arrived at once."""
    for pieces in every_way(data):
        assert read(pieces) == expected, pieces


HEAD = {
    "a length": (head(b"Content-Length: 5", body=b""), ok(length=5, body=b"")),
    "no length": (head(body=b""), ok(length=-1, body=b"")),
    "chunked": (chunks(b""), ok(length=-1, body=b"")),
    "a body all the same": (head(b"Content-Length: 2"), ok(body=b"")),
    "chunked and a length": (chunks(b"", b"Content-Length: 9"), ok(length=9, body=b"")),
    "204": (b"HTTP/1.1 204 No\r\n\r\n", ok(status=204, length=-1, body=b"")),
}


@pytest.mark.parametrize(("data", "expected"), table(HEAD))
def test_response_to_head_ends_with_its_head(data: bytes, expected: ParsedResponse) -> None:
    """Its length is that of the header, as for GET."""
    for pieces in every_way(data):
        assert read(pieces, method="HEAD", end=False) == expected, pieces


def test_response_to_a_lower_case_head_method_has_a_body() -> None:
    assert read([head(b"Content-Length: 2")], method="head") == ok()


@pytest.mark.parametrize(
    "data",
    [case for name, (case, expected) in TOLERATED.items() if expected.length >= 0 and name != "101 with upgrade"],
)
def test_response_of_known_length_completes_before_the_connection_ends(data: bytes) -> None:
    for pieces in every_way(data):
        assert read(pieces, end=False).failure is None, pieces


@pytest.mark.parametrize("begins", [b"S", b"\r\n", b"HTTP/1.1 abc\r\n", chunks(b"zz\r\n")])
def test_response_that_is_not_http_is_refused_before_the_connection_ends(begins: bytes) -> None:
    """A server of another protocol may hold the connection open for ever."""
    assert read([begins], end=False).failure is Reason.HTTP_PROTOCOL_ERROR


def test_connection_closed_without_any_byte_is_reported_as_closed() -> None:
    assert read([]) == ParsedResponse(failure=Reason.CONNECT_CLOSED)


def test_reader_ignores_data_after_the_end() -> None:
    """Another response after it is ignored too."""
    reader = Http1ResponseReader("GET")
    reader.feed(head(b"X-A: 1", b"Content-Length: 2") + b"HTTP/1.1 500 Oh no\r\nX-A: 2\r\n\r\n")
    reader.feed(b"nonsense")
    reader.feed(b"")
    assert reader.complete
    assert reader.take_body() == b"ok"
    assert (reader.status, reader.get_all("x-a"), reader.content_length) == (200, ["1"], 2)


# --- headers -----------------------------------------------------------------------------------------------


def headers_of(*lines: bytes) -> Http1ResponseReader:
    reader = Http1ResponseReader("GET")
    for piece in cut(head(*lines), *range(200)):
        reader.feed(piece)
    assert reader.head_complete
    return reader


def test_headers_keep_their_order_and_are_found_in_any_case() -> None:
    reader = headers_of(b"X-A: one", b"x-b: other", b"x-a: two", b"X-A:")
    assert reader.get("x-a") == "one"
    assert reader.get_all("x-a") == ["one", "two", ""]
    assert reader.get("x-c") is None
    assert reader.get_all("x-c") == []


def test_headers_of_interim_responses_are_discarded() -> None:
    reader = Http1ResponseReader("GET")
    reader.feed(b"HTTP/1.1 103 Early\r\nX-A: early\r\n\r\nHTTP/1.1 200 OK\r\nX-A: late\r\n\r\n")
    assert reader.get_all("x-a") == ["late"]


def test_header_values_lose_surrounding_blanks_only() -> None:
    reader = headers_of(b"X-A: \t  a \t b\xe9 \xc3\xa9  ")
    assert (reader.get("x-a") or "").encode("utf-8", "surrogateescape") == b"a \t b\xe9 \xc3\xa9"


def test_folded_header_is_one_value() -> None:
    reader = headers_of(b"X-A: one \t", b"\t  two ", b" ", b" three", b"X-B: four")
    assert (reader.get("x-a") or "").split() == ["one", "two", "three"]
    assert reader.get("x-b") == "four"


def test_framing_headers_are_hidden_from_matchers() -> None:
    """The original's client removes these headers, and header matchers do not find them."""
    reader = Http1ResponseReader("GET")
    reader.feed(chunks(b"0\r\n\r\n", b"Content-Length: 9", b"X-A: 1"))
    assert reader.headers == [("X-A", "1")]
    reader = headers_of(b"Content-Length: 200")
    assert reader.get("content-length") == "200"


# --- limits ------------------------------------------------------------------------------------------------


def large(size: int) -> bytes:
    """Return a head of exactly `size` bytes, in fields of 64 KiB."""
    begins, ends, line = b"HTTP/1.1 200 OK\r\n", b"Content-Length: 0\r\n\r\n", b"X-A: " + b"a" * 65529 + b"\r\n"
    lines, rest = divmod(size - len(begins) - len(ends), len(line))
    return begins + line * lines + b"X-A: " + b"a" * (rest - len("X-A: \r\n")) + b"\r\n" + ends


def test_head_size_limit_is_inclusive_and_that_of_the_original() -> None:
    assert read(dripped(large(MAX_HEAD_BYTES), 65536)) == ok(length=0, body=b"")
    assert read(dripped(large(MAX_HEAD_BYTES + 1), 65536)) == ParsedResponse(failure=Reason.HTTP_HEADERS_TOO_LARGE)


def test_head_size_limit_counts_all_interim_responses() -> None:
    early = b"HTTP/1.1 103 Early\r\nLink: " + b"a" * 5000 + b"\r\n\r\n"
    assert read([early] * 3000) == ParsedResponse(failure=Reason.HTTP_HEADERS_TOO_LARGE)


@pytest.mark.parametrize(
    "endless", [b"2;" + b"a" * 5000, b"0\r\nX-T: " + b"a" * 5000, b"0\r\nX-T: " + b"a" * 5000 + b"\r\n\r\n"]
)
def test_chunk_extensions_and_trailers_are_bounded(endless: bytes) -> None:
    for size in (1, 1000, len(endless)):
        assert read(dripped(chunks(endless), size), end=False).failure is Reason.HTTP_PROTOCOL_ERROR


@pytest.mark.slow
@pytest.mark.parametrize("line", [b"", b"X-A: a\r\n"])
def test_endless_head_ends_at_the_limit_in_bounded_memory(line: bytes) -> None:
    """Until then, each short header takes some 150 bytes."""
    piece = line * 2048 or b"a" * 16384
    tracemalloc.start()
    outcome = read(chain([b"HTTP/1.1 200 OK\r\nX-A: "], repeat(piece)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outcome == ParsedResponse(failure=Reason.HTTP_HEADERS_TOO_LARGE)
    assert peak < 20 * MAX_HEAD_BYTES


@pytest.mark.parametrize("step", [1000, 100_000, MAX_HEAD_BYTES])
def test_head_lines_are_limited_in_number(step: int) -> None:
    """Continuation lines count too."""
    lines = [b"X-%d: a" % number for number in range(MAX_HEAD_LINES - 2)]
    reader = Http1ResponseReader("GET")
    for piece in dripped(head(*lines, b" b", b"Content-Length: 2"), step):
        reader.feed(piece)
    assert reader.complete
    assert len(reader.headers) == MAX_HEAD_LINES - 1
    assert reader.headers[-3:] == [("X-9996", "a"), ("X-9997", "a b"), ("Content-Length", "2")]
    for more in (b" c", b"X: a"):
        too_many = head(*lines, b" b", more, b"Content-Length: 2")
        assert read(dripped(too_many, step)) == ParsedResponse(failure=Reason.HTTP_HEADERS_TOO_LARGE)


@pytest.mark.parametrize("step", [1000, 100_000, MAX_HEAD_BYTES])
@pytest.mark.parametrize("fold", [b"", b"\r\n "])
@pytest.mark.slow
def test_size_of_one_field_is_limited(step: int, fold: bytes) -> None:
    """Continuation lines belong to the field."""
    room = MAX_FIELD_BYTES - len(b"X-A: ") - len(fold)
    field = b"X-A: " + b"a" * (room // 2) + fold + b"b" * (room - room // 2)
    for lines in ([b"X: a", field, b"Content-Length: 0"], [b"Content-Length: 0", field]):
        assert read(dripped(head(*lines, body=b""), step)) == ok(length=0, body=b"")
        longer = head(*[line.replace(b"aa", b"aaa", 1) for line in lines], body=b"")
        assert read(dripped(longer, step)) == ParsedResponse(failure=Reason.HTTP_HEADERS_TOO_LARGE)


def test_informational_responses_are_limited_in_number() -> None:
    early, final = b"HTTP/1.1 102 P\r\n\r\n", head(b"Content-Length: 2")
    for step in (1000, MAX_HEAD_BYTES):
        assert read(dripped(early * MAX_INFORMATIONAL_RESPONSES + final, step)) == ok()
        too_many = early * (MAX_INFORMATIONAL_RESPONSES + 1) + final
        assert read(dripped(too_many, step)) == ParsedResponse(failure=Reason.HTTP_HEADERS_TOO_LARGE)


def test_tiny_chunks_are_read_in_portions() -> None:
    """The caller can run other tasks between two portions; the end of the connection makes no difference."""
    count = MAX_CHUNK_STEPS
    data = chunks(chunk(b"a") * count + chunk(b""))
    reader = Http1ResponseReader("GET")
    reader.feed(data)
    body = [reader.take_body()]
    while reader.unread:
        reader.proceed()
        body.append(reader.take_body())
    assert reader.complete
    assert len(body) > 2
    assert max(map(len, body)) <= MAX_CHUNK_STEPS // 3
    assert b"".join(body) == b"a" * count
    assert read([data]) == ok(length=-1, body=b"a" * count)


# --- the work of one call ----------------------------------------------------------------------------------

READ_BYTES = 512 * 1024
"""Bytes that one read from a connection returns at most."""

HOSTILE = {
    "short fields": b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 2_500_000,
    "cookies": b"HTTP/1.1 200 OK\r\n" + b"Set-Cookie: a=b\r\n" * 400_000,
    "folds": b"HTTP/1.1 200 OK\r\nX-A: a\r\n" + b" b\r\n" * 1_500_000,
    "long folds": b"HTTP/1.1 200 OK\r\nX-A: a\r\n" + (b" " * 1000 + b"\r\n") * 6_000,
    "one field": b"HTTP/1.1 200 OK\r\nLocation: " + b"a/../" * 2_000_000,
    "long fields": b"HTTP/1.1 200 OK\r\n" + (b"X-A: " + b"a" * 1_000_000 + b"\r\n") * 10 + b"\r\n",
    "fields of a kilobyte": b"HTTP/1.1 200 OK\r\n" + (b"X-A: " + b"a" * 1_000 + b"\r\n") * 9_999 + b"\r\n",
    "not UTF-8": b"HTTP/1.1 200 OK\r\n" + (b"X-A: " + b"\xff" * 1_000_000 + b"\r\n") * 10 + b"\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\n" + (b"a " * 500_000 + b"\r\n") * 10 + b"\r\n",
    "reason phrase": b"HTTP/1.1 200 " + b"a" * 9_000_000,
    "informational": b"HTTP/1.1 100 C\r\n\r\n" * 500_000,
    "one-byte chunks": chunks(chunk(b"a") * 500_000),
    "connection options": b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: " + b"," * 1_000_000 + b"\r\n\r\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("data", table(HOSTILE))
def test_one_call_is_a_few_milliseconds_of_work(data: bytes) -> None:
    """The budget for one turn of the event loop is 20 ms, about a million additions."""
    reader = Http1ResponseReader("GET")
    with dearest_call_costs_at_most(1.0) as call, suppress(ProbeFailed):
        for piece in dripped(data, READ_BYTES):
            call(reader.feed, piece)
            call(reader.take_body)
            while reader.unread:
                call(reader.proceed)
                call(reader.take_body)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begins", "repeated"),
    [
        (b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 16),
        (b"HTTP/1.1 200 OK\r\nX-A: ", b" " * 16),
        (b"HTTP/1.1 200 OK\r\nX-A: a\r\n", b" b\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-A: a\r\n", b"X-A: a\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"a" * 16),
        (b"HTTP/1.1 ", b" " * 16),
        (b"", b"HTTP/1.1 100 C\r\n\r\n"),
        (chunks(b"0\r\nX-T: "), b"a" * 16),
        (chunks(b""), chunk(b"a" * 16)),
    ],
)
def test_ten_megabytes_by_the_kilobyte_have_linear_cost(begins: bytes, repeated: bytes) -> None:
    """A reader that scans or copies all data for each piece takes minutes."""
    data = begins + repeated * ((MAX_HEAD_BYTES - 1024) // len(repeated)) + b"\r\n\r\n"
    with costs_at_most(500):
        read(dripped(data, 1024))


# --- properties --------------------------------------------------------------------------------------------

BODIES = st.binary(max_size=300)


@given(body=BODIES, places=st.lists(st.integers(0, 600)), sizes=st.lists(st.integers(1, 40), min_size=1))
def test_chunked_body_is_read_back_however_it_is_cut(body: bytes, places: list[int], sizes: list[int]) -> None:
    framed, rest, turn = b"", body, 0
    while rest:
        size = sizes[turn % len(sizes)]
        framed, rest, turn = framed + chunk(rest[:size]), rest[size:], turn + 1
    data = chunks(framed + chunk(b""))
    assert read(cut(data, *(place for place in places if place < len(data))), end=False) == ok(length=-1, body=body)


@given(body=BODIES, places=st.lists(st.integers(0, 400)))
def test_body_of_announced_length_is_read_back_however_it_is_cut(body: bytes, places: list[int]) -> None:
    data = head(b"Content-Length: %d" % len(body), body=body + b"and more")
    pieces = cut(data, *(place for place in places if place < len(data)))
    assert read(pieces, end=False) == ok(length=len(body), body=body)


@given(data=st.binary(max_size=200), places=st.lists(st.integers(0, 250)))
def test_reader_result_does_not_depend_on_how_the_response_is_cut(data: bytes, places: list[int]) -> None:
    """Only `ProbeFailed` is raised."""
    for begins in (b"", b"HTTP/1.1 200 OK\r\n", chunks(b"")):
        whole = begins + data
        assert read(cut(whole, *(place for place in places if place < len(whole)))) == read([whole])


LINES = (
    *(b"Server: nginx", b"server:x", b"X-A:  two words  ", b"X-A:", b": nameless", b"nothing", b"X A : 1", b" folded"),
    *(b"\tfolded", b"X-A: \xc3\xa9", b"X-A: \xe9", b"\xc3\xa9: 1", b"X-A: a\tb", b"X-A: a\0", b"X-A: a\rb", b"\r", b""),
    *(b"Content-Length: 2", b"Content-Length: 02", b"content-length:2", b"Content-Length: x", b"X-A: a\nX-B: b"),
    *(b"Transfer-Encoding: chunked", b"Connection: close", b"X-A:1: 2", b"X-A: a\x7f", b"HTTP/1.1 200 OK"),
)


@given(
    first=st.sampled_from([b"200 OK", b"100", b"200 \0", b"200  ", b"20"]),
    lines=st.lists(st.sampled_from(LINES), max_size=6),
    end=st.sampled_from(["\r\n", "\n"]),
)
def test_head_in_one_piece_is_read_as_in_two(first: bytes, lines: list[bytes], end: str) -> None:
    """The usual head, in one piece, is parsed by a function of its own."""
    whole = end.encode().join([b"HTTP/1.1 " + first, *lines, b"", b"ok"])
    readers = [Http1ResponseReader("GET"), Http1ResponseReader("GET")]
    assert read_pieces(readers[0], [whole], MORE, end=False) == read_pieces(readers[1], cut(whole, 9), MORE, end=False)
    assert readers[0].headers == readers[1].headers
    assert [readers[0].get_all(name.lower()) for name, _ in readers[0].headers] == [
        readers[1].get_all(name.lower()) for name, _ in readers[1].headers
    ]


def test_bad_status_line_of_a_head_in_one_piece_is_quoted_without_its_end() -> None:
    with pytest.raises(ProbeFailed, match=r"its status line is b'HTTP/1\.1 2000 x'$"):
        Http1ResponseReader("GET").feed(status(b"HTTP/1.1 2000 x"))


@pytest.mark.parametrize("line", [b"X-%d: 1", b"Server: %d"])
def test_head_in_one_piece_may_have_any_number_of_lines(line: bytes) -> None:
    """The function for the usual head refuses a long one."""
    for number in (1, 63, 64, 65, 400):
        lines = [line % place for place in range(number)]
        reader = Http1ResponseReader("GET")
        reader.feed(head(*lines))
        assert [f"{name}: {value}".encode() for name, value in reader.headers] == lines


# --- requests ----------------------------------------------------------------------------------------------


def test_request_head_keeps_the_order_of_headers() -> None:
    headers = [("Host", "a:80"), ("X-B", "1"), ("X-A", ""), ("X-B", "\N{LATIN SMALL LETTER E WITH ACUTE}\udce9")]
    assert request_head("GET", "/a?b", header_lines(headers)) == (
        b"GET /a?b HTTP/1.1\r\nHost: a:80\r\nX-B: 1\r\nX-A: \r\nX-B: \xc3\xa9\xe9\r\n\r\n"
    )


def test_chunk_size_is_hexadecimal() -> None:
    assert chunk(b"a" * 31) == b"1f\r\n" + b"a" * 31 + b"\r\n"


def test_last_chunk_is_empty() -> None:
    assert chunk(b"") == b"0\r\n\r\n"


@pytest.mark.parametrize("method", ["GET", "get", "a!#$%&'*+-.^_`|~", "0"])
def test_method_may_be_any_token(method: str) -> None:
    check_method(method)


@pytest.mark.parametrize("method", ["", "GE T", "GET\r\nX: y", "G\u00c9T", "GET/", "a:b"])
def test_method_that_is_no_token_is_refused(method: str) -> None:
    with pytest.raises(ProbeFailed) as failed:
        check_method(method)
    assert failed.value.reason is Reason.SETTINGS_UNUSABLE


@pytest.mark.parametrize("header", [("X-A", "b\tc \u00e9\udce9"), ("x_a", ""), ("!#$%&'*+-.^_`|~", "v")])
def test_header_may_be_any_token_with_any_text(header: tuple[str, str]) -> None:
    check_headers([header])


@pytest.mark.parametrize(
    "header",
    [("", "v"), ("X A", "v"), ("X:A", "v"), ("X-\u00c9", "v"), *(("X-A", f"hush{c}hush") for c in "\0\r\n\x1f\x7f")],
)
def test_header_that_would_break_the_request_is_refused_without_its_value(header: tuple[str, str]) -> None:
    """The message does not quote the value, which may be a secret."""
    with pytest.raises(ProbeFailed) as failed:
        check_headers([("X-Good", "good"), header])
    assert failed.value.reason is Reason.SETTINGS_UNUSABLE
    assert "hush" not in failed.value.message
