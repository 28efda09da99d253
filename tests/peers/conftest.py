"""Starts the exporters once, runs every selected case against them, and hands the outcomes to the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import exporters
from tests.exporters import Start
from tests.peers import (
    cases,
    dns_cases,
    grpc_cases,
    http2_cases,
    http3_cases,
    http_cases,
    icmp_cases,
    oauth2_cases,
    proxy_cases,
    tcp_cases,
)
from tests.peers.cases import Case, Outcome
from tests.peers.ports import Ports
from tests.targets import Pki

TABLES = (
    http_cases.GROUPS, http2_cases.GROUPS, http3_cases.GROUPS, proxy_cases.GROUPS, oauth2_cases.GROUPS,
    icmp_cases.GROUPS,
    tcp_cases.GROUPS, tcp_cases.UNIX_GROUPS,
    dns_cases.GROUPS,
    grpc_cases.GROUPS,
)  # fmt: skip

GROUPS = {name: group for table in TABLES for name, group in table.items()}
ALL = {case.name: case for group in GROUPS.values() for case in group}
PLAIN = {name: next(iter(table.values()))[0] for table in TABLES for name in table}
"""By group, the case that golden files are written as differences from: the first of its table."""


@dataclass(frozen=True)
class Stage:
    """The exporters' working directory, with one configuration for all."""

    directory: Path
    config: Path
    pki: Pki
    ports: Ports

    def run(self, start: Start, selected: list[Case]) -> dict[str, Outcome]:
        """Start one exporter and run cases against it."""
        with start(self.directory, f"--config.file={self.config.name}") as exporter:
            return asyncio.run(cases.run_all(selected, exporter, self.pki.directory, self.ports))


def prepare(directory: Path) -> Stage:
    """Lay out certificates, the files that modules name, and the configuration."""
    (directory / "pki").mkdir()
    for name, text in http_cases.FILES.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    ports = Ports({case.module: case.settings for case in ALL.values()})
    stage = Stage(directory, directory / "blackbox.yml", Pki(directory / "pki"), ports)
    stage.config.write_text(cases.configuration(ALL.values(), directory, ports))
    return stage


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """What both exporters run on."""
    stage = prepare(tmp_path_factory.mktemp("stage"))
    yield stage
    stage.ports.close()


@pytest.fixture(scope="session")
def selected(request: pytest.FixtureRequest) -> list[Case]:
    """The cases of the tests of this session, so that one case alone runs alone."""
    chosen = set()
    for item in request.session.items:
        parameters: Mapping[str, object] = getattr(getattr(item, "callspec", None), "params", {})
        case, group = parameters.get("case"), parameters.get("group")
        chosen |= {case.name} if isinstance(case, Case) else set()
        chosen |= {one.name for one in (PLAIN[group], *GROUPS[group])} if isinstance(group, str) else set()
    return [case for name, case in ALL.items() if name in chosen]


@pytest.fixture(scope="session")
def ours(stage: Stage, selected: list[Case]) -> dict[str, Outcome]:
    """What our exporter makes of every selected case."""
    return stage.run(exporters.ours, selected)


@pytest.fixture(scope="session")
def original(stage: Stage, selected: list[Case]) -> dict[str, Outcome]:
    """What the original makes of every selected case; skips where it is not installed."""
    return stage.run(exporters.original, selected)
