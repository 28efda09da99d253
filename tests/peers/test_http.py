"""Every case has the outcome of blackbox_exporter 0.28, except for the differences in the table."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.peers.cases import Case
from tests.peers.differences import DIFFERENCES, Named, compare
from tests.peers.stage import ALL, GROUPS, PATIENCE, CachedOutcomes

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_case_has_the_outcome_of_the_original(case: Case, original: CachedOutcomes, ours: CachedOutcomes) -> None:
    """Status, names, labels, values, types and the requests sent are equal, or differ as the table says."""
    comparison = compare(case, original[case.name], ours[case.name])
    if str(comparison):  # a slow machine may have disturbed it: run the case again, alone, with more time
        theirs, mine = (runs.again([case], PATIENCE)[case.name] for runs in (original, ours))
        comparison = compare(case, theirs, mine)
    if text := str(comparison):
        pytest.fail(f"{case.name} ({case.target}, {dict(case.settings)})\n{text}", pytrace=False)
    types, expected = ours[case.name].types, original[case.name].types
    both = expected.keys() & types.keys()
    assert {name: types[name] for name in both} == {name: expected[name] for name in both}


def test_each_difference_applies_to_a_case(ours: CachedOutcomes) -> None:
    """Each entry of the table applies to at least one case."""
    unused = [entry.why for entry in DIFFERENCES if not any(entry.where(ALL[name], ours[name]) for name in ALL)]
    assert not unused


def test_differences_name_existing_cases() -> None:
    """An entry for a misspelt case would never be checked."""
    named = {name for entry in DIFFERENCES if isinstance(entry.where, Named) for name in entry.where.names}
    assert named <= set(ALL)


def test_case_names_are_unique() -> None:
    """Of two cases with one name, or one module, only one would run."""
    modules = Counter(case.module for group in GROUPS.values() for case in group)
    assert [module for module, count in modules.items() if count > 1] == []
