"""Golden files pin our output for every case, for machines without the original.

``UPDATE_GOLDEN=1`` rewrites the files instead; review what changed.
"""

from __future__ import annotations

import pytest

from tests.peers import golden, own_cases
from tests.peers.stage import GROUPS, PLAIN, CachedOutcomes, ExporterPair

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("group", GROUPS)
def test_output_is_that_of_the_golden_file(group: str, stage: ExporterPair, ours: CachedOutcomes) -> None:
    """Each group of cases gives exactly the samples and sends exactly the requests of its file."""
    plain = PLAIN[group]
    path = golden.DIRECTORY / plain.prober / f"{group}.txt"
    cases = {case.name: case for case in (plain, *GROUPS[group])}
    outcomes = {name: ours[name] for name in cases}

    def text() -> str:
        return golden.render(f"{plain.prober}, {group}", GROUPS[group], outcomes, plain, stage.names)

    # A slow machine may have disturbed one of many cases at once: run those that differ again, one by one.
    if not golden.UPDATING:
        outcomes |= ours.again(cases[name] for name in golden.different(path, text()))
    golden.hold(path, text())


def test_golden_files_have_a_group_each() -> None:
    """No test reads the golden file of a group that was removed. `pki` and `runs` have tests of their own."""
    files = [path for path in golden.DIRECTORY.glob("*/*.txt") if path.parent.name not in ("pki", "runs")]
    assert {path.stem for path in files} == {*GROUPS, *own_cases.GROUPS}
