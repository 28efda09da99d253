"""Read YAML by type annotations: valid and invalid values, places, merges, aliases, environment variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from probe_exporter.config.document import INVALID, Document, dotted, read
from probe_exporter.settings.fields import Duration, Shorthand, Text
from probe_exporter.settings.secrets import Secret


class Colour(StrEnum):
    """A setting with a few allowed words."""

    RED = "red"


class Inner(BaseModel):
    """A block inside another block."""

    flag: bool = False
    names: tuple[Text, ...] = ()


class Open(BaseModel):
    """A block whose keys are arbitrary."""

    model_config = ConfigDict(extra="allow")
    known: int = 0


class Model(BaseModel):
    """One field of each kind."""

    flag: bool = False
    count: int = 0
    ratio: float = 0.0
    text: Text = ""
    plain: str = ""
    secret: Secret = Secret("")
    duration: Duration = 0.0
    choice: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    numbers: list[int] = []
    words: tuple[Text, ...] = ()
    maybe: Optional[Inner] = None  # noqa: UP045  # both spellings are read
    other: Inner | None = None
    blocks: Sequence[Inner] = ()
    headers: Mapping[Text, Text] = {}
    lists: dict[str, list[str]] = {}
    pair: tuple[int, str] = (0, "")
    anything: Any = None
    address: IPv4Address | None = None
    either: int | str = 0
    small: Annotated[int, Field(le=5)] = 0
    open_ended: Open = Open()
    shorthand: Annotated[Inner, Shorthand("string")] = Inner()
    renamed: str = Field(default="", alias="from")


def document(text: str | bytes, environment: Mapping[str, str] | None = None) -> Document:
    """Read `text` as a `Model`."""
    return read(text.encode() if isinstance(text, str) else text, "f.yml", Model, environment)


def value(text: str) -> Any:
    """Return the value of a text that has no problems."""
    result = document(text)
    assert result.problems == []
    return result.value


def problems(text: str) -> list[str]:
    """Return the messages of a text's problems, without their places."""
    return [f"{problem.path}: {problem.message}" for problem in document(text).problems]


FITS = [
    ("flag: yes", {"flag": True}),
    ("flag: Off", {"flag": False}),
    ("flag: 'yes'", {"flag": True}),  # Go reads these words without regard to their quotes
    ("count: 0x10", {"count": 16}),
    ("count: 010", {"count": 8}),
    ("count: 1_000", {"count": 1000}),
    ("count: 1.9", {"count": 1}),
    ("ratio: 5", {"ratio": 5.0}),
    ("text: 5", {"text": "5"}),
    ("text: true", {"text": "true"}),
    ("text: 1.50", {"text": "1.50"}),
    ("text: 2001-01-01", {"text": "2001-01-01"}),
    ("text: !!binary aGk=", {"text": "hi"}),
    ("text: !!binary /wA=", {"text": "\udcff\x00"}),
    ("plain: 5", {"plain": "5"}),
    ("secret: 5", {"secret": "5"}),
    ("duration: 5", {"duration": 5}),  # the type says what is wrong with it
    ("duration: '0'", {"duration": "0"}),
    ("choice: a", {"choice": "a"}),
    ("colour: red", {"colour": "red"}),
    ("numbers: [1, null, 2]", {"numbers": [1, 2]}),
    ("words: [a, 1, ~, yes]", {"words": ("a", "1", "yes")}),
    ("maybe: {flag: on}", {"maybe": {"flag": True}}),
    ("other: {}", {"other": {}}),
    ("blocks: [{flag: n}, null]", {"blocks": [{"flag": False}]}),
    ("headers: {a: 1, b: null, on: off}", {"headers": {"a": "1", "b": "", "on": "off"}}),
    ("lists: {a: null, b: [1]}", {"lists": {"a": [], "b": ["1"]}}),
    ("pair: [1, x]", {"pair": (1, "x")}),
    ("anything: {a: [1, yes, ~, 1.5, true]}", {"anything": {"a": [1, "yes", None, 1.5, True]}}),
    ("address: 192.0.2.1", {"address": "192.0.2.1"}),
    ("either: x", {"either": "x"}),
    ("open_ended: {known: 1, other: [yes]}", {"open_ended": {"known": 1, "other": ["yes"]}}),
    ("shorthand: x", {"shorthand": "x"}),
    ("shorthand: {flag: y}", {"shorthand": {"flag": True}}),
    ("from: x", {"from": "x"}),
    ("count: null\nflag: ~\ntext:\nnumbers: null\nmaybe: null", {}),
    ("", {}),
]


