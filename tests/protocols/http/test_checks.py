"""Check a response against the module's settings: status, version, headers, body, CEL."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass

import pytest

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http import checks
from probe_exporter.protocols.http.checks import MAX_INLINE_BYTES, parse_date
from probe_exporter.protocols.http.http1 import Http1ResponseReader
from probe_exporter.settings.cel import Cel
from probe_exporter.settings.regexps import Regexp
from tests.cost import expect_short, turns


def failing(reason: Reason) -> pytest.RaisesExc[ProbeFailed]:
    """Expect a failure with this reason."""
    return pytest.RaisesExc(ProbeFailed, check=lambda failed: failed.reason is reason)


# --- status and version ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_status_check_accepts_every_2xx_by_default(status: int) -> None:
    checks.status_code(status, ())


@pytest.mark.parametrize("status", [0, 99, 101, 199, 300, 404, 600, 2000])
def test_status_check_rejects_all_but_2xx_by_default(status: int) -> None:
    with failing(Reason.HTTP_STATUS):
        checks.status_code(status, ())


def test_status_check_accepts_only_listed_codes() -> None:
    checks.status_code(404, (301, 404))
    with failing(Reason.HTTP_STATUS) as failed:
        checks.status_code(200, (301, 404))
    assert failed.value.message == "the status code is 200, expected 301, 404"


def test_version_check_accepts_only_listed_versions() -> None:
    checks.version("HTTP/1.1", ())
    checks.version("HTTP/1.1", ("HTTP/1.0", "HTTP/1.1"))
    with failing(Reason.HTTP_VERSION):
        checks.version("HTTP/1.1", ("HTTP/1.0", "HTTP/2.0"))


# --- headers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matcher:
    header: str
    regexp: Regexp
    allow_missing: bool = False


def response(*lines: bytes) -> Http1ResponseReader:
    reader = Http1ResponseReader("GET")
    reader.feed(b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""]))
    return reader


TWO = response(b"X-A: first one", b"X-A: second \xff", b"X-Empty:")


@pytest.mark.parametrize(("regexp", "matches"), [("first", True), ("SECOND", False), ("^second", True), ("ab", False)])
async def test_header_matches_if_one_of_its_values_matches(regexp: str, matches: bool) -> None:
    """Names match in any case. `forbidden` fails where `demanded` passes, and the other way round."""
    matcher = Matcher("x-a", Regexp(regexp))
    if matches:
        await checks.headers(TWO, [], [matcher])
        with failing(Reason.HTTP_HEADER_MISMATCH):
            await checks.headers(TWO, [matcher], [])
    else:
        await checks.headers(TWO, [matcher], [])
        with failing(Reason.HTTP_HEADER_MISMATCH):
            await checks.headers(TWO, [], [matcher])


async def test_missing_header_fails_both_kinds_of_matcher() -> None:
    matcher = Matcher("X-B", Regexp("."))
    for forbidden, demanded in (([matcher], []), ([], [matcher])):
        with failing(Reason.HTTP_HEADER_MISMATCH):
            await checks.headers(TWO, forbidden, demanded)


async def test_missing_header_passes_if_allow_missing_is_set() -> None:
    matcher = Matcher("X-B", Regexp("."), allow_missing=True)
    await checks.headers(TWO, [matcher], [matcher])


async def test_empty_header_is_not_missing() -> None:
    await checks.headers(TWO, [Matcher("X-Empty", Regexp("."))], [Matcher("X-Empty", Regexp("^$"))])


async def test_header_check_uses_a_thread_only_for_large_values() -> None:
    seen: list[threading.Thread] = []

    class Watching(Regexp):
        def matches(self, data: bytes) -> bool:
            seen.append(threading.current_thread())
            return False

    for size in (MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1):
        await checks.headers(response(b"X-A: " + b"a" * size), [Matcher("X-A", Watching("x"))], [])
    assert [thread is threading.main_thread() for thread in seen] == [True, False]


async def test_header_bytes_that_are_not_utf8_match_one_character_each() -> None:
    await checks.headers(TWO, [], [Matcher("X-A", Regexp("^second .$"))])


# --- body --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, MAX_INLINE_BYTES])
async def test_body_regexps_search_the_whole_body_unanchored(size: int) -> None:
    """A thread searches large bodies."""
    text = bytes(size) + b"\nneedle\n"
    await checks.body(text, [Regexp("absent"), Regexp("^needle")], [Regexp("needle"), Regexp("(?m)^needle$")])
    with failing(Reason.HTTP_BODY_MISMATCH):
        await checks.body(text, [Regexp("absent"), Regexp("needle")], [])
    with failing(Reason.HTTP_BODY_MISMATCH):
        await checks.body(text, [], [Regexp("needle"), Regexp("absent")])


async def test_body_check_names_the_first_regexp_that_fails() -> None:
    with failing(Reason.HTTP_BODY_MISMATCH) as failed:
        await checks.body(b"text", [Regexp("t")], [Regexp("absent")])
    assert failed.value.message == "the body matches the regular expression t"


async def test_body_check_uses_a_thread_only_for_large_bodies() -> None:
    seen: list[threading.Thread] = []

    class Watching(Regexp):
        def matches(self, data: bytes) -> bool:
            seen.append(threading.current_thread())
            return False

    await checks.body(bytes(MAX_INLINE_BYTES), [Watching("x")], [])
    await checks.body(bytes(MAX_INLINE_BYTES + 1), [Watching("x")], [])
    assert [thread is threading.main_thread() for thread in seen] == [True, False]


# --- CEL ---------------------------------------------------------------------------------------------------

DOCUMENT = b'{"n": 1, "list": [1, 2.5], "text": "a", "none": null, "yes": true}'


@pytest.mark.parametrize(
    "expression",
    ["body.n == 1", "body.n == 1.0", "size(body.list) == 2", "body.list[1] > 2", "body.yes", "!has(body.absent)"],
)
async def test_cel_expression_true_passes_one_setting_and_fails_the_other(expression: str) -> None:
    await checks.json_body(DOCUMENT, None, Cel(expression))
    await checks.json_body(DOCUMENT, Cel(f"!({expression})"), None)
    for forbidden, demanded in ((Cel(expression), None), (None, Cel(f"!({expression})"))):
        with failing(Reason.HTTP_BODY_MISMATCH):
            await checks.json_body(DOCUMENT, forbidden, demanded)


@pytest.mark.parametrize("expression", ["body.absent", "body.text > 1", "body.n", "body.text", "body.none", "1"])
async def test_cel_expression_without_boolean_result_fails_both_settings(expression: str) -> None:
    """An evaluation that fails, or a result that is not boolean."""
    for forbidden, demanded in ((Cel(expression), None), (None, Cel(expression))):
        with failing(Reason.HTTP_BODY_MISMATCH):
            await checks.json_body(DOCUMENT, forbidden, demanded)


async def test_cel_numbers_are_doubles() -> None:
    """CEL has no overload that adds an integer to a double, as in the original."""
    await checks.json_body(DOCUMENT, None, Cel("body.n + 1.0 == 2.0 && int(body.n) + 1 == 2"))
    with failing(Reason.HTTP_BODY_MISMATCH):
        await checks.json_body(DOCUMENT, None, Cel("body.n + 1 == 2"))


@pytest.mark.parametrize("text", [b"", b"plain", b"{", b'{"a": 1} x', b"{'a': 1}", b"[" * 100_000])
async def test_cel_check_fails_on_a_body_that_is_not_json(text: bytes) -> None:
    with failing(Reason.HTTP_BODY_MISMATCH) as failed:
        await checks.json_body(text, Cel("false"), None)
    assert failed.value.message == "the body is not JSON, or nested too deep"


@pytest.mark.parametrize("text", [b"1", b'"a"', b"null", b"[]", b" {} \r\n"])
async def test_cel_check_reads_any_json_value(text: bytes) -> None:
    await checks.json_body(text, Cel("false"), Cel("true"))


async def test_cel_check_reads_json_as_go_does() -> None:
    await checks.json_body(b'{"a": "\xff\xc3", "b": "\\ud800"}', Cel("false"), Cel("body.a == '\\ufffd\\ufffd'"))
    for text in (b"NaN", b"1e999", b"\xef\xbb\xbf{}", "{}".encode("utf-16")):
        with failing(Reason.HTTP_BODY_MISMATCH):
            await checks.json_body(text, Cel("false"), None)


async def test_cel_check_shortens_the_value_in_its_message() -> None:
    with failing(Reason.HTTP_BODY_MISMATCH) as failed:
        await checks.json_body(b'"' + b"a" * 10_000 + b'"', None, Cel("body"))
    assert len(failed.value.message) < 300


LARGE = {
    "lists": b"[" + b"[]," * 2_600_000 + b"[]]",
    "objects": b"[" + b'{"a":1},' * 500_000 + b"{}]",
    "one text": b'["' + b"a" * 8_000_000 + b'"]',
    "not UTF-8": b'["' + b"\xff" * 8_000_000 + b'"]',
    "surrogates": b'["' + b"\\ud800" * 1_000_000 + b'"]',
    "not JSON": b"[" + b"[]," * 2_000_000,
    "deep": b"[" * 4_000_000 + b"]" * 4_000_000,
}
SMALL = {
    "lists": b"[" + b"[]," * 21_000 + b"[]]",
    "objects": b"[" + b'{"a":1},' * 8_000 + b"{}]",
    "not UTF-8": b'["' + b"a\xff" * 32_000 + b'"]',
    "surrogates": b'["' + b"\\ud800" * 10_000 + b'"]',
    "numbers": b"[" + b"1e9," * 16_000 + b"1]",
    "a long number": b"[" + b"1" * 65_000 + b"]",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expression"),
    [
        *(pytest.param(text, "body == 1", id=f"8 MB of {name}") for name, text in LARGE.items()),
        *(pytest.param(text, "body == 1", id=f"64 KiB of {name}") for name, text in SMALL.items()),
        *(
            pytest.param(text, f"body.{macro}(x, x != 'a')", id=f"{macro} on {name}")
            for name, text in SMALL.items()
            for macro in ("all", "map", "filter")
        ),
    ],
)
async def test_cel_check_does_not_block_the_event_loop(text: bytes, expression: str) -> None:
    with turns() as taken:
        with suppress(ProbeFailed):
            await checks.json_body(text, None, Cel(expression))
        await asyncio.sleep(0.01)
    assert taken
    expect_short(max(taken))


# --- dates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Mon, 02 Jan 2006 15:04:05 GMT", 1136214245),
        ("Monday, 02-Jan-06 15:04:05 GMT", 1136214245),
        ("Mon Jan  2 15:04:05 2006", 1136214245),
        ("Mon Jan 2 15:04:05 2006", 1136214245),
        ("Mon Jan 02 15:04:05 2006", 1136214245),
        ("Monday, 02-Jan-70 15:04:05 GMT", 140645),
        ("Monday, 02-Jan-68 15:04:05 GMT", 3092742245),
        ("Monday, 02-Jan-69 15:04:05 GMT", -31395355),
        ("Monday, 02-Jan-06 15:04:05 PST", 1136214245),
        ("Tue, 02 Jan 2006 15:04:05 GMT", 1136214245),
        ("mon, 02 JAN 2006 15:04:05 GMT", 1136214245),
        ("  Mon, 02 Jan 2006 15:04:05 GMT", 1136214245),
        ("Mon, 02  Jan 2006 15:04:05 GMT", 1136214245),
        ("Mon, 02 Jan 2006 15:04:05.5 GMT", 1136214245),
        ("Mon, 02 Jan 2006 5:04:05 GMT", 1136178245),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", -62135596800),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799),
    ],
)
def test_http_date_is_parsed_as_the_original_parses_it(text: str, seconds: float) -> None:
    assert parse_date(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "Mon, 2 Jan 2006 15:04:05 GMT",
        "Mon, 02 Jan 2006 15:04:05 +0000",
        "Mon, 02 Jan 2006 15:04:05 UTC",
        "Mon, 02 Jan 2006 15:04:05 PST",
        "Mon, 02 Jan 2006 15:04:05 MEST",
        "Mon, 02 Jan 2006 15:04:05 gmt",
        "Mon, 02 Jan 2006 15:04:05 GMT+1",
        "Mon, 02 Jan 2006 15:04:05",
        "Mon, 30 Feb 2006 15:04:05 GMT",
        "Mon, 02 Jan 2006 25:04:05 GMT",
        "Mon, 02 Jan 2006 23:59:60 GMT",
        "Mon,02 Jan 2006 15:04:05 GMT",
        "Foo, 02 Jan 2006 15:04:05 GMT",
        "Monday, 02 Jan 2006 15:04:05 GMT",
        "Mon, 02-Jan-06 15:04:05 GMT",
        "2006-01-02T15:04:05Z",
        "Mon, 0\u0662 Jan 2006 15:04:05 GMT",
        "Mon," + " " * 1_000_000 + "02 Jan 2006 15:04:05 GMT",
    ],
)
def test_http_date_that_the_original_rejects_is_no_date(text: str) -> None:
    assert parse_date(text) is None
