"""The ntp prober: compare the clock of an NTP server with the local clock (RFC 5905, client mode).

* The probe sends several requests; the response with the least delay counts, because the delay is the uncertainty of
  the offset. Once there is a response, a request that fails or stays unanswered is the last: servers limit the rate.
* A request has a random number as its transmit timestamp, so that it does not reveal the local time (RFC 9769). A
  response that does not repeat the number is ignored.
* Timestamps are 64-bit fixed point, in seconds since 1900; `_unix` converts them, in the era that is nearest.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from typing import Annotated, NamedTuple

from annotated_types import Ge, Le

from probe_exporter import (
    Datagrams,
    Duration,
    Metric,
    OwnReason,
    Probe,
    ProbeFailed,
    Prober,
    Reason,
    SourceSettings,
    connect_udp,
    host_and_port,
)

PORT = 123
EPOCH = 2_208_988_800
"""Seconds from 1900, the epoch of NTP, to 1970."""
UNSYNCHRONIZED_STRATUM = 16
"""Stratum of a server without time; 0 in a packet (RFC 5905, 7.3)."""
MAX_STRAY_DATAGRAMS = 100
"""Datagrams that are no response to the request; after more the probe fails."""

DURATION = Metric("probe_ntp_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=2)
OFFSET = Metric("probe_ntp_offset_seconds", "Seconds that the server's clock is ahead of the local clock.")
DELAY = Metric("probe_ntp_delay_seconds", "Round-trip time to the server, without the server's processing time.")
STRATUM = Metric("probe_ntp_stratum", "Stratum of the server: 1 has a reference clock, 16 is unsynchronized.")
LEAP = Metric(
    "probe_ntp_leap",
    "Leap indicator: 1 inserts and 2 deletes a second at the end of the day, 3 is unsynchronized, otherwise 0.",
)
ROOT_DELAY = Metric("probe_ntp_root_delay_seconds", "Round-trip time from the server to its reference clock.")
ROOT_DISPERSION = Metric(
    "probe_ntp_root_dispersion_seconds", "Maximum error of the server's clock relative to the reference clock."
)
REFERENCE_AGE = Metric(
    "probe_ntp_reference_age_seconds", "Seconds since the server last corrected its clock; absent if it never did."
)
PRECISION = Metric("probe_ntp_precision_seconds", "Resolution of the server's clock.")
REFERENCE = Metric("probe_ntp_reference_info", "The server's time source (reference id).", ("reference",), type="info")

NO_ANSWER = OwnReason(
    "ntp_no_answer",
    "The server did not answer any request in time.",
    advice=(
        "Check that UDP port 123 is open on the way, and that the server allows this client: `ntpdate -q "
        "SERVER` or `chronyd -Q 'server SERVER iburst'`."
    ),
)
KISS_OF_DEATH = OwnReason(
    "ntp_kiss_of_death",
    "The server denies the request or limits its rate.",
    advice=(
        "Probe less often, or allow the exporter's address in the server's configuration (`restrict`, "
        "`allow`). Many exporters behind one address count as one client."
    ),
)
UNSYNCHRONIZED = OwnReason(
    "ntp_unsynchronized",
    "The server is not synchronized.",
    advice="On the server, `chronyc sources` or `ntpq -p` shows which of its own sources it reaches.",
)
TOO_FAR = OwnReason(
    "ntp_too_far",
    "The offset, the stratum or the root distance exceeds the module's limit.",
    advice=(
        "The message has the value and the limit. Check the clock of the exporter's machine first, then the "
        "server's sources: `chronyc tracking`."
    ),
)

_KISS_CODES = (b"DENY", b"RSTR", b"RATE")  # of RFC 5905, 7.4; the others don't concern a client
_HEADER = struct.Struct("!BBbbII4sQQQQ")  # RFC 5905, 7.3


class NtpSettings(SourceSettings):
    """The ``ntp`` block of a module; 0 means no limit.

    Args:
        samples: number of requests.
        interval: time between two requests.
        max_offset: maximum offset of the clock.
        max_stratum: maximum stratum of the server.
        max_root_distance: maximum root distance of the server.
    """

    samples: Annotated[int, Ge(1), Le(16)] = 4
    interval: Duration = 0.02
    max_offset: Duration = 0.0
    max_stratum: Annotated[int, Ge(1), Le(15)] = 15
    max_root_distance: Duration = 0.0


class NtpAnswer(NamedTuple):
    """A server's response, in seconds; `reference_age` is None if the server has never corrected its clock."""

    leap: int
    stratum: int
    precision: float
    root_delay: float
    root_dispersion: float
    reference: bytes
    reference_age: float | None
    offset: float
    delay: float

    @property
    def root_distance(self) -> float:
        """Maximum error of the server's time as seen from here (RFC 5905, A.5.5.2, without the part that grows)."""
        return (self.root_delay + self.delay) / 2 + self.root_dispersion


async def probe_ntp(probe: Probe, settings: NtpSettings) -> None:
    """Asks an NTP server for the time and compares it with the local clock."""
    host, port = host_and_port(probe.target, PORT)
    with await connect_udp(probe, host, port, settings, seconds=DURATION) as datagrams, probe.phase("query", DURATION):
        best = await _best(probe, settings, datagrams)
    _report(probe, best)
    _check(settings, best)


