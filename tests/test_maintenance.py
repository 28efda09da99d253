"""What a maintainer relies on: tested Pythons, a changelog for the version, a workflow, documents for readers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from probe_exporter.version import VERSION

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])


def test_classifiers_claim_the_tested_pythons() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = [found[1] for one in project["classifiers"] if (found := re.search(r"Python :: (3\.\d+)$", one))]
    oldest = project["requires-python"].removeprefix(">=")
    assert claimed == [oldest, _tested("cheapest"), _tested("newest")]


def test_make_prefers_the_cheapest_of_the_tested_pythons() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert f"\nPYTHONS := /usr/bin/python{_tested('cheapest')} /usr/bin/python3 " in makefile


def _tested(which: str) -> str:
    """Return a version of Python that .ci/pythons tests."""
    found = re.search(rf"^{which}=python(3\.\d+)$", (ROOT / ".ci" / "pythons").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_changelog_begins_with_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\S+)(?: \(.*\))?$", text, re.MULTILINE)
    assert versions[0] == VERSION
    assert len(versions) == len(set(versions))


def test_workflow_runs_the_whole_of_ci() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["run"]["steps"][-1] == {"run": ".ci/run"}


def test_each_night_fuzzes_a_minute_each() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    assert workflow["jobs"]["fuzz"]["steps"][-1] == {"run": 'make fuzz ARGS="--seconds 60"'}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_cite_nothing_that_readers_lack(document: Path) -> None:
    """No numbers of a tracker or of notes that are not in the tree."""
    assert re.findall(r"\bissue \d+|\bcompat(?:\.md)? \d[\d.]*", document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / ".ci").iterdir() if path.suffix == ""))
def test_ci_scripts_stop_at_the_first_error(script: str) -> None:
    path = ROOT / ".ci" / script
    assert path.stat().st_mode & 0o111
    assert "\nset -euo pipefail\n" in path.read_text()


MAKEFILE = """\
test:
\t@echo run $(JOBS) >>runs
\t@mkdir -p .pytest_cache/v/cache
\t@echo '{first}' >.pytest_cache/v/cache/lastfailed
\t@test -n "$(JOBS)" -a {again} = passes -o '{first}' = '{{}}'
"""
"""A run that fails with these tests; only a run of them alone, which sets JOBS, can pass."""


@pytest.mark.parametrize(
    ("failed", "again", "code", "runs"),
    [
        pytest.param((), "passes", 0, 1, id="nothing fails"),
        pytest.param(("a",), "passes", 0, 2, id="one fails beside others and passes alone"),
        pytest.param(("a",), "fails", 1, 2, id="one fails in both runs"),
        pytest.param(("a", "b", "c", "d"), "passes", 1, 1, id="too many fail to run again"),
    ],
)
def test_ci_repeats_a_few_failed_tests_and_names_them(
    tmp_path: Path, failed: Sequence[str], again: str, code: int, runs: int
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "test", tmp_path / ".ci")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    first = json.dumps(dict.fromkeys(failed, True))
    (tmp_path / "Makefile").write_text(MAKEFILE.format(first=first, again=again))
    ran = subprocess.run([tmp_path / ".ci" / "test"], capture_output=True, text=True, check=False)
    assert (min(ran.returncode, 1), (tmp_path / "runs").read_text().count("run")) == (code, runs), ran
    assert ("UNSTEADY" in ran.stdout) == (runs == 2 and code == 0)
