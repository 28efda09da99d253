"""Turns for probes: so many at once, and beyond them a queue that is bounded in length and in time.

The ordinary path is one comparison. A probe that waited still gets its module's timeout, or half of its request's time:
an exporter without time to probe says 503, and not that a healthy target is down.
"""

from __future__ import annotations

import asyncio

from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.web.answers import Refused


def patience(whole: float, timeout: float) -> float:
    """How long a request may wait for its turn.

    Args:
        whole: seconds until its answer is too late.
        timeout: seconds that its probe gets if it begins at once.
    """
    return max(0.0, whole - min(timeout, whole / 2))


class Admission:
    """Hands out turns, first come first served.

    Attributes:
        free: turns that nobody has. Where there is one, take it: ``free -= 1``.
    """

    def __init__(self, most: int, telemetry: Telemetry) -> None:
        """
        Args:
            most: turns at once; as many may wait.
            telemetry: told how many wait, and of each that gets no turn.
        """
        self.free = most
        self._most_waiting = most
        self._telemetry = telemetry
        self._waiting: dict[asyncio.Future[None], None] = {}  # the first has waited longest

    async def wait(self, seconds: float) -> float:
        """Wait for a turn; how long it took, in seconds.

        Raises:
            Refused: there is none in time, or too many wait already.
        """
        if len(self._waiting) >= self._most_waiting or seconds <= 0:
            raise self._overloaded()
        loop = asyncio.get_running_loop()
        began = loop.time()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting[turn] = None
        self._telemetry.waiting = len(self._waiting)
        timer = loop.call_later(seconds, self._give_up, turn)
        try:
            await turn
        except asyncio.CancelledError:  # the client has hung up
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()
            raise
        finally:
            timer.cancel()
            del self._waiting[turn]
            self._telemetry.waiting = len(self._waiting)
        return loop.time() - began

    def leave(self) -> None:
        """Give a turn back: to whoever has waited longest."""
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1

    def close(self) -> None:
        """Send all home that wait."""
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(Refused(503, "The exporter is shutting down"))

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            turn.set_exception(self._overloaded())

    def _overloaded(self) -> Refused:
        self._telemetry.rejected += 1
        return Refused(503, "Too many probes at once", **{"Retry-After": "1"})
