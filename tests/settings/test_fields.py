"""Tests of field types: accepted and refused values, printing, and masking of secrets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from probe_exporter.settings.cel import MAX_COPIED_ELEMENTS, Cel
from probe_exporter.settings.fields import Duration, FilePath, Port, Size, Text, encode, nearest, shorten
from probe_exporter.settings.regexps import LateRegexp, Regexp
from probe_exporter.settings.secrets import Secret
from tests.cost import cpu_seconds, expect_cheaper

# --- durations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [5, 5.0, True, None, ["5s"]])
def test_duration_needs_unit(value: object) -> None:
    with pytest.raises(ValidationError, match=r"needs a unit|expected a duration"):
        TypeAdapter(Duration).validate_python(value)


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


def test_text_keeps_undecodable_bytes() -> None:
    """A model accepts text with bytes that are not UTF-8, and `encode` returns them."""
    text = b"\xff\x00ok".decode("utf-8", "surrogateescape")
    assert encode(Everything(text=text).text) == b"\xff\x00ok"


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_port_is_between_1_and_65535(port: int) -> None:
    with pytest.raises(ValidationError):
        Everything(port=port)


def test_secret_is_masked() -> None:
    settings = Everything(secret=Secret("hunter2"))
    shown = [str(settings.secret), repr(settings.secret), f"{settings}", repr(settings), settings.model_dump_json()]
    assert not [text for text in shown if "hunter2" in text]
    assert settings.secret.reveal() == "hunter2"
    assert settings.model_dump()["secret"] == "<secret>"


@pytest.mark.parametrize("value", [["hunter2"], {"hunter2": 1}, 5, b"hunter2"])
def test_secret_of_wrong_type_is_not_shown(value: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        TypeAdapter(Secret).validate_python(value)
    assert "hunter2" not in refusal.value.errors()[0]["msg"]


def test_secrets_compare_by_text() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert not Secret("")
    assert len({Secret("a"), Secret("a")}) == 1


def test_fields_print_what_they_read() -> None:
    written = {"duration": "1m30s", "size": "1MiB", "regexp": "^a", "late": "(", "cel": "body.ok", "text": "t"}
    printed = Everything.model_validate(written).model_dump()
    assert {key: printed[key] for key in written} == written


def test_fields_have_json_schema() -> None:
    properties: dict[str, Any] = Everything.model_json_schema()["properties"]
    assert properties["duration"]["pattern"]
    assert properties["port"]["maximum"] == 65535
    assert "RE2" in properties["regexp"]["description"]


def test_nearest_suggests_only_similar_names() -> None:
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
def test_regexp_accepts_go_syntax(text: str) -> None:
    assert Regexp(text).text == text


@pytest.mark.parametrize("text", [*NOT_IN_GOS_DIALECT, "\udcff"])
def test_regexp_refuses_other_syntax(text: str) -> None:
    """Refused are look-around, back-references, RE2's ``\\C`` and patterns that are not UTF-8."""
    with pytest.raises(ValueError, match="RE2"):
        Regexp(text)


def test_regexp_refusal_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="missing"):
        Regexp("(")
    assert capfd.readouterr() == ("", "")


def test_regexp_finds_all_matches() -> None:
    regexp = Regexp(r"(?P<key>\w)=(\d)")
    assert regexp.groups == 2
    assert regexp.names == {"key": 1}
    found = list(regexp.find_all("a=1 b=x c=3 é=4 \xff".encode("latin-1") + b" d=5"))
    assert [match.groups() for match in found] == [(b"a", b"1"), (b"c", b"3"), (b"d", b"5")]


@pytest.mark.slow
def test_regexp_compiles_large_pattern() -> None:
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
def test_regexp_matches_bytes_as_in_go(pattern: str, data: bytes, found: bytes | None) -> None:
    match = Regexp(pattern).search(data)
    assert (match.group() if match else None) == found


def test_regexp_named_groups_work_on_any_data() -> None:
    for data in (b"ab", "éab".encode(), b"\xffab"):
        regexp = Regexp("(?P<first>a)(b)")
        match = regexp.search(data)
        assert match is not None
        assert match.group("first") == match.group(1) == b"a"
        assert regexp.names == {"first": 1}


def test_regexp_groups_keep_invalid_utf8() -> None:
    match = Regexp(r"(?P<first>\w+)(.)(x)?b(.)").search(b"\xfe a\xffb\xfd")
    assert match is not None
    assert match.groups() == (b"a", b"\xff", None, b"\xfd")
    assert match.group("first") == b"a"
    assert match.span(2) == (3, 4)
    assert match.span(3) == (-1, -1)


