"""Test that a test runs again if it was too expensive, and only then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.exporters import _environment

pytestmark = pytest.mark.slow

CASES = """
import pytest
from tests.cost import TooExpensive

runs = dict.fromkeys(["dear once", "always dear", "wrong"], 0)
made = []


@pytest.fixture
def resource():
    made.append("one")
    return len(made)


def test_dear_once(resource):
    runs["dear once"] += 1
    assert resource == runs["dear once"], "the fixture was not made anew"
    if runs["dear once"] == 1:
        raise TooExpensive("as much as 3 million additions")


def test_always_dear():
    runs["always dear"] += 1
    raise TooExpensive(f"run {runs['always dear']}")


def test_wrong():
    runs["wrong"] += 1
    assert runs["wrong"] > 1


def test_runs():
    assert runs == {"dear once": 2, "always dear": 3, "wrong": 1}
"""


@pytest.mark.parametrize("parallel", [(), ("-n", "1")], ids=["in one process", "in another process"])
def test_test_that_is_too_expensive_runs_again(tmp_path: Path, parallel: tuple[str, ...]) -> None:
    (tmp_path / "test_cases.py").write_text(CASES)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.repeating", *parallel, "test_cases.py"]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert "2 failed, 2 passed, 3 rerun in" in done.stdout, done.stdout
    assert "run 3" in done.stdout
    assert "run 2" not in done.stdout
