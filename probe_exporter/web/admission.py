"""Limit the probes that run at once, and queue the rest: the queue is limited in length and in time.

Without a queue, admission costs one comparison. A probe that waited still gets its module's timeout, or half of its
request's time: an overloaded exporter answers 503 instead of reporting a healthy target as down.
"""

from __future__ import annotations

import asyncio

from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.web.answers import Refused


def patience(whole: float, timeout: float) -> float:
    """Return how many seconds a request may wait for a free slot.

    Args:
        whole: seconds until the response is too late.
        timeout: seconds that the probe gets if it starts at once.
    """
    return max(0.0, whole - min(timeout, whole / 2))


class Admission:
    """Gives slots to probes, first come first served.

    Attributes:
        free: free slots. If there is one, take it with ``free -= 1``, and call `leave` afterwards.
    """

    def __init__(self, max_probes: int, telemetry: Telemetry) -> None:
        """
        Args:
            max_probes: slots; as many requests may wait.
            telemetry: counts waiting and rejected requests.
        """
        self.free = max_probes
        self._max_waiting = max_probes
        self._telemetry = telemetry
        self._waiting: dict[asyncio.Future[None], None] = {}  # the first has waited longest

    async def wait(self, seconds: float) -> float:
        """Wait for a slot, and return how many seconds that took.

        Raises:
            Refused: there is no free slot in time, or too many requests wait already.
        """
        if len(self._waiting) >= self._max_waiting or seconds <= 0:
            raise self._overloaded()
        loop = asyncio.get_running_loop()
        began = loop.time()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting[turn] = None
        self._telemetry.waiting = len(self._waiting)
        timer = loop.call_later(seconds, self._give_up, turn)
        try:
            await turn
        except asyncio.CancelledError:  # the client has disconnected
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()
            raise
        finally:
            timer.cancel()
            del self._waiting[turn]
            self._telemetry.waiting = len(self._waiting)
        return loop.time() - began

    def leave(self) -> None:
        """Give a slot back: to the request that has waited longest, if any."""
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1

    def close(self) -> None:
        """Refuse all waiting requests."""
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(Refused(503, "The exporter is shutting down"))

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            turn.set_exception(self._overloaded())

    def _overloaded(self) -> Refused:
        self._telemetry.rejected += 1
        return Refused(503, "Too many probes at once", **{"Retry-After": "1"})
