"""Test that no hostile peer holds the event loop, delays a deadline, takes memory, or confuses a prober.

Each peer is tested against one of its clients, in turn; ``HOSTILE=all`` tests every peer against every client.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.hostile.cases import Case
from tests.hostile.clients import ATTACKS
from tests.hostile.known import KNOWN, known
from tests.hostile.measure import Cost, measure, thaw
from tests.hostile.peer_process import PeerProcess
from tests.hostile.table import CASES, FAMILIES

pytestmark = pytest.mark.slow

TRIES = 3
"""A cost beyond the limit counts if it comes back: the kernel may charge a process for work that is not its own."""


MARGIN = 2.0
"""A shared machine may slow this code down more than the calibration. `python -m tests.hostile` has no margin."""


def chosen() -> list[Case]:
    """Return the cases of this run."""
    if os.environ.get("HOSTILE") == "all":
        return list(CASES)
    peers: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in CASES:
        peers[case.family, case.peer].append(case)
    return [found[place % len(found)] for place, found in enumerate(peers.values())]


@pytest.fixture(scope="session")
def stage() -> Iterator[PeerProcess]:
    """Run the process of the peers."""
    stage = PeerProcess()
    yield stage
    stage.close()
    thaw()


def parameters() -> Iterator[ParameterSet]:
    """Yield the cases of this run as parameters; those of `KNOWN` are not run."""
    for case in chosen():
        reason = known(case.name)
        marks = [pytest.mark.xfail(reason=reason, run=False)] if reason else []
        yield pytest.param(case, id=case.name, marks=marks)


@pytest.mark.parametrize("case", list(parameters()))
def test_peer_costs_no_more_than_its_budget(case: Case, stage: PeerProcess) -> None:
    faults: list[str] = []
    for _ in range(TRIES):
        faults = measure(case, stage).faults(case, MARGIN)
        if not faults:
            return
    pytest.fail("; ".join(faults))


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


def test_every_family_has_cases() -> None:
    assert {case.family for case in CASES} == {family.__name__.rpartition(".")[2] for family in FAMILIES}


def test_known_faults_name_cases() -> None:
    names = [*(case.name for case in CASES), *(f"clients: {name} / " for name in ATTACKS)]
    assert [start for start in KNOWN if not any(name.startswith(start) for name in names)] == []


COST = Cost(turn=0.0, hold=0.0, late=0.0, cpu=0.0, seconds=0.0, growth=0, verdicts=("tls_timeout",))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"turn": 0.03}, "a turn of 30 ms"),
        ({"hold": 0.06}, "a hold of 60 ms"),
        ({"late": 0.2}, "a delay of 200 ms"),
        ({"growth": 1 << 40}, "MiB more memory"),
        ({"verdicts": ("internal_error",)}, "ends with internal_error"),
        ({}, ""),
    ],
)
def test_fault_is_told_in_words(changes: dict[str, object], fault: str) -> None:
    case = next(case for case in CASES if "tls_timeout" in case.ends)
    found = Cost(**{**COST._asdict(), **changes}).faults(case)
    assert len(found) == bool(fault)
    assert all(one.startswith(fault) or fault in one for one in found)
