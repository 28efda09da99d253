"""Deadlines for many tasks at once, kept by one timer.

A timer of the event loop costs several microseconds to set and to drop, and nearly every deadline is dropped unused.
Here they lie in buckets of `TICK` seconds, and the loop has a timer for the first bucket only. A deadline strikes up to
a tick late and never early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

TICK = 0.01
"""Seconds that one bucket spans."""

_NEVER = 1 << 62
_NOTHING = 0.001  # seconds; the resolution of the loop's clock: less is no time at all


class _Buckets:
    """The deadlines of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._buckets: dict[int, set[Deadline]] = {}
        self._armed = _NEVER  # the bucket that the timer is for
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: Deadline) -> None:
        bucket = self._buckets.get(deadline.tick)
        if bucket is not None:
            bucket.add(deadline)
            return
        self._buckets[deadline.tick] = {deadline}
        if deadline.tick < self._armed:
            self._arm(deadline.tick)

    def discard(self, deadline: Deadline) -> None:
        bucket = self._buckets.get(deadline.tick)
        if bucket is not None:
            bucket.discard(deadline)
            if not bucket:
                del self._buckets[deadline.tick]

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = tick
        self._timer = self.loop.call_at(tick * TICK, self._strike)

    def _strike(self) -> None:
        """Strike what is due, and set the timer for what comes next."""
        self._timer, self._armed = None, _NEVER
        now = int(self.loop.time() / TICK + 1e-6)
        for tick in sorted(tick for tick in self._buckets if tick <= now):
            for deadline in self._buckets.pop(tick):
                deadline.strike()
        if self._buckets:
            self._arm(min(self._buckets))


_running: _Buckets | None = None
"""Those of the loop that was asked for last: a process has one, and a test that makes another gets new ones."""


def _buckets_of(loop: asyncio.AbstractEventLoop) -> _Buckets:
    global _running  # noqa: PLW0603  # a dictionary by loop would cost more than the rest of a deadline
    if _running is None or _running.loop is not loop:
        _running = _Buckets(loop)
    return _running


class Deadline:
    """A context manager that ends the task's work at a time: ``with Deadline(when): await …`` raises TimeoutError.

    It behaves as `asyncio.timeout_at`: a cancellation from elsewhere passes through as one.

    Attributes:
        expired: whether it has struck.
    """

    __slots__ = ("_buckets", "_cancelling", "_task", "_when", "expired", "tick")

    def __init__(self, when: float) -> None:
        """
        Args:
            when: in seconds, on the running loop's clock.
        """
        self.expired = False
        self.tick = -int(-when // TICK)  # rounded up
        self._buckets = _buckets_of(asyncio.get_running_loop())
        self._when = when
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    def strike(self) -> None:
        """The time has come: cancel the task."""
        if self._task is not None:
            self.expired = True
            self._task.cancel()

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task that it can end")
        self._task = task
        self._cancelling = task.cancelling()
        if self._when - self._buckets.loop.time() >= _NOTHING:
            self._buckets.add(self)
        else:
            self._buckets.loop.call_soon(self.strike)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self.expired:
            self._buckets.discard(self)
        elif task is not None and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error


class Late(Exception):
    """Something that may be left out has had its time."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give something a part of the time that there is: ``with within(0.5): await …``.

    Raises:
        Late: it took longer.
    """
    limit = Deadline(asyncio.get_running_loop().time() + seconds)
    try:
        with limit:
            yield
    except TimeoutError:
        if not limit.expired:
            raise
        raise Late("no answer in time") from None
