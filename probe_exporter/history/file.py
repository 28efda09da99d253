"""Keep finished probes in a SQLite file, so that they survive restarts and several processes can share them.

One thread owns the connection, and renders and writes results; the event loop only queues them. If the file can't be
written, results are dropped and counted, and probes continue. Secrets are masked before anything is written.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from probe_exporter.history.details import to_json
from probe_exporter.history.memory import LARGEST_SHARE, TOO_LARGE, HistoryError, Query, Recent
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.history.record import HistoryDocument, HistoryEntry, document, entry
from probe_exporter.runner import Result

log = logging.getLogger(__name__)

QUEUE_LIMIT = 1000
QUEUE_BYTES = 16 << 20
"""Limits of the queue of the thread; beyond them successes are dropped first, as in the history itself."""

HAND_OVER_SECONDS = 0.1
"""Seconds after which added results are passed to the thread."""

LOCKED_SECONDS = 2.0
"""Seconds to wait for another process's write, which takes milliseconds."""

PAUSE_SECONDS = 0.001
"""Seconds that the thread sleeps between two results, so that the event loop runs; to render one takes 0.2 ms."""

QUEUE_FULL = "queue_full"
WRITE_FAILED = "write_failed"
"""The causes for which a result is missing in the file."""

_APPLICATION = 0x70726F62  # "prob", in the file's header
_VERSION = 1
_SCHEMA = """
CREATE TABLE probes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice, whatever is deleted
    outlived INTEGER NOT NULL,             -- 0: one of the newest; 1: a failure that newer ones pushed out
    bytes INTEGER NOT NULL,
    module TEXT NOT NULL,
    target TEXT NOT NULL,
    started REAL NOT NULL,
    duration REAL NOT NULL,
    timeout REAL NOT NULL,
    reason TEXT NOT NULL,
    phase TEXT NOT NULL,
    message TEXT NOT NULL,
    document BLOB NOT NULL                 -- {"details": …, "debug": …}, deflated
);
CREATE INDEX by_age ON probes (outlived, id, bytes);
"""
_INSERT = """
INSERT INTO probes (outlived, bytes, module, target, started, duration, timeout, reason, phase, message, document)
VALUES (0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ENTRIES = "SELECT id, module, target, started, duration, timeout, reason, phase, message FROM probes"

_ADDED_LATER: dict[str, object] = {"parameters": {}, "phases": [], "runs": [], "tls": []}
"""Details that earlier releases did not write."""

T = TypeVar("T")


class FileHistory:
    """Finished probes in a file. Ids start at 1 and increase in the order of writing, over restarts and processes."""

    def __init__(self, path: Path, limit: int, max_bytes: int, log: ProbeLog, lost: Counter[str]) -> None:
        """Create the file, or check an existing one; the process may fork until the first call of a method.

        Args:
            limit: the most recent results kept, and the most older failures kept beside them.
            max_bytes: of the results; the file is somewhat larger.
            log: formats the log lines of a probe.
            lost: counts results that could not be kept, by cause.

        Raises:
            HistoryError: the file belongs to another application, is damaged, or can't be opened.
        """
        self._path = path
        self._limit = limit
        self._max_bytes = max_bytes
        self._log = log
        self._lost = lost
        self._queue = Recent(min(limit, QUEUE_LIMIT), min(max_bytes, QUEUE_BYTES), lost, QUEUE_FULL)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="history")
        self._due = False  # whether `_hand_over` is scheduled
        self._writing: Future[None] | None = None
        self._failing = False
        self._connection: sqlite3.Connection | None = None  # used by the thread only
        with _explained(path), closing(_open(path)) as connection:
            _refuse_damage(connection, path)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                self._prune(connection)
            connection.execute("PRAGMA incremental_vacuum")

    # --- on the event loop -------------------------------------------------------------------------------------

    def add(self, result: Result) -> None:
        if self._queue.add(result):
            self._hand_over_soon()

    async def recreate(self) -> object:
        """Return nothing, as the results are in the file."""
        return ()

    def _hand_over_soon(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(HAND_OVER_SECONDS, self._hand_over)

    def _hand_over(self) -> None:
        """Pass queued results to the thread; if it is busy, prune the queue and try again later."""
        self._due = False
        if self._writing is not None and not self._writing.done():
            self._queue.settle()
            self._hand_over_soon()
        else:
            self._submit()

    def _submit(self) -> None:
        taken = self._queue.take()
        if taken:
            self._writing = self._thread.submit(self._write, taken)

    async def select(self, query: Query) -> list[HistoryEntry]:
        return await self._read(lambda connection: query.select(_entries(connection)))

    async def get(self, id: int) -> tuple[HistoryEntry, HistoryDocument] | None:
        return await self._read(lambda connection: _get(connection, id))

    async def _read(self, reading: Callable[[sqlite3.Connection], T]) -> T:
        """Read from the file, after the results added so far have been written."""
        if self._writing is not None:
            await asyncio.wait([asyncio.wrap_future(self._writing)])  # so that at most one batch is queued
        self._submit()

        def read() -> T:
            with _explained(self._path):
                return reading(self._connected())

        return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    def close(self) -> None:
        self._submit()
        self._thread.submit(self._disconnect)
        self._thread.shutdown()

    # --- in the thread -----------------------------------------------------------------------------------------

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _open(self._path)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(self, results: list[Result]) -> None:
        """Write results to the file; on an error count them, and log the first of several errors in a row."""
        rows = [row for result in results if (row := self._row(result)) is not None]
        try:
            connection = self._connected()
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_INSERT, rows)
                self._prune(connection)
        except (sqlite3.Error, HistoryError) as error:
            self._lost[WRITE_FAILED] += len(rows)
            self._disconnect()  # the next write opens the file again, which may have been replaced or repaired
            if not self._failing:
                fields = {"path": self._path, "err": error}
                log.error("The history can't be written: probes go on, and are not kept", extra={"fields": fields})
            self._failing = True
        else:
            if self._failing:
                log.info("The history is written again", extra={"fields": {"path": self._path}})
            self._failing = False

    def _row(self, result: Result) -> tuple[object, ...] | None:
        try:
            listed, whole = entry(0, result), document(result, self._log)
            text = to_json({"details": whole.details, "debug": whole.debug})
        except Exception as error:
            self._lost[WRITE_FAILED] += 1
            log.error("Unexpected exception: a probe is missing in the history", exc_info=error)
            return None
        time.sleep(PAUSE_SECONDS)
        packed = zlib.compress(text.encode(), 1)
        texts = (listed.module, listed.target, listed.reason, listed.phase, listed.message)
        module, target, reason, phase, message = [text.encode("utf-8", "backslashreplace").decode() for text in texts]
        size = len(packed) + sum(map(len, (module, target, message))) + 100
        if size > self._max_bytes // LARGEST_SHARE:
            self._lost[TOO_LARGE] += 1
            return None
        times = (listed.started, listed.duration, listed.timeout)
        return (size, module, target, *times, reason, phase, message, packed)

    def _prune(self, connection: sqlite3.Connection) -> None:
        """Delete the results that exceed the limits, as `history.memory.Recent` does."""
        last = self._last_beyond(connection, outlived=0)
        connection.execute("DELETE FROM probes WHERE outlived = 0 AND id <= ? AND reason = ''", (last,))
        connection.execute("UPDATE probes SET outlived = 1 WHERE outlived = 0 AND id <= ?", (last,))
        last = self._last_beyond(connection, outlived=1)
        connection.execute("DELETE FROM probes WHERE outlived = 1 AND id <= ?", (last,))

    def _last_beyond(self, connection: sqlite3.Connection, *, outlived: int) -> int:
        """Return the id of the newest row that exceeds the limits; 0 if none does."""
        bounds = "SELECT count(*), total(bytes) FROM probes WHERE outlived = ?"
        count, size = connection.execute(bounds, (outlived,)).fetchone()
        last = 0
        oldest_first = "SELECT id, bytes FROM probes WHERE outlived = ? ORDER BY id"
        for id, bytes in connection.execute(oldest_first, (outlived,)):
            if count <= self._limit and size <= self._max_bytes // 2:
                break
            last, count, size = id, count - 1, size - bytes
        return last


def verify(path: Path) -> None:
    """Check that an existing file can be used as a history, and written; change nothing.

    Raises:
        HistoryError: the file belongs to another application, is damaged, or can't be written.
    """
    address = f"{path.absolute().as_uri()}?mode=rw"
    with (
        _explained(path),
        closing(sqlite3.connect(address, timeout=LOCKED_SECONDS, isolation_level=None, uri=True)) as opened,
    ):
        _is_ours(opened, path)
        _refuse_damage(opened, path)
        opened.execute("BEGIN IMMEDIATE")
        opened.execute("ROLLBACK")


def _refuse_damage(connection: sqlite3.Connection, path: Path) -> None:
    """
    Raises:
        HistoryError: the file is damaged.
    """
    if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise HistoryError(f"{path} is damaged: it is left as it is; move it away, or name another file")


def _open(path: Path) -> sqlite3.Connection:
    """Connect to a history; create it if there is no file, or an empty one.

    Raises:
        HistoryError: the file belongs to another application; it was not changed.
        sqlite3.Error: the file is not a SQLite file, or can't be opened.
    """
    with suppress(OSError):  # SQLite reports the error
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # other users must not see the targets
    connection = sqlite3.connect(path, timeout=LOCKED_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if not _is_ours(connection, path):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise HistoryError(f"{path} can't be a history: its file system does not do what SQLite's WAL needs")
    # A crash of the machine may lose the last few probes; a crash of the process loses none that were written.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {4 << 20}")
    with connection:
        # In one transaction: another process may be creating the tables too, or this one may be killed here.
        connection.execute("BEGIN IMMEDIATE")
        if not _is_ours(connection, path):
            for statement in _SCHEMA.split(";\n")[:-1]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file is a history of this version; False if it is empty.

    Raises:
        HistoryError: the file has other content.
    """
    if not _number(connection, "SELECT count(*) FROM sqlite_master"):
        return False
    if _number(connection, "PRAGMA application_id") != _APPLICATION:
        raise HistoryError(f"{path} is a SQLite file, but not a history: it is left as it is; name another file")
    version = _number(connection, "PRAGMA user_version")
    if version != _VERSION:
        raise HistoryError(f"{path} is a history of version {version}, and this exporter writes version {_VERSION}")
    return True


def _number(connection: sqlite3.Connection, statement: str) -> int:
    (number,) = connection.execute(statement).fetchone()
    return int(number)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into `HistoryError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise HistoryError(f"{path} can't be used as a history: {error}") from error


def _entries(connection: sqlite3.Connection) -> Iterator[HistoryEntry]:
    return map(HistoryEntry._make, connection.execute(f"{_ENTRIES} ORDER BY id DESC"))


def _get(connection: sqlite3.Connection, id: int) -> tuple[HistoryEntry, HistoryDocument] | None:
    if not 0 < id < 1 << 63:
        return None
    row = connection.execute(f"{_ENTRIES} WHERE id = ?", (id,)).fetchone()
    packed = connection.execute("SELECT document FROM probes WHERE id = ?", (id,)).fetchone()
    if row is None or packed is None:
        return None
    whole = json.loads(zlib.decompress(packed[0]))
    return HistoryEntry._make(row), HistoryDocument(_ADDED_LATER | whole["details"], whole["debug"])
