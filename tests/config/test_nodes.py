"""Parse YAML text to nodes: places, tags, only the first document, limits."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.config.nodes import MAX_DEPTH, Node, SyntaxProblem, TooManyItems, compose, parse_number


def scalar(text: str) -> Node:
    """Return the node of one scalar."""
    node = compose(text.encode())
    assert node is not None
    return node


def test_nodes_have_the_place_where_they_begin() -> None:
    root = compose(b"a: 1\nb:\n  - x\n  - {c: d}\n")
    assert root is not None
    (key, value), (_, items) = root.pairs
    assert (key.line, key.column, value.line, value.column) == (1, 1, 1, 4)
    assert [(item.line, item.column) for item in items.items] == [(3, 5), (4, 5)]


def test_only_the_first_document_is_read() -> None:
    """The text after the first document may be invalid YAML."""
    root = compose(b"a: 1\n---\n[")
    assert root is not None
    assert root.pairs[0][1].value == 1


@pytest.mark.parametrize("data", [b"", b"# nothing\n", b"\n\n"])
def test_empty_text_has_no_document(data: bytes) -> None:
    assert compose(data) is None


@pytest.mark.parametrize("data", ["\ufeffa: é\r\n".encode(), "a: é".encode("utf-16"), '{"a": "é"}'.encode()])
def test_byte_order_marks_line_ends_and_json_are_accepted(data: bytes) -> None:
    root = compose(data)
    assert root is not None
    assert root.pairs[0][1].value == "é"


@pytest.mark.parametrize(
    ("data", "line", "column"),
    [
        (b"a: [", 2, 1),
        (b"a: 1\nb: *c", 2, 4),
        (b"a: b: c", 1, 5),
        (b"a:\n\tb: 1", 2, 1),
        (b"a: \xff", 1, 4),
        (b"a: 1\nb: \x01", 2, 4),
    ],
)
def test_syntax_error_has_a_place(data: bytes, line: int, column: int) -> None:
    with pytest.raises(SyntaxProblem) as refusal:
        compose(data)
    assert (refusal.value.line, refusal.value.column) == (line, column)
    assert str(refusal.value)


@pytest.mark.parametrize("opening", ["[", "- ", "{a: ", "? "])
def test_deep_nesting_is_refused_without_recursion(opening: str) -> None:
    """A hundred thousand brackets are an error and not a crash."""
    with pytest.raises(SyntaxProblem, match="nested too deeply"):
        compose(opening.encode() * 100_000)


def test_items_of_all_lists_together_are_limited() -> None:
    text = b"- [a, b]\n- {c: [d]}\n- e\n- {}\n"
    assert compose(text, max_items=7) is not None
    with pytest.raises(TooManyItems):
        compose(text, max_items=6)


def test_nesting_within_the_limit_is_read() -> None:
    assert compose(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None


NUMBERS = {
    "0": 0,
    "-1": -1,
    "+5": 5,
    "0x10": 16,
    "0X1f": 31,
    "010": 8,
    "0o10": 8,
    "0b11": 3,
    "-010": -8,
    "1_000": 1000,
    "08": 8.0,  # not octal, so Go reads a float
    "1e2": 100.0,
    "1.9": 1.9,
    ".5": 0.5,
    "5.": 5.0,
    "-.inf": float("-inf"),
}
NOT_NUMBERS = ["", "_1", "0x", "0b2", "0o8", "1:30", "1,0", "1 0", "٣", "--5", "1e", "x", "0x1p3", "."]


@pytest.mark.parametrize(("text", "number"), NUMBERS.items())
def test_numbers_are_those_of_go_and_yaml_1_1(text: str, number: float) -> None:
    assert parse_number(text) == number
    assert type(parse_number(text)) is type(number)


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_other_scalars_are_text(text: str) -> None:
    assert parse_number(text) is None


def test_number_of_a_thousand_digits_is_out_of_range() -> None:
    assert scalar("9" * 100_000).found == "a number out of range"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("yes", "yes"),
        ("'true'", "true"),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
        ("!!float 5", 5.0),
        ("!!bool 'false'", False),
        ("! 5", 5),  # Go ignores this tag
        ("!foo 5", "5"),
        ("2001-01-01", "2001-01-01"),
    ],
)
def test_scalars_follow_the_core_schema_and_their_tags(text: str, value: object) -> None:
    assert scalar(text).value == value
    assert type(scalar(text).value) is type(value)


@pytest.mark.parametrize(
    ("text", "belies"), [("!!int x", True), ("!!int 1.5", True), ("!!null x", True), ("!!int 5", False), ("x", False)]
)
def test_wrong_tag_is_a_problem(text: str, belies: bool) -> None:
    assert scalar(text).contradicts_its_tag is belies


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "a list"),
        ("{}", "a mapping"),
        ("~", "null"),
        ("no", "a string"),
        ("false", "true or false"),
        ("5", "an integer"),
        ("5.5", "a number"),
        ("'5'", "a quoted string"),
        ("|\n  x", "a quoted string"),
    ],
)
def test_nodes_describe_their_kind(text: str, words: str) -> None:
    assert scalar(text).found == words


@given(st.binary(max_size=200))
def test_any_bytes_are_a_tree_or_a_syntax_problem(data: bytes) -> None:
    with suppress(SyntaxProblem):
        compose(data)
