"""The result of one check of ``probe-exporter doctor``, and all results as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail", "skip"]
"""``fail``: probes will fail. ``warn``: some kinds of probes may fail. ``skip``: not checked."""


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
    return "".join([f"{finding.verdict}{rest}\n" for finding, rest in rows(findings)])


def rows(findings: Sequence[Finding]) -> Iterator[tuple[Finding, str]]:
    """Yield each finding and the text that follows its verdict."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        fix = f"\n{' ' * (width + 8)}fix: {finding.fix}" if finding.fix else ""
        yield finding, f"  {finding.check.ljust(width)}  {finding.message}{fix}"


def as_json(findings: Sequence[Finding]) -> str:
    """Format the findings as a JSON document."""
    document = {"healthy": healthy(findings), "checks": [asdict(finding) for finding in findings]}
    return json.dumps(document, indent=2) + "\n"
