"""Our output for every case is pinned in golden files, so that it holds where the original is not installed.

``UPDATE_GOLDEN=1`` rewrites the files instead; review what changed.
"""

from __future__ import annotations

import pytest

from tests.peers import alone, golden
from tests.peers.stage import GROUPS, PLAIN, Runs, Stage

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("group", GROUPS)
def test_golden(group: str, stage: Stage, ours: Runs) -> None:
    """Each group of cases gives exactly the samples and sends exactly the requests of its file."""
    plain = PLAIN[group]
    path = golden.DIRECTORY / plain.prober / f"{group}.txt"
    cases = {case.name: case for case in (plain, *GROUPS[group])}
    outcomes = {name: ours[name] for name in cases}

    def text() -> str:
        return golden.render(f"{plain.prober}, {group}", GROUPS[group], outcomes, plain, stage.names)

    # One of many cases at once may have run out of time: those that differ run again, alone.
    if not golden.UPDATING:
        outcomes |= ours.again(cases[name] for name in golden.different(path, text()))
    golden.hold(path, text())


def test_no_stray_golden_files() -> None:
    """A file of a group that is gone would pin nothing."""
    assert {path.stem for path in golden.DIRECTORY.glob("*/*.txt")} == {*GROUPS, *alone.GROUPS}
