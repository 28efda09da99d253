"""Side by side with blackbox_exporter 0.28: the same answer to every case, but for what the table states."""

from __future__ import annotations

from collections import Counter

import pytest

from tests import exporters
from tests.peers.cases import Case, Outcome
from tests.peers.conftest import ALL, GROUPS, Stage
from tests.peers.differences import DIFFERENCES, Named, compare

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_same_as_the_original(case: Case, original: dict[str, Outcome], ours: dict[str, Outcome], stage: Stage) -> None:
    """Status, names, labels, values and the requests sent are equal, or differ as the table says."""
    comparison = compare(case, original[case.name], ours[case.name])
    if str(comparison):  # among hundreds at once, either exporter may have run out of time: once more, alone
        theirs, mine = (stage.run(start, [case])[case.name] for start in (exporters.original, exporters.ours))
        comparison = compare(case, theirs, mine)
    if text := str(comparison):
        pytest.fail(f"{case.name} ({case.target}, {dict(case.settings)})\n{text}", pytrace=False)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_same_types_as_the_original(case: Case, original: dict[str, Outcome], ours: dict[str, Outcome]) -> None:
    """Every family that both expose has the same type in both."""
    theirs, mine = original[case.name].types, ours[case.name].types
    both = theirs.keys() & mine.keys()
    assert {name: mine[name] for name in both} == {name: theirs[name] for name in both}


def test_every_difference_occurs(ours: dict[str, Outcome]) -> None:
    """Nothing stands in the table that is not about some case."""
    if len(ours) < len(ALL):
        pytest.skip("only some of the cases were run")
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
