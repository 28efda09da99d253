"""Test how the command line selects a tool or the exporter, and --help of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_exporter import flags
from probe_exporter.tools import commands
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


def test_flag_value_that_equals_a_tool_name_is_a_value(tmp_path: Path) -> None:
    """A value of a flag never selects a tool."""
    (tmp_path / "modules").mkdir(mode=0o755)
    done = tool(tmp_path, "--modules.dir", "modules", "--config.check")
    assert done.returncode == 0, done.stderr
