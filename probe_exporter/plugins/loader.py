"""Load probers: from this package, from installed packages (entry points) and from the user's directories.

How it works:

* A prober is a Python file, or an entry point, that declares ``prober = Prober(…)``.
* Shipped probers are in `probe_exporter.probers` and in the library (``modules/``). Each file has its prober's name, so
  the names are known without an import. `Probers` imports a shipped prober on first use, once in a process.
* Files of users and entry points are run by every `find_probers`, so that the exporter refuses to start with a broken
  one. A file is read anew each time, without cached bytecode; Python itself imports an installed package only once.
* Files of users are not importable by their names. Each is a module with a name of its own in `sys.modules`, where
  pydantic and dataclasses look up annotations.
* Each loaded prober is checked: its name, its function, its settings. For probers that this package does not ship, the
  types of the settings are checked too.
* Such code runs with the exporter's rights. So a directory or file that is writable by others is refused.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from probe_exporter import probers as shipped_probers
from probe_exporter.plugins.defaults import wrong_default
from probe_exporter.prober.declaration import Prober
from probe_exporter.settings.block import Settings

MODULE_KEYS = frozenset({"prober", "timeout", "description", "params"})
"""Keys of a module that are no blocks of probers. A prober can't have such a name."""

ENTRY_POINTS = "probe_exporter.probers"
"""The group of entry points for probers. An entry point names a prober, or a Python module that has `prober`."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NAMED = re.compile(r"""\bProber\(\s*["']([a-z][a-z0-9_]*)["']""")
_NO_PROBERS = ("_", ".", "test_", "conftest.py")  # names of helpers, editors' files and tests beside probers


class LoaderError(Exception):
    """A file, an entry point or a directory can't be used; the message names it and the reason."""


def library() -> Path:
    """Return the directory of shipped modules: inside the package, or beside it in a checkout.

    Raises:
        LoaderError: neither exists.
    """
    package = Path(__file__).parents[1]
    inside, beside = package / "modules", package.parent / "modules"
    found = inside if inside.is_dir() else beside
    if not found.is_dir():
        raise LoaderError(f"this installation is incomplete: it lacks the directory {inside}")
    return found


# --- probers -----------------------------------------------------------------------------------------------


class BrokenProber(NamedTuple):
    """A prober that can't be loaded: where it is, what is wrong, and the names that it may have."""

    where: str
    why: str
    names: frozenset[str]


class _Unloaded(NamedTuple):
    """A file or an entry point that is not loaded yet."""

    where: str
    names: frozenset[str]  # names that its prober probably has
    load: Callable[[], object]  # returns a Prober, or an object that has one as `prober`


class Probers(Mapping[str, Prober[Any]]):
    """Probers by name. A shipped prober is imported on first use, so that a process has only those that it needs.

    Iteration and ``in`` import nothing: the file of a shipped prober has the prober's name, which tests check.
    """

    def __init__(self, known: Mapping[str, Prober[Any] | _Unloaded]) -> None:
        self._known = {**known}

    def __getitem__(self, name: str) -> Prober[Any]:
        """
        Raises:
            KeyError: there is no such prober.
            LoaderError: a shipped prober can't be loaded.
        """
        known = self._known[name]
        if isinstance(known, _Unloaded):
            known = self._known[name] = _checked_prober(known)
        return known

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __or__(self, others: Mapping[str, Prober[Any]]) -> Probers:
        """Return these probers and others; of two with one name, the other."""
        return Probers({**self._known, **others})


def load_probers(directories: Sequence[Path]) -> Probers:
    """Return all probers by name: the shipped ones, those of installed packages and those of the given directories.

    Raises:
        LoaderError: a directory is not safe, or probers are broken; the message has a line for each.
    """
    probers, broken = find_probers(directories)
    if broken:
        raise LoaderError("\n".join([one.why for one in broken]))
    return probers


def find_probers(directories: Sequence[Path]) -> tuple[Probers, list[BrokenProber]]:
    """Return what `load_probers` returns, and what is broken: code that fails, or that declares no prober or one that
    exists already.

    Raises:
        LoaderError: a directory is not safe.
    """
    probers: dict[str, Prober[Any] | _Unloaded] = {
        path.stem: _Unloaded(str(path), frozenset({path.stem}), partial(_shipped, path)) for path in _shipped_files()
    }
    declared = {path.stem: str(path) for path in _shipped_files()}
    broken: list[BrokenProber] = []
    for found in (*_files(directories), *_installed()):
        try:
            prober = _foreign_prober(found)
            if prober.name in probers:
                before = declared[prober.name]
                raise LoaderError(f"prober {prober.name} is declared twice: in {before} and in {found.where}")
        except LoaderError as error:
            broken.append(BrokenProber(found.where, str(error), found.names - probers.keys()))
        else:
            probers[prober.name] = prober
            declared[prober.name] = found.where
    return Probers(probers), broken


def load_file(path: Path) -> Prober[Any]:
    """Return the prober of one file in any directory.

    Raises:
        LoaderError: the file can't be loaded.
    """
    return _foreign_prober(_file(path))


def _shipped_files() -> list[Path]:
    """The files of the probers that come with the exporter: this package's, then the library's."""
    return [*_prober_files(Path(shipped_probers.__file__).parent), *_prober_files(library())]


def _files(directories: Sequence[Path]) -> Iterator[_Unloaded]:
    """Find the probers of the given directories; a file that two paths lead to, or that is shipped, counts once."""
    seen = {os.path.realpath(path) for path in _shipped_files()} if directories else set()
    for directory in map(checked_directory, directories):
        for path in _prober_files(directory):
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                yield _file(path)


def _prober_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.py") if not path.name.startswith(_NO_PROBERS))


def _file(path: Path) -> _Unloaded:
    try:
        named = _NAMED.findall(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        named = []  # loading the file will report the error
    return _Unloaded(str(path), frozenset({path.stem, *named}), partial(_import, path))


def _installed() -> Iterator[_Unloaded]:
    """Find the probers of installed packages. Python imports a package once: another version needs a new process."""
    for entry in sorted(metadata.entry_points(group=ENTRY_POINTS)):
        package = "" if entry.dist is None else f" of {entry.dist.name} {entry.dist.version}"
        where = f"entry point {entry.name} = {entry.value}{package}"
        yield _Unloaded(where, frozenset({entry.name}), partial(_guarded, entry.load, where))


def checked_directory(directory: Path) -> Path:
    """Return the directory, if it exists and neither it nor a prober in it is writable by others.

    Raises:
        LoaderError: the message names the path, and how to correct its mode.
    """
    try:
        if not stat.S_ISDIR(directory.stat().st_mode):
            raise LoaderError(f"{directory} is not a directory")
        writable = [path for path in (directory, *directory.glob("*.py")) if path.stat().st_mode & stat.S_IWOTH]
        read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    except OSError as error:
        raise LoaderError(f"directory {directory} can't be read: {error.strerror or error}") from None
    if writable and not read_only:
        reason = "is writable by everybody, who could thus change what runs here"
        raise LoaderError(f"{writable[0]} {reason}: chmod o-w {writable[0]}")
    return directory


def _checked_prober(found: _Unloaded) -> Prober[Any]:
    """Run the code, and check and return the prober that it declares.

    Raises:
        LoaderError: the message names the file or entry point.
    """
    declared = found.load()
    prober = declared if isinstance(declared, Prober) else getattr(declared, "prober", None)
    if not isinstance(prober, Prober):
        raise LoaderError(f"{found.where} declares no prober: its last line should be prober = Prober(…)")
    if not _NAME.fullmatch(prober.name) or prober.name in MODULE_KEYS:
        raise LoaderError(f"{found.where}: {prober.name!r} can't be a prober's name")
    if isinstance(prober.probe, FunctionType) and not _may_be_awaited(prober.probe):
        raise LoaderError(f"{found.where}: the function of prober {prober.name} is not an `async def`")
    settings: object = prober.settings
    if not (isinstance(settings, type) and issubclass(settings, Settings)):
        raise LoaderError(f"{found.where}: the settings of prober {prober.name} are not a class derived from Settings")
    return prober


def _foreign_prober(found: _Unloaded) -> Prober[Any]:
    """Do the same as `_checked_prober`, and check types and defaults of the settings, which no test of ours covers.

    Raises:
        LoaderError: the message names the file or entry point.
    """
    prober = _checked_prober(found)
    _check_settings(prober, found.where)
    return prober


def _may_be_awaited(function: FunctionType) -> bool:
    """Return whether the result of a function can be awaited. A decorated function gets the benefit of the doubt."""
    return inspect.iscoroutinefunction(function) or hasattr(function, "__wrapped__")


def _check_settings(prober: Prober[Any], where: str) -> None:
    """Check that all types of the fields exist and have a JSON Schema, and that the defaults have these types.

    Annotations are text until they are used.

    Raises:
        LoaderError: with the first error.
    """
    try:
        prober.settings.model_rebuild()
        wrong = wrong_default(prober.settings)
        if not wrong:
            prober.settings.model_json_schema()
    except Exception as error:
        line = _last_line(error, where)
        raise LoaderError(f"{where}: the settings of prober {prober.name} can't be used: {line}") from error
    if wrong:
        raise LoaderError(f"{where}: {wrong}")


class _PluginLoader(importlib.machinery.SourceFileLoader):
    """Compiles the source each time: cached bytecode does not notice two edits within a second."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


_IMPORTING = threading.RLock()
"""Held while a prober of the library is imported: reloads and pages import probers in threads."""


def _shipped(path: Path) -> ModuleType:
    """Import a shipped prober once in a process, as Python imports any other module; its bytecode may be kept."""
    if path.parent == Path(shipped_probers.__file__).parent:
        return importlib.import_module(f"{shipped_probers.__name__}.{path.stem}")
    name = _module_name(path)
    with _IMPORTING:  # a second thread would get the module while it is still being run, without its prober
        return sys.modules.get(name) or _run(path, importlib.machinery.SourceFileLoader(name, str(path)))


def _import(path: Path) -> ModuleType:
    """Run the file of a prober. A shipped file is imported as ever, so that its prober exists once."""
    if path in _shipped_files():
        return _shipped(path)
    return _run(path, _PluginLoader(_module_name(path), str(path)))


def _run(path: Path, loader: importlib.machinery.SourceFileLoader) -> ModuleType:
    """Run a file as a new Python module and return that.

    Raises:
        LoaderError: the code raised an exception. No module remains.
    """
    name = loader.name
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, loader, origin=str(path)))
    module.__file__ = str(path)
    sys.modules[name] = module  # before it runs: pydantic and dataclasses look annotations up there
    try:
        _guarded(partial(loader.exec_module, module), str(path))
    except LoaderError:
        del sys.modules[name]
        raise
    return module


def _guarded(run: Callable[[], object], where: str) -> object:
    """Run the code of a prober's author.

    Raises:
        LoaderError: the code raised an exception; the message has the last line of the traceback.
    """
    try:
        return run()
    except (Exception, SystemExit) as error:
        raise LoaderError(f"{where} can't be loaded: {_last_line(error, where)}") from error


def _module_name(path: Path) -> str:
    """Return a name for a file's module: different for files of one name, and without their directory."""
    return f"probe_exporter_plugin_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"


def _last_line(error: BaseException, where: str) -> str:
    """Return the last line of a traceback, and the line of the file in which the error occurred."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == where]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    said = "".join(traceback.format_exception_only(error)).strip().splitlines()
    words = [text for text in said if text and not text.startswith("For further information visit")][-1]  # pydantic's
    return f"{words} (line {line})" if line else words
