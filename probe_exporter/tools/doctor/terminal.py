"""Print the findings of ``probe-exporter doctor`` on a terminal, with each verdict in its colour.

rich leaves the colours out where NO_COLOR is set. No meaning is in colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from probe_exporter.tools.doctor.finding import Finding, Verdict, rows

STYLES: Mapping[Verdict, str] = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def print_in_colour(findings: Sequence[Finding], terminal: TextIO) -> None:
    """Print the text of `finding.as_text` on a terminal."""
    console = Console(file=terminal, highlight=False, markup=False, emoji=False)
    for finding, rest in rows(findings):
        # The terminal wraps long lines itself, so that a command of several lines can be copied.
        console.print(Text.assemble((finding.verdict, STYLES[finding.verdict]), rest), soft_wrap=True)