async def _best(probe: Probe, settings: NtpSettings, datagrams: Datagrams) -> NtpAnswer:
    """Send the requests; return the response with the least delay.

    Each request may wait for its share of the time. Once there is a response, a request that fails is the last.

    Raises:
        ProbeFailed: the first response is invalid or a refusal, or there is none.
    """
    patience = probe.remaining / (settings.samples + 1)
    best: NtpAnswer | None = None
    for sample in range(settings.samples):
        if sample:
            await asyncio.sleep(min(settings.interval, patience))
        try:
            async with asyncio.timeout(patience):
                answer = await _request(probe, datagrams)
        except TimeoutError:
            probe.log("A request got no response", sample=sample)
            if best is None:
                continue
            break
        except ProbeFailed as failed:
            if best is None:
                raise
            probe.log("A further request failed; the earlier response counts", err=failed.message)
            break
        probe.log("Received a response", offset_seconds=answer.offset, delay_seconds=answer.delay)
        if best is None or answer.delay < best.delay:
            best = answer
    if best is None:
        raise ProbeFailed(NO_ANSWER, f"the server answered none of {settings.samples} requests")
    return best


async def _request(probe: Probe, datagrams: Datagrams) -> NtpAnswer:
    """Send one request and return its response.

    Raises:
        ProbeFailed: the response is invalid, or too many other datagrams come first.
    """
    nonce = secrets.randbits(64) | 1  # 0 would mean that the time is unknown
    sent = time.perf_counter()
    ours = time.time()
    datagrams.send(_HEADER.pack(0b00_100_011, 0, 0, 0, 0, 0, bytes(4), 0, 0, 0, nonce))
    for _ in range(MAX_STRAY_DATAGRAMS):
        data = await datagrams.read()
        answer = _read(data, nonce, ours, datagrams.arrived_at - sent)
        if answer is not None:
            return answer
        probe.log("Ignored a datagram that does not answer the request", size=len(data))
    raise ProbeFailed(Reason.PROTOCOL_ERROR, f"{MAX_STRAY_DATAGRAMS} datagrams came that do not answer the request")


def _read(data: bytes, nonce: int, ours: float, elapsed: float) -> NtpAnswer | None:
    """Parse a response; return None if it answers another request.

    Args:
        ours: when the request was sent, in Unix seconds.
        elapsed: seconds from then until `data` arrived.

    Raises:
        ProbeFailed: the response is invalid, or a refusal.
    """
    if len(data) < _HEADER.size:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, f"a response of {len(data)} bytes is too short for NTP")
    flags, stratum, _, tick, delay, dispersion, reference, *stamps = _HEADER.unpack_from(data)
    corrected, origin, received, transmitted = stamps
    if origin != nonce:
        return None
    if flags & 7 != 4 or not 1 <= flags >> 3 & 7 <= 4:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the response is not one of an NTP server", mode=flags & 7)
    if stratum == 0 and reference in _KISS_CODES:
        raise ProbeFailed(KISS_OF_DEATH, f"the server refuses the request: {reference.decode()}")
    if not received or not transmitted:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the response has no timestamps")
    there, back = _unix(received, ours), _unix(transmitted, ours)
    return NtpAnswer(
        leap=flags >> 6,
        stratum=stratum or UNSYNCHRONIZED_STRATUM,
        precision=2.0**tick,
        root_delay=delay / 65536,
        root_dispersion=dispersion / 65536,
        reference=reference,
        reference_age=back - _unix(corrected, back) if corrected else None,
        offset=((there - ours) + (back - ours - elapsed)) / 2,
        delay=max(elapsed - (back - there), 0.0),
    )


def _unix(stamp: int, near: float) -> float:
    """Return an NTP timestamp in Unix seconds, in the era of 136 years that is nearest to `near`."""
    seconds = stamp / 2**32 - EPOCH
    return seconds + round((near - seconds) / 2**32) * 2**32


def _report(probe: Probe, answer: NtpAnswer) -> None:
    probe.set(OFFSET, answer.offset)
    probe.set(DELAY, answer.delay)
    probe.set(STRATUM, answer.stratum)
    probe.set(LEAP, answer.leap)
    probe.set(PRECISION, answer.precision)
    probe.set(ROOT_DELAY, answer.root_delay)
    probe.set(ROOT_DISPERSION, answer.root_dispersion)
    if answer.reference_age is not None:
        probe.set(REFERENCE_AGE, answer.reference_age)
    # At stratum 1 and 16 the reference id is ASCII: a clock or a code. Otherwise it is an IPv4 address, or a hash of
    # an IPv6 address.
    named = answer.stratum in (1, UNSYNCHRONIZED_STRATUM)
    name = answer.reference.rstrip(b"\0").decode("ascii", "replace") if named else ".".join(map(str, answer.reference))
    if name:
        probe.set(REFERENCE, 1, name)


def _check(settings: NtpSettings, answer: NtpAnswer) -> None:
    """Check the response against the module's settings."""
    if answer.leap == 3 or answer.stratum >= UNSYNCHRONIZED_STRATUM:
        raise ProbeFailed(UNSYNCHRONIZED, "the server is not synchronized")
    if answer.stratum > settings.max_stratum:
        raise ProbeFailed(TOO_FAR, f"stratum {answer.stratum} is above the limit of {settings.max_stratum}")
    if settings.max_offset and abs(answer.offset) > settings.max_offset:
        raise ProbeFailed(
            TOO_FAR, f"the clocks differ by {abs(answer.offset):.6f} s, more than {settings.max_offset:g} s"
        )
    if settings.max_root_distance and answer.root_distance > settings.max_root_distance:
        raise ProbeFailed(
            TOO_FAR,
            f"the root distance is {answer.root_distance:.6f} s, more than {settings.max_root_distance:g} s",
        )


prober = Prober("ntp", NtpSettings, probe_ntp, reasons=(NO_ANSWER, KISS_OF_DEATH, UNSYNCHRONIZED, TOO_FAR))