@pytest.mark.parametrize(("text", "expected"), FITS)
def test_values_are_read_by_their_annotations(text: str, expected: object) -> None:
    assert value(text or "---") == expected


DOES_NOT_FIT = [
    ("flag: 'true'", "flag: expected true or false, found a quoted string (remove the quotes)"),
    ("flag: 1", "flag: expected true or false, found an integer"),
    ("flag: maybe", "flag: expected true or false, found a string"),
    ("flag: [true]", "flag: expected true or false, found a list"),
    ("count: '5'", "count: expected an integer, found a quoted string (remove the quotes)"),
    ("count: x", "count: expected an integer, found a string"),
    ("count: true", "count: expected an integer, found true or false"),
    ("count: 99999999999999999999", "count: expected an integer, found a number out of range"),
    ("count: .nan", "count: expected an integer, found a number out of range"),
    ("ratio: x", "ratio: expected a number, found a string"),
    ("text: [a]", "text: expected a string, found a list"),
    ("secret: {hunter2: 1}", "secret: expected a string, found a mapping"),
    ("duration: []", "duration: expected a duration such as 1.5s, found a list"),
    ("numbers: 5", "numbers: expected a list of integers, found an integer"),
    ("numbers: ['5']", "numbers[0]: expected an integer, found a quoted string (remove the quotes)"),
    ("words: x", "words: expected a list of strings, found a string"),
    ("blocks: {}", "blocks: expected a list of mappings, found a mapping"),
    ("headers: [a]", "headers: expected a mapping of names to strings, found a list"),
    ("lists: {a: b}", "lists.a: expected a list of strings, found a string"),
    ("maybe: x", "maybe: expected a mapping of settings, found a string"),
    ("maybe: {flog: yes}", "maybe.flog: unknown key `flog`; did you mean `flag`?"),
    ("maybe: {zzz: 1}", "maybe.zzz: unknown key `zzz` (known: flag, names)"),
    ("renamed: x", "renamed: unknown key `renamed`"),
    ("text: !!binary x", "text: expected base64 after !!binary"),
    ("text: !!binary é", "text: expected base64 after !!binary"),
    ("text: !!int x", "text: the value is not what its tag !!int says"),
    ("{[a]: b}", ": expected a string as a key, found a list"),
    ("flag: yes\nflag: no", "flag: `flag` is here twice; the first is in line 1, column 1"),
    ("maybe: {<<: 5}", "maybe.<<: expected a mapping or a list of mappings to merge"),
    ("[]", ": expected a mapping of settings, found a list"),
]


