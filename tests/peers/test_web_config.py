"""Web config files: we accept what the original accepts, except for the cases in the tables."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from probe_exporter.config.module import ConfigError
from probe_exporter.web.config_file import load
from tests import exporters, processes
from tests.peers.web_config_cases import CASES, KINDER, STRICTER
from tests.targets import Pki
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

ON_PURPOSE = {case for table in (STRICTER, KINDER) for cases in table.values() for case in cases}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Path:
    """Return the directory with the files that the web config files name."""
    directory = tmp_path_factory.mktemp("web-config")
    for name in ("leaf.pem", "leaf.key", "root.pem", "root.key"):
        shutil.copy(pki.directory / name, directory)
    (directory / "blackbox.yml").write_text("modules: {http_2xx: {prober: http}}\n")
    return directory


def theirs(path: Path) -> bool:
    """Return whether the original starts with a file."""
    port = processes.free_port()
    flags = [f"--web.config.file={path.name}", f"--web.listen-address=127.0.0.1:{port}"]
    command = [exporters.peer("blackbox_exporter"), *flags]
    process = subprocess.Popen(command, cwd=path.parent, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        # It logs this line after it has begun to listen. Then it may still refuse the file, and exit.
        return any("TLS is" in line for line in process.stderr) and _answers(port)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _answers(port: int) -> bool:
    """Return whether a server responds to a plain HTTP request. With TLS, Go's server responds with 400 in plain text.

    If the server exits, the kernel resets the connection, which it had accepted for the server.
    """
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
        return connection.recv(1) != b""
    return False


def ours(path: Path) -> bool:
    """Return whether we accept it."""
    try:
        load(path)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("text", CASES, ids=lambda text: repr(text)[:90])
def test_web_config_file_gets_the_verdict_of_the_original(directory: Path, text: str) -> None:
    path = directory / "web.yml"
    path.write_text(text)
    assert (theirs(path) == ours(path)) is (text not in ON_PURPOSE)


@pytest.mark.parametrize("stricter", [True, False])
def test_difference_has_the_direction_of_its_table(directory: Path, stricter: bool) -> None:
    path = directory / "web.yml"
    for cases in (STRICTER if stricter else KINDER).values():
        for text in cases:
            assert text in CASES
            path.write_text(text)
            assert ours(path) is not stricter, text
