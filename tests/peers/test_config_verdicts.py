"""Configurations: we accept what the original accepts, except for the cases in the tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from probe_exporter.config import loading, module
from probe_exporter.plugins import loader
from tests import exporters, shared
from tests.exporters import Server
from tests.http_client import ask
from tests.peers import config_cases

pytestmark = pytest.mark.slow

PROBERS = loader.load_probers([])
ON_PURPOSE = {
    case for table in (config_cases.STRICTER, config_cases.KINDER) for cases in table.values() for case in cases
}


class Original:
    """The original, running: it reads a new configuration as it does at its start, and says whether it accepts it."""

    def __init__(self, server: Server, config: Path) -> None:
        self._server, self._config = server, config

    def accepts(self, path: Path) -> bool:
        """Return whether the original accepts a file."""
        replaced = self._config.with_suffix(".new")
        replaced.write_bytes(path.read_bytes())
        replaced.rename(self._config)
        answer = ask(self._server.port, "/-/reload", method="POST")
        assert answer.status == 200 or answer.body.startswith(b"failed to reload config"), answer
        return answer.status == 200


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Original]:
    """Start the original."""
    config = tmp_path_factory.mktemp("original") / "blackbox.yml"
    config.write_text("modules: {}\n")
    with exporters.original(config.parent) as server:
        yield Original(server, config)


def ours(path: Path) -> bool:
    """Return whether we accept it."""
    try:
        loading.load([path], PROBERS)
    except module.ConfigError:
        return False
    return True


@pytest.mark.parametrize("text", config_cases.CASES, ids=lambda text: repr(text)[:80])
def test_odd_configuration_gets_the_verdict_of_the_original(
    original: Original, tmp_path: Path, text: str | bytes
) -> None:
    path = tmp_path / "blackbox.yml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert (original.accepts(path) == ours(path)) is (text not in ON_PURPOSE)


@pytest.mark.parametrize("stricter", [True, False])
def test_difference_has_the_direction_of_its_table(original: Original, tmp_path: Path, stricter: bool) -> None:
    path = tmp_path / "blackbox.yml"
    for cases in (config_cases.STRICTER if stricter else config_cases.KINDER).values():
        for text in cases:
            assert text in config_cases.CASES
            path.write_text(text)
            assert (original.accepts(path), ours(path)) == (stricter, not stricter), text


@shared.needed
@pytest.mark.parametrize(
    "path", [*shared.files(shared.EXAMPLES, "**/*.yml"), *shared.files(shared.CORPUS)], ids=lambda path: path.name
)
def test_real_configuration_gets_the_verdict_of_the_original(original: Original, path: Path) -> None:
    """The original 0.28.0 rejects one file, because its websocket prober is newer."""
    expected = path.name != "websocket-unreleased.yml"
    assert (original.accepts(path) == ours(path)) is expected
