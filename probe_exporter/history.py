"""Finished probes, kept for whoever debugs: the newest, and failures for longer.

A result is kept as the object it is; nothing is rendered until it is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from probe_exporter.runner import Result


class Entry(NamedTuple):
    """A finished probe and its number, which counts from 0 in each process."""

    id: int
    result: Result


class History:
    """The newest `limit` results, and up to `limit` failures among those that they pushed out."""

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: results kept in each of the two lists; 0 keeps nothing.
        """
        self._limit = limit
        self._newest: deque[Entry] = deque()
        self._failures: deque[Entry] = deque(maxlen=limit)
        self._next_id = 0

    def add(self, result: Result) -> int:
        """Keep a result; its number."""
        entry = Entry(self._next_id, result)
        self._next_id += 1
        self._newest.append(entry)
        if len(self._newest) > self._limit:
            oldest = self._newest.popleft()
            if not oldest.result.success:
                self._failures.append(oldest)
        return entry.id

    def recent(self) -> Iterator[Entry]:
        """All that is kept: the newest first, then the kept failures, newest first."""
        yield from reversed(self._newest)
        yield from reversed(self._failures)

    def get(self, id: int) -> Result | None:
        """The result of this number, if it is still held."""
        return next((entry.result for entry in self.recent() if entry.id == id), None)

    def find(self, target: str, module: str = "") -> Result | None:
        """The newest held result for a target, by any module or by the named one."""
        for entry in self.recent():
            if entry.result.target == target and module in ("", entry.result.module.name):
                return entry.result
        return None
