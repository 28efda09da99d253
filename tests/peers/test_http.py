"""Side by side with blackbox_exporter 0.28: the same answer to every http case, but for what the table states."""

from __future__ import annotations

import pytest

from tests.peers.cases import Case, Outcome
from tests.peers.conftest import ALL
from tests.peers.differences import DIFFERENCES, compare
from tests.peers.http_cases import GROUPS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_same_as_the_original(case: Case, original: dict[str, Outcome], ours: dict[str, Outcome]) -> None:
    """Status, names, labels, values and the requests sent are equal, or differ as the table says."""
    comparison = compare(case.name, original[case.name], ours[case.name])
    left = [f"original only: {line}" for line in comparison.only_original]
    left += [f"ours only:     {line}" for line in comparison.only_ours]
    stale = {entry.why for entry in DIFFERENCES if entry.expected(case.name, ours[case.name])}
    stale -= {entry.why for entry in comparison.used}
    assert not left, "\n".join([f"{case.name} ({case.target}, {dict(case.settings)})", *left])
    assert not stale, f"differences.py expects these here, and they do not occur: {stale}"


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_same_types_as_the_original(case: Case, original: dict[str, Outcome], ours: dict[str, Outcome]) -> None:
    """Every family that both expose has the same type in both."""
    theirs, mine = original[case.name].types, ours[case.name].types
    assert {name: mine[name] for name in theirs if name in mine} == {
        name: kind for name, kind in theirs.items() if name in mine
    }


def test_every_difference_occurs(original: dict[str, Outcome], ours: dict[str, Outcome]) -> None:
    """Nothing stands in the table that is not seen in some case."""
    if len(ours) < len(ALL):
        pytest.skip("only some of the cases were run")
    used = {entry for name in ALL for entry in compare(name, original[name], ours[name]).used}
    assert {entry.why for entry in DIFFERENCES} == {entry.why for entry in used}


def test_differences_name_cases() -> None:
    """A misspelt case in the table would never be checked."""
    named = {name for entry in DIFFERENCES if isinstance(entry.cases, tuple) for name in entry.cases}
    assert named <= set(ALL)


def test_case_names_are_unique() -> None:
    """Two cases of one name, or of one module name, would hide each other."""
    every = [case for group in GROUPS.values() for case in group]
    assert len({case.module for case in every}) == len(every)
