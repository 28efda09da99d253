"""Read targets from a file, and read it again when it changes.

The file is a list in YAML or JSON. Each entry has `targets`, and what these have in common: `module`, `params` and
`labels`.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pydantic import RootModel

from probe_exporter.config import document as documents
from probe_exporter.config.discovery import DiscoverySettings, TargetsOfFile, modules_in
from probe_exporter.config.document import Document
from probe_exporter.config.loading import validated
from probe_exporter.config.nodes import TooManyItems
from probe_exporter.config.problems import Problem
from probe_exporter.config.shapes import shape_of
from probe_exporter.discovery.groups import MAX_TARGETS, DiscoveryError, Target, encode, too_many_targets
from probe_exporter.settings.fields import nearest

MAX_FILE_BYTES = 4 << 20
"""10,000 targets with 400 bytes each."""

MAX_ITEMS = 2 * MAX_TARGETS
"""Entries and targets in a file: one with many more is refused before all of it is read, which would take seconds."""

MAX_SHOWN_PROBLEMS = 5

Stamp = tuple[int, int, int]
"""Time, size and inode of a file: one of them differs after a change."""


class _Entries(RootModel[tuple[TargetsOfFile, ...]]):
    """The content of a file."""


_SHAPE = shape_of(list[TargetsOfFile])


class FileOfTargets:
    """The targets of one file. Its methods block, so that they are called in a thread."""

    def __init__(self, source: str, settings: DiscoverySettings, modules: Collection[str]) -> None:
        """
        Args:
            modules: the names of all modules.
        """
        self._source = source
        self._settings = settings
        self._path = Path(settings.file)
        self._modules = modules
        self._stamp: Stamp | None = None
        self._outcome: bytes | DiscoveryError = b"[]"

    def read(self) -> bytes:
        """Return the targets as JSON; read the file only if it has changed since the last call.

        Raises:
            DiscoveryError: the file can't be read, or has errors.
        """
        try:
            status = self._path.stat()
            if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):  # reading may never end
                raise OSError(errno.EINVAL, "Not a regular file")
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                self._outcome = self._read_again()
                self._stamp = stamp
        except OSError as error:
            self._stamp = None
            self._outcome = DiscoveryError(f"{self._path} can't be read: {error.strerror or error}", 500)
        if isinstance(self._outcome, DiscoveryError):
            raise self._outcome
        return self._outcome

    def _read_again(self) -> bytes | DiscoveryError:
        with self._path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        try:
            if len(data) > MAX_FILE_BYTES:
                raise DiscoveryError(f"{self._path} has more than {MAX_FILE_BYTES >> 20} MiB: divide it", 500)
            return encode(self._source, self._targets(data))
        except DiscoveryError as error:
            return error

    def _targets(self, data: bytes) -> Iterator[Target]:
        document, entries = self._entries(data)
        document.problems += self._wrong_entries(document, entries)
        if document.problems:
            problems = sorted(set(document.problems))
            shown = "; ".join(map(str, problems[:MAX_SHOWN_PROBLEMS]))
            more = len(problems) - MAX_SHOWN_PROBLEMS
            raise DiscoveryError(shown + (f"; and {more} more problems" if more > 0 else ""), 500)
        for entry in entries:
            labels = {**self._settings.labels, **entry.labels}
            for target in entry.targets:
                yield Target(target, entry.module or self._settings.module, entry.params, labels)

    def _entries(self, data: bytes) -> tuple[Document, Sequence[TargetsOfFile]]:
        try:
            document, root = documents.parsed(data, str(self._path), MAX_ITEMS)
        except TooManyItems:
            raise too_many_targets(self._source) from None
        if root is None or root.is_null:
            return document, ()
        document = documents.interpreted(document, root, _SHAPE)
        entries = validated(document, _Entries)
        return document, () if entries is None else entries.root

    def _wrong_entries(self, document: Document, entries: Sequence[TargetsOfFile]) -> Iterator[Problem]:
        for index, entry in enumerate(entries):
            path = (index, "module")
            for number, target in enumerate(entry.targets):
                if not target.strip():
                    yield document.problem((index, "targets", number), "a target is empty")
            if not modules_in(entry.module or self._settings.module):
                yield document.problem(path, "`module` is required, as the source has none for all entries")
            for module in modules_in(entry.module):
                if module not in self._modules:
                    yield document.problem(path, f"unknown module `{module}`{nearest(module, list(self._modules))}")
