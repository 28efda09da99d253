"""Our output for the probers that the original does not have is pinned in golden files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests import exporters
from tests.peers import alone, cases, golden
from tests.peers.cases import Outcome
from tests.peers.ports import Ports
from tests.targets import Pki

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the exporter runs."""
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def zoo(directory: Path) -> Pki:
    """The certificates, where modules find them."""
    (directory / "pki").mkdir()
    return Pki(directory / "pki")


@pytest.fixture(scope="module")
def outcomes(directory: Path, zoo: Pki) -> dict[str, Outcome]:
    """What our exporter makes of every case."""
    all_cases = [case for group in alone.GROUPS.values() for case in group]
    assert len({case.name for case in all_cases}) == len(all_cases)
    (directory / "alone.yml").write_text(cases.configuration(all_cases, directory, Ports({})))
    with exporters.ours(directory, "--config.file=alone.yml") as exporter:
        return asyncio.run(alone.run_all(all_cases, exporter, zoo.directory))


@pytest.mark.parametrize("table", alone.GROUPS)
def test_golden(table: str, outcomes: dict[str, Outcome], zoo: Pki) -> None:
    """Each table of cases gives exactly the samples, and sends exactly the requests and messages, of its file."""
    plain = alone.PLAIN[table]
    text = golden.render(f"{plain.prober}, {table}", alone.GROUPS[table], outcomes, plain, zoo.names)
    golden.hold(golden.DIRECTORY / plain.prober / f"{table}.txt", text)
