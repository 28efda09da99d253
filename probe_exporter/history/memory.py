"""Keep recent finished probes in memory for debugging, and failures for longer, up to a number and a size.

Adding a result is one append. Its size is computed a moment later, and it is rendered only for a request. This file
also has the types that `history.file` shares, which keeps results over restarts.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.history.record import HistoryDocument, HistoryEntry, document, entry
from probe_exporter.network.policy import RunNetwork
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.prober.metrics import Samples
from probe_exporter.prober.run import Event, Probe
from probe_exporter.runner import Result
from probe_exporter.telemetry.compaction import recreate
from probe_exporter.telemetry.masking import mask_urls

MAX_BYTES = 64 << 20
"""The default size limit of the history in bytes.

A probe takes 2 to 5 kB. A DNS response of 64 KiB, logged record by record with escapes, takes 300 kB: 200 of these
fit, which is the default of ``--history.limit``, and an exporter of 100 MB stays below twice that.
"""

LARGEST_SHARE = 16
"""A result larger than this part of the size limit is dropped, so that one target can't push out all the others."""

SETTLE_SECONDS = 0.25
MAX_UNSETTLED_RESULTS = 256
"""The sizes of results are computed after so many seconds, or when so many results wait, or for a request. A result
that newer ones push out meanwhile needs no size: with 0.1 s a probe under load took some 3 % more CPU."""

MAX_UNSETTLED_PARTS = 10_000
"""The same for their log lines and series: 200 results of 2,000 lines each would take 0.17 s in one turn."""

_FEW_PARTS = 100
"""A result with so few counts for none: `MAX_UNSETTLED_RESULTS` is enough."""

_PARTS_OF_REGISTRY = 2000
"""For how many parts a registry counts. To count its series would take as long as to compute their size."""

MAX_RECREATED = 1000
MAX_RECREATED_BYTES = 16 << 10
RECREATED_IN_A_TURN = 20
"""The results that `recreate` copies: the newest of this number, unless they are larger; that many take 2 to 5 ms."""

MAX_JOINED_CHARACTERS = 10_000
"""Characters of texts that are joined to find out whether all are ASCII."""

TOO_LARGE = "too_large"
"""The cause for which a large result is dropped: see `LARGEST_SHARE`."""


class HistoryError(Exception):
    """The history can't be opened or read; the message says why."""


@dataclass(frozen=True, slots=True)
class Query:
    """Filters for entries; an empty filter matches all.

    Args:
        target: compared without its password, which is not kept.
        success: None for both.
        since: Unix seconds; only probes that started then or later.
        limit: the most entries to return, newest first.
        max_bytes: of the targets and messages of the entries; older entries beyond it are left out.
    """

    module: str = ""
    target: str = ""
    success: bool | None = None
    reason: str = ""
    since: float = -math.inf
    limit: int = 100
    max_bytes: float = math.inf

    def select(self, entries: Iterable[HistoryEntry]) -> list[HistoryEntry]:
        """Return the entries that match, in the given order, which is newest first."""
        found: list[HistoryEntry] = []
        target = mask_urls(self.target)
        room = self.max_bytes
        for one in entries:
            if len(found) == self.limit or room < 0:
                break
            if (
                self.module in ("", one.module)
                and target in ("", one.target)
                and self.success in (None, one.success)
                and self.reason in ("", one.reason)
                and one.started >= self.since
            ):
                found.append(one)
                room -= len(one.target) + len(one.message)
        return found


class History(Protocol):
    """A store of finished probes."""

    def add(self, result: Result) -> None:
        """Add a result. Called on the event loop; does not block."""

    async def select(self, query: Query) -> list[HistoryEntry]:
        """Return the entries that match a query, newest first.

        Raises:
            HistoryError: the history can't be read now.
        """

    async def get(self, id: int) -> tuple[HistoryEntry, HistoryDocument] | None:
        """Return the entry and the document of a probe; None if it is not kept (any more).

        Raises:
            HistoryError: the history can't be read now.
        """

    async def recreate(self) -> object:
        """Create what a burst of probes left in memory anew, and return the old objects: see `telemetry.compaction`."""

    def close(self) -> None:
        """Store the results added so far; `add` must not be called after this."""


_new = tuple.__new__  # a named tuple from a tuple, in half the time of its own function


class SizedResult(NamedTuple):
    """A result with its id and its approximate size in bytes."""

    id: int
    result: Result
    bytes: int


_BYTES = itemgetter(2)
"""Return the bytes of a `SizedResult`."""

_COPIED = frozenset({SizedResult, Result, Probe, Samples, Event, ProbeFailed, RunNetwork})


