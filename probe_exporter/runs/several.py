"""Make several runs of a prober in one probe, and merge them: each address of a name, and repeated attempts.

How it works:

* Each run has a `Probe` of its own, as if it were alone, with a deadline that is not later than that of the whole.
* The first run looks the target's name up. What it finds starts the runs for the other addresses (`one_address`).
* One run decides: the first that passed if the policy holds, else the first that failed. Its samples become those of
  the probe, so they are where dashboards look for them.
* Attempts stand around addresses: if the policy fails, all addresses are probed again.
* The log of the probe has the lines of all runs, each with the fields `address` and `attempt`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import NamedTuple

from probe_exporter.addresses import literals
from probe_exporter.network.address_choice import LOOKUP_TIME
from probe_exporter.network.policy import NetworkPolicy
from probe_exporter.prober.failure import TIMEOUTS, ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import MAX_SPANS, Network, Probe, Span
from probe_exporter.runs.one_address import OneAddress, TargetAddresses
from probe_exporter.runs.settings import AddressesSettings, AttemptsSettings, Policy
from probe_exporter.tls.evidence import REVOKED_BY, TLSEvidence

ADDRESSES = Metric(
    "probe_addresses", "Number of addresses that the target's name has, also of those that are not probed."
)
ADDRESS_SUCCESS = Metric("probe_address_success", "Whether the address passed the probe.", ("address", "ip_protocol"))
ADDRESS_DURATION = Metric(
    "probe_address_duration_seconds", "Duration of each phase of the address's run in seconds.", ("address", "phase")
)
ADDRESS_FAILURE = Metric(
    "probe_address_failure_info",
    "Why the address failed the probe and in which phase; absent on success.",
    ("address", "reason", "phase"),
)
ADDRESS_EXPIRY = Metric(
    "probe_address_ssl_earliest_cert_expiry",
    "Earliest expiry of the certificates that the address sent, in Unix seconds; absent without TLS.",
    ("address",),
)
ADDRESS_CERTIFICATE = Metric(
    "probe_address_ssl_cert_info",
    "Fingerprint of the certificate that the address sent; always 1, absent without TLS.",
    ("address", "fingerprint_sha256"),
)
ATTEMPTS = Metric("probe_attempts", "Number of attempts that the probe made.")
FIRST_ATTEMPT = Metric("probe_first_attempt_success", "Whether the first attempt of the probe succeeded.")
ATTEMPT_FAILURE = Metric(
    "probe_attempt_failure_info",
    "Why an attempt failed and in which phase; one series for each attempt that failed.",
    ("attempt", "reason", "phase"),
)

OF_ADDRESSES = (ADDRESSES, ADDRESS_SUCCESS, ADDRESS_DURATION, ADDRESS_EXPIRY, ADDRESS_CERTIFICATE, ADDRESS_FAILURE)
OF_ATTEMPTS = (ATTEMPTS, FIRST_ATTEMPT, ATTEMPT_FAILURE)

MAX_SHOWN_FAILURES = 8
"""Addresses in the message of a failure."""

MAX_ALL_HANDSHAKES = 64
"""Handshakes of all runs together that are kept for the report."""

MAX_ALL_SPANS = 1000
MIN_SPANS = 8
"""Phases of all runs together that are kept for the report, and those that each run may keep in any case."""

MIN_SECONDS = 0.01
"""Time below which no further run begins."""

NOT_REPEATED = (Reason.TARGET_INVALID, Reason.TARGET_DENIED, Reason.SETTINGS_UNUSABLE, Reason.INTERNAL_ERROR)
"""Reasons that a repetition does not change; a module can list them in `only`."""

RunOne = Callable[[Probe], Awaitable[None]]
"""Runs the prober on a `Probe` until its deadline, and notes every error as its failure."""


class Run(NamedTuple):
    """One run of a probe, for its report.

    Attributes:
        address: what it connected to; empty if it resolved none.
        attempt: counts from 1.
        start: seconds since the probe began.
        reason, phase, message: why it failed; the reason is empty if it passed.
        decides: whether its series are those of the probe.
        phases: seconds of each phase.
        spans: the phases for the waterfall, by their start; the last ones may be missing.
        fingerprint_sha256: of the certificate that the address sent; empty without TLS.
        not_after: the earliest expiry of the certificates that it sent, in Unix seconds; None without TLS.
        revoked: whether an authority has revoked one of them, as far as the module looks for it.
    """

    address: str
    attempt: int
    start: float
    seconds: float
    reason: str
    phase: str
    message: str
    decides: bool
    phases: dict[str, float]
    spans: tuple[Span, ...]
    fingerprint_sha256: str
    not_after: float | None
    revoked: bool


@dataclass(slots=True, eq=False)
class _Part:
    """A run while it lasts. `probe` has what it measured; `children` are its runs, one for each address."""

    probe: Probe
    address: str = ""
    attempt: int = 1
    seconds: float = 0.0
    deciding: _Part | None = None
    children: list[_Part] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.probe.failure is None

    async def run(self, run_one: RunOne) -> None:
        """Run the prober, and note how long it took."""
        try:
            await run_one(self.probe)
        finally:
            self.seconds = time.perf_counter() - self.probe.started


class Several:
    """The runs that a module wants in one probe."""

    __slots__ = ("addresses", "attempts")

    def __init__(self, addresses: AddressesSettings | None, attempts: AttemptsSettings | None) -> None:
        self.addresses = addresses
        self.attempts = attempts

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that a probe has in addition to those of the prober."""
        return (*(OF_ADDRESSES if self.addresses else ()), *(OF_ATTEMPTS if self.attempts else ()))

    async def perform(self, policy: NetworkPolicy | None, probe: Probe, run_one: RunOne) -> tuple[Run, ...]:
        """Make the runs, merge them into `probe`, and return each of them.

        Args:
            policy: the network policy of the module.
            run_one: runs the prober once.
        """

        async def once(until: float, number: int) -> _Part:
            return await self._once(policy, probe, until, number, run_one)

        if self.attempts is None:
            parts = [await once(probe.deadline, 1)]
        else:
            parts = await _attempts(self.attempts, probe, once)
        _merge(probe, parts[-1].probe, [part.probe for part in parts])
        if self.attempts is not None:
            _set_attempts(probe, parts)
        return tuple(_records(probe, parts))

    async def _once(
        self, policy: NetworkPolicy | None, probe: Probe, until: float, number: int, run_one: RunOne
    ) -> _Part:
        """Make one attempt that ends at `until`: one run, or one for each address."""
        whole = _Part(_child(probe, until, probe.network), attempt=number)
        if self.addresses is None:
            whole.probe.network = None if policy is None else policy.for_run()
            await whole.run(run_one)
        else:
            await _each_address(self.addresses, policy or NetworkPolicy(), whole, run_one)
            whole.seconds = time.perf_counter() - whole.probe.started
        _note(whole, numbered=self.attempts is not None)
        return whole


