"""A clock that skips idle time, so that a test of a timeout neither waits for it nor depends on the machine's speed.

Use it where server and client run on the same event loop. While either has work to do, time passes as it always does.
When nothing is left to do but wait for a timer, the clock moves to that timer. A timeout of ten seconds costs a moment,
and a slow machine has ten seconds for the work that comes before it.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import pytest

QUIET_SECONDS = 0.1
"""Real seconds without any event after which the loop counts as idle: the kernel may still deliver something
(an acknowledgement may take 40 ms)."""

T = TypeVar("T")


class Clock:
    """How far the clocks of this process are ahead of real time."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Make an event loop that moves this clock while it is idle."""
        return _Loop(self)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self.threads_at_work = 0
        super().__init__(_Selector(self, clock))

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Do the same as any loop; while a thread works, the loop is not idle."""
        future = super().run_in_executor(executor, func, *args)
        self.threads_at_work += 1
        future.add_done_callback(self._thread_has_ended)
        return future

    def _thread_has_ended(self, _: object) -> None:
        self.threads_at_work -= 1


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: _Loop, clock: Clock) -> None:
        super().__init__()
        self._loop = loop
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, but not for a timer."""
        if timeout is None or timeout <= QUIET_SECONDS or self._loop.threads_at_work:
            return super().select(timeout)
        ready = super().select(QUIET_SECONDS)
        if not ready:
            self._clock.ahead += timeout - QUIET_SECONDS
        return ready


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Run the test on a loop that skips idle time; `time.monotonic` and `time.perf_counter` follow."""
    clock = Clock()
    for name in ("monotonic", "perf_counter"):
        real: Callable[[], float] = getattr(time, name)
        monkeypatch.setattr(time, name, lambda real=real: real() + clock.ahead)
    return clock
