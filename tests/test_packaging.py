"""Tests of the wheel and the sdist: they are complete and run without the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from probe_exporter.tools import completion
from tests.exporters import ROOT

pytestmark = pytest.mark.slow


def build(target: str, source: Path, directory: Path) -> Path:
    """Build a wheel or an sdist of a source tree with the backend that pip would call."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(directory)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=600)
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout."""
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def checked_out() -> str:
    """Return the commit of this checkout; empty without git."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip() if (ROOT / ".git").exists() else ""


def test_wheel_runs_with_its_own_modules(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "probe_exporter", "--config.check"],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/site/probe_exporter/modules/blackbox.yml" in done.stderr
    assert f"revision={checked_out() or 'unknown'} " in done.stderr


def test_wheel_includes_templates_types_and_plugin(wheel: Path, tmp_path: Path) -> None:
    """The wheel has the templates, the types and the pytest plugin; warnings are errors."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for words in (["probe_exporter", "new", "gong"], ["pytest", "-q", "-W", "error", "test_gong.py"]):
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=elsewhere,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "probe_exporter" / "py.typed").exists()


def test_wheel_includes_the_files_of_the_pages(wheel: Path) -> None:
    pages = ROOT / "probe_exporter" / "web" / "html"
    wanted = [*(pages / "templates").iterdir(), *(pages / "static").iterdir()]
    with zipfile.ZipFile(wheel) as archive:
        assert {str(path.relative_to(ROOT)) for path in wanted} <= set(archive.namelist())


def test_wheel_includes_command_licence_and_modules(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = [name for name in names if name.endswith("/entry_points.txt")]
        assert "probe-exporter = probe_exporter.cli:main" in archive.read(entry_points).decode()
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    shipped = [path for path in (ROOT / "modules").iterdir() if path.suffix in {".py", ".yml"}]
    assert shipped
    assert {f"probe_exporter/modules/{path.name}" for path in shipped} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "modules/"))]


def test_wheel_includes_completion_for_every_shell(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for place in completion.PLACES.values():
            (name,) = [name for name in archive.namelist() if name.endswith(f".data/data/{place}")]
            assert "prometheus-config" in archive.read(name).decode()


def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    unpacked = tmp_path / "source"
    unpacked.mkdir()
    subprocess.run(["tar", "-xzf", sdist, "-C", unpacked], check=True)
    (source,) = unpacked.iterdir()
    again = build("wheel", source, tmp_path / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        for name in one.namelist():
            if not name.endswith("/RECORD"):
                assert one.read(name) == other.read(name), name


def test_build_leaves_tree_unchanged(wheel: Path) -> None:
    assert wheel.exists()
    assert not (ROOT / "probe_exporter" / "REVISION").exists()


def test_constraints_pin_all_requirements() -> None:
    """constraints.txt pins each requirement."""

    def names(lines: list[str]) -> set[str]:
        bare = [line.partition("#")[0].strip() for line in lines]
        return {canonical(line) for line in bare if line}

    def canonical(requirement: str) -> str:
        for mark in "=<>! ;[":
            requirement = requirement.partition(mark)[0]
        return requirement.lower().replace("_", "-")

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "optional-dependencies" not in project, "no extras to choose"
    required = names(project["dependencies"]) | names((ROOT / "tests/requirements.txt").read_text().splitlines())
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert required <= names(pins)
    assert [pin for pin in pins if not pin.startswith("#") and "==" not in pin] == []
