"""Test how `probe-exporter doctor` prints its findings."""

from __future__ import annotations

import io
import json
import re

import pytest

from probe_exporter.tools.doctor.finding import Finding, as_json, as_text, healthy, print_in_colour

GOOD = Finding("ping", "pass", "permitted")
BAD = Finding("open files", "fail", "too few", "ulimit -n 100")
MAYBE = Finding("ipv6", "warn", "no route", "ip -6 route")


def test_text_has_a_line_for_each_finding_and_its_fix_below() -> None:
    assert as_text([GOOD, BAD]) == (
        "pass  ping        permitted\n"
        "fail  open files  too few\n"
        "                  fix: ulimit -n 100\n"
    )  # fmt: skip


class Screen(io.StringIO):
    """The output of a program on a terminal."""

    def isatty(self) -> bool:
        return True


def printed(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """Return what a terminal gets, with these environment variables."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "COLUMNS", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    print_in_colour(FINDINGS, screen)
    return screen.getvalue()


LONG = Finding("name servers", "skip", "[bold]none[/] :smile: " + "x" * 300)
FINDINGS = [GOOD, BAD, MAYBE, LONG]


def test_terminal_shows_each_verdict_in_its_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = printed(monkeypatch, TERM="xterm-256color")
    assert re.findall(r"\x1b\[([\d;]+)m(\w+)\x1b\[0m", coloured) == [
        ("32", "pass"),
        ("1;31", "fail"),
        ("33", "warn"),
        ("2", "skip"),
    ]
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == as_text(FINDINGS)


def test_terminal_shows_no_colour_if_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not re.search(r"\x1b\[[\d;]*3\dm", printed(monkeypatch, TERM="xterm-256color", NO_COLOR="1"))


def test_dumb_terminal_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, TERM="dumb") == as_text(FINDINGS)


def test_json_has_every_field_and_the_verdict() -> None:
    document = json.loads(as_json([GOOD, BAD]))
    assert document["healthy"] is False
    assert document["checks"][1] == {
        "check": "open files",
        "verdict": "fail",
        "message": "too few",
        "fix": "ulimit -n 100",
    }


def test_warnings_and_skipped_checks_are_healthy() -> None:
    assert healthy([GOOD, MAYBE, Finding("clock", "skip", "not named")])
    assert not healthy([GOOD, BAD])
