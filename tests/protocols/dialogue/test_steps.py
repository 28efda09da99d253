"""Tests of dialogue steps: their settings, and how templates expand a match."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.protocols.dialogue.steps import MAX_LABEL_BYTES, DialogueSettings, Label, Step
from probe_exporter.protocols.dialogue.templates import DialogueTemplate
from probe_exporter.settings.regexps import Regexp


def broken(*steps: dict[str, Any]) -> list[str]:
    """Return the validation errors of a dialogue with these steps."""
    with pytest.raises(ValidationError) as refused:
        DialogueSettings.model_validate({"query_response": list(steps)})
    return [error["msg"] for error in refused.value.errors()]


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"expect": ""},
        {"expect": "a", "expect_bytes": "", "send": "b", "starttls": True},
        {"labels": []},
        {"expect": "(a)", "labels": [{"name": "a", "value": "$1"}, {"name": "b"}]},
    ],
)
def test_step_accepts_valid_combinations(step: dict[str, Any]) -> None:
    assert len(DialogueSettings.model_validate({"query_response": [step]}).query_response) == 1


def test_step_distinguishes_empty_labels_from_none() -> None:
    """An empty list makes a metric without labels."""
    steps = DialogueSettings.model_validate({"query_response": [{}, {"labels": []}]}).query_response
    assert [step.labels for step in steps] == [None, ()]


@pytest.mark.parametrize("expect", ["", "a"])
def test_step_refuses_expect_with_expect_bytes(expect: str) -> None:
    assert broken({"expect": expect, "expect_bytes": "b"}) == ["`expect_bytes` and `expect` exclude each other"]


@pytest.mark.parametrize("key", ["reject", "until"])
def test_step_refuses_key_without_expect(key: str) -> None:
    assert broken({key: "a", "send": "b"}) == [f"`{key}` needs `expect`"]


@pytest.mark.parametrize(("size", "valid"), [(MAX_LABEL_BYTES, True), (MAX_LABEL_BYTES + 1, False)])
def test_label_value_has_a_limit(size: int, valid: bool) -> None:
    step = Step.model_validate({"expect": "(?s)(.*)", "labels": [{"name": "a", "value": "$1"}]})
    found = Regexp("(?s)(.*)").search(b"x" * size)
    assert found is not None
    if valid:
        assert step.values(found) == ("x" * size,)
    else:
        with pytest.raises(ProbeFailed, match="more than 65536"):
            step.values(found)


def test_step_refuses_duplicate_labels() -> None:
    """Duplicate labels, and labels in two steps, could not be exposed."""
    label = {"name": "a", "value": "x"}
    assert broken({"labels": [label, label]}) == ["the label a is here twice"]
    assert broken({"labels": [{"value": "x"}]}) == ["`name` is required"]
    steps = [{"expect": "x", "labels": [{"name": name}]} for name in ("a", "b")]
    assert broken(steps[0], {}, steps[1]) == ["only one step may have `labels`"]


def test_labels_without_expect_cause_caution() -> None:
    settings = DialogueSettings.model_validate({"query_response": [{"labels": []}, {"labels": [{"name": "a"}]}]})
    assert [list(step.cautions()) for step in settings.query_response] == [
        [("labels", "labels have no effect without `expect`")]
    ] * 2


def test_label_value_must_be_utf8() -> None:
    assert broken({"labels": [{"name": "a", "value": "\udcff"}]}) == ["a label's value must be UTF-8"]


@pytest.mark.parametrize(("name", "questionable"), [("a_1", False), ("a-b", True), ("__a", True), ("é", True)])
def test_label_name_illegal_in_prometheus_causes_caution(name: str, questionable: bool) -> None:
    assert bool(list(Label(name=name).cautions())) is questionable


# --- templates ---------------------------------------------------------------------------------------------


def expanded(
    template: str, line: bytes = b"220 host ESMTP x", expect: str = "^220 ([^ ]+) ESMTP (?P<rest>.+)(9)?$"
) -> bytes:
    regexp = Regexp(expect)
    found = regexp.search(line)
    assert found is not None
    return DialogueTemplate(template, regexp.names).expand(found)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("EHLO ${1} $2x $3 ${2} $$ $0", b"EHLO host   x $ 220 host ESMTP x"),
        ("", b""),
        ("plain", b"plain"),
        ("$rest${rest}", b"xx"),
        ("$restless $nobody ${nobody}.", b"  ."),
        ("$9 $123456789012", b" "),
        ("$01 $00 ${02}", b"  "),
        ("$", b"$"),
        ("$ $- $.", b"$ $- $."),
        ("${", b"${"),
        ("${}", b"${}"),
        ("${1", b"${1"),
        ("${1 }", b"${1 }"),
        ("{$1}", b"{host}"),
        ("$1-$1", b"host-host"),
        ("$$1 $$$1", b"$1 $host"),
        ("$1é|${1}é", "|hosté".encode()),
        ("$1²", "host²".encode()),
        ("\udcff$1\udcfe", b"\xffhost\xfe"),
    ],
)
def test_template_expands_as_in_go(template: str, text: bytes) -> None:
    assert expanded(template) == text


def test_template_inserts_matched_bytes_unchanged() -> None:
    assert expanded("<$1>", b"\xff\xfe", "^.(.)$") == b"<\xfe>"


@pytest.mark.parametrize(
    ("name", "legal"),
    [("a_1", "a_1"), ("a-b.c", "a_b_c"), ("1st", "_st"), ("é", "_"), ("__a", "_a"), ("-_a", "_a"), ("_a", "_a")],
)
def test_label_name_is_made_legal(name: str, legal: str) -> None:
    step = Step.model_validate({"expect": "x", "labels": [{"name": name, "value": "y"}]})
    assert step.info is not None
    assert step.info.labels == (legal,)


def test_labels_with_same_legal_name_are_refused() -> None:
    assert broken({"expect": "x", "labels": [{"name": "a-b"}, {"name": "a.b"}]}) == ["the label a.b is here twice"]


def test_step_refuses_send_with_send_bytes() -> None:
    assert broken({"send": "a", "send_bytes": "b"}) == ["`send_bytes` and `send` exclude each other"]
