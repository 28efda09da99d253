"""Deadlines of many tasks, with one timer of the event loop for all of them.

How it works:

* A timer of the event loop costs several microseconds to set and cancel, and nearly every deadline ends unused.
* So the deadlines of the next `NEAR_TICKS` wait in buckets of `TICK` seconds, one set for each, and all others in one
  set. A new deadline is added to its set, and one that ends is removed from it. Most are far away when they begin and
  end soon, so that neither touches a bucket or a timer.
* There is one timer, for the earliest bucket, or for the time up to which there are buckets. When that time comes, the
  deadlines that are near by then are moved to new buckets.
* When the timer fires, every deadline of the due buckets expires: it cancels its task.
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
from typing import Any, Self

TICK = 0.01
"""Seconds that one bucket spans."""

NEAR_TICKS = 100
"""Ticks for which there are buckets. All deadlines are looked through once in this time: 0.2 ms for 4,000."""

MAX_EXPIRED_IN_A_TURN = 64
"""Deadlines that expire in one turn: to end a probe takes about 0.1 ms."""

_NEVER = float("inf")
_NOTHING = 0.001  # seconds; the resolution of the loop's clock, so a shorter time counts as none


class _Buckets:
    """The deadlines of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._near: dict[float, set[Deadline]] = {}  # by tick
        self._far: set[Deadline] = set()  # those after the horizon
        self._horizon = 0.0  # the last tick for which there are buckets
        self._armed = _NEVER  # the tick that the timer is for
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: Deadline, now: float) -> set[Deadline]:
        """Add a deadline, and return the set that it is in.

        Args:
            now: the loop's time.
        """
        if self._timer is None:
            self._horizon = now / TICK + NEAR_TICKS
        if deadline.tick <= self._horizon:
            bucket = self._bucket(deadline)
            if deadline.tick < self._armed:
                self._arm(deadline.tick)
            return bucket
        self._far.add(deadline)  # for ever if it is infinite: its tick is NaN, and a timer for that would fail
        if self._armed > self._horizon:
            self._arm(self._horizon)
        return self._far

    def _bucket(self, deadline: Deadline) -> set[Deadline]:
        """Add a deadline to its bucket, and return that."""
        bucket = self._near.setdefault(deadline.tick, set())
        bucket.add(deadline)
        return bucket

    def _arm(self, tick: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = tick
        self._timer = self.loop.call_at(tick * TICK, self._expire_due)

    def _expire_due(self) -> None:
        """Expire the deadlines that are due, and set the timer for what comes next."""
        now = self.loop.time() / TICK + 1e-6
        left = MAX_EXPIRED_IN_A_TURN
        for tick in sorted([tick for tick in self._near if tick <= now]):
            bucket = self._near[tick]
            while bucket and left:
                bucket.pop().expire()
                left -= 1
        if now >= self._horizon:
            self._horizon = now + NEAR_TICKS
            self._move_near()
        self._near = {tick: bucket for tick, bucket in self._near.items() if bucket}
        self._timer, self._armed = None, _NEVER
        following = [*self._near, self._horizon] if self._far else self._near
        if following:
            self._arm(min(following))

    def _move_near(self) -> None:
        """Move the deadlines that are near by now to buckets."""
        for deadline in [deadline for deadline in self._far if deadline.tick <= self._horizon]:
            self._far.discard(deadline)
            deadline.among = self._bucket(deadline)


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
        tick: when it expires.
        among: the set of deadlines that it is in.
    """

    __slots__ = ("_cancelling", "_task", "_when", "among", "expired", "tick")

    def __init__(self, when: float, task: asyncio.Task[Any] | None = None) -> None:
        """
        Args:
            when: in seconds, on the running loop's clock.
            task: the running task, if the caller knows it: to ask for it takes a system call on Python 3.11.
        """
        self.expired = False
        self._when = when
        self._task = task

    def expire(self) -> None:
        """Cancel the task, because the time has come."""
        if self._task is not None:
            self.expired = True
            self._task.cancel()

    def __enter__(self) -> Self:
        task = self._task
        if task is None:
            self._task = task = asyncio.current_task()
            if task is None:
                raise RuntimeError("a deadline needs a running task")
        loop = task.get_loop()
        self._cancelling = task.cancelling()
        self.tick = -(-self._when // TICK)  # rounded up
        now = loop.time()
        if self._when - now >= _NOTHING:
            self.among = _buckets_of(loop).add(self, now)
        else:
            self.among = set()
            loop.call_soon(self.expire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self.expired:
            self.among.discard(self)
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
