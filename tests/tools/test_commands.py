"""Test how the command line selects a tool or the exporter, and --help of each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from probe_exporter import flags
from probe_exporter.tools import commands
from tests.exporters import ROOT
from tests.tools.test_new import tool

pytestmark = pytest.mark.slow


def test_flags_know_every_tool() -> None:
    assert set(flags.TOOLS) == set(commands._TOOLS)


@pytest.mark.parametrize("name", flags.TOOLS)
def test_help_of_a_tool_has_its_summary(tmp_path: Path, name: str) -> None:
    done = tool(tmp_path, name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: probe-exporter {name}" in done.stdout
    text = " ".join(done.stdout.split())
    assert commands._TOOLS[name].summary in text
    assert f"example: probe-exporter {name} {commands._TOOLS[name].example}" in text


def test_help_of_the_exporter_names_the_tools(tmp_path: Path) -> None:
    done = tool(tmp_path, "--help")
    assert done.returncode == 0
    assert f"{{{','.join(flags.TOOLS)}}}" in done.stdout


MODULE = "modules: {näme: {prober: tcp}}\n"


def shell(directory: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command; its stdout takes only ASCII."""
    environment = {"PYTHON": sys.executable, "PYTHONIOENCODING": "ascii"}
    return subprocess.run(
        ["sh", "-c", command], cwd=directory, env=environment, capture_output=True, text=True, timeout=600
    )


COMMANDS = ["modules", "run --output json tcp_connect :", "config schema", "--help", "doctor"]

EACH_IN_A_FORK = f"""
import os, runpy, sys
sys.path.insert(0, {str(ROOT)!r})
from tests import forkserver
forkserver._import_all()
for words in sys.argv[1:]:
    if not os.fork():
        sys.argv[1:] = words.split()
        runpy.run_module("probe_exporter", run_name="__main__", alter_sys=True)
    os.wait()
    with open("done", "a") as file:
        print(words, file=file)
"""
"""Runs the exporter's command line once for each argument. All runs have the standard streams of one interpreter, so
that ``sys.stdout`` is None if the interpreter was started with a closed one.
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_stdout_or_stderr_is_no_crash(tmp_path: Path, closed: str) -> None:
    words = " ".join(f"'{command}'" for command in COMMANDS)
    (tmp_path / "each.py").write_text(EACH_IN_A_FORK)
    done = shell(tmp_path, f'"$PYTHON" each.py {words} {closed}')
    assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "done").read_text().splitlines() == COMMANDS


def test_characters_that_the_encoding_of_stdout_lacks_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text(MODULE, encoding="utf-8")
    done = shell(tmp_path, '"$PYTHON" -m probe_exporter modules --names')
    assert (done.returncode, done.stdout, done.stderr) == (0, "n\\xe4me\n", "")


def test_flag_value_that_equals_a_tool_name_is_a_value(tmp_path: Path) -> None:
    """A value of a flag never selects a tool."""
    (tmp_path / "modules").mkdir(mode=0o755)
    done = tool(tmp_path, "--modules.dir", "modules", "--config.check")
    assert done.returncode == 0, done.stderr
