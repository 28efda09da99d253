"""An exporter that is a fork behaves as one with an interpreter of its own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests import forkserver
from tests.exporters import Server, ours, ours_from_scratch
from tests.http_client import ask
from tests.web.test_routes import values

pytestmark = pytest.mark.slow

Start = Callable[..., AbstractContextManager[Server]]

each_start = pytest.mark.parametrize("start", [ours, ours_from_scratch])


@each_start
def test_exporter_has_its_directory_flags_and_environment(tmp_path: Path, start: Start) -> None:
    (tmp_path / "own.yml").write_text("modules: {word: {prober: '${WORD}'}}")
    with start(tmp_path, "--config.file=own.yml", "--config.expand-env", WORD="icmp") as exporter:
        assert ask(exporter.port, "/-/healthy").status == 200
        assert exporter.process.poll() is None
    assert exporter.process.returncode == 0
    assert "All probes have ended" in exporter.log.read_text()


@each_start
def test_exporter_that_cannot_start_has_its_exit_code(tmp_path: Path, start: Start) -> None:
    (tmp_path / "own.yml").write_text("modules: {word: {prober: '${WORD}'}}")
    refused = pytest.raises(RuntimeError, match=r"(?s)ended at once with code 1:.*WORD")
    with refused, start(tmp_path, "--config.file=own.yml", "--config.expand-env"):
        pass


@each_start
def test_signal_that_ends_the_exporter_is_its_exit_code(tmp_path: Path, start: Start) -> None:
    with start(tmp_path) as exporter:
        with pytest.raises(subprocess.TimeoutExpired):
            exporter.process.wait(0.01)
        exporter.process.kill()
        assert exporter.process.wait(60) == -signal.SIGKILL
        assert exporter.process.poll() == -signal.SIGKILL


def test_fork_refuses_a_variable_that_an_interpreter_reads_when_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another PYTHONHASHSEED"), ours(tmp_path, PYTHONHASHSEED="7"):
        pass


def test_metrics_of_a_fork_are_those_of_an_exporter_from_scratch(tmp_path: Path) -> None:
    with ours(tmp_path) as fork, ours_from_scratch(tmp_path) as other:
        assert values(ask(fork.port, "/metrics").text).keys() == values(ask(other.port, "/metrics").text).keys()


def test_fork_has_no_socket_of_the_server(tmp_path: Path) -> None:
    with ours(tmp_path) as exporter:
        assert sockets(exporter.process.pid)
        assert not sockets(exporter.process.pid) & sockets(forkserver._server()[0].pid)


def sockets(process: int) -> set[str]:
    """Return the sockets that a process has open."""
    links = set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            links.add(str(link.readlink()))
    return {link for link in links if link.startswith("socket:")}
