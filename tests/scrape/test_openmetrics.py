"""OpenMetrics pages, rule by rule: prometheus_client's parser, the reference, refuses each invalid page too."""

from __future__ import annotations

import random

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from probe_exporter.scrape import openmetrics
from probe_exporter.scrape.page import Malformed, Page

PAGE = """\
# HELP c A counter
# TYPE c counter
c_total{a="x",b="y"} 5 1.5 # {trace="1"} 0.5 2
c_created{a="x",b="y"} 5 1.5
c_total{a="z"} 5
# TYPE g gauge
g 1
g{a="\\"q\\\\"} -2.5 3
g{a="b"} 3 3
g{a="b"} 3 4
# TYPE h_seconds histogram
# UNIT h_seconds seconds
h_seconds_bucket{le="0.1"} 1
h_seconds_bucket{le="1.0"} 2 # {a="b"} 0.3
h_seconds_bucket{le="+Inf"} 3
h_seconds_count 3
h_seconds_sum 4.5
h_seconds_bucket{a="b",le="+Inf"} 3
h_seconds_count{a="b"} 3
h_seconds_sum{a="b"} 4.5
# TYPE s summary
s{quantile="0.5"} 1
s_count 4
s_sum 5
# TYPE i info
i_info{v="1"} 1
# TYPE st stateset
st{st="a"} 1
st{st="b"} 0
# TYPE gh gaugehistogram
gh_bucket{le="-1"} 1
gh_bucket{le="+Inf"} 3
gh_gcount 3
gh_gsum -4
# TYPE u unknown
u 5
x 6
# EOF
"""


def ours(page: str) -> str | None:
    try:
        for _ in openmetrics.read(page.encode(), Page(1000)):
            pass
    except Malformed as error:
        return str(error)
    return None


def theirs(page: str) -> str | None:
    try:
        list(text_string_to_metric_families(page))  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        return repr(error)
    return None


def test_page_with_every_type_is_read() -> None:
    assert ours(PAGE) is None
    assert theirs(PAGE) is None


REFUSED = {
    "no EOF": ("# EOF\n", "", "EOF"),
    "more after EOF": ("# EOF\n", "# EOF\nx 1\n", "after # EOF"),
    "an empty line": ("u 5\n", "\nu 5\n", "empty"),
    "a remark": ("u 5\n", "# a remark\nu 5\n", "HELP, TYPE nor UNIT"),
    "an unknown type": ("unknown", "untyped", "not a metric type"),
    "two TYPEs": ("# TYPE g gauge\n", "# TYPE g gauge\n# TYPE g gauge\n", "second TYPE"),
    "TYPE after samples": ("g 1\n", "g 1\n# HELP g late\n", "after its samples"),
    "a family in two pieces": ("x 6\n", "x 6\ng 3\n", "two"),
    "a counter without _total": ('c_total{a="z"} 5', 'c{a="z"} 5', "two"),
    "a group in two pieces": ('g{a="b"} 3 4\n', 'g{a="b"} 3 4\ng{a="c"} 1 1\ng{a="b"} 3 5\n', "stand together"),
    "times that go backwards": ("3 4\n", "3 2\n", "backwards"),
    "some with times": ("3 4\n", "3\n", "only some samples"),
    "no bucket +Inf": ('h_seconds_bucket{a="b",le="+Inf"} 3\n', "", "+Inf"),
    "buckets that fall": ('le="1.0"} 2', 'le="1.0"} 0', "lower count"),
    "another count": ("h_seconds_count 3", "h_seconds_count 4", "differs from its bucket"),
    "a count without a sum": ("h_seconds_sum 4.5\n", "", "both count and sum"),
    "no bound": ('{le="0.1"}', "", "is not valid for the label"),
    "infinity misspelt": ('h_seconds_bucket{le="+Inf"}', 'h_seconds_bucket{le="inf"}', "is not valid for the label"),
    "half of a count": ("h_seconds_count 3\n", "h_seconds_count 3.5\n", "whole"),
    "a quantile beyond one": ('quantile="0.5"', 'quantile="1.5"', "is not valid for the label"),
    "a negative counter": ('c_total{a="z"} 5', 'c_total{a="z"} -5', "negative"),
    "a counter that is NaN": ('c_total{a="z"} 5', 'c_total{a="z"} NaN', "NaN"),
    "an info of two": ('i_info{v="1"} 1', 'i_info{v="1"} 2', "info must be 1"),
    "a state of two": ('st{st="a"} 1', 'st{st="a"} 2', "0 or 1"),
    "a state without its label": ('st{st="a"} 1', "st 1", "must have the label"),
    "another unit": ("UNIT h_seconds seconds", "UNIT h_seconds bytes", "unit"),
    "an exemplar of a gauge": ("g 1\n", 'g 1 # {a="b"} 1\n', "exemplars"),
    "an exemplar too long": ('trace="1"', f'trace="{"1" * 130}"', "128"),
    "a label twice": ('c_total{a="z"}', 'c_total{a="z",a="z"}', "is repeated"),
    "a comma at the end": ('c_total{a="z"}', 'c_total{a="z",}', "labels"),
    "two blanks": ("u 5", "u  5", "not a sample"),
    "a blank at the end": ("u 5", "u 5 ", "not a sample"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_page_that_breaks_a_rule_is_refused_for_it(name: str) -> None:
    before, after, said = REFUSED[name]
    page = PAGE.replace(before, after, 1)
    assert page != PAGE
    assert said in (ours(page) or "nothing")
    assert theirs(page) is not None


@pytest.mark.slow
def test_page_that_the_reference_parser_refuses_is_refused() -> None:
    """Lines of a page are removed, repeated, swapped and changed; a page that the reference refuses must not pass."""
    chance, refused = random.Random(2026), 0
    for _ in range(1500):
        page = _disturbed(PAGE.splitlines(), chance)
        if theirs(page) is not None and ours(page) is None:
            raise AssertionError(f"{theirs(page)}:\n{page}")
        refused += ours(page) is not None
    assert 500 < refused < 1500


def _disturbed(lines: list[str], chance: random.Random) -> str:
    place, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    what = chance.randrange(4)
    if what == 0:
        del lines[place]
    elif what == 1:
        lines.insert(place, lines[other])
    elif what == 2:
        lines[place], lines[other] = lines[other], lines[place]
    else:
        words = lines[place].split(" ")
        words[chance.randrange(len(words))] = chance.choice(
            ["NaN", "-1", "1.5", "+Inf", "gauge", "histogram", "g", "0"]
        )
        lines[place] = " ".join(words)
    return "".join(f"{line}\n" for line in lines)