class BoundedQueue:
    """A list with a limit in number and in bytes; adding items removes the oldest ones beyond the limit."""

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self.items: deque[SizedResult] = deque()
        self.bytes = 0

    def put(self, items: Collection[SizedResult]) -> list[SizedResult]:
        """Add items, the newest last; return the items removed for them, oldest first."""
        removed = []
        self.items += items
        self.bytes += sum(map(_BYTES, items))
        while len(self.items) > self._limit or self.bytes > self._max_bytes:
            oldest = self.items.popleft()
            self.bytes -= oldest.bytes
            removed.append(oldest)
        return removed

    async def recreate(self) -> list[SizedResult]:
        """Replace the newest results by copies, and return the originals: see `telemetry.compaction`."""
        originals = [item for item in self.items if item.bytes <= MAX_RECREATED_BYTES][-MAX_RECREATED:]
        copies: dict[int, SizedResult] = {}
        for start in range(0, len(originals), RECREATED_IN_A_TURN):
            copied = recreate(originals[start : start + RECREATED_IN_A_TURN], _COPIED)
            copies.update((item.id, item) for item in copied)
            await asyncio.sleep(0)
        self.items = deque([copies.get(item.id, item) for item in self.items])
        return originals


class Recent:
    """The newest results, and older failures: up to `limit` of each, and half of the bytes for each.

    So a failure is kept though many successes follow, and old failures never take the room of new results.
    """

    def __init__(self, limit: int, max_bytes: int, lost: Counter[str], pushed_out: str = "") -> None:
        """
        Args:
            lost: counts results that could not be kept, by cause.
            pushed_out: the cause under which to count results that newer ones push out; empty to count none.
        """
        self._limit = limit
        self._max_bytes = max_bytes
        self._lost = lost
        self._pushed_out = pushed_out
        self._unsettled: deque[Result] = deque()
        self._unsettled_parts = 0
        self._next_id = 0
        self._empty()

    def _empty(self) -> None:
        self._newest = BoundedQueue(self._limit, self._max_bytes // 2)
        self._failures = BoundedQueue(self._limit, self._max_bytes // 2)

    @property
    def bytes(self) -> int:
        return self._newest.bytes + self._failures.bytes

    def add(self, result: Result) -> bool:
        """Add a result. Return True if the caller has to schedule `settle` or `take`."""
        waiting = self._unsettled
        waiting.append(result)
        probe = result.probe
        parts = len(probe.lines) + len(probe.samples.series)
        if parts > _FEW_PARTS or probe.samples.has_registry:
            self._unsettled_parts += parts + (_PARTS_OF_REGISTRY if probe.samples.has_registry else 0)
            if self._unsettled_parts >= MAX_UNSETTLED_PARTS:
                self.settle()
                return True
        # Newer results will push out the first one, so drop it now: memory that is freed later has left the
        # processor's cache when it is used again, which costs 7 µs a probe.
        if len(waiting) > self._limit and waiting[0].failure is None:
            waiting.popleft()
            self._next_id += 1
            if self._pushed_out:
                self._count_pushed_out(1)
        elif len(waiting) >= MAX_UNSETTLED_RESULTS or len(waiting) > self._limit:
            self.settle()
        return len(waiting) == 1

    def settle(self) -> None:
        """Compute the sizes of added results, and drop those beyond the limits."""
        added, self._unsettled, self._unsettled_parts = self._unsettled, deque(), 0
        items: list[SizedResult] = []
        max_bytes = self._max_bytes // LARGEST_SHARE
        room = self._limit
        gone = 0
        id = self._next_id = self._next_id + len(added)
        while added:
            id -= 1
            result = added.pop()
            if room <= 0 and result.success:
                gone += 1  # newer results push it out, so its size does not matter
                continue
            size = estimated_size(result)
            if size > max_bytes:
                self._lost[TOO_LARGE] += 1
            else:
                items.append(_new(SizedResult, (id, result, size)))
                room -= 1
        items.reverse()
        removed = self._newest.put(items)
        failures = [item for item in removed if item.result.failure is not None]
        gone += len(removed) - len(failures) + len(self._failures.put(failures))
        self._count_pushed_out(gone)

    def _count_pushed_out(self, number: int) -> None:
        if self._pushed_out:
            self._lost[self._pushed_out] += number

    def __iter__(self) -> Iterator[SizedResult]:
        """Yield the settled results: the newest first, then the older failures, newest first."""
        yield from reversed(self._newest.items)
        yield from reversed(self._failures.items)

    async def recreate(self) -> list[SizedResult]:
        """Replace results that a burst of probes left by copies, and return the originals."""
        self.settle()
        return [*await self._newest.recreate(), *await self._failures.recreate()]

    def take(self) -> list[Result]:
        """Remove and return all results, oldest first."""
        self.settle()
        taken = [item.result for item in self]
        taken.reverse()
        self._empty()
        return taken


class MemoryHistory:
    """The history of this process. Ids start at 0."""

    def __init__(self, limit: int, max_bytes: int, log: ProbeLog, lost: Counter[str]) -> None:
        """
        Args:
            limit: the most recent results kept, and the most older failures kept beside them; 0 keeps none.
            log: formats the log lines of a probe.
            lost: counts results that could not be kept, by cause.
        """
        self._recent = Recent(limit, max_bytes, lost)
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="history")

    def add(self, result: Result) -> None:
        if self._recent.add(result):
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._recent.settle)

    async def select(self, query: Query) -> list[HistoryEntry]:
        self._recent.settle()
        items = list(self._recent)
        # In a thread: to mask the secrets of thousands of results takes longer than one turn of the event loop may.
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: query.select(entry(item.id, item.result) for item in items)
        )

    async def get(self, id: int) -> tuple[HistoryEntry, HistoryDocument] | None:
        self._recent.settle()
        result = next((item.result for item in self._recent if item.id == id), None)
        if result is None:
            return None
        # In a thread too: to render a result with thousands of samples takes 100 ms.
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: (entry(id, result), document(result, self._log))
        )

    async def recreate(self) -> object:
        return await self._recent.recreate()

    def close(self) -> None:
        self._thread.shutdown()


