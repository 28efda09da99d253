"""Finished probes, kept for whoever debugs: the newest, and failures for longer. Bounded in number and in bytes.

A probe pays one append. What it left is weighed a moment later, and rendered when somebody asks. This file keeps it
in memory; `history_file` keeps it over restarts.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.history.record import Document, HistoryEntry, document, entry
from probe_exporter.runner import Result
from probe_exporter.telemetry.masking import mask_urls

MAX_BYTES = 64 << 20
"""What the history may take if nobody says otherwise.

A probe leaves 3 to 5 kB, and a DNS answer of 64 KiB, noted record by record with its escapes, 300 kB: so 200 even of
these fit, which is what ``--history.limit`` keeps by default, and an exporter of 100 MB stays below twice that.
"""

LARGEST_SHARE = 16
"""No result takes more than this part of all bytes: else one target that talks much would push out all the others."""

SETTLE_SECONDS = 0.1
MAX_UNSETTLED_RESULTS = 256
"""Results are weighed after so many seconds, or as soon as so many wait."""

TOO_LARGE = "too_large"
"""The cause why a result is not kept that takes more than its share: see `LARGEST_SHARE`."""


class HistoryError(Exception):
    """The history can't be had; says why in words for a person."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which entries are asked for; what is empty asks for nothing.

    Args:
        target: its password counts for nothing: it is not kept.
        success: None for both.
        since: Unix seconds; only probes that began then or later.
        limit: so many of the newest.
    """

    module: str = ""
    target: str = ""
    success: bool | None = None
    reason: str = ""
    since: float = -math.inf
    limit: int = 100

    def select(self, entries: Iterable[HistoryEntry]) -> list[HistoryEntry]:
        """Those asked for, of entries that come newest first."""
        found: list[HistoryEntry] = []
        target = mask_urls(self.target)
        for one in entries:
            if len(found) == self.limit:
                break
            if (
                self.module in ("", one.module)
                and target in ("", one.target)
                and self.success in (None, one.success)
                and self.reason in ("", one.reason)
                and one.started >= self.since
            ):
                found.append(one)
        return found


class History(Protocol):
    """What keeps finished probes."""

    def add(self, result: Result) -> None:
        """Keep a result; called on the event loop, and returns at once."""

    async def select(self, query: Query) -> list[HistoryEntry]:
        """The entries that a query asks for, newest first.

        Raises:
            HistoryError: they can't be read now.
        """

    async def get(self, id: int) -> tuple[HistoryEntry, Document] | None:
        """All about the probe of this number, if it is still held.

        Raises:
            HistoryError: it can't be read now.
        """

    def close(self) -> None:
        """Bring what was added to where it is kept; nothing is added after this."""


class Weighed(NamedTuple):
    """A result, its number and the bytes that it takes, more or less."""

    id: int
    result: Result
    bytes: int


class Shelf:
    """A list bounded in number and bytes: what is put on it pushes the oldest out."""

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self.items: deque[Weighed] = deque()
        self.bytes = 0

    def put(self, item: Weighed) -> Iterator[Weighed]:
        """Add the newest item; what was pushed out, oldest first."""
        self.items.append(item)
        self.bytes += item.bytes
        while len(self.items) > self._limit or self.bytes > self._max_bytes:
            oldest = self.items.popleft()
            self.bytes -= oldest.bytes
            yield oldest


class Recent:
    """The newest results, and failures that they pushed out: up to `limit` of each, and half of the bytes for each.

    So a failure is still there when many good probes have followed, and old failures never take the room of new probes.
    """

    def __init__(self, limit: int, max_bytes: int, lost: Counter[str], pushed_out: str = "") -> None:
        """
        Args:
            lost: counts what could not be kept, by cause.
            pushed_out: the cause of what newer results push out, if that is to be counted.
        """
        self._limit = limit
        self._max_bytes = max_bytes
        self._lost = lost
        self._pushed_out = pushed_out
        self._unsettled: deque[Result] = deque()
        self._next_id = 0
        self._empty()

    def _empty(self) -> None:
        self._newest = Shelf(self._limit, self._max_bytes // 2)
        self._failures = Shelf(self._limit, self._max_bytes // 2)

    @property
    def bytes(self) -> int:
        return self._newest.bytes + self._failures.bytes

    def add(self, result: Result) -> bool:
        """Keep a result. True if nothing else waited to be settled: then the caller sees to it that it is."""
        waiting = self._unsettled
        waiting.append(result)
        # So many follow the first that it need not be weighed. What stays long has left the processor's cache
        # when its memory is used again, which costs 7 µs a probe.
        if len(waiting) > self._limit and waiting[0].success:
            waiting.popleft()
            self._next_id += 1
            self._gone(1)
        elif len(waiting) >= MAX_UNSETTLED_RESULTS or len(waiting) > self._limit:
            self.settle()
        return len(waiting) == 1

    def settle(self) -> None:
        """Weigh what was added, and let go of what has no room."""
        added, self._unsettled = self._unsettled, deque()
        items: list[Weighed] = []
        room = self._limit
        gone = 0
        for later, result in enumerate(reversed(added)):
            if room <= 0 and result.success:
                gone += 1  # so many follow it that it need not be weighed
                continue
            item = Weighed(self._next_id + len(added) - 1 - later, result, weight(result))
            if item.bytes > self._max_bytes // LARGEST_SHARE:
                self._lost[TOO_LARGE] += 1
            else:
                items.append(item)
                room -= 1
        self._next_id += len(added)
        for item in reversed(items):
            gone += self._put(item)
        self._gone(gone)

    def _gone(self, number: int) -> None:
        if self._pushed_out:
            self._lost[self._pushed_out] += number

    def _put(self, item: Weighed) -> int:
        """Put an item where it belongs; how many have gone for it."""
        gone = 0
        for oldest in self._newest.put(item):
            gone += 1 if oldest.result.success else sum(1 for _ in self._failures.put(oldest))
        return gone

    def __iter__(self) -> Iterator[Weighed]:
        """All that is settled: the newest first, then the failures that were pushed out, newest first."""
        yield from reversed(self._newest.items)
        yield from reversed(self._failures.items)

    def take(self) -> list[Result]:
        """All that was added and not pushed out, oldest first; nothing is left."""
        self.settle()
        taken = [item.result for item in self]
        taken.reverse()
        self._empty()
        return taken


class MemoryHistory:
    """The history as long as the process lives. Numbers count from 0."""

    def __init__(self, limit: int, max_bytes: int, log: ProbeLog, lost: Counter[str]) -> None:
        """
        Args:
            limit: results among the newest, and as many failures beyond them; 0 keeps nothing.
            log: how a probe's log is shown.
            lost: counts what could not be kept, by cause.
        """
        self._recent = Recent(limit, max_bytes, lost)
        self._log = log

    def add(self, result: Result) -> None:
        if self._recent.add(result):
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._recent.settle)

    async def select(self, query: Query) -> list[HistoryEntry]:
        self._recent.settle()
        return query.select(entry(item.id, item.result) for item in self._recent)

    async def get(self, id: int) -> tuple[HistoryEntry, Document] | None:
        self._recent.settle()
        for item in self._recent:
            if item.id == id:
                return entry(id, item.result), document(item.result, self._log)
        return None

    def close(self) -> None:
        pass


# --- what a result takes -----------------------------------------------------------------------------------

_RESULT = 1200  # a Result, its Probe, Samples and their tables, less what is counted below
_EVENT = 330  # an Event, its fields' table, its time
_SAMPLE = 60  # a value and its place in a table
_REGISTRY = 4000  # an author's own


def weight(result: Result) -> int:
    """About the bytes that a result takes in memory; its module is the configuration's and costs nothing more."""
    samples = result.probe.samples
    total = _RESULT + sys.getsizeof(result.target) + _SAMPLE * len(samples.plain)
    for event in result.probe.events:
        total += _EVENT
        for value in event.fields.values():
            total += _size(value)
    for series in samples.labelled.values():
        for labels in series:
            total += _SAMPLE + sum(map(sys.getsizeof, labels))
    if samples.has_registry:
        total += _REGISTRY
        for family in samples.registry.collect():
            for sample in family.samples:
                total += 3 * _SAMPLE + sum(map(sys.getsizeof, sample.labels.values()))
    return total


def _size(value: object) -> int:
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(_size(key) + _size(item) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return sys.getsizeof(value) + sum(map(_size, value))
    return sys.getsizeof(value)
