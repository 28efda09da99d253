"""Which words call for a tool, and that the exporter's own flags don't."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_exporter import flags
from probe_exporter.tools import commands
from tests.tools.test_new import tool

pytestmark = pytest.mark.slow


def test_each_tool_is_known_to_the_flags() -> None:
    assert set(flags.TOOLS) == set(commands._TOOLS)


@pytest.mark.parametrize("name", flags.TOOLS)
def test_each_tool_says_what_it_does(tmp_path: Path, name: str) -> None:
    done = tool(tmp_path, name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: probe-exporter {name}" in done.stdout
    assert commands._TOOLS[name].summary in " ".join(done.stdout.split())


def test_the_exporter_s_help_names_them(tmp_path: Path) -> None:
    done = tool(tmp_path, "--help")
    assert done.returncode == 0
    assert "{new,run,modules,probers}" in done.stdout


def test_a_directory_of_a_tool_s_name_is_no_matter(tmp_path: Path) -> None:
    """Values of flags are values, whatever they are called."""
    (tmp_path / "modules").mkdir(mode=0o755)
    done = tool(tmp_path, "--modules.dir", "modules", "--config.check")
    assert done.returncode == 0, done.stderr