# --- sizes of results --------------------------------------------------------------------------------------

_RESULT = 1300  # a Result, its Probe with two lines, Samples and their tables, without the parts counted below
_EVENT = 330  # an Event, its fields' table, its time
_RUN = 500  # a Run and its texts, without those counted below
_SPAN = 160  # a tuple with two numbers
_SAMPLE = 60  # a value and its place in a table
_SERIES = 130  # the same for a metric with labels, with their tuple
_TEXT = sys.getsizeof("")  # a text of ASCII, without its characters
_DATA = sys.getsizeof(b"")  # bytes, without their content
_FLOAT = sys.getsizeof(0.0)
_INT = sys.getsizeof(1)
_MAX_INT = 2**30  # the size of smaller numbers is `_INT`
_REGISTRY = 4000  # the registry of a prober's author
_ONLY_TEXT = frozenset({str})
_LISTS = (list, tuple, set, frozenset)


def estimated_size(result: Result) -> int:
    """Estimate the bytes that a result takes in memory, without its module, which the configuration holds anyway.

    Every probe is weighed, so this leaves the loops to functions in C, and asks for the size of few objects: to ask
    takes four times as long as to compute it.
    """
    probe, samples = result.probe, result.probe.samples
    total = _RESULT + _SAMPLE * len(samples.plain) + _SPAN * len(probe.spans) + _EVENT * len(probe.lines)
    total += _SERIES * len(samples.series)
    texts = [result.target, *map(_ABOUT, probe.spans)]
    for _, labels in samples.series:
        texts += labels
    for line in probe.lines:
        fields: dict[str, Any] = line[3]
        for value in fields.values():
            kind = type(value)
            if kind is str:
                texts.append(value)
            elif kind is bytes:
                total += _DATA + len(value)
            elif kind is float:
                total += _FLOAT
            elif kind is int and -_MAX_INT < value < _MAX_INT:
                total += _INT
            else:
                total += _size(value)
    total += _size_of_texts(texts)
    for evidence in probe.evidence:
        total += evidence.bytes
    if samples.has_registry or result.runs:
        total += _size_of_runs_and_registry(result)
    return total


def _size_of_runs_and_registry(result: Result) -> int:
    """Estimate the bytes of what few results have: several runs, and a registry."""
    total = sum([_RUN + sys.getsizeof(run.message) + _size(run.phases) for run in result.runs])
    spans = [span for run in result.runs for span in run.spans]
    total += _SPAN * len(spans) + sum(map(sys.getsizeof, map(_ABOUT, spans)))
    if result.probe.samples.has_registry:
        total += _REGISTRY
        for family in result.probe.samples.registry.collect():
            for sample in family.samples:
                total += 3 * _SAMPLE + sum(map(sys.getsizeof, sample.labels.values()))
    return total


def _size_of_texts(texts: Collection[str]) -> int:
    """Return the bytes of texts. Nearly all are ASCII, and the sizes of these are known without asking.

    Short texts are joined to find out, which takes a third of the time of asking each. Long ones would be copied.
    """
    try:
        length = sum(map(len, texts))
        if length < MAX_JOINED_CHARACTERS and "".join(texts).isascii():
            return length + _TEXT * len(texts)
    except TypeError:  # the author of a prober has set `Phase.about` to something else, such as an address
        pass
    return sum(map(sys.getsizeof, texts))


_ABOUT = itemgetter(3)
"""Return what a `Span` is about."""


def _size_of_items(value: object) -> int:
    """Estimate the bytes of a container's items; 0 for a value that is no container."""
    if isinstance(value, dict):
        return sum(map(_size, chain(value, value.values())))
    if isinstance(value, _LISTS):
        if _ONLY_TEXT.issuperset(map(type, value)):
            return _size_of_texts(value)
        return sum(map(_size, value))
    return 0


def _size(value: object) -> int:
    return sys.getsizeof(value) + _size_of_items(value)
