"""Fixtures for tests that compare our exporter with the original, case by case."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest

from tests import exporters
from tests.peers import stage as stages
from tests.peers.cases import Case
from tests.peers.stage import ALL, GROUP_OF, GROUPS, PLAIN, Runs, Stage


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of one group of cases side by side, so that mostly one worker of pytest-xdist runs all of them."""
    order = {group: number for number, group in enumerate(GROUPS)}
    ours = [item for item in items if _group(item) is not None]
    rest = iter(sorted(ours, key=lambda item: order[_group(item) or ""]))
    items[:] = [next(rest) if _group(item) is not None else item for item in items]


def _group(item: pytest.Item) -> str | None:
    """Return the group of cases that a test is about."""
    parameters: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    case, group = parameters.get("case"), parameters.get("group")
    if isinstance(case, Case):
        return GROUP_OF.get(case.name)
    return group if isinstance(group, str) and group in GROUPS else None


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Return what both exporters run on; all workers of pytest-xdist use one directory."""
    base = tmp_path_factory.getbasetemp()
    stage = stages.prepare((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "stage")
    yield stage
    stage.ports.close()


@pytest.fixture(scope="session")
def selected(request: pytest.FixtureRequest) -> frozenset[str]:
    """Return the names of the cases that the tests of this session are about, so that one case alone runs alone."""
    chosen: set[str] = set()
    for item in request.session.items:
        parameters: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
        case, group = parameters.get("case"), _group(item)
        if isinstance(case, Case):
            chosen.add(case.name)
        elif group is not None:
            chosen |= {one.name for one in (PLAIN[group], *GROUPS[group])}
        elif item.name == "test_every_difference_occurs":
            chosen |= ALL.keys()
    return frozenset(chosen)


@pytest.fixture(scope="session")
def ours(stage: Stage, selected: frozenset[str]) -> Iterator[Runs]:
    """Return what our exporter makes of each case."""
    runs = Runs("ours", exporters.ours, stage, selected)
    yield runs
    runs.close()


@pytest.fixture(scope="session")
def original(stage: Stage, selected: frozenset[str]) -> Iterator[Runs]:
    """Return what the original makes of each case; skip the test where it is not installed."""
    exporters.peer("blackbox_exporter")
    runs = Runs("original", exporters.original, stage, selected)
    yield runs
    runs.close()
