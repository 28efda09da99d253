"""NTP servers: how far their clock is from ours, and how much they know about the time (RFC 5905, client mode).

Several questions are asked, and the answer that took the shortest way counts: the delay is what makes the offset
uncertain. A server that wants to be asked less gets its way once it has answered at all. A question carries a random
number in place of our time, which is nobody's business (RFC 9769), and an answer that does not repeat it is none.
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
"""Seconds from 1900, where NTP begins to count, to 1970."""
NOWHERE = 16
"""The stratum of a server that has no time; 0 on the wire (RFC 5905, 7.3)."""
MOST_STRAYS = 100
"""Datagrams that are no answer to a question, beyond which somebody floods us."""

DURATION = Metric("probe_ntp_duration_seconds", "How long each phase took.", ("phase",))
OFFSET = Metric("probe_ntp_offset_seconds", "How far the server's clock is ahead of ours.")
DELAY = Metric(
    "probe_ntp_delay_seconds", "How long the way to the server and back took, without the server's own time."
)
STRATUM = Metric("probe_ntp_stratum", "How many servers away from a reference clock: 1 has one itself, 16 has no time.")
LEAP = Metric(
    "probe_ntp_leap", "0, or a second is inserted (1) or left out (2) at the end of the day; 3: no idea of the time."
)
ROOT_DELAY = Metric(
    "probe_ntp_root_delay_seconds", "How long the way from the server to the reference clock and back is."
)
ROOT_DISPERSION = Metric(
    "probe_ntp_root_dispersion_seconds", "By how much the server may be wrong, by its own account."
)
REFERENCE_AGE = Metric(
    "probe_ntp_reference_age_seconds", "How long before its answer the server last corrected its clock."
)
PRECISION = Metric("probe_ntp_precision_seconds", "How finely the server's clock ticks.")
REFERENCE = Metric("probe_ntp_reference_info", "Whom the server has its time from.", ("reference",), type="info")

NO_ANSWER = OwnReason("ntp_no_answer", "No question was answered in time.")
KISS_OF_DEATH = OwnReason("ntp_kiss_of_death", "The server asks us to go away, or to come less often.")
UNSYNCHRONIZED = OwnReason("ntp_unsynchronized", "The server says that it does not know the time.")
TOO_FAR = OwnReason("ntp_too_far", "The offset, the stratum or the root distance is beyond the module's limit.")

_GO_AWAY = (b"DENY", b"RSTR", b"RATE")  # of the codes in RFC 5905, 7.4, those that tell a client what to do
_HEADER = struct.Struct("!BBbbII4sQQQQ")  # RFC 5905, 7.3


class NtpSettings(SourceSettings):
    """The ``ntp`` block of a module; a limit of 0 is none."""

    samples: Annotated[int, Ge(1), Le(16)] = 4
    interval: Duration = 0.02
    max_offset: Duration = 0.0
    max_stratum: Annotated[int, Ge(1), Le(15)] = 15
    max_root_distance: Duration = 0.0


class Answer(NamedTuple):
    """What a server says, in seconds; `reference_age` is None where it has never corrected its clock."""

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
        """The most that the server's time can be wrong by where we are (RFC 5905, A.5.5.2, without what grows)."""
        return (self.root_delay + self.delay) / 2 + self.root_dispersion


async def probe_ntp(probe: Probe, settings: NtpSettings) -> None:
    """Asks an NTP server for the time, and compares clocks."""
    host, port = host_and_port(probe.target, PORT)
    with await connect_udp(probe, host, port, settings, seconds=DURATION) as datagrams, probe.phase("query", DURATION):
        best = await _best(probe, settings, datagrams)
    _report(probe, best)
    _check(settings, best)


async def _best(probe: Probe, settings: NtpSettings, datagrams: Datagrams) -> Answer:
    """The answer with the least delay.

    A lost one is waited for no longer than its share of the time. Once there is one, a question that is not answered is
    the last: servers that limit the rate of questions say so, or fall silent.
    """
    patience = probe.remaining / (settings.samples + 1)
    best: Answer | None = None
    for sample in range(settings.samples):
        if sample:
            await asyncio.sleep(min(settings.interval, patience))
        try:
            async with asyncio.timeout(patience):
                answer = await _ask(probe, datagrams)
        except TimeoutError:
            probe.log("A question got no answer", sample=sample)
            if best is None:
                continue
            break
        except ProbeFailed as failed:
            if best is None or failed.reason is not KISS_OF_DEATH:
                raise
            probe.log("The server has been asked often enough", err=failed.message)
            break
        probe.log("An answer", offset_seconds=answer.offset, delay_seconds=answer.delay)
        if best is None or answer.delay < best.delay:
            best = answer
    if best is None:
        raise ProbeFailed(NO_ANSWER, f"none of {settings.samples} questions was answered")
    return best


