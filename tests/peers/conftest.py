"""Fixtures for the comparison of our exporter with the original, case by case."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest

from tests import exporters
from tests.peers import stage as stages
from tests.peers.cases import Case
from tests.peers.stage import ALL, CHUNK_OF, GROUP_OF, GROUPS, PLAIN, SILENCE, CachedOutcomes, ExporterPair


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order tests by what runs together, so that one worker of pytest-xdist runs most tests of a chunk of cases."""
    order = {chunk: number for number, chunk in enumerate([*GROUPS, SILENCE])}
    ours = [item for item in items if _group(item) is not None]
    rest = iter(sorted(ours, key=lambda item: order[_chunk(item)]))
    items[:] = [next(rest) if _group(item) is not None else item for item in items]


def _chunk(item: pytest.Item) -> str:
    """Return the chunk of cases that a test needs, the last one if it needs several."""
    group = _group(item)
    assert group is not None
    parameters: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    case = parameters.get("case")
    if isinstance(case, Case):
        return CHUNK_OF[case.name]
    return SILENCE if any(CHUNK_OF[one.name] == SILENCE for one in GROUPS[group]) else group


def _group(item: pytest.Item) -> str | None:
    """Return the group of the case that is a parameter of a test; None without one."""
    parameters: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    case, group = parameters.get("case"), parameters.get("group")
    if isinstance(case, Case):
        return GROUP_OF.get(case.name)
    return group if isinstance(group, str) and group in GROUPS else None


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExporterPair]:
    """Return the shared setup of both exporters; all workers of pytest-xdist use one directory."""
    base = tmp_path_factory.getbasetemp()
    stage = stages.prepare((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "stage")
    yield stage
    stage.ports.close()


@pytest.fixture(scope="session")
def selected(request: pytest.FixtureRequest) -> frozenset[str]:
    """Return the names of the cases that the selected tests need, so that no other case runs."""
    chosen: set[str] = set()
    for item in request.session.items:
        parameters: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
        case, group = parameters.get("case"), _group(item)
        if isinstance(case, Case):
            chosen.add(case.name)
        elif group is not None:
            chosen |= {one.name for one in (PLAIN[group], *GROUPS[group])}
        elif item.name == "test_each_difference_applies_to_a_case":
            chosen |= ALL.keys()
    return frozenset(chosen)


@pytest.fixture(scope="session")
def ours(stage: ExporterPair, selected: frozenset[str]) -> Iterator[CachedOutcomes]:
    """Return the outcomes of our exporter."""
    runs = CachedOutcomes("ours", exporters.ours_from_scratch, stage, selected)
    yield runs
    runs.close()


@pytest.fixture(scope="session")
def original(stage: ExporterPair, selected: frozenset[str]) -> Iterator[CachedOutcomes]:
    """Return the outcomes of the original; skip the test if it is not installed."""
    exporters.peer("blackbox_exporter")
    runs = CachedOutcomes("original", exporters.original, stage, selected)
    yield runs
    runs.close()
