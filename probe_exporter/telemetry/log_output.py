"""Write log lines to stderr without ever blocking or failing the caller.

stderr may be closed, a full disk, or a pipe without a reader. Then log lines are dropped and counted; probes continue.
There are three ways to write:

* Directly: at start, and in commands.
* `queued`: `write` appends to a queue of at most `MAX_QUEUE_BYTES`, and a thread writes. For a process that serves.
* `nonblocking`: `write` writes only what stderr takes at once. For the supervisor of workers, which must not have
  threads because it forks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

STDERR = 2

MAX_QUEUE_BYTES = 4 << 20
"""Some 20,000 lines: what a burst of failing probes leaves while the writer waits for a disk."""

MAX_FLUSH_SECONDS = 1.0
"""Seconds that the process waits at its end for a blocked stderr to accept queued lines."""


class _Counts:
    """The count of dropped lines, for the metric.

    Attributes:
        dropped: lines that could not be written, since the process began.
    """

    dropped = 0


def dropped() -> int:
    """Return the number of log lines that this process could not write."""
    return _Counts.dropped


def _drop(data: bytes) -> None:
    _Counts.dropped += data.count(b"\n")


def occupy_standard_descriptors() -> None:
    """Open /dev/null for each of stdin, stdout and stderr that is closed.

    Otherwise the next file or socket would get its descriptor, and log lines would be written there.
    """
    for descriptor in (0, 1, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest descriptor that is free, which is this one


def write(text: str) -> None:
    """Write whole log lines to stderr, or drop and count them. Never raises."""
    _write(text)


def _write_directly(text: str) -> None:
    """Write to `sys.stderr`, which tests and embedding programs may replace."""
    try:
        if sys.stderr is None:
            raise OSError("there is no stderr")
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):  # ValueError: it was closed
        _drop(text.encode("utf-8", "surrogateescape"))


_write: Callable[[str], None] = _write_directly


class Writer:
    """A bounded queue of log lines, and the thread that writes them.

    Attributes:
        bytes: the size of the queued lines and of those being written now.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queue: deque[bytes] = deque()
        self._condition = threading.Condition()
        self._ending = False
        self.bytes = 0
        self._reported = _Counts.dropped
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, text: str) -> None:
        """Queue whole lines, or drop them if there is no room."""
        data = text.encode("utf-8", "backslashreplace")
        with self._condition:
            if self.bytes + len(data) > MAX_QUEUE_BYTES:
                _drop(data)
                return
            self._queue.append(data)
            self.bytes += len(data)
            if len(self._queue) == 1:
                self._condition.notify()

    def close(self, seconds: float = MAX_FLUSH_SECONDS) -> None:
        """Write the queued lines, for at most some seconds; drop the rest."""
        with self._condition:
            self._ending = True
            self._condition.notify()
        self._thread.join(seconds)
        with self._condition:
            for data in self._queue:
                _drop(data)
            self._queue.clear()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._queue and not self._ending:
                    self._condition.wait()
                if not self._queue:
                    return
                data = self._queue[0]
            self._write_all(data)
            with self._condition:
                if self._queue:  # `close` may have given up meanwhile
                    self._queue.popleft()
                self.bytes -= len(data)
            if not self._ending:
                self._report_dropped()

    def _write_all(self, data: bytes) -> None:
        """Write, and wait as long as it takes; drop the data if stderr fails."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another process has made it non-blocking
                select.select([], [self._descriptor], [], 1.0)
            except OSError:
                _drop(bytes(left))
                return

    def _report_dropped(self) -> None:
        """Log how many lines are missing, once lines are written again."""
        missing = _Counts.dropped - self._reported
        if missing and self.bytes < MAX_QUEUE_BYTES // 2:
            self._reported = _Counts.dropped
            log.warning("Log lines were dropped", extra={"fields": {"lines": missing}})


@contextlib.contextmanager
def queued() -> Iterator[None]:
    """Write by a queue and a thread, within the block."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    writer = Writer(STDERR)
    try:
        with _writing_by(writer.put):
            yield
    finally:
        writer.close()


@contextlib.contextmanager
def nonblocking() -> Iterator[None]:
    """In the block, write only what stderr accepts at once, and drop the rest."""
    descriptor = _without_waiting(STDERR)

    def put(text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        try:
            written = os.write(descriptor, data)
        except OSError:
            written = 0
        if written < len(data):
            _drop(data[written:])

    try:
        with _writing_by(put):
            yield
    finally:
        if descriptor != STDERR:
            os.close(descriptor)


@contextlib.contextmanager
def _writing_by(put: Callable[[str], None]) -> Iterator[None]:
    global _write  # noqa: PLW0603  (a process has one stderr)
    before, _write = _write, put
    try:
        yield
    finally:
        _write = before


def _without_waiting(descriptor: int) -> int:
    """Return a descriptor of the same pipe or terminal that does not block; the given one for anything else.

    O_NONBLOCK belongs to the open file, which other processes share. So a pipe or terminal is opened once more; a file
    never blocks for long, and a socket (journald) has a reader that does not stop.
    """
    with contextlib.suppress(OSError):
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode) or os.isatty(descriptor):
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return descriptor