def _child(probe: Probe, until: float, network: Network | None) -> Probe:
    return Probe(probe.target, until, asyncio.get_running_loop().time, network)


# --- addresses -----------------------------------------------------------------------------------------------


async def _each_address(settings: AddressesSettings, policy: NetworkPolicy, whole: _Part, run_one: RunOne) -> None:
    """Run the prober once for each address, and merge the runs into `whole`."""
    found = TargetAddresses(settings.max)
    first = OneAddress(policy, found)
    parts = whole.children
    parts.append(_Part(_child(whole.probe, whole.probe.deadline, first), attempt=whole.attempt))

    def others() -> Iterator[_Part]:
        for address in found.addresses[1:]:
            child = _child(whole.probe, whole.probe.deadline, OneAddress(policy, found, address))
            parts.append(_Part(child, address, whole.attempt))
            yield parts[-1]

    await (_in_turn if settings.one_after_another else _at_once)(found, whole.probe, parts[0], others, run_one)
    parts[0].address = first.address
    for part in parts:
        if part.address:
            part.probe.lines = [event._replace(fields=_tagged(event.fields, part)) for event in part.probe.events]
            _name_run(part.probe, part.address, 0)
    whole.deciding = deciding = _deciding(settings.policy, parts)
    _merge(whole.probe, deciding.probe, [part.probe for part in parts], spans=deciding.probe.spans)
    if deciding is not parts[0] and LOOKUP_TIME in parts[0].probe.samples.plain:
        whole.probe.set(LOOKUP_TIME, parts[0].probe.samples.get(LOOKUP_TIME))  # only the first run looked it up
    if len(parts) > 1 and whole.probe.failure is not None:
        whole.probe.failure = _failure(settings.policy, whole.probe.failure, parts)
    _set_addresses(whole.probe, found, parts)


def _tagged(fields: dict[str, object], part: _Part) -> dict[str, object]:
    return {"address": part.address, **{key: value for key, value in fields.items() if key != "address"}}


def _name_run(probe: Probe, run: str, attempt: int) -> None:
    """Note with the certificates which run received them; leave what is empty or 0 as it is."""
    probe.evidence = [
        one._replace(run=run or one.run, attempt=attempt or one.attempt) if isinstance(one, TLSEvidence) else one
        for one in probe.evidence
    ]


Others = Callable[[], Iterator[_Part]]
"""Makes the runs of all addresses but the first, once the first run has found them."""


