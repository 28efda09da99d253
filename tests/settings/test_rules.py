"""Tests of rules between keys: what they refuse, and that one error does not hide another."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Text
from probe_exporter.settings.rules import exclusive, needs, required
from probe_exporter.settings.secrets import Secret


class Inner(Settings):
    """Settings with a rule in a nested block."""

    rules = (required("name"),)
    name: Text = ""


class Block(Settings):
    """Settings with one rule of each kind."""

    rules = (
        exclusive("a", "b", "inner"),
        needs(["no_proxy"], ["proxy", "anyhow"], "`no_proxy` needs a proxy"),
    )
    a: Text = ""
    b: Text = ""
    inner: Inner | None = None
    proxy: Text = ""
    anyhow: bool = False
    no_proxy: Text = ""
    count: int = 0
    secret: Secret = Secret("")


def broken(**written: object) -> list[tuple[str, str]]:
    """Return the errors of a block as pairs of path and message."""
    with pytest.raises(ValidationError) as refused:
        Block.model_validate(written)
    return [(".".join(map(str, error["loc"])), error["msg"]) for error in refused.value.errors()]


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"a": "x"},
        {"a": "", "b": "x"},  # an empty string is not set
        {"no_proxy": "x", "proxy": "y"},
        {"no_proxy": "x", "anyhow": True},
        {"no_proxy": ""},
        {"inner": {"name": "x"}},
    ],
)
def test_rules_accept_valid_block(written: dict[str, object]) -> None:
    assert isinstance(Block.model_validate(written), Block)


def test_rules_refuse_exclusive_keys() -> None:
    assert broken(a="x", b="y") == [("b", "`b` and `a` exclude each other")]


def test_rules_count_empty_block_as_set() -> None:
    assert ("inner", "`inner` and `a` exclude each other") in broken(a="x", inner={})


def test_rules_refuse_empty_required_key() -> None:
    assert broken(inner={"name": ""}) == broken(inner={}) == [("inner.name", "`name` is required")]


def test_rules_refuse_key_without_needed_key() -> None:
    assert broken(no_proxy="x", anyhow=False) == [("no_proxy", "`no_proxy` needs a proxy")]


def test_rules_report_all_errors() -> None:
    """Errors of fields, rules and nested blocks are reported together."""
    assert broken(a="x", b="y", count="z", inner={}, unknown=1, no_proxy="x") == [
        ("inner.name", "`name` is required"),
        ("count", "Input should be a valid integer, unable to parse string as an integer"),
        ("unknown", "Extra inputs are not permitted"),
        ("b", "`b` and `a` exclude each other"),
        ("inner", "`inner` and `a` exclude each other"),
        ("no_proxy", "`no_proxy` needs a proxy"),
    ]


def test_rules_errors_hide_input() -> None:
    """The input may be a secret."""
    with pytest.raises(ValidationError) as refused:
        Block.model_validate({"secret": ["hunter2"], "a": "x", "b": "y"})
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in refused.value.json()
