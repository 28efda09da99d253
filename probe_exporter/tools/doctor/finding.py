"""The result of one check of ``probe-exporter doctor``, and all results as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TextIO

Verdict = Literal["pass", "warn", "fail", "skip"]
"""``fail``: probes will fail. ``warn``: some kinds of probes may fail. ``skip``: not checked."""

STYLES: Mapping[Verdict, str] = {"pass": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
"""How a terminal shows each verdict."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Args:
        check: its name.
        verdict: how it ended.
        message: what was found, with figures.
        fix: the command or setting that fixes it; empty if nothing is wrong.
    """

    check: str
    verdict: Verdict
    message: str
    fix: str = ""


def healthy(findings: Sequence[Finding]) -> bool:
    """Return whether no check failed; warnings do not count."""
    return all(finding.verdict != "fail" for finding in findings)


def as_text(findings: Sequence[Finding]) -> str:
    """Format a line for each finding, and below it the fix if there is one."""
    return "".join([f"{finding.verdict}{rest}\n" for finding, rest in _rows(findings)])


def print_in_colour(findings: Sequence[Finding], terminal: TextIO) -> None:
    """Print the same text on a terminal, with each verdict in its colour unless NO_COLOR is set."""
    # Imported here: they take 60 ms, and only a person sees colours.
    from rich.console import Console  # noqa: PLC0415  # see above
    from rich.text import Text  # noqa: PLC0415  # see above

    console = Console(file=terminal, highlight=False, markup=False, emoji=False)
    for finding, rest in _rows(findings):
        # The terminal wraps long lines itself, so that a command of several lines can be copied.
        console.print(Text.assemble((finding.verdict, STYLES[finding.verdict]), rest), soft_wrap=True)


def _rows(findings: Sequence[Finding]) -> Iterator[tuple[Finding, str]]:
    """Yield each finding and the text that follows its verdict."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        fix = f"\n{' ' * (width + 8)}fix: {finding.fix}" if finding.fix else ""
        yield finding, f"  {finding.check.ljust(width)}  {finding.message}{fix}"


def as_json(findings: Sequence[Finding]) -> str:
    """Format the findings as a JSON document."""
    document = {"healthy": healthy(findings), "checks": [asdict(finding) for finding in findings]}
    return json.dumps(document, indent=2) + "\n"
