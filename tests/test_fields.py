"""Field types: what each reads and refuses, that it prints back what it read, and that secrets stay secret."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from probe_exporter.fields import (
    Cel,
    Duration,
    FilePath,
    LateRegexp,
    Port,
    Regexp,
    Secret,
    Size,
    Text,
    encode,
    format_duration,
    format_size,
    nearest,
    parse_duration,
    parse_size,
)

# --- durations ---------------------------------------------------------------------------------------------

GO_DURATIONS = {
    "0": 0.0,
    "-0": 0.0,
    "5s": 5.0,
    "1.5s": 1.5,
    ".5s": 0.5,
    "5.s": 5.0,
    "-5s": -5.0,
    "+5s": 5.0,
    "1h2m3s": 3723.0,
    "1s2ms": 1.002,
    "3s1h": 3603.0,
    "100us": 1e-4,
    "100\N{MICRO SIGN}s": 1e-4,
    "100\N{GREEK SMALL LETTER MU}s": 1e-4,
    "7ns": 7e-9,
    "0.3ns": 0.0,
    "9223372036854775807ns": 9223372036.854775807,
    "-9223372036854775808ns": -9223372036.854775808,
}
GO_REFUSES_DURATIONS = [
    "",
    "5",
    "1d",
    "1w",
    "1y",
    " 5s",
    "5s ",
    "5 s",
    "s",
    ".s",
    "1.5.5s",
    "5S",
    "1e3s",
    "0x5s",
    "--5s",
]
GO_PRINTS = {
    0.0: "0s",
    1e-9: "1ns",
    1e-4: "100µs",
    0.0015: "1.5ms",
    0.9: "900ms",
    1.5: "1.5s",
    60.0: "1m0s",
    90.0: "1m30s",
    3600.0: "1h0m0s",
    5445.25: "1h30m45.25s",
    -1.5: "-1.5s",
}


@pytest.mark.parametrize(("text", "seconds"), GO_DURATIONS.items())
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, abs=1e-12)


@pytest.mark.parametrize("text", [*GO_REFUSES_DURATIONS, "9223372037s", "9223372036854775808ns"])
def test_what_go_refuses_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|unit"):
        parse_duration(text)


@pytest.mark.parametrize(("seconds", "text"), GO_PRINTS.items())
def test_durations_are_printed_as_go_prints_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(-(10**15), 10**15))
def test_a_printed_duration_reads_back_to_the_nanosecond(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds / 1e9)) == nanoseconds / 1e9


@given(st.text(alphabet="0123456789.+-nuµmshd ", max_size=12))
def test_anything_like_a_duration_is_read_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert abs(seconds) <= 9223372036.9


@pytest.mark.parametrize("value", [5, 5.0, True, None, ["5s"]])
def test_a_duration_needs_its_unit(value: object) -> None:
    with pytest.raises(ValidationError, match=r"needs a unit|expected a duration"):
        TypeAdapter(Duration).validate_python(value)


# --- sizes -------------------------------------------------------------------------------------------------

SIZES = {
    "0": 0,
    "10B": 10,
    "1KB": 1024,
    "1KiB": 1024,
    "10MB": 10 << 20,
    "1.5MB": 3 << 19,
    "1MB512KB": 3 << 19,
    "1MiB512KiB": 3 << 19,
    "1GB": 1 << 30,
    "1TB": 1 << 40,
    "1PB": 1 << 50,
    "8EB": 1 << 63,
    "-1KB": 0,
}
GO_REFUSES_SIZES = ["", "10", "1024", "10kb", "10K", "1 MB", "1MB1KiB", "1ZB", "KB", "9EB", "16EB", "0x10B", "1e3B"]


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    """A negative one stands for no limit, as in the original."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", [*GO_REFUSES_SIZES, "9223372036854775807B"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|unit|large|digits"):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_a_printed_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_sizes_are_printed_as_sums() -> None:
    assert [format_size(size) for size in (0, 10 << 20, 5 << 19, 1025)] == ["0B", "10MiB", "2MiB512KiB", "1KiB1B"]


# --- text and secrets --------------------------------------------------------------------------------------


class Everything(BaseModel):
    """One field of each type."""

    text: Text = ""
    path: FilePath = ""
    port: Port = 1
    duration: Duration = 0.0
    size: Size = 0
    secret: Secret = Secret("")
    regexp: Regexp = Regexp("")
    late: LateRegexp = LateRegexp("")
    cel: Cel | None = None


def test_bytes_survive_in_text() -> None:
    """A model takes text whose bytes are not UTF-8, and `encode` gives them back."""
    text = b"\xff\x00ok".decode("utf-8", "surrogateescape")
    assert encode(Everything(text=text).text) == b"\xff\x00ok"


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_a_port_is_16_bits_and_not_0(port: int) -> None:
    with pytest.raises(ValidationError):
        Everything(port=port)


def test_a_secret_shows_itself_to_nobody() -> None:
    settings = Everything(secret=Secret("hunter2"))
    shown = [str(settings.secret), repr(settings.secret), f"{settings}", repr(settings), settings.model_dump_json()]
    assert not [text for text in shown if "hunter2" in text]
    assert settings.secret.reveal() == "hunter2"
    assert settings.model_dump()["secret"] == "<secret>"


@pytest.mark.parametrize("value", [["hunter2"], {"hunter2": 1}, 5, b"hunter2"])
def test_a_secret_of_the_wrong_type_is_not_told(value: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        TypeAdapter(Secret).validate_python(value)
    assert "hunter2" not in refusal.value.errors()[0]["msg"]


def test_secrets_compare_by_their_text() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert not Secret("")
    assert len({Secret("a"), Secret("a")}) == 1


def test_everything_prints_what_it_read() -> None:
    written = {"duration": "1m30s", "size": "1MiB", "regexp": "^a", "late": "(", "cel": "body.ok", "text": "t"}
    printed = Everything.model_validate(written).model_dump()
    assert {key: printed[key] for key in written} == written


def test_everything_describes_itself_to_editors() -> None:
    properties: dict[str, Any] = Everything.model_json_schema()["properties"]
    assert properties["duration"]["pattern"]
    assert properties["port"]["maximum"] == 65535
    assert "RE2" in properties["regexp"]["description"]


def test_the_nearest_name_is_offered_only_if_it_is_near() -> None:
    assert nearest("metod", ["method", "headers"]) == "; did you mean `method`?"
    assert nearest("aaaa", ["A", "AAAA"]) == "; did you mean `AAAA`?"
    assert nearest("interval", ["prober", "timeout"]) == ""


# --- regular expressions -----------------------------------------------------------------------------------

IN_GOS_DIALECT = [r"\pL", r"[[:alpha:]]", r"\Q(\E", r"\Q\C\E", r"\\C", r"\x{10FFFF}", "(?P<n>a)", "(?<n>a)", r"\z", ""]
NOT_IN_GOS_DIALECT = [
    r"(a)\1",
    "a(?!b)",
    "(?<=a)b",
    "a{1001}",
    "a{2}{3}",
    r"\Z",
    r"\C",
    r"a\C",
    r"\\\C",
    "[",
    "(?P<é>a)",
]


@pytest.mark.parametrize("text", IN_GOS_DIALECT)
def test_the_dialect_is_gos(text: str) -> None:
    assert Regexp(text).text == text


@pytest.mark.parametrize("text", [*NOT_IN_GOS_DIALECT, "\udcff"])
def test_other_dialects_are_refused(text: str) -> None:
    """Look-around, references, RE2's own ``\\C`` and patterns that are not UTF-8."""
    with pytest.raises(ValueError, match="RE2"):
        Regexp(text)


def test_a_refused_regexp_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="missing"):
        Regexp("(")
    assert capfd.readouterr() == ("", "")


def test_a_large_regexp_compiles() -> None:
    """Go has no limit of 8 MiB per expression."""
    assert Regexp(r"\pL{1000}").search(("é" * 1000).encode())


@pytest.mark.parametrize(
    ("pattern", "data", "found"),
    [
        ("b+", b"abbc", b"bb"),
        (r"\d", "٣".encode(), None),  # ASCII only
        (r"(?i)straße", b"STRASSE", None),
        ("(?i)\N{LATIN SMALL LETTER LONG S}", b"S", b"S"),  # Unicode folding
        ("a.c", b"a\nc", None),
        ("a$", b"a\n", None),
        (".", "é".encode(), "é".encode()),
        ("^.$", b"\xff", b"\xff"),
        ("^..$", b"\xe2\x82", b"\xe2\x82"),  # a sequence cut short: each byte is one character
        ("a.b", b"xa\xffbx", b"a\xffb"),
        ("\ufffd+", b"\xff\xfe", b"\xff\xfe"),
        ("[^a]", b"a\xc3a", b"\xc3"),
    ],
)
def test_matching_is_on_bytes_as_in_go(pattern: str, data: bytes, found: bytes | None) -> None:
    match = Regexp(pattern).search(data)
    assert (match.group() if match else None) == found


def test_groups_have_names_in_any_data() -> None:
    for data in (b"ab", "éab".encode(), b"\xffab"):
        regexp = Regexp("(?P<first>a)(b)")
        match = regexp.search(data)
        assert match is not None
        assert match.group("first") == match.group(1) == b"a"
        assert regexp.names == {"first": 1}


def test_groups_of_data_that_is_not_utf8_are_its_own_bytes() -> None:
    match = Regexp(r"(?P<first>\w+)(.)(x)?b(.)").search(b"\xfe a\xffb\xfd")
    assert match is not None
    assert match.groups() == (b"a", b"\xff", None, b"\xfd")
    assert match.group("first") == b"a"
    assert match.span(2) == (3, 4)
    assert match.span(3) == (-1, -1)


@given(st.binary(max_size=40))
def test_every_span_lies_in_the_data(data: bytes) -> None:
    match = Regexp(r"(?s)^(.*?)(\W?)$").search(data)
    assert match is not None
    assert match.span() == (0, len(data))
    assert (match.group(1) or b"") + (match.group(2) or b"") == data


def test_a_search_takes_linear_time_in_garbage() -> None:
    started = time.perf_counter()
    assert Regexp("(a+)+$").search(b"\xff" * 2_000_000 + b"a" * 10_000 + b"!") is None
    assert time.perf_counter() - started < 5


def test_a_late_regexp_keeps_its_error_for_later() -> None:
    good, bad = LateRegexp("a"), LateRegexp("(")
    assert (good.regexp, good.error) == (Regexp("a"), "")
    assert bad.regexp is None
    assert "missing )" in bad.error


# --- CEL ---------------------------------------------------------------------------------------------------


def test_cel_is_compiled_once_and_evaluated_on_json() -> None:
    expression = Cel("has(body.items) && body.items.all(i, i.n > 0)")
    assert expression.evaluate({"items": [{"n": 1.0}, {"n": 2.5}]}) is True
    assert expression.evaluate({}) is False


def test_a_result_that_is_not_boolean_is_found_when_it_is_evaluated() -> None:
    assert Cel("1 + 1").evaluate(None) == 2


def test_a_missing_key_is_an_error_of_the_evaluation() -> None:
    with pytest.raises(ValueError, match=r'^Key not found in map : "ok"$'):
        Cel("body.ok").evaluate({})
    assert Cel("body.ok || true").evaluate({}) is True


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the expression ends too early"),
        ("response.ok", "undeclared reference to 'response.ok' (at character 9)"),
        ("1 + 'a'", "found no matching overload for '_+_' applied to '(int, string)' (at character 3)"),
    ],
)
def test_a_bad_expression_is_explained_in_a_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  # the text is compared below
        Cel(text)
    assert reason in str(refusal.value)
    assert not any(noise in str(refusal.value) for noise in ("\n", "INVALID_ARGUMENT", "<input>", "expecting {"))
