"""Log the stack of code that blocks the event loop, from a thread that compares the loop's ticks to the clock.

A blocked loop can't report itself. `Lag` notes when the next tick is due; this thread looks once a second, and if the
tick is overdue, logs the stack of the loop's thread and, if a prober is on it, the prober's name. One log line for each
time that the loop is blocked, and one with the duration when it goes on.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from types import FrameType

from probe_exporter.telemetry.lag import Lag

log = logging.getLogger(__name__)

MAX_BLOCKED_SECONDS = 1.0
"""The loop may be late by this much before its stack is logged."""

CHECK_SECONDS = 1.0

MAX_STACK_FRAMES = 12
"""The innermost; the outer ones are the event loop's own."""

Identify = Callable[[FrameType | None], dict[str, object]]


class Watchdog:
    """Watches the event loop of the thread that calls `start`."""

    def __init__(self, lag: Lag, identify: Identify) -> None:
        """
        Args:
            identify: returns log fields for a stack, given its innermost frame.
        """
        self._lag = lag
        self._identify = identify
        self._loop_thread = 0
        self._stop = threading.Event()
        self._blocked: dict[str, object] | None = None

    def start(self) -> None:
        """Start the thread."""
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Tell the thread to end, without waiting for it."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(CHECK_SECONDS):
            self.check()

    def check(self) -> None:
        """Log if the loop has become blocked since the last check, or is no longer blocked."""
        late = self._lag.overdue()
        if late <= MAX_BLOCKED_SECONDS:
            if self._blocked is not None:
                fields = self._blocked | {"held_seconds": round(self._lag.worst(), 3)}
                log.warning("The event loop is no longer blocked", extra={"fields": fields})
            self._blocked = None
        elif self._blocked is None:
            frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  (documented for this purpose)
            self._blocked = self._identify(frame)
            fields = self._blocked | {"held_seconds": round(late, 3), "stack": _stack(frame)}
            log.error("The event loop is blocked", extra={"fields": fields})


def _stack(frame: FrameType | None) -> str:
    """Return the innermost frames as ``file.py:12 function``, the innermost last.

    The functions of `traceback` would read the source files of all frames, and keep a megabyte of text.
    """
    entries: list[str] = []
    while frame is not None and len(entries) < MAX_STACK_FRAMES:
        entries.insert(0, f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return ", ".join(entries)
