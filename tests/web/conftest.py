"""Fixtures of the tests of the web server: exporters with their history in memory and in a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests import exporters
from tests.exporters import Server

HISTORY_FILE = "kept"
"""Name of the history's file of `with_file`, beside the exporter's log."""


class ExporterSetup(NamedTuple):
    """The configuration and the flags of the exporters `with_memory` and `with_file`."""

    config: str
    flags: tuple[str, ...]


@pytest.fixture(scope="module")
def exporter_setup() -> ExporterSetup:
    """Return what `with_memory` and `with_file` start with; a file that uses them has a fixture of this name."""
    raise NotImplementedError


@pytest.fixture(scope="module")
def with_memory(exporter_setup: ExporterSetup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("memory")
    (directory / "blackbox.yml").write_text(exporter_setup.config)
    with exporters.ours(directory, *exporter_setup.flags) as running:
        yield running


@pytest.fixture(scope="module")
def with_file(exporter_setup: ExporterSetup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("file")
    (directory / "blackbox.yml").write_text(exporter_setup.config)
    with exporters.ours(directory, *exporter_setup.flags, f"--history.path={HISTORY_FILE}") as running:
        yield running


@pytest.fixture(params=["memory", "file"])
def exporter(request: pytest.FixtureRequest) -> Server:
    """Return one of the two exporters. Both run until the end of the module, so the order of tests does not matter."""
    found: Server = request.getfixturevalue(f"with_{request.param}")
    return found