@given(st.binary(max_size=40))
def test_regexp_spans_lie_in_data(data: bytes) -> None:
    match = Regexp(r"(?s)^(.*?)(\W?)$").search(data)
    assert match is not None
    assert match.span() == (0, len(data))
    assert (match.group(1) or b"") + (match.group(2) or b"") == data


def test_regexp_search_is_linear() -> None:
    regexp = Regexp("(a+)+$")

    def search(size: int) -> None:
        assert regexp.search(b"\xff" * size + b"a" * (size // 200) + b"!") is None

    search(100_000)  # makes what is made once
    # Twenty times as much takes twenty times as long; squared it would be four hundred.
    part = cpu_seconds(lambda: search(100_000), runs=10)
    expect_cheaper(cpu_seconds(lambda: search(2_000_000)), 20 * 6 * part, "a search in 2 MB")


def test_late_regexp_keeps_error() -> None:
    good, bad = LateRegexp("a"), LateRegexp("(")
    assert (good.regexp, good.error) == (Regexp("a"), "")
    assert bad.regexp is None
    assert "missing )" in bad.error


# --- CEL ---------------------------------------------------------------------------------------------------


def test_cel_evaluates_on_json() -> None:
    expression = Cel("has(body.items) && body.items.all(i, i.n > 0)")
    assert expression.evaluate({"items": [{"n": 1.0}, {"n": 2.5}]}) is True
    assert expression.evaluate({}) is False


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('body["a-b"].all(x, x > 0)', True),
        ('body["a-b"].exists(x, x > 1 && [x].exists(y, y == 2))', True),
        ('size(body["a-b"].map(x, x > 1, x)) == 1', True),
        ('body["c"].all(x, x["d"].all(y, y == type(y)))', False),
        ('body["a-b"].filter(x, x == "a | ERROR: ").size() > 0', False),
    ],
)
def test_cel_reads_list_of_key_in_brackets(text: str, result: bool) -> None:
    """The library's type check refuses these expressions, although it accepts ``body.a.all(…)``."""
    assert Cel(text).evaluate({"a-b": [1.0, 2.0], "c": [{"d": [1.0]}]}) is result


def test_cel_refuses_non_boolean_result() -> None:
    assert Cel("1 + 1").evaluate(None) == 2


def test_cel_reports_missing_key() -> None:
    with pytest.raises(ValueError, match=r'^Key not found in map : "ok"$'):
        Cel("body.ok").evaluate({})
    assert Cel("body.ok || true").evaluate({}) is True


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the expression ends too early"),
        ("response.ok", "undeclared reference to 'response.ok' (at character 9)"),
        ('body["a"].all(x, y > x)', "undeclared reference to 'y' (at character 18)"),
        ('nope(body["a"].all(x, x))', "undeclared reference to 'nope' (at character 5)"),
        ("1 + 'a'", "found no matching overload for '_+_' applied to '(int, string)' (at character 3)"),
    ],
)
def test_cel_explains_bad_expression_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  # the text is compared below
        Cel(text)
    assert reason in str(refusal.value)
    assert not any(noise in str(refusal.value) for noise in ("\n", "INVALID_ARGUMENT", "<input>", "expecting {"))


# --- limits of expressions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [100, pytest.param(MAX_COPIED_ELEMENTS, marks=pytest.mark.slow)])
def test_cel_copies_list_within_limit(count: int) -> None:
    assert Cel("body.a.map(x, x * 2.0).size() > 0").evaluate({"a": [1.0] * count}) is True


@pytest.mark.parametrize("macro", ["map(x, x)", "filter(x, true)"])
def test_cel_refuses_to_copy_long_list(macro: str) -> None:
    """Copying is quadratic and blocks the event loop."""
    with pytest.raises(ValueError, match="at most 4000 elements"):
        Cel(f"body.a.b.{macro}.size() > 0").evaluate({"a": {"b": [1.0] * (MAX_COPIED_ELEMENTS + 1)}})


@pytest.mark.parametrize("items", ["body.a", 'body["a"]'])
def test_cel_stops_endless_expression(items: str) -> None:
    """The library counts the iterations of all comprehensions together."""
    numbers = [float(number) for number in range(1000)]
    with pytest.raises(ValueError, match="budget"):
        Cel(f"{items}.all(x, {items}.all(y, {items}.exists(z, z == y)))").evaluate({"a": numbers})


def test_cel_reports_deeply_nested_body() -> None:
    body: object = []
    for _ in range(100_000):
        body = [body]
    with pytest.raises(ValueError, match="too deep"):
        Cel("body.map(x, x).size() > 0").evaluate(body)


def test_shorten_keeps_short_texts() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 3) == "abc…"
