"""The icmp prober: ping a host once, or several times with statistics."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated

from annotated_types import Ge, Le
from pydantic import AfterValidator

from probe_exporter.network.address_choice import choose_address
from probe_exporter.network.settings import SourceSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import LabelledSeries, Metric, whole_nanoseconds
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.icmp.pings import PingPath, Reply
from probe_exporter.settings.fields import Duration, positive

# --- settings ----------------------------------------------------------------------------------------------

TEXT = b"probe-exporter: are you up?!"
"""Payload of a request without `payload_size`; as long as the original's text."""

_MAX_PAYLOAD_BYTES = 65507  # 65535 less the headers of IPv4 and ICMP
_TOO_MUCH = 65536  # for IPv6 too, without a jumbogram


class IcmpSettings(SourceSettings):
    """The ``icmp`` block of a module.

    Args:
        payload_size: bytes of the payload; the size of a default text if it is 0.
        dont_fragment: set the DF flag (IPv4 only).
        ttl: time to live, or hop limit, of the requests.
        count: number of echo requests.
        interval: time between two requests.
    """

    payload_size: Annotated[int, Ge(0)] = 0
    dont_fragment: bool = False
    ttl: Annotated[int, Ge(0), Le(255)] = 64
    count: Annotated[int, Ge(1), Le(1000)] = 1
    interval: Annotated[Duration, AfterValidator(positive)] = 1.0

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.payload_size > _MAX_PAYLOAD_BYTES:
            yield "payload_size", f"a packet holds at most {_MAX_PAYLOAD_BYTES} bytes: every probe will fail"

    @cached_property
    def payload(self) -> bytes:
        """The payload of each request; if it is too large for a packet, just too large."""
        size = min(self.payload_size or len(TEXT), _TOO_MUCH)
        return TEXT[:size].ljust(size, b"\0")


# --- metrics -----------------------------------------------------------------------------------------------

DURATION = Metric(
    "probe_icmp_duration_seconds",
    "Duration of each phase in seconds; rtt is the round trip, 0 without a reply.",
    ("phase",),
    series=3,
)
HOP_LIMIT = Metric("probe_icmp_reply_hop_limit", "TTL or hop limit of the reply on arrival.")
LOSS = Metric(
    "probe_icmp_packet_loss_ratio", "Share of the requests without a reply in time, from 0 to 1; only if count > 1."
)
RTT_MIN = Metric("probe_icmp_rtt_min_seconds", "Shortest round trip in seconds; only if count > 1.")
RTT_AVG = Metric("probe_icmp_rtt_avg_seconds", "Mean of the round trips in seconds; only if count > 1.")
RTT_MAX = Metric("probe_icmp_rtt_max_seconds", "Longest round trip in seconds; only if count > 1.")
RTT_STDDEV = Metric(
    "probe_icmp_rtt_stddev_seconds", "Standard deviation of the round trips in seconds; only if count > 1."
)
JITTER = Metric(
    "probe_icmp_rtt_jitter_seconds",
    "Mean difference between consecutive round trips in seconds; only with two or more replies.",
)

_SETUP, _RTT = (DURATION, ("setup",)), (DURATION, ("rtt",))
_WITHOUT_PHASES: LabelledSeries = {(DURATION, ("resolve",)): 0, _SETUP: 0, _RTT: 0}

# --- the probe ---------------------------------------------------------------------------------------------

MARGIN = 0.02
"""Seconds before the deadline at which a series of pings ends with the replies so far."""


async def probe_icmp(probe: Probe, settings: IcmpSettings) -> None:
    """Ping a host: send ICMP echo requests and wait for replies."""
    series = probe.samples.series  # `set` would check what these are
    series.update(_WITHOUT_PHASES)
    address = await choose_address(probe, _without_brackets(probe.target), settings, DURATION)
    with probe.phase("setup") as setup:
        path = PingPath(
            probe,
            address,
            source=settings.source_ip_address,
            ttl=settings.ttl,
            dont_fragment=settings.dont_fragment,
        )
        payload, count = settings.payload, settings.count
        if count > 1:
            _check_time(probe, settings)
    series[_SETUP] = whole_nanoseconds(setup.seconds)
    probe.log("Pinging", ip=address, payload_bytes=len(payload), count=count)
    with probe.phase("rtt"):
        if count == 1:
            reply = await path.ping(payload)
            series[_RTT] = whole_nanoseconds(reply.seconds)
        else:
            reply = await _PingRun(probe, path, settings).run(payload)
    probe.log("Got a reply", rtt_seconds=whole_nanoseconds(reply.seconds), hop_limit=reply.hop_limit)
    if reply.hop_limit is not None:
        probe.samples.plain[HOP_LIMIT] = reply.hop_limit


