"""Tests of the loader: which probers and configuration files it loads, and which it refuses with what error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from probe_exporter.config import loading, module
from probe_exporter.config.files import config_files
from probe_exporter.plugins import loader
from probe_exporter.plugins.loader import LoaderError, load_probers
from tests.exporters import ROOT
from tests.waiting import wait_until

SHIPPED = ["dns", "grpc", "http", "icmp", "tcp", "udp", "unix", "websocket"]

QUAKE = '''\
"""A prober of somebody's own."""

from __future__ import annotations

from dataclasses import dataclass

from probe_exporter import Secret
from probe_exporter import Probe, Prober, Settings


class QuakeSettings(Settings):
    """The block."""

    password: Secret = Secret("")


@dataclass
class Reply:
    """Dataclasses look their annotations up in sys.modules."""

    text: str


async def probe_quake(probe: Probe, settings: QuakeSettings) -> None:
    """Ask for PONG."""


prober = Prober("quake", QuakeSettings, probe_quake)
'''


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of user files."""
    path = tmp_path / "modules"
    path.mkdir(mode=0o755)
    return path


def refusal(*directories: Path) -> str:
    """Return the error of loading probers from these directories."""
    with pytest.raises(LoaderError) as refused:
        load_probers(directories)
    return str(refused.value)


# --- probers -----------------------------------------------------------------------------------------------


def test_loader_always_loads_shipped_probers() -> None:
    assert set(SHIPPED) <= load_probers([]).keys()


def test_loader_adds_prober_and_modules_of_directory(directory: Path) -> None:
    """One file without registration is enough: its settings are checked and its modules load."""
    (directory / "quake.py").write_text(QUAKE)
    (directory / "quake.yml").write_text("modules: {cache: {prober: quake, quake: {password: x}}}")
    before = list(sys.path)
    probers = load_probers([directory])
    assert probers.keys() == {*load_probers([]), "quake"}
    assert loading.load([directory / "quake.yml"], probers).modules["cache"].prober.name == "quake"
    assert sys.path == before


def test_loader_marks_library_probers_as_shipped(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "quake.py").write_text(QUAKE)
    monkeypatch.setattr(loader, "library", lambda: directory)
    assert "quake" in load_probers([])
    assert "quake" in load_probers([directory])  # named once more, it is still one file


def test_loader_reads_edited_file(directory: Path) -> None:
    """Two edits of the same length within a second are both read, because no bytecode is cached."""
    for name in ("quake", "tides"):
        (directory / "quake.py").write_text(QUAKE.replace('Prober("quake"', f'Prober("{name}"'))
        assert name in load_probers([directory])
    assert not list(directory.rglob("*.pyc"))


def test_loader_reports_all_broken_files_and_keeps_the_rest(directory: Path) -> None:
    """Each file has a line; the prober's probable name is known although the file did not run."""
    source = QUAKE.replace('Prober("quake"', 'Prober("tides"').replace("class ", "1 / 0\nclass ", 1)
    (directory / "one.py").write_text(source)
    (directory / "two.py").write_text("raise ValueError('no')")
    (directory / "quake.py").write_text(QUAKE)
    first, second = refusal(directory).splitlines()
    assert first == f"{directory}/one.py can't be loaded: ZeroDivisionError: division by zero (line 11)"
    assert second == f"{directory}/two.py can't be loaded: ValueError: no (line 1)"
    probers, broken = loader.find_probers([directory])
    assert "quake" in probers
    assert broken == [
        loader.BrokenProber(f"{directory}/one.py", first, frozenset({"one", "tides"})),
        loader.BrokenProber(f"{directory}/two.py", second, frozenset({"two"})),
    ]


def test_loader_separates_files_of_same_name(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (directory / "probe.py").write_text(QUAKE)
    (other / "probe.py").write_text(QUAKE.replace('Prober("quake"', 'Prober("valkey"'))
    assert {"quake", "valkey"} < load_probers([directory, other]).keys()


def test_loader_skips_hidden_files_helpers_and_tests(directory: Path) -> None:
    for name in ("_helper.py", ".editor.py", "test_quake.py", "conftest.py"):
        (directory / name).write_text("raise RuntimeError")
    assert load_probers([directory]).keys() == load_probers([]).keys()


def test_loader_refuses_duplicate_prober_name(directory: Path) -> None:
    (directory / "mine.py").write_text(QUAKE.replace('Prober("quake"', 'Prober("http"'))
    message = refusal(directory)
    assert message.startswith("prober http is declared twice: in ")
    assert message.endswith(f"probers/http.py and in {directory}/mine.py")


BROKEN = {
    "x = (": "'(' was never closed (line 1)",
    "\n\nimport nothing_of_this_name": "ModuleNotFoundError: No module named 'nothing_of_this_name' (line 3)",
    "\ndef f():\n    1 / 0\nf()": "ZeroDivisionError: division by zero (line 3)",
    "raise SystemExit(3)": "SystemExit: 3 (line 1)",
    "": "declares no prober: its last line should be prober = Prober(…)",
    "prober = 5": "declares no prober: its last line should be prober = Prober(…)",
    QUAKE.replace('Prober("quake"', 'Prober("Quake!"'): "'Quake!' can't be a prober's name",
    QUAKE.replace('Prober("quake"', 'Prober("timeout"'): "'timeout' can't be a prober's name",
    QUAKE.replace("QuakeSettings, probe_quake", "dict, probe_quake"): "the settings of prober quake are not a class",
    QUAKE.replace("async def", "def"): "the function of prober quake is not an `async def`",
    QUAKE.replace("password: Secret", "password: Nothing"): (
        "prober quake can't be used: pydantic.errors.PydanticUndefinedAnnotation: name 'Nothing' is not defined"
    ),
    QUAKE.replace("password: Secret =", "password: Reply | None =")
    .replace('Secret("")', "None")
    .replace("@dataclass", ""): (
        "prober quake can't be used: pydantic.errors.PydanticInvalidForJsonSchema: Cannot generate a JsonSchema"
    ),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.items())
def test_loader_reports_broken_file_with_reason(directory: Path, source: str, reason: str) -> None:
    (directory / "quake.py").write_text(source)
    message = refusal(directory)
    assert message.startswith(f"{directory}/quake.py")
    assert reason in message
    assert "\n" not in message


def test_loader_refuses_world_writable_directory(directory: Path) -> None:
    directory.chmod(0o777)
    message = refusal(directory)
    assert message == (
        f"{directory} is writable by everybody, who could thus change what runs here: chmod o-w {directory}"
    )
    with pytest.raises(LoaderError, match="writable by everybody"):
        config_files([], [directory])
    with pytest.raises(LoaderError, match="writable by everybody"):
        config_files([str(directory)], [])


def test_loader_refuses_world_writable_file(directory: Path) -> None:
    (directory / "quake.py").write_text(QUAKE)
    (directory / "quake.py").chmod(0o666)
    assert f"chmod o-w {directory}/quake.py" in refusal(directory)


def test_loader_accepts_read_only_mount(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes mounts configuration with mode 0777 and read-only."""
    directory.chmod(0o777)
    (directory / "quake.py").write_text(QUAKE)
    status = os.statvfs(directory)
    fields = list(status)
    fields[8] = status.f_flag | os.ST_RDONLY
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
    assert "quake" in load_probers([directory])


@pytest.mark.parametrize(("name", "reason"), [("none", "can't be read: No such file"), ("file", "is not a directory")])
def test_loader_refuses_non_directory(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    assert reason in refusal(tmp_path / name)


# --- entry points ------------------------------------------------------------------------------------------

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "quake-prober"
version = "1.2"

[project.entry-points."probe_exporter.probers"]
{entry_points}
"""


def install(site: Path, source: Path, entry_points: str) -> None:
    """Build a user's package with the usual tools and unpack its wheel, as pip does."""
    package = source / "quake_prober"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(QUAKE)
    (package / "broken.py").write_text("import quake_prober\n1 / 0\n")
    (source / "pyproject.toml").write_text(PYPROJECT.format(entry_points=entry_points))
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=600)
    (wheel,) = (source / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


def check(site: Path, directory: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run `--config.check` in a new process that sees the installed package."""
    (directory / "quake.yml").write_text("modules: {shaken: {prober: quake, quake: {password: x}}}")
    command = [sys.executable, "-m", "probe_exporter", "--config.check", "--config.file=quake.yml", *flags]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("value", ["quake_prober", "quake_prober:prober"])
def test_entry_point_adds_prober(directory: Path, tmp_path: Path, value: str) -> None:
    """The entry point names the prober, or the module that declares it; no flag is needed."""
    install(tmp_path / "site", tmp_path / "source", f'quake = "{value}"')
    done = check(tmp_path / "site", directory)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_entry_point_error_names_package_version_and_reason(directory: Path, tmp_path: Path) -> None:
    install(tmp_path / "site", tmp_path / "source", 'quake = "quake_prober.broken"\nother = "quake_prober:nothing"')
    done = check(tmp_path / "site", directory)
    assert done.returncode == 1
    assert (
        "entry point quake = quake_prober.broken of quake-prober 1.2 can't be loaded: ZeroDivisionError" in done.stderr
    )
    assert "entry point other = quake_prober:nothing of quake-prober 1.2 can't be loaded: AttributeError" in done.stderr


# --- configuration files -----------------------------------------------------------------------------------


def test_config_files_default_to_shipped_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_files([], []) == sorted(loader.library().glob("*.yml"))


def test_config_files_prefer_blackbox_yml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("blackbox.yml").touch()
    assert config_files([], []) == [Path("blackbox.yml")]


def test_config_files_include_modules_directories(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.yml", "a.yaml", ".hidden.yml", "readme.md"):
        (directory / name).touch()
    joined = [directory / "a.yaml", directory / "b.yml"]
    assert config_files([], [directory]) == [*sorted(loader.library().glob("*.yml")), *joined]
    assert config_files(["mine.yml"], [directory]) == [Path("mine.yml"), *joined]


def test_config_files_accept_file_directory_and_pattern(directory: Path) -> None:
    for name in ("b.yml", "a.yml", "c.yaml", "d.txt"):
        (directory / name).touch()
    assert config_files([str(directory / "d.txt")], []) == [directory / "d.txt"]
    assert [path.name for path in config_files([str(directory)], [])] == ["a.yml", "b.yml", "c.yaml"]
    assert [path.name for path in config_files([str(directory / "*.yml")], [])] == ["a.yml", "b.yml"]
    assert [path.name for path in config_files([str(directory / "**" / "*.txt")], [])] == ["d.txt"]


def test_config_files_need_a_file_that_matches_a_pattern(directory: Path) -> None:
    (directory / "sub.yml").mkdir()
    for pattern in ("*.yml", "*.json"):
        with pytest.raises(LoaderError, match=f"no file matches .*{re.escape(pattern)}"):
            config_files([str(directory / pattern)], [])


def test_config_files_drop_duplicates(directory: Path) -> None:
    file = directory / "a.yml"
    file.touch()
    assert config_files([str(file), str(directory), str(directory / "*.yml")], [directory]) == [file]


def test_config_files_report_missing_file_on_load(tmp_path: Path) -> None:
    """Reading the file fails with an error that names it."""
    (path,) = config_files([str(tmp_path / "none.yml")], [])
    with pytest.raises(module.ConfigError, match=r"none\.yml: can't be read: No such file or directory"):
        loading.load([path], {})


def test_config_files_accept_file_named_like_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].yml").touch()
    assert config_files([str(tmp_path / "a[1].yml")], []) == [tmp_path / "a[1].yml"]


def test_config_files_refuse_pattern_or_directory_without_match(directory: Path) -> None:
    with pytest.raises(LoaderError, match=r"no file matches .*/\*\.yml"):
        config_files([str(directory / "*.yml")], [])
    with pytest.raises(LoaderError, match=r"holds no \.yml or \.yaml file"):
        config_files([str(directory)], [])


SLOW = """
import threading

entered, finish = threading.Event(), threading.Event()
entered.set()
finish.wait()
prober = 1
"""


def test_second_thread_waits_for_the_import_of_a_library_prober(tmp_path: Path) -> None:
    """A page may ask for a prober that a reload is importing just then."""
    path = tmp_path / "slow.py"
    path.write_text(SLOW)
    name, found = loader._module_name(path), list[bool]()

    def load() -> None:
        found.append(hasattr(loader._shipped(path), "prober"))

    threads = [threading.Thread(target=load) for _ in range(2)]
    threads[0].start()
    wait_until(lambda: hasattr(sys.modules.get(name), "finish") and sys.modules[name].entered.is_set())
    threads[1].start()
    threads[1].join(0.2)  # it would return an unfinished module at once
    sys.modules[name].finish.set()
    for thread in threads:
        thread.join()
    del sys.modules[name]
    assert found == [True, True]
