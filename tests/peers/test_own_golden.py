"""Golden files pin our output for the probers that the original does not have.

``UPDATE_GOLDEN=1`` rewrites the files; review what changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests import exporters
from tests.peers import cases, golden, own_cases
from tests.peers.cases import Outcome
from tests.peers.own_cases import OwnCase
from tests.peers.ports import Ports
from tests.targets import Pki

pytestmark = pytest.mark.slow

Run = Callable[[Iterable[OwnCase]], dict[str, Outcome]]
ALL = [case for group in own_cases.GROUPS.values() for case in group]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the exporter's working directory."""
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def certificates(directory: Path) -> Pki:
    """Return the certificates that modules name as files."""
    (directory / "pki").mkdir()
    return Pki(directory / "pki")


@pytest.fixture(scope="module")
def run(directory: Path, certificates: Pki) -> Run:
    """Return a function that runs cases on a new exporter and returns their outcomes by name."""

    def run(selected: Iterable[OwnCase]) -> dict[str, Outcome]:
        selected = list(selected)
        (directory / "own.yml").write_text(cases.configuration(selected, directory, Ports({})))
        with exporters.ours(directory, "--config.file=own.yml") as exporter:
            return asyncio.run(own_cases.run_all(selected, exporter, certificates.directory))

    return run


@pytest.fixture(scope="module")
def outcomes(run: Run) -> dict[str, Outcome]:
    """Return what our exporter makes of every case."""
    return run(ALL)


@pytest.mark.parametrize("table", own_cases.GROUPS)
def test_output_is_that_of_the_golden_file(
    table: str, outcomes: dict[str, Outcome], run: Run, certificates: Pki
) -> None:
    """Each table of cases gives exactly the samples, and sends exactly the requests and messages, of its file."""
    plain = own_cases.PLAIN[table]
    path = golden.DIRECTORY / plain.prober / f"{table}.txt"
    group = {case.name: case for case in own_cases.GROUPS[table]}
    found = dict(outcomes)

    def text() -> str:
        return golden.render(f"{plain.prober}, {table}", group.values(), found, plain, certificates.names)

    # A slow machine may have disturbed one of many cases at once: run those that differ again, one by one.
    if not golden.UPDATING:
        for name in golden.different(path, text()):
            found |= run([group[name]])
    golden.hold(path, text())


def test_case_names_are_unique() -> None:
    assert len({case.name for case in ALL}) == len(ALL)
