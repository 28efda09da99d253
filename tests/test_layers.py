"""Imports follow the map of docs/architecture.md: nothing imports upwards, and no two files import each other.

The map lists the folders and files of the package, lowest first. Every import counts, also one within a function or
under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "probe_exporter"
MAP = re.compile(r"^```\nprobe_exporter/\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^( +)(\S+?)(/?)(?:\s|$)")

Imports = dict[str, set[str]]


def floors(document: str) -> list[str]:
    """The rooms of the map as dotted names (`network`, `protocols.http`, `cli`), lowest first."""
    drawn = MAP.search(document)
    assert drawn, "docs/architecture.md has no map"
    names: list[str] = []
    folder = ""
    for line in filter(None, map(LINE.match, drawn[1].splitlines())):
        name = line[2].removesuffix(".py")
        if len(line[1]) == 2:
            folder = name
        else:
            name = f"{folder}.{name}"
        names.append(name)
    return names


def module_name(path: Path) -> str:
    """The dotted name of a file below the package; that of the package itself is ``__init__``."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str) -> Iterator[str]:
    """The files of the package that a file imports."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                wanted = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), names=names, level=0):
                wanted = [f"{module}.{alias.name}" for alias in names]
            case ast.ImportFrom():
                raise AssertionError("relative imports are not used here")
            case _:
                continue
        for dotted in wanted:
            if dotted.split(".")[0] == "probe_exporter":
                yield file_of(dotted.removeprefix("probe_exporter").removeprefix("."))


def file_of(dotted: str) -> str:
    """The file that a dotted name is in: `network.opening.dial` is in `network.opening`."""
    while dotted and dotted not in FILES:
        dotted = dotted.rpartition(".")[0]
    return dotted or "__init__"


def room_of(name: str, rooms: list[str]) -> str:
    """The narrowest room of the map that a file is in, empty if it is in none."""
    while name and name not in rooms:
        name = name.rpartition(".")[0]
    return name


@pytest.fixture(scope="module")
def rooms() -> list[str]:
    return floors((ROOT / "docs/architecture.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def graph() -> Imports:
    return {name: set(imports(path.read_text(encoding="utf-8"))) - {name} for name, path in FILES.items()}


def test_map_names_every_room_once(rooms: list[str]) -> None:
    assert len(rooms) == len(set(rooms))
    assert {room for room in rooms if not (PACKAGE / room.replace(".", "/")).is_dir() and room not in FILES} == set()
    assert [name for name in FILES if not room_of(name, rooms)] == []


def test_no_file_imports_upwards(rooms: list[str], graph: Imports) -> None:
    floor = {room: index for index, room in enumerate(rooms)}
    upwards = [
        f"{name} imports {other}"
        for name, others in sorted(graph.items())
        for other in sorted(others)
        if floor[room_of(name, rooms)] < floor[room_of(other, rooms)]
    ]
    assert upwards == []


def test_no_files_import_each_other_in_a_circle(graph: Imports) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_wings_have_no_code_of_their_own(graph: Imports) -> None:
    """An `__init__.py` that re-exports makes every user of one file import all the others."""
    packages = [name for name, path in FILES.items() if path.name == "__init__.py" and path.parent != PACKAGE]
    assert {name: graph[name] for name in packages if len(ast.parse(FILES[name].read_text()).body) != 1} == {}


def test_every_file_has_its_line_in_the_section_of_its_wing() -> None:
    document = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    sections = re.split(r"^### (\S+)/$", document, flags=re.MULTILINE)[1:]
    named = [
        f"{wing}/{name}"
        for wing, text in zip(sections[::2], sections[1::2], strict=True)
        for name in re.findall(r"`([a-z0-9_/]+\.py)`", text.partition("\n## ")[0])
    ]
    files = [str(path.relative_to(PACKAGE)) for path in FILES.values() if path.name != "__init__.py"]
    assert sorted(named) == sorted(name for name in files if "/" in name)


def test_upward_imports_and_circles_are_noticed() -> None:
    rooms = floors("```\nprobe_exporter/\n  low/   a\n    inner/  b\n  high.py  c\n```\n")
    assert rooms == ["low", "low.inner", "high"]
    assert [room_of(name, rooms) for name in ("low.file", "low.inner.file", "high", "other")] == [
        "low",
        "low.inner",
        "high",
        "",
    ]
    hidden = """
from __future__ import annotations
if TYPE_CHECKING:
    from probe_exporter.web.routes import Web
def function():
    import probe_exporter.cli
    from probe_exporter.network import opening
from probe_exporter import Metric
"""
    assert set(imports(hidden)) == {"web.routes", "cli", "network.opening", "__init__"}
