"""Test that the files of `probe-exporter new` pass the same checks as our own code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from probe_exporter.telemetry import logs
from probe_exporter.tools import commands, new
from probe_exporter.tools.new import next_steps
from tests.exporters import ROOT, _environment, run_ours

pytestmark = pytest.mark.slow


def tool(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a directory."""
    return run_ours(directory, *words)


def python(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=directory, env=_environment(), capture_output=True, text=True, timeout=600)


def tool_here(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Run a tool in this process; return its exit code, stdout and stderr."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(logs, "setup", lambda *_: None)  # the loggers of this process stay as they are
    try:
        code = commands.main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


CHECKS = {
    "its own tests": ["-m", "pytest", "-q", "-W", "error", "-p", "probe_exporter.testing", "test_quake_alarm.py"],
    "ruff check": ["-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "."],
    "ruff format": ["-m", "ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), "."],
    "mypy": [
        *("-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache" / "others"), "--config-file", os.devnull),
        *("quake_alarm.py", "test_quake_alarm.py"),
    ],
    "the exporter": ["-m", "probe_exporter", "--config.check", "--config.strict", "--modules.dir=."],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a new prober."""
    directory = tmp_path_factory.mktemp("new")
    done = tool(directory, "new", "quake_alarm")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.parametrize("check", CHECKS)
def test_new_prober_passes_the_checks(written: Path, check: str) -> None:
    done = python(written, *CHECKS[check])
    assert done.returncode == 0, done.stdout + done.stderr


def test_new_writes_three_files(written: Path) -> None:
    names = {"quake_alarm.py", "quake_alarm.yml", "test_quake_alarm.py"}
    assert names <= {path.name for path in written.iterdir()}
    for name in names:
        assert "template" not in (written / name).read_text().lower()
    assert "class QuakeAlarmSettings(" in (written / "quake_alarm.py").read_text()


def test_new_prober_can_be_run(written: Path) -> None:
    done = tool(written, "run", "quake_alarm.py", "127.0.0.1:1", "--set", "send=hello")
    assert done.returncode == 1
    assert "probe_success 0\n" in done.stdout
    assert done.stderr.startswith("The probe failed in phase connect: connect_refused: ")


def test_new_prints_what_to_do_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = (tmp_path / "a.py", tmp_path / "a.yml", tmp_path / "test_a.py")
    program = tmp_path / "bin" / "probe-exporter"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])

    def steps() -> list[str]:
        return [line.removeprefix("Next:").strip() for line in next_steps(*files).splitlines()]

    monkeypatch.setenv("PATH", str(program.parent))
    assert steps() == [
        f"probe-exporter run {tmp_path}/a.py localhost",
        f"{sys.executable} -m pytest {tmp_path}/test_a.py",
        f"probe-exporter --modules.dir={tmp_path}",
    ]
    monkeypatch.setenv("PATH", "/none")
    assert steps()[0] == f"{program} run {tmp_path}/a.py localhost"
    monkeypatch.setattr(sys, "argv", ["__main__.py"])
    assert steps()[0] == f"{sys.executable} -m probe_exporter run {tmp_path}/a.py localhost"
    monkeypatch.setattr(new, "find_spec", lambda _: None)  # as without pytest
    assert steps()[1] == f"{sys.executable} -m pip install pytest"


def test_new_overwrites_no_file(tmp_path: Path) -> None:
    (tmp_path / "quake.yml").write_text("mine")
    done = tool(tmp_path, "new", "quake")
    assert (done.returncode, done.stderr) == (2, "probe-exporter new: quake.yml exists already\n")
    assert [path.name for path in tmp_path.iterdir()] == ["quake.yml"]
    assert (tmp_path / "quake.yml").read_text() == "mine"


def test_new_writes_to_a_given_directory(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert tool(tmp_path, "new", "quake", "there").returncode == 0
    assert (tmp_path / "there" / "quake.py").exists()
    done = tool(tmp_path, "new", "quake", "nowhere")
    assert (done.returncode, done.stderr) == (2, "probe-exporter new: nowhere/quake.py: No such file or directory\n")


@pytest.mark.parametrize("name", ["Quake", "9lives", "a-b", "../up", "class", "timeout", "params", ""])
def test_new_refuses_invalid_names(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = tool_here(tmp_path, monkeypatch, capsys, "new", name)
    assert code == 2
    assert "can't be the name of a prober" in errors
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # includes hidden files


def test_new_refuses_a_taken_name(tmp_path: Path) -> None:
    assert "there is already a prober http" in tool(tmp_path, "new", "http").stderr
