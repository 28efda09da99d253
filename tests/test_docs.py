"""Tests of the documentation: generated pages, links and commands match the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.exporters import ours

ROOT = Path(__file__).parents[1]
TEXT = {".py", ".toml", ".txt", ".md", ".yml", ".sh"}
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])


def generator() -> ModuleType:
    """docs/generate.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["metrics.md", "migration.md"])
def test_generated_pages_are_up_to_date(name: str) -> None:
    """If this fails, run `make docs` and review the diff."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generator().PAGES[name]()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if not link.startswith(("http://", "https://")):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"


def test_files_name_no_registry_or_local_path() -> None:
    """Mirrors and home directories differ from machine to machine."""
    forbidden = re.compile(r"pypi\.org|pythonhosted|registry\.npmjs|deb\.debian\.org|/root/|/home/\w+/")
    for path in ROOT.glob("**/*"):
        parts = path.relative_to(ROOT).parts
        if path.suffix in TEXT and not parts[0].startswith((".git", ".venv")):
            found = forbidden.findall(path.read_text(encoding="utf-8", errors="replace"))
            assert not found or path == Path(__file__), f"{path.relative_to(ROOT)} names {found}"


async def test_readme_commands_give_shown_output(tmp_path: Path) -> None:
    """Each curl of the README's first screen gives the shown lines, apart from durations."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"\$ curl -s 'localhost:9115(\S+)' \| grep (.*)\n([^$]*?)```", readme)
    assert len(shown) == 2
    with ours(tmp_path) as exporter:
        for path, pattern, lines in shown:
            answer = (await exporter.get(path.replace("9115", str(exporter.port)))).text.splitlines()
            kept = [line for line in answer if (pattern in line if pattern == "failure" else not line.startswith("#"))]
            assert [without_time(line) for line in kept] == [without_time(line) for line in lines.splitlines()]


def without_time(line: str) -> str:
    """Replace the value of a seconds sample, unless it is a whole number."""
    return re.sub(r"(?<=[s}] )\d\.\d+(e-\d+)?$", "…", line) if "_seconds" in line else line
