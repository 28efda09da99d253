"""Everything that ours does otherwise than blackbox_exporter 0.28, on purpose: what, in which cases, and why.

An entry speaks about lines of an `Outcome`. Nothing else may differ, and an entry that no longer occurs in one of
its cases fails its test: this table is the whole truth, and the migration guide can be read off it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from tests.peers.cases import Outcome


class Where(Enum):
    """Cases by what came out, for differences too common to list."""

    EVERY_PROBE = "every probe that was run"
    EVERY_FAILURE = "every probe that failed"
    ANYWHERE = "wherever it occurs, and at least once"


@dataclass(frozen=True, slots=True)
class Difference:
    """One deliberate difference.

    Args:
        why: one sentence for whoever migrates.
        source: what demands it: a number of compat.md section 9, [U] (unreleased original), or the issue.
        cases: names of cases, in each of which it must occur, or a `Where`.
        original: regexp of the lines that only the original has.
        ours: regexp of the lines that only ours has. With both, as many of one as of the other.
    """

    why: str
    source: str
    cases: tuple[str, ...] | Where
    original: str | None = None
    ours: str | None = None

    def expected(self, name: str, ours: Outcome) -> bool:
        """Whether it must occur in a case."""
        if isinstance(self.cases, tuple):
            return name in self.cases
        if self.cases is Where.EVERY_FAILURE:
            return ours.failed
        return self.cases is Where.EVERY_PROBE and "status 200" in ours.lines

    def allowed(self, name: str, ours: Outcome) -> bool:
        """Whether it may occur in a case."""
        return self.cases is Where.ANYWHERE or self.expected(name, ours)


DIFFERENCES = (
    Difference(
        "The effective timeout is shown.", "[U]", Where.EVERY_PROBE,
        ours=r"probe_timeout_seconds -?[\d.]+",
    ),
    Difference(
        "A failed probe says why.", "issue 2, item 5", Where.EVERY_FAILURE,
        ours=r"probe_failure_info\{phase='\w*',reason='\w+'\} 1",
    ),
    Difference(
        "Ours says who it is, after the name that allow-lists of targets know.", "issue 2, item 4", Where.ANYWHERE,
        original=r"request \d+: User-Agent: Blackbox-Exporter/0\.28\.0",
        ours=r"request \d+: User-Agent: Blackbox-Exporter/0\.28\.0 .+",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is left of the difference between two outcomes, and which entries of the table were used."""

    only_original: tuple[str, ...]
    only_ours: tuple[str, ...]
    used: frozenset[Difference]


def compare(name: str, original: Outcome, ours: Outcome, table: Iterable[Difference] = DIFFERENCES) -> Comparison:
    """Take away from the difference of two outcomes what the table allows in this case."""
    theirs, mine = set(original.lines) - set(ours.lines), set(ours.lines) - set(original.lines)
    used = set()
    for difference in table:
        if not difference.allowed(name, ours):
            continue
        gone, new = _matching(difference.original, theirs), _matching(difference.ours, mine)
        if difference.original and difference.ours and len(gone) != len(new):
            continue
        if gone or new:
            used.add(difference)
            theirs, mine = theirs - gone, mine - new
    return Comparison(tuple(sorted(theirs)), tuple(sorted(mine)), frozenset(used))


def _matching(pattern: str | None, lines: set[str]) -> set[str]:
    return {line for line in lines if pattern is not None and re.fullmatch(pattern, line)}
