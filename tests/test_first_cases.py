"""`pytest --first-cases` runs each test, and of a parametrised one the first case."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.exporters import _environment

pytestmark = pytest.mark.slow

CASES = """
import pytest

@pytest.mark.parametrize("two", [3, 4])
@pytest.mark.parametrize("one", [1, 2])
def test_each(one, two):
    print(f"ran {one} {two}")

class TestOther:
    @pytest.mark.parametrize("one", [5, 6])
    def test_each(self, one):
        print(f"ran {one}")

def test_plain():
    print("ran plain")
"""


@pytest.mark.parametrize(
    ("option", "ran"),
    [
        (["--first-cases"], ["1 3", "5", "plain"]),
        (["--first-cases", "-k", "4 or 6"], ["1 4", "6"]),
    ],
    ids=["first cases", "first of the selected cases"],
)
def test_first_case_of_each_test_is_run(tmp_path: Path, option: list[str], ran: list[str]) -> None:
    (tmp_path / "test_cases.py").write_text(CASES)
    command = [sys.executable, "-m", "pytest", "-s", "-p", "tests.first_cases", *option, "test_cases.py"]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(line.rpartition("ran ")[2] for line in done.stdout.splitlines() if "ran " in line) == ran
