"""Side by side with blackbox_exporter 0.28: the same answer to every case, but for what the table states."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.peers.cases import Case
from tests.peers.differences import DIFFERENCES, Named, compare
from tests.peers.stage import ALL, GROUPS, PATIENCE, Runs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_same_as_the_original(case: Case, original: Runs, ours: Runs) -> None:
    """Status, names, labels, values and the requests sent are equal, or differ as the table says."""
    comparison = compare(case, original[case.name], ours[case.name])
    if str(comparison):  # one of the exporters may have run out of time: run the case again, alone, with more time
        theirs, mine = (runs.again([case], PATIENCE)[case.name] for runs in (original, ours))
        comparison = compare(case, theirs, mine)
    if text := str(comparison):
        pytest.fail(f"{case.name} ({case.target}, {dict(case.settings)})\n{text}", pytrace=False)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_same_types_as_the_original(case: Case, original: Runs, ours: Runs) -> None:
    """Every family that both expose has the same type in both."""
    theirs, mine = original[case.name].types, ours[case.name].types
    both = theirs.keys() & mine.keys()
    assert {name: mine[name] for name in both} == {name: theirs[name] for name in both}


def test_every_difference_occurs(ours: Runs) -> None:
    """Each entry of the table applies to at least one case."""
    unused = [entry.why for entry in DIFFERENCES if not any(entry.where(ALL[name], ours[name]) for name in ALL)]
    assert not unused


def test_differences_name_cases() -> None:
    """A misspelt case in the table would never be checked."""
    named = {name for entry in DIFFERENCES if isinstance(entry.where, Named) for name in entry.where.names}
    assert named <= set(ALL)


def test_case_names_are_unique() -> None:
    """Two cases of one name, or of one module, would hide each other."""
    modules = Counter(case.module for group in GROUPS.values() for case in group)
    assert [module for module, count in modules.items() if count > 1] == []