def _without_brackets(target: str) -> str:
    """Return the target; an IPv6 address may be in brackets, though no port follows."""
    return target[1:-1] if target.startswith("[") and target.endswith("]") and ":" in target else target


def _check_time(probe: Probe, settings: IcmpSettings) -> None:
    """Refuse a series that can't be sent within the timeout."""
    takes = (settings.count - 1) * settings.interval
    if takes >= probe.remaining - MARGIN:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE,
            f"{settings.count} requests at intervals of {settings.interval:g} s take {takes:g} s, "
            f"and the probe has {probe.remaining:.3g} s",
        )


class _PingRun:
    """Several pings, sent at even intervals, independent of replies.

    After the last request, outstanding replies have twice the longest round trip so far, but at least one interval.
    Without any reply they have until the deadline.
    """

    def __init__(self, probe: Probe, path: PingPath, settings: IcmpSettings) -> None:
        self._probe = probe
        self._path = path
        self._settings = settings
        self._clock = asyncio.get_running_loop().time
        self._pings: list[asyncio.Task[Reply]] = []

    async def run(self, payload: bytes) -> Reply:
        """Send all requests and return the first reply. An error message ends the series."""
        started = self._clock()
        try:
            for number in range(self._settings.count):
                await self._pause(started + number * self._settings.interval)
                self._pings.append(asyncio.create_task(self._path.ping(payload)))
            await self._finish()
        finally:
            self._report()
            for ping in self._pings:
                ping.cancel()
            await asyncio.gather(*self._pings, return_exceptions=True)
        replies = self._replies()
        if not replies:
            raise ProbeFailed(Reason.ICMP_TIMEOUT, f"no reply to any of {len(self._pings)} echo requests")
        return replies[0]

    async def _pause(self, until: float) -> None:
        """Wait until a time; raise the error of a ping that fails meanwhile."""
        while (left := until - self._clock()) > 0:
            unanswered = self._unanswered()
            if unanswered:
                await asyncio.wait(unanswered, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
            else:
                await asyncio.sleep(left)
            self._raise_errors()

    async def _finish(self) -> None:
        """Wait for the outstanding replies."""
        sent = self._clock()
        end = sent + self._probe.remaining - MARGIN
        while unanswered := self._unanswered():
            slowest = max((reply.seconds for reply in self._replies()), default=math.inf)
            left = min(end, sent + max(self._settings.interval, 2 * slowest)) - self._clock()
            if left <= 0:
                break
            await asyncio.wait(unanswered, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            self._raise_errors()
        self._raise_errors()

    def _unanswered(self) -> list[asyncio.Task[Reply]]:
        return [ping for ping in self._pings if not ping.done()]

    def _raise_errors(self) -> None:
        for ping in self._pings:
            if ping.done() and not ping.cancelled() and (error := ping.exception()) is not None:
                raise error

    def _replies(self) -> list[Reply]:
        """Return the replies so far, in the order of their requests."""
        return [
            ping.result() for ping in self._pings if ping.done() and not ping.cancelled() and ping.exception() is None
        ]

    def _report(self) -> None:
        """Set the metrics of the series so far."""
        probe, seconds = self._probe, [reply.seconds for reply in self._replies()]
        if self._pings:
            probe.set(LOSS, (len(self._pings) - len(seconds)) / len(self._pings))
        if not seconds:
            return
        average = statistics.fmean(seconds)
        probe.set(DURATION, round(average, 9), "rtt")
        probe.set(RTT_MIN, round(min(seconds), 9))
        probe.set(RTT_AVG, round(average, 9))
        probe.set(RTT_MAX, round(max(seconds), 9))
        probe.set(RTT_STDDEV, round(statistics.pstdev(seconds), 9))
        if len(seconds) > 1:
            jitter = statistics.fmean(abs(after - before) for before, after in itertools.pairwise(seconds))
            probe.set(JITTER, round(jitter, 9))


prober = Prober("icmp", IcmpSettings, probe_icmp)
