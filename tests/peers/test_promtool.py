"""Our reader of the text format and our linter have the verdict of `promtool check metrics` on every page."""

from __future__ import annotations

import functools
import re
import subprocess

import pytest

from probe_exporter.scrape import lint, text
from probe_exporter.scrape.page import Malformed, Page
from tests.exporters import ROOT, peer
from tests.peers.pages import DIFFERENCES, PAGES

pytestmark = pytest.mark.slow

RULES = {
    "no help text": "help_missing",
    "use base unit .*": "unit_not_base",
    "metric names should not contain abbreviated units": "unit_abbreviated",
    'counter metrics should have "_total" suffix': "counter_without_total",
    'non-counter metrics should not have "_total" suffix': "total_without_counter",
    "non-histogram.* should not have .* suffix": "suffix_reserved",
    "non-.* should not have .* label": "label_reserved",
    "metric name should not include type .*": "type_in_name",
    "metric names should not contain ':'": "colon_in_name",
    "metric names should be written in .*": "camel_case_name",
    "label names should be written in .*": "camel_case_label",
    "metric not unique": "duplicate_series",
}
"""Messages of promtool as regular expressions, and our name of each rule."""

Verdict = str | set[tuple[str, str]]
"""The error of a malformed page, or pairs of metric and violated rule."""


@functools.cache
def theirs(page: bytes) -> Verdict:
    """Return the verdict of promtool."""
    ran = subprocess.run([peer("promtool"), "check", "metrics"], input=page, capture_output=True)
    said = (ran.stdout + ran.stderr).decode()
    if ran.returncode == 1:
        return said
    assert ran.returncode in (0, 3), said
    found = set()
    for line in said.splitlines():
        metric, _, message = line.partition(" ")
        (rule,) = [rule for pattern, rule in RULES.items() if re.fullmatch(pattern, message)]
        found.add((metric, rule))
    return found


def ours(page: bytes) -> Verdict:
    """Return our verdict."""
    read = Page(10_000)
    try:
        for _ in text.read(page, read):
            pass
    except Malformed as error:
        return str(error)
    return {(found.metric, found.rule) for family in read.families for found in lint.findings(family)}


def bytes_of(name: str) -> bytes:
    page = PAGES[name]
    return page.encode() if isinstance(page, str) else page


@pytest.mark.parametrize("name", PAGES)
def test_page_gets_the_verdict_of_promtool(name: str) -> None:
    they, we = theirs(bytes_of(name)), ours(bytes_of(name))
    same = isinstance(they, str) == isinstance(we, str) and (isinstance(we, str) or they == we)
    assert same is (name not in DIFFERENCES), f"{they} against {we}"


def test_malformed_page_is_rejected_at_the_line_of_promtool() -> None:
    compared = 0
    for name in PAGES.keys() - DIFFERENCES.keys():
        they, we = theirs(bytes_of(name)), ours(bytes_of(name))
        if isinstance(they, str) and isinstance(we, str):
            there, here = (re.search(r"line (\d+)", said) for said in (they, we))
            assert there is not None
            assert here is not None
            assert there[1] == here[1], f"{name}: {they} against {we}"
            compared += 1
    assert compared > 30


def test_each_rule_has_a_page() -> None:
    found = [ours(bytes_of(name)) for name in PAGES]
    rules = {rule for verdict in found if not isinstance(verdict, str) for _, rule in verdict}
    assert rules == lint.RULES.keys() == set(RULES.values())


def test_differences_are_documented() -> None:
    page = (ROOT / "docs" / "modules" / "exporter.md").read_text(encoding="utf-8")
    for name, why in DIFFERENCES.items():
        assert f"| {name} | {why} |" in page
