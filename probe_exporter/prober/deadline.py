"""Deadlines of many tasks, with one timer of the event loop for all of them.

How it works:

* A timer of the event loop costs several microseconds to set and cancel, and nearly every deadline ends unused.
* So deadlines wait in buckets of `TICK` seconds, one set for each. A new deadline is added to its set, and one that
  ends is removed from it. There is one timer, for the earliest bucket of this second and the next: those are near.
* All other buckets are grouped by second. Most deadlines are far away when they begin and end soon, so that they need
  no timer. When a second begins, the buckets of the next one that are still in use become near. This looks at no
  deadline: the memory of a probe that waits may be slow, because nothing has used it for seconds.
* Deadlines more than `FAR_SECONDS` away wait in one set, and all of them are looked at when a second begins.
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
from itertools import chain
from types import TracebackType
from typing import Any, Self

TICK = 0.01
"""Seconds that one bucket spans."""

TICKS = round(1 / TICK)
"""Ticks of a second."""

FAR_SECONDS = 64
"""Seconds for which there are buckets, also for deadlines that have ended."""

MAX_EXPIRED_IN_A_TURN = 32
"""Deadlines that expire in one turn: to end a probe takes 0.1 ms, and more if its memory was not used for long."""

_NEVER = float("inf")
_NOTHING = 0.001  # seconds; the resolution of the loop's clock, so a shorter time counts as none


class _Buckets:
    """The deadlines of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._near: dict[float, set[Deadline]] = {}  # by tick
        self._far: dict[float, dict[float, set[Deadline]]] = {}  # by second, then by tick
        self._remote: set[Deadline] = set()  # those after the last second of `_far`
        self._second = 0.0  # the last one whose buckets are near
        self._armed = _NEVER  # the tick that the timer is for
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: Deadline, now: float) -> set[Deadline]:
        """Add a deadline, and return the set that it is in.

        Args:
            now: the loop's time.
        """
        if self._timer is None:
            self._second = now // 1 + 1
        tick = deadline.tick
        second = tick // TICKS
        if second <= self._second:
            buckets = self._near
            if tick < self._armed:
                self._arm(tick)
        else:
            if self._armed > self._second * TICKS:
                self._arm(self._second * TICKS)
            if not second <= self._second + FAR_SECONDS:  # an infinite one is NaN here
                self._remote.add(deadline)
                return self._remote
            buckets = self._far.setdefault(second, {})
        bucket = buckets.get(tick)
        if bucket is None:
            bucket = buckets[tick] = set()
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
        if now >= self._second * TICKS:
            self._begin_second(now // TICKS)
        self._near = {tick: bucket for tick, bucket in self._near.items() if bucket}
        following = [*self._near]
        if self._remote or any(chain.from_iterable(map(dict.values, self._far.values()))):
            following.append(self._second * TICKS)
        else:
            self._far.clear()
        self._timer, self._armed = None, _NEVER
        if following:
            self._arm(min(following))

    def _begin_second(self, second: float) -> None:
        """Make the buckets of the next second near."""
        self._second = second + 1
        for far in [far for far in self._far if far <= self._second]:
            self._near.update(self._far.pop(far))
        last = (self._second + FAR_SECONDS + 1) * TICKS
        for deadline in [deadline for deadline in self._remote if deadline.tick < last]:
            self._remote.discard(deadline)
            deadline.among = self.add(deadline, 0.0)


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