@pytest.mark.parametrize(("text", "expected"), DOES_NOT_FIT)
def test_value_that_does_not_fit_is_reported_in_plain_words(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_all_problems_of_a_file_are_reported_with_their_places() -> None:
    result = document("flag: 1\nmaybe:\n  flag: x\n  nmes: [a]\nnumbers: [1, x]\n")
    assert list(map(str, result.problems)) == [
        "f.yml:1:1: flag: expected true or false, found an integer",
        "f.yml:3:3: maybe.flag: expected true or false, found a string",
        "f.yml:4:3: maybe.nmes: unknown key `nmes`; did you mean `names`?",
        "f.yml:5:14: numbers[1]: expected an integer, found a string",
    ]


def test_invalid_value_is_dropped_from_a_mapping_and_keeps_its_place_in_a_list() -> None:
    result = document("flag: x\ncount: 1\nnumbers: [1, x, 3]")
    assert result.value == {"count": 1, "numbers": [1, INVALID, 3]}
    assert result.invalid_paths == {("flag",), ("numbers", 1)}


def test_null_key_is_dropped_with_a_warning() -> None:
    result = document("headers: {~: x, a: b}")
    assert result.value == {"headers": {"a": "b"}}
    assert [str(warning) for warning in result.warnings] == ["f.yml:1:11: headers: a null key: the entry is left out"]


def test_invalid_yaml_is_one_problem() -> None:
    result = document("a: [")
    assert result.value is None
    assert [str(problem) for problem in result.problems] == [
        "f.yml:2:1: not valid YAML: while parsing a flow node, did not find expected node content"
    ]


def test_file_without_a_document_is_a_problem_of_the_file() -> None:
    assert [str(problem) for problem in document("# nothing").problems] == ["f.yml: the file holds no YAML document"]


def test_setting_paths_are_written_with_dots_and_indexes() -> None:
    assert dotted(("modules", "m", "tcp", "query_response", 2, "expect")) == "modules.m.tcp.query_response[2].expect"
    assert dotted(()) == ""


# --- anchors and merges ------------------------------------------------------------------------------------


def test_alias_has_the_value_of_its_anchor() -> None:
    assert value("maybe: &m {flag: yes}\nother: *m") == {"maybe": {"flag": True}, "other": {"flag": True}}


def test_explicit_keys_win_over_merged_ones_and_earlier_merges_over_later() -> None:
    text = "anything: [&a {x: 1, y: 1}, &b {y: 2, z: 2}, {z: 3, <<: [*a, *b]}, {<<: *a, x: 4}]"
    assert value(text)["anything"][2:] == [{"z": 3, "x": 1, "y": 1}, {"x": 4, "y": 1}]


def test_merge_of_a_merge_is_followed() -> None:
    assert value("maybe: {<<: {<<: {flag: yes}}}") == {"maybe": {"flag": True}}


def test_quoted_merge_key_is_an_ordinary_key() -> None:
    assert value("headers: {'<<': x}") == {"headers": {"<<": "x"}}


def test_merged_key_is_checked_where_it_stands() -> None:
    result = document("anything: &a\n  flog: 1\nmaybe:\n  <<: *a\n")
    assert [str(problem) for problem in result.problems] == [
        "f.yml:2:3: maybe.flog: unknown key `flog`; did you mean `flag`?"
    ]


def test_duplicate_key_in_a_mapping_merged_twice_is_one_problem() -> None:
    assert (
        len(problems("anything: &a {x: 1, x: 2}\nheaders: {<<: *a}\nlists: {k: [*a]}")) == 2
    )  # and a mapping in a list


@pytest.mark.parametrize("text", ["anything: &a [*a]", "anything: &a {x: *a}", "anything: &a {<<: *a}"])
def test_recursive_anchor_is_one_problem(text: str) -> None:
    assert len(problems(text)) == 1


LAUGHS = "\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" if n else "x0: &x0 [lol]" for n in range(12))
MERGED_LAUGHS = "\n".join(
    f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 9)}]}}" if n else "x0: &x0 {a: lol}" for n in range(12)
)


@pytest.mark.parametrize("laughs", [LAUGHS, MERGED_LAUGHS])
def test_billion_laughs_is_an_error_in_bounded_memory(laughs: str) -> None:
    indented = "\n".join(f"  {line}" for line in laughs.splitlines())
    result = document(f"anything:\n{indented}\n")
    assert any("repeat" in problem.message for problem in result.problems)
    assert len(result.problems) < 20
    assert len(result.places) < 500_000


# --- the environment ---------------------------------------------------------------------------------------

ENVIRONMENT = {"NAME": "web", "N": "7", "ON": "yes", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text: ${NAME}", {"text": "web"}),
        ("text: a-${NAME}-${N}", {"text": "a-web-7"}),
        ("text: '${EMPTY}'", {"text": ""}),
        ("count: ${N}", {"count": 7}),
        ("numbers: ['${N}']", {"numbers": [7]}),  # a flow list needs the quotes
        ("flag: ${ON}", {"flag": True}),
        ("text: $${NAME}", {"text": "${NAME}"}),
        ("text: $NAME $$ ${1} $ {NAME}", {"text": "$NAME $$ ${1} $ {NAME}"}),
        ("headers: {'${NAME}': '${NAME}'}", {"headers": {"${NAME}": "web"}}),
    ],
)
def test_environment_variables_are_expanded(text: str, expected: object) -> None:
    """Only ``${NAME}`` in values is expanded; the result is read as an unquoted scalar."""
    result = document(text, ENVIRONMENT)
    assert result.problems == []
    assert result.value == expected


def test_unset_environment_variable_is_a_problem_at_its_place() -> None:
    result = document("flag: yes\ntext: x${NOPE}", ENVIRONMENT)
    assert [str(problem) for problem in result.problems] == [
        "f.yml:2:1: text: the environment variable NOPE is not set"
    ]


def test_environment_variables_are_not_expanded_by_default() -> None:
    assert value("text: ${NAME}") == {"text": "${NAME}"}


# --- arbitrary input ---------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*Model.model_fields, "x"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Model.model_fields, "x"]), JSON, max_size=4))
def test_any_mapping_is_read_or_refused(content: dict[str, object]) -> None:
    result = document(repr(content).replace("None", "null"))
    assert result.value is not None or result.problems
    assert all(problem.place.line for problem in result.problems)
