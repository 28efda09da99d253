"""Test the fields of the form for a probe, and the translation of their patterns."""

from __future__ import annotations

import pytest

from probe_exporter.web.form import html_pattern


@pytest.mark.parametrize(
    ("written", "translated"),
    [
        ("[a-z]+", "[a-z]+"),
        ("[a-z0-9-]*", r"[a-z0-9\-]*"),
        ("[-a-z]", r"[\-a-z]"),
        ("[^/:]+", r"[^\/:]+"),
        (r"\d{1,3}(?:\.\d+)?|x", r"\d{1,3}(?:\.\d+)?|x"),
        ("[(|)]", r"[\(\|\)]"),
        (r"[\w.\-]+", r"[\w.\-]+"),
        ("a|b", "a|b"),
        ("(a)b", "(a)b"),
        ("ä+", "ä+"),
    ],
)
def test_pattern_is_translated_for_a_browser(written: str, translated: str) -> None:
    assert html_pattern(written) == translated


@pytest.mark.parametrize(
    "written",
    [
        "(?i)a",
        "(?P<n>a)",
        "[[:alpha:]]",
        r"\pL",
        r"\Aa\z",
        r"\Qa+b\E",
        r"\x41",
        r"[\x41]",
        "[a&&b]",
        "[]a]",
        r"\bx",
        "",
    ],
)
def test_pattern_that_a_browser_may_read_otherwise_is_left_to_the_exporter(written: str) -> None:
    assert html_pattern(written) == ""
