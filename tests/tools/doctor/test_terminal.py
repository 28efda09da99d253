"""Test how `probe-exporter doctor` prints its findings on a terminal."""

from __future__ import annotations

import io
import re

import pytest

from probe_exporter.tools.doctor.finding import Finding, as_text
from probe_exporter.tools.doctor.terminal import print_in_colour

FINDINGS = [
    Finding("ping", "pass", "permitted"),
    Finding("open files", "fail", "too few", "ulimit -n 100"),
    Finding("ipv6", "warn", "no route", "ip -6 route"),
    Finding("name servers", "skip", "[bold]none[/] :smile: " + "x" * 300),
]


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