async def _at_once(found: TargetAddresses, whole: Probe, first: _Part, others: Others, run_one: RunOne) -> None:
    """Run all addresses at the same time, from the moment on at which the first run has found them."""
    async with asyncio.TaskGroup() as group:

        def start() -> None:
            for part in others():
                group.create_task(part.run(run_one))

        found.tell = start
        await first.run(run_one)


async def _in_turn(found: TargetAddresses, whole: Probe, first: _Part, others: Others, run_one: RunOne) -> None:
    """Run one address after another, each until its share of the remaining time has passed."""
    limit = asyncio.timeout(None)

    def share() -> None:
        if len(found.addresses) > 1:
            first.probe.deadline = _share(whole, len(found.addresses))
            limit.reschedule(first.probe.deadline)

    found.tell = share
    try:
        async with limit:
            await first.run(run_one)
    except TimeoutError:
        phase = first.probe.current_phase
        during = f" (in phase {phase})" if phase else ""
        first.probe.fail(
            ProbeFailed(TIMEOUTS.get(phase, Reason.TIMEOUT_PROBE), f"the address's share of the time ran out{during}")
        )
    left = len(found.addresses)
    for part in others():
        left -= 1
        if whole.remaining < MIN_SECONDS:
            part.probe.fail(ProbeFailed(Reason.TIMEOUT_PROBE, "the probe's time ran out before this address's turn"))
            continue
        part.probe.deadline = _share(whole, left)
        await part.run(run_one)


def _share(probe: Probe, runs: int) -> float:
    """Return when the next of so many runs must end, so that each gets the same time."""
    remaining = probe.remaining
    return probe.deadline - remaining + remaining / runs


