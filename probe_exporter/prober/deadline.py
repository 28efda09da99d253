"""Deadlines of many tasks, with one timer of the event loop for all of them.

How it works:

* A timer of the event loop costs several microseconds to set and cancel, and nearly every deadline ends unused.
* So deadlines wait in buckets of `TICK` seconds, and only the earliest bucket has a timer.
* A new deadline is added to the set of its bucket, and one that ends is removed from it. Neither touches the loop's
  timers, unless the bucket is new and earlier than all others.
* When the timer fires, every deadline of the due buckets expires: it cancels its task. The next bucket gets a timer.
* At most `MAX_EXPIRED_IN_A_TURN` expire in one turn of the loop, in which their tasks also end. Thousands may be due at
  once: those of probes that began together, or after the process got no CPU for a while.
* A deadline is rounded up to the end of its bucket, so it expires up to a tick late and never early.
* `Deadline.__exit__` turns the cancellation into TimeoutError, as `asyncio.timeout_at` does. The
  counter `Task.cancelling` tells whether other code has cancelled the task too: that cancellation passes through.
* A deadline that has passed already expires at the next turn of the loop, so the body runs to its first await.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

TICK = 0.01
"""Seconds that one bucket spans."""

MAX_EXPIRED_IN_A_TURN = 64
"""Deadlines that expire in one turn: to end a probe takes about 0.1 ms."""

_NEVER = float("inf")
_NOTHING = 0.001  # seconds; the resolution of the loop's clock, so a shorter time counts as none


class _Buckets:
    """The deadlines of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._buckets: dict[float, set[Deadline]] = {}
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

    def _arm(self, tick: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = tick
        self._timer = self.loop.call_at(tick * TICK, self._expire_due)

    def _expire_due(self) -> None:
        """Expire the deadlines that are due, and set the timer for the next bucket."""
        self._timer, self._armed = None, _NEVER
        now = self.loop.time() / TICK + 1e-6
        left = MAX_EXPIRED_IN_A_TURN
        for tick in sorted(tick for tick in self._buckets if tick <= now):
            bucket = self._buckets[tick]
            while bucket and left:
                bucket.pop().expire()
                left -= 1
            if not bucket:
                del self._buckets[tick]
        if self._buckets:
            self._arm(min(self._buckets))


_running: _Buckets | None = None
"""The buckets of the loop used last: a process has one loop, and a test that makes another gets new buckets."""


def _buckets_of(loop: asyncio.AbstractEventLoop) -> _Buckets:
    global _running  # noqa: PLW0603  # a dictionary by loop would cost more than the rest of a deadline
    if _running is None or _running.loop is not loop:
        _running = _Buckets(loop)
    return _running


class Deadline:
    """A context manager that ends its body at a given time: ``with Deadline(when): await …`` raises TimeoutError.

    As with `asyncio.timeout_at`, a cancellation from elsewhere remains a CancelledError.

    Attributes:
        expired: whether the deadline has cancelled the body.
    """

    __slots__ = ("_buckets", "_cancelling", "_task", "_when", "expired", "tick")

    def __init__(self, when: float) -> None:
        """
        Args:
            when: in seconds, on the running loop's clock.
        """
        self.expired = False
        self._when = when

    def expire(self) -> None:
        """Cancel the task, because the time has come."""
        if self._task is not None:
            self.expired = True
            self._task.cancel()

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        task: asyncio.Task[object] | None = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a deadline needs a running task")
        self._task: asyncio.Task[object] | None = task
        self._cancelling = task.cancelling()
        self.tick = -(-self._when // TICK)  # rounded up
        self._buckets = _buckets_of(loop)
        if self._when - loop.time() >= _NOTHING:
            self._buckets.add(self)
        else:
            loop.call_soon(self.expire)
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
    """An optional step took longer than its share of the time."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Limit the time of an optional step: ``with within(0.5): await …``.

    Raises:
        Late: the body took longer.
    """
    limit = Deadline(asyncio.get_running_loop().time() + seconds)
    try:
        with limit:
            yield
    except TimeoutError:
        if not limit.expired:
            raise
        raise Late("no answer in time") from None
