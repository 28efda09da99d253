"""What a maintainer relies on: tested Pythons, a changelog for the version, a workflow, documents for readers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from probe_exporter.version import VERSION

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])


def test_classifiers_claim_the_tested_pythons() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = [found[1] for one in project["classifiers"] if (found := re.search(r"Python :: (3\.\d+)$", one))]
    newest = re.search(r"^newest=python(3\.\d+)$", (ROOT / ".ci" / "pythons").read_text(), re.MULTILINE)
    assert newest
    assert claimed == [project["requires-python"].removeprefix(">="), newest[1]]


def test_changelog_begins_with_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\S+)(?: \(.*\))?$", text, re.MULTILINE)
    assert versions[0] == VERSION
    assert len(versions) == len(set(versions))


def test_workflow_runs_the_whole_of_ci() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["run"]["steps"][-1] == {"run": ".ci/run"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_cite_nothing_that_readers_lack(document: Path) -> None:
    """No numbers of a tracker or of notes that are not in the tree."""
    assert re.findall(r"\bissue \d+|\bcompat(?:\.md)? \d[\d.]*", document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / ".ci").iterdir() if path.suffix == ""))
def test_ci_scripts_stop_at_the_first_error(script: str) -> None:
    path = ROOT / ".ci" / script
    assert path.stat().st_mode & 0o111
    assert "\nset -euo pipefail\n" in path.read_text()
