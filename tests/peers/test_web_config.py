"""The original and we take and refuse the same web config files, but for what the tables state."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from probe_exporter.config.module import ConfigError
from probe_exporter.web.config_file import load
from tests import exporters, processes
from tests.peers.web_config_cases import CASES, KINDER, STRICTER
from tests.targets import Pki

pytestmark = pytest.mark.slow

ON_PURPOSE = {case for table in (STRICTER, KINDER) for cases in table.values() for case in cases}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Path:
    """Where both find what the files name."""
    directory = tmp_path_factory.mktemp("web-config")
    for name in ("leaf.pem", "leaf.key", "root.pem", "root.key"):
        shutil.copy(pki.directory / name, directory)
    (directory / "blackbox.yml").write_text("modules: {http_2xx: {prober: http}}\n")
    return directory


def theirs(path: Path) -> bool:
    """Whether the original starts with a file."""
    flags = [f"--web.config.file={path.name}", f"--web.listen-address=127.0.0.1:{processes.free_port()}"]
    command = [exporters.peer("blackbox_exporter"), *flags]
    process = subprocess.Popen(command, cwd=path.parent, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "TLS is" in line:  # it listens, and there is one thing left that can go wrong
                time.sleep(0.1)
                return process.poll() is None
        return False
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def ours(path: Path) -> bool:
    """Whether we do."""
    try:
        load(path)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("text", CASES, ids=lambda text: repr(text)[:90])
def test_a_web_config_file_gets_the_same_verdict(directory: Path, text: str) -> None:
    path = directory / "web.yml"
    path.write_text(text)
    assert (theirs(path) == ours(path)) is (text not in ON_PURPOSE)


@pytest.mark.parametrize("stricter", [True, False])
def test_what_differs_differs_in_the_direction_that_its_table_says(directory: Path, stricter: bool) -> None:
    path = directory / "web.yml"
    for cases in (STRICTER if stricter else KINDER).values():
        for text in cases:
            assert text in CASES
            path.write_text(text)
            assert ours(path) is not stricter, text