def _deciding(policy: Policy, parts: Sequence[_Part]) -> _Part:
    """Return the run whose series are those of the probe; it passed if and only if the policy holds."""
    passed = [part for part in parts if part.passed]
    needed = {"any": 1, "all": len(parts), "quorum": len(parts) // 2 + 1}[policy]
    return passed[0] if len(passed) >= needed else next(part for part in parts if not part.passed)


def _failure(policy: Policy, first: ProbeFailed, parts: Sequence[_Part]) -> ProbeFailed:
    """Return the first failure with a message that names the addresses that failed."""
    failed = [(part.address, part.probe.failure) for part in parts if part.probe.failure is not None]
    names = [f"{address} ({failure.reason.value})" for address, failure in failed[:MAX_SHOWN_FAILURES]]
    more = f" and {len(failed) - len(names)} more" if len(failed) > len(names) else ""
    what = f"{len(failed)} of {len(parts)} addresses failed (policy {policy}): {', '.join(names)}{more}"
    return ProbeFailed(first.reason, f"{what}; the first: {first.message}", **first.fields)


def _set_addresses(probe: Probe, found: TargetAddresses, parts: Sequence[_Part]) -> None:
    probe.set(ADDRESSES, found.total)
    for part in parts:
        if not part.address:
            continue
        path = part.address == found.name and literals.literal(part.address) is None
        protocol = "0" if path else str(literals.version(part.address))
        probe.set(ADDRESS_SUCCESS, 1 if part.passed else 0, part.address, protocol)
        for phase, seconds in _phases(part.probe.spans).items():
            probe.set(ADDRESS_DURATION, seconds, part.address, phase)
        if part.probe.failure is not None:
            probe.set(ADDRESS_FAILURE, 1, part.address, part.probe.failure.reason.value, part.probe.failed_phase)
        shown = _handshake(part.probe)
        if shown is not None:
            probe.set(ADDRESS_EXPIRY, _not_after(shown), part.address)
            probe.set(ADDRESS_CERTIFICATE, 1, part.address, shown.certificates[0].fingerprint_sha256)


def _phases(spans: Sequence[Span]) -> dict[str, float]:
    """Return the seconds of each phase; a phase within one of the same name does not count twice."""
    seconds: dict[str, float] = {}
    ends: dict[str, float] = {}
    for name, start, length, _, _ in sorted(spans, key=lambda span: (span[1], -span[2])):
        if start + length > ends.get(name, 0.0):
            ends[name] = start + length
            seconds[name] = round(seconds.get(name, 0.0) + length, 9)
    return seconds


def _handshake(probe: Probe) -> TLSEvidence | None:
    """Return the first handshake, which is that of the run's address; a redirect makes others."""
    return next((one for one in probe.evidence if isinstance(one, TLSEvidence) and one.certificates), None)


def _not_after(shown: TLSEvidence) -> float:
    """Return the earliest expiry of the certificates of a handshake, in Unix seconds."""
    return min(one.not_after for one in shown.certificates)


def _is_revoked(shown: TLSEvidence) -> bool:
    return any(fault in REVOKED_BY.values() for _, fault in shown.faults)


# --- attempts ------------------------------------------------------------------------------------------------


async def _attempts(
    settings: AttemptsSettings, probe: Probe, once: Callable[[float, int], Awaitable[_Part]]
) -> list[_Part]:
    """Make attempts until one passes, or until there is no reason or no time to repeat it; return all of them."""
    parts: list[_Part] = []
    for number in range(1, settings.max + 1):
        parts.append(await once(_share_of_attempt(settings, probe, number), number))
        if number == settings.max or not _is_repeated(settings, parts[-1]):
            break
        if not await _waited(probe, settings.delay):
            probe.log("No time for another attempt", attempts=number)
            break
    return parts


async def _waited(probe: Probe, seconds: float) -> bool:
    """Wait, and return whether there is time for another attempt; do not wait if there will be none."""
    if probe.remaining - seconds < MIN_SECONDS:
        return False
    await asyncio.sleep(seconds)
    return probe.remaining >= MIN_SECONDS


def _share_of_attempt(settings: AttemptsSettings, probe: Probe, number: int) -> float:
    """Return when an attempt must end, so that a target that does not answer leaves time for the others."""
    later = settings.max - number
    remaining = probe.remaining
    seconds = (remaining - later * settings.delay) / (later + 1)
    return probe.deadline - remaining + (seconds if seconds > MIN_SECONDS else remaining)


def _is_repeated(settings: AttemptsSettings, part: _Part) -> bool:
    failure = part.probe.failure
    if failure is None:
        return False
    return failure.reason.value in settings.only if settings.only else failure.reason not in NOT_REPEATED


def _set_attempts(probe: Probe, parts: Sequence[_Part]) -> None:
    probe.set(ATTEMPTS, len(parts))
    probe.set(FIRST_ATTEMPT, 1 if parts[0].passed else 0)
    for part in parts:
        if part.probe.failure is not None:
            reason = part.probe.failure.reason.value
            probe.set(ATTEMPT_FAILURE, 1, str(part.attempt), reason, part.probe.failed_phase)


# --- both ----------------------------------------------------------------------------------------------------


def _merge(whole: Probe, deciding: Probe, parts: Sequence[Probe], spans: Sequence[Span] | None = None) -> None:
    """Give `whole` the samples and the failure of the deciding run, and the log and certificates of all.

    Args:
        spans: the phases for the waterfall; those of all runs by default, which must not overlap.
    """
    whole.samples = deciding.samples
    whole.lines += sorted((event for part in parts for event in part.events), key=attrgetter("time"))
    whole.spans = ([span for part in parts for span in part.spans] if spans is None else [*spans])[:MAX_SPANS]
    whole.evidence = [one for part in parts for one in part.evidence][:MAX_ALL_HANDSHAKES]
    whole.failure, whole.failed_phase = deciding.failure, deciding.failed_phase
    whole.current_phase = deciding.current_phase


def _note(whole: _Part, *, numbered: bool) -> None:
    """Log the end of each run, and number the lines of an attempt."""
    for part in whole.children or [whole]:
        fields: dict[str, object] = {"address": part.address} if part.address else {}
        if part.probe.failure is not None:
            failure = part.probe.failure
            fields |= {"reason": failure.reason.value, "phase": part.probe.failed_phase, "err": failure.message}
        message, level = ("Run passed", logging.DEBUG) if part.passed else ("Run failed", logging.INFO)
        whole.probe.log(message, level=level, **fields, duration_seconds=round(part.seconds, 9))
    if numbered:
        whole.probe.lines = [
            event._replace(fields={"attempt": whole.attempt, **event.fields}) for event in whole.probe.events
        ]
        _name_run(whole.probe, "", whole.attempt)


def _records(probe: Probe, attempts: Sequence[_Part]) -> Iterator[Run]:
    """Yield each run for the report."""
    max_spans = max(MIN_SPANS, MAX_ALL_SPANS // sum(len(attempt.children) or 1 for attempt in attempts))
    for attempt in attempts:
        for part in attempt.children or [attempt]:
            failure, shown = part.probe.failure, _handshake(part.probe)
            yield Run(
                address=part.address,
                attempt=part.attempt,
                start=round(part.probe.started - probe.started, 6),
                seconds=round(part.seconds, 6),
                reason="" if failure is None else failure.reason.value,
                phase="" if failure is None else part.probe.failed_phase,
                message="" if failure is None else failure.message,
                decides=attempt is attempts[-1] and part is (attempt.deciding or attempt),
                phases=_phases(part.probe.spans),
                spans=tuple(sorted(part.probe.spans, key=itemgetter(1))[:max_spans]),
                fingerprint_sha256="" if shown is None else shown.certificates[0].fingerprint_sha256,
                not_after=None if shown is None else _not_after(shown),
                revoked=shown is not None and _is_revoked(shown),
            )
