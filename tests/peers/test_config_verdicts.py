"""Configurations: we accept what the original accepts, except for the cases in the tables."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from probe_exporter.config import loading, module
from probe_exporter.plugins import loader
from tests import exporters, shared
from tests.peers import config_cases

pytestmark = pytest.mark.slow

PROBERS = loader.load_probers([])
ON_PURPOSE = {
    case for table in (config_cases.STRICTER, config_cases.KINDER) for cases in table.values() for case in cases
}


@pytest.fixture(scope="session")
def original() -> str:
    """Return the path of the original's binary."""
    return exporters.peer("blackbox_exporter")


def theirs(original: str, path: Path) -> bool:
    """Return whether the original accepts a file."""
    command = [original, "--config.check", f"--config.file={path}"]
    return subprocess.run(command, capture_output=True, timeout=300).returncode == 0


def ours(path: Path) -> bool:
    """Return whether we accept it."""
    try:
        loading.load([path], PROBERS)
    except module.ConfigError:
        return False
    return True


@pytest.mark.parametrize("text", config_cases.CASES, ids=lambda text: repr(text)[:80])
def test_odd_configuration_gets_the_verdict_of_the_original(original: str, tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "blackbox.yml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert (theirs(original, path) == ours(path)) is (text not in ON_PURPOSE)


@pytest.mark.parametrize("stricter", [True, False])
def test_difference_has_the_direction_of_its_table(original: str, tmp_path: Path, stricter: bool) -> None:
    path = tmp_path / "blackbox.yml"
    for cases in (config_cases.STRICTER if stricter else config_cases.KINDER).values():
        for text in cases:
            assert text in config_cases.CASES
            path.write_text(text)
            assert (theirs(original, path), ours(path)) == (stricter, not stricter), text


@shared.needed
@pytest.mark.parametrize(
    "path", [*shared.files(shared.EXAMPLES, "**/*.yml"), *shared.files(shared.CORPUS)], ids=lambda path: path.name
)
def test_real_configuration_gets_the_verdict_of_the_original(original: str, path: Path) -> None:
    """The original 0.28.0 rejects one file, because its websocket prober is newer."""
    expected = path.name != "websocket-unreleased.yml"
    assert (theirs(original, path) == ours(path)) is expected
