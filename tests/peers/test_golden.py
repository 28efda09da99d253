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
    prober = PLAIN[group].prober
    path = golden.DIRECTORY / prober / f"{group}.txt"
    text = golden.render(f"{prober}, {group}", GROUPS[group], ours, PLAIN[group], stage.names)
    golden.hold(path, text)


def test_no_stray_golden_files() -> None:
    """A file of a group that is gone would pin nothing."""
    assert {path.stem for path in golden.DIRECTORY.glob("*/*.txt")} == {*GROUPS, *alone.GROUPS}