async def _ask(probe: Probe, datagrams: Datagrams) -> Answer:
    nonce = secrets.randbits(64) | 1  # 0 would look like a server's that has no time
    sent = time.perf_counter()
    ours = time.time()
    datagrams.send(_HEADER.pack(0b00_100_011, 0, 0, 0, 0, 0, bytes(4), 0, 0, 0, nonce))
    for _ in range(MOST_STRAYS):
        data = await datagrams.read()
        answer = _read(data, nonce, ours, datagrams.arrived_at - sent)
        if answer is not None:
            return answer
        probe.log("A datagram that is no answer to our question", size=len(data))
    raise ProbeFailed(Reason.PROTOCOL_ERROR, f"{MOST_STRAYS} datagrams came, and no answer to our question")


def _read(data: bytes, nonce: int, ours: float, elapsed: float) -> Answer | None:
    """An answer, or None if it is to somebody else's question.

    Args:
        ours: when the question was sent, in Unix seconds.
        elapsed: seconds from then until `data` came.

    Raises:
        ProbeFailed: it is no NTP, or the server sends us away.
    """
    if len(data) < _HEADER.size:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, f"an answer of {len(data)} bytes is too short for NTP")
    flags, stratum, _, tick, delay, dispersion, reference, *stamps = _HEADER.unpack_from(data)
    corrected, origin, received, transmitted = stamps
    if origin != nonce:
        return None
    if flags & 7 != 4 or not 1 <= flags >> 3 & 7 <= 4:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the answer is not that of an NTP server", mode=flags & 7)
    if stratum == 0 and reference in _GO_AWAY:
        raise ProbeFailed(KISS_OF_DEATH, f"the server sends us away: {reference.decode()}")
    if not received or not transmitted:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the answer does not say what time it is")
    there, back = _unix(received, ours), _unix(transmitted, ours)
    return Answer(
        leap=flags >> 6,
        stratum=stratum or NOWHERE,
        precision=2.0**tick,
        root_delay=delay / 65536,
        root_dispersion=dispersion / 65536,
        reference=reference,
        reference_age=back - _unix(corrected, back) if corrected else None,
        offset=((there - ours) + (back - ours - elapsed)) / 2,
        delay=max(elapsed - (back - there), 0.0),
    )


def _unix(stamp: int, near: float) -> float:
    """An NTP timestamp in Unix time, in the era (of 136 years) that puts it next to `near`."""
    seconds = stamp / 2**32 - EPOCH
    return seconds + round((near - seconds) / 2**32) * 2**32


def _report(probe: Probe, answer: Answer) -> None:
    probe.set(OFFSET, answer.offset)
    probe.set(DELAY, answer.delay)
    probe.set(STRATUM, answer.stratum)
    probe.set(LEAP, answer.leap)
    probe.set(PRECISION, answer.precision)
    probe.set(ROOT_DELAY, answer.root_delay)
    probe.set(ROOT_DISPERSION, answer.root_dispersion)
    if answer.reference_age is not None:
        probe.set(REFERENCE_AGE, answer.reference_age)
    # At stratum 1 four letters that name a clock, without time a code; otherwise an IPv4 address or a hash of something
    # longer.
    named = answer.stratum in (1, NOWHERE)
    name = answer.reference.rstrip(b"\0").decode("ascii", "replace") if named else ".".join(map(str, answer.reference))
    if name:
        probe.set(REFERENCE, 1, name)


def _check(settings: NtpSettings, answer: Answer) -> None:
    """Hold the answer against what the module demands."""
    if answer.leap == 3 or answer.stratum >= NOWHERE:
        raise ProbeFailed(UNSYNCHRONIZED, "the server says that it is not synchronized")
    if answer.stratum > settings.max_stratum:
        raise ProbeFailed(TOO_FAR, f"stratum {answer.stratum} is more than {settings.max_stratum}")
    if settings.max_offset and abs(answer.offset) > settings.max_offset:
        raise ProbeFailed(
            TOO_FAR, f"the clocks are {abs(answer.offset):.6f} s apart, more than {settings.max_offset:g} s"
        )
    if settings.max_root_distance and answer.root_distance > settings.max_root_distance:
        raise ProbeFailed(TOO_FAR, f"the server may be wrong by {answer.root_distance:.6f} s")


prober = Prober("ntp", NtpSettings, probe_ntp, reasons=(NO_ANSWER, KISS_OF_DEATH, UNSYNCHRONIZED, TOO_FAR))
