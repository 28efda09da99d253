"""Simulated time: event loops whose clock a test controls, so that no timeout is waited for.

Which part of the test kit to use:

==============================================  =====================================================================
Code with timers and without sockets            `SimulatedLoop`: the clock jumps to the next timer, and times are exact.
Our server, with clients in the same test       `StandingLoop`: the clock moves only by `advance(seconds)`.
A probe, with its server on the same loop       the fixture `clock`: time passes as usual, but idle time is skipped.
A probe, with its server in another process     `tests.deadlines`: the probe's deadline expires at an event.
Something that happens without a timer          `tests.waiting`: wait for it, on the loop or in a thread.
A limit on work, or on the work of one turn     `tests.cost`: CPU time, measured in a unit of the same machine.
==============================================  =====================================================================

A file chooses its loop by a fixture `new_loop` that returns the class; without one, a test runs on uvloop.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import selectors
import termios
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar

import pytest

HANG_SECONDS = 120.0
"""Real seconds after which the clock of a `StandingLoop` jumps forward, so that a test that hangs times out."""

QUIET_SECONDS = 0.1
"""Real seconds without any event after which the loop of `clock` counts as idle. An acknowledgement of the kernel may
take 40 ms."""

IDLE_SECONDS = 0.02
"""The same for a loop of which `idle` is true."""

SETTLING_TURNS = 10
"""Iterations of the loop that `settle` runs."""

T = TypeVar("T")


# --- a clock that moves by hand ------------------------------------------------------------------------------


class StandingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves only when `advance` is called. Sockets work as usual."""

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        self._now = 1000.0
        self._hung = time.monotonic() + HANG_SECONDS
        super().__init__(selector)

    def time(self) -> float:
        """Return the simulated time in seconds."""
        return self._now + (1e6 if time.monotonic() > self._hung else 0.0)

    def advance(self, seconds: float) -> None:
        """Move the clock, as if the loop had been blocked for so long. Due timers run at its next iteration."""
        self._now += seconds


def simulated() -> StandingLoop:
    """Return the running loop, which a test's `new_loop` fixture has made a simulated one."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, StandingLoop)
    return loop


async def advance(seconds: float) -> None:
    """Move the clock of the running loop forward, and run the timers that are due."""
    simulated().advance(seconds)
    await settle()


async def settle() -> None:
    """Run some iterations of the loop without moving the clock."""
    for _ in range(SETTLING_TURNS):
        await asyncio.sleep(0)


# --- a clock that jumps --------------------------------------------------------------------------------------


class SimulatedLoop(StandingLoop):
    """An event loop whose clock jumps to the next timer if the tasks wait for timers alone.

    If a socket is registered, the loop waits for it as usual, and the clock moves only if a timer comes first.
    """

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))


class _JumpingSelector(selectors.DefaultSelector):
    """Wait for sockets; if only the loop's own is registered, return at once and move the clock."""

    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        only_the_loop_itself = len(self.get_map()) <= 1
        found = super().select(0 if only_the_loop_itself and timeout is not None else timeout)
        if not found and timeout is not None and timeout > 0:
            self._loop.advance(timeout)
        return found


# --- a clock that skips idle time ----------------------------------------------------------------------------


class Clock:
    """How far the clocks of this process are ahead of real time."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return an event loop that moves this clock while it is idle."""
        return _SkippingLoop(self)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Run the test on a loop that skips idle time; `time.monotonic` and `time.perf_counter` follow.

    While the client or the server has work to do, time passes as usual. When both only wait for a timer, the clock
    moves to that timer. A timeout of ten seconds costs a moment, and a slow machine has ten seconds for the work that
    comes before it.
    """
    clock = Clock()
    for name in ("monotonic", "perf_counter"):
        real: Callable[[], float] = getattr(time, name)
        monkeypatch.setattr(time, name, lambda real=real: real() + clock.ahead)
    return clock


class _SkippingLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self.threads_at_work = 0
        super().__init__(_SkippingSelector(self, clock))

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Do the same as any loop; while a thread works, the loop is not idle."""
        future = super().run_in_executor(executor, func, *args)
        self.threads_at_work += 1
        future.add_done_callback(self._thread_has_ended)
        return future

    def _thread_has_ended(self, _: object) -> None:
        self.threads_at_work -= 1


class _SkippingSelector(selectors.DefaultSelector):
    def __init__(self, loop: _SkippingLoop, clock: Clock) -> None:
        super().__init__()
        self._loop = loop
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, but not for a timer."""
        if timeout is None or timeout <= QUIET_SECONDS or self._loop.threads_at_work:
            return super().select(timeout)
        waited = IDLE_SECONDS
        ready = super().select(IDLE_SECONDS)
        if not ready and not idle(self):
            waited = QUIET_SECONDS
            ready = super().select(QUIET_SECONDS - IDLE_SECONDS)
        if not ready:
            self._clock.ahead += timeout - waited
        return ready


def idle(selector: selectors.BaseSelector) -> bool:
    """Return whether nothing of this process can cause an event: no sent data, no waiting writer, no busy thread."""
    return not any(map(_expects, selector.get_map().values())) and not any(
        map(_works, Path("/proc/self/task").iterdir())
    )


def _expects(key: selectors.SelectorKey) -> bool:
    """Return whether a socket waits until it can send, or has sent data that is not acknowledged yet."""
    unacknowledged = array.array("i", [0])
    try:
        fcntl.ioctl(key.fd, termios.TIOCOUTQ, unacknowledged)
    except OSError:  # a socket that listens, or a pipe
        return bool(key.events & selectors.EVENT_WRITE)
    return bool(key.events & selectors.EVENT_WRITE or unacknowledged[0])


def _works(thread: Path) -> bool:
    """Return whether another thread of this process runs, or would run if it had a core."""
    if int(thread.name) == threading.get_native_id():
        return False
    try:
        state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it has ended
        return True
    return state != "S"
