"""Find the configuration files: those that the flags name, or the default file, or the shipped ones."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from probe_exporter.plugins.loader import LoaderError, checked_directory, library

DEFAULT_FILE = Path("blackbox.yml")
"""The configuration file if no flag names one and this file exists."""
_SUFFIXES = (".yml", ".yaml")


def config_files(given: Sequence[str], directories: Sequence[Path]) -> list[Path]:
    """Return the configuration files to read, in order.

    Args:
        given: files, directories (their ``.yml`` and ``.yaml`` files) or glob patterns. If there are none, the result
            has ``./blackbox.yml`` if that exists, otherwise the shipped files.
        directories: directories of the user's own modules; their files are always added.

    Raises:
        LoaderError: a given path does not exist or has no files, or a directory is not safe.
    """
    found: list[Path] = []
    for name in given:
        found += _named(name)
    if not given:
        found += [DEFAULT_FILE] if DEFAULT_FILE.is_file() else _yaml_files(library())
    for directory in directories:
        found += _yaml_files(checked_directory(directory))
    # Path.resolve would raise RuntimeError for a symbolic link to itself; reading the file reports that.
    return list({os.path.realpath(path): path for path in reversed(found)}.values())[::-1]


def _named(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        files = _yaml_files(checked_directory(path))
        if not files:
            raise LoaderError(f"directory {name} holds no .yml or .yaml file")
        return files
    if path.exists() or not glob.has_magic(name):
        return [path]
    matches = sorted(Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207  # may be absolute
    files = [match for match in matches if match.is_file()]
    if not files:
        raise LoaderError(f"no file matches {name}")
    return files


def _yaml_files(directory: Path) -> list[Path]:
    """Return the configuration files of a directory, except hidden ones, which editors and Kubernetes make."""
    visible = (path for path in directory.iterdir() if not path.name.startswith("."))
    return sorted(path for path in visible if path.suffix in _SUFFIXES and path.is_file())
