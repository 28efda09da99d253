"""Tests of what Go's regexp package refuses; tests/peers/config_cases.py holds the same limits against the original."""

from __future__ import annotations

import pytest

from probe_exporter.settings.regexps import Regexp
from tests.cost import costs_at_most


@pytest.mark.parametrize(
    "text", ["x{99999999999}", "x{100000000,}", "x{1,999999999}?", "{99999999999}", "(x){999999999}"]
)
def test_regexp_refuses_huge_repeat_count(text: str) -> None:
    with pytest.raises(ValueError, match="invalid repe"):
        Regexp(text)


@pytest.mark.parametrize(
    "text",
    [
        "x{099999999999}",  # with a leading zero it is text
        *(r"x\{99999999999}", "x{99999999999", "x{99999999999,x}", "[{99999999999}]", "[^]{99999999999}]"),
        *(r"\Q{99999999999}\E", r"\Q{99999999999}", r"[\]{99999999999}]", "[[:alpha:]{99999999999}]"),
    ],
)
def test_regexp_accepts_braces_that_are_text(text: str) -> None:
    assert Regexp(text).text == text


NESTED = {
    "(%s)": 999,
    "(?:%s)*": 999,
    "(a%s)": 500,
    "(?:ab(?:%s)?)?": 333,
    r"(?:\Qab\E*(?:%s)?)": 499,
    r"(?:[ab]\pL%s)?": 499,
}
"""Ways to nest, and how often Go permits them around one character."""


@pytest.mark.slow
@pytest.mark.parametrize(("text", "most"), NESTED.items())
def test_regexp_refuses_nesting_beyond_that_of_go(text: str, most: int) -> None:
    def nested(times: int) -> str:
        before, after = text.split("%s")
        return before * times + "x" + after * times

    assert Regexp(nested(most)).text
    for times in (most + 2, 5 * most):
        with pytest.raises(ValueError, match="nests too deeply"):
            Regexp(nested(times))


def test_regexp_accepts_any_number_of_groups_that_add_no_height() -> None:
    for before, after in (("(?:", ")"), ("(?i:", ")"), ("(?:ab|", ")")):
        assert Regexp(before * 3000 + "x" + after * 3000).text


@pytest.mark.slow
def test_regexp_check_is_linear() -> None:
    with costs_at_most(150):
        Regexp("[a-z]{3}(x|y)" * 20000)
