"""`Report`: everything about one finished probe that a page or a terminal shows, bounded, with secrets masked.

It is made of a result that was just measured, or of an entry of the history and its details; both give the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from probe_exporter.config.dump import dump
from probe_exporter.config.module import Module
from probe_exporter.exposition.text_format import number
from probe_exporter.history import record
from probe_exporter.history.details import details_of, to_json
from probe_exporter.history.record import HistoryEntry
from probe_exporter.prober.failure import OwnReason
from probe_exporter.report import peers, waterfall
from probe_exporter.report.advice import Explanation, about, explain
from probe_exporter.report.peers import Peer
from probe_exporter.report.snippets import EXPORTER, Snippets, snippets
from probe_exporter.report.waterfall import Bar
from probe_exporter.runner import Result
from probe_exporter.settings.fields import shorten

MAX_RUNS = 200
MAX_PHASE_COLUMNS = 8
MAX_STEPS = 500
MAX_STEP_CHARACTERS = 2000
MAX_SAMPLES = 2000
MAX_LABEL_CHARACTERS = 500
MAX_SETTINGS_CHARACTERS = 65536
"""Limits of a report; what is left out is counted or marked with an ellipsis."""

_TIMESTAMPS = ("_timestamp_seconds", "_expiry")
MAX_DATE_SECONDS = 1e11  # the year 5138


class RunRow(NamedTuple):
    """One of several runs of a probe.

    Attributes:
        name: the address, the attempt, or both.
        address: what it connected to; empty if it resolved none.
        attempt: counts from 1.
        start, seconds: seconds since the probe began, and its duration.
        reason: why it failed; empty if it passed.
        decides: whether its metrics and phases are those of the probe.
        phases: names with seconds.
        bars: the phases in the waterfall of the probe.
        certificate: the first characters of the fingerprint, and the date of expiry; empty without TLS.
        revoked: whether an authority has revoked its certificate.
    """

    name: str
    address: str
    attempt: int
    start: float
    seconds: float
    reason: str
    phase: str
    message: str
    decides: bool
    phases: tuple[tuple[str, float], ...]
    bars: tuple[Bar, ...]
    certificate: str
    revoked: bool

    @property
    def passed(self) -> bool:
        return not self.reason

    def took(self, phase: str) -> str:
        """Return the duration of a phase as text; empty if the run did not enter it."""
        return next((seconds(spent) for name, spent in self.phases if name == phase), "")


class Step(NamedTuple):
    """A line of the probe's log; `offset` is in seconds since the probe began, `fields` are text."""

    offset: float
    time: float  # Unix seconds
    level: str
    message: str
    fields: tuple[tuple[str, str], ...]
    source: str


class Sample(NamedTuple):
    """A sample of a metric, with its labels and its value as in an exposition; `date` is what a timestamp means."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: str
    date: str = ""


class Family(NamedTuple):
    """A metric and its samples."""

    name: str
    type: str
    help: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """One finished probe.

    Attributes:
        id: its number in the history; None if it has none.
        target: without passwords.
        started: in Unix seconds; `duration` and `timeout` are in seconds.
        message: why it failed, in the prober's words; empty on success.
        phase: where it failed; empty on success, and outside of phases.
        explanation: of the reason; None on success.
        parameters: what the request gave beside module and target.
        place: where the module is defined; empty if it is not in the configuration (any more).
        bars: the waterfall of a probe with one run; with several, each run has its own.
        runs: the runs of the prober, if the module wants several in one probe; `runs_left_out` counts those beyond the
            limit.
        run_phases: names of the phases of all runs, in their order.
        steps: the log; `steps_left_out` counts those beyond the limit.
        families: the metrics; `samples_left_out` counts the samples beyond the limit.
        settings: of the module, in effect, as YAML.
    """

    id: int | None
    module: str
    prober: str
    target: str
    success: bool
    started: float
    duration: float
    timeout: float
    message: str
    phase: str
    explanation: Explanation | None
    parameters: Mapping[str, str]
    place: str
    bars: tuple[Bar, ...]
    peers: tuple[Peer, ...]
    runs: tuple[RunRow, ...]
    runs_left_out: int
    run_phases: tuple[str, ...]
    steps: tuple[Step, ...]
    steps_left_out: int
    families: tuple[Family, ...]
    samples_left_out: int
    settings: str
    snippets: Snippets

    @property
    def verdict(self) -> str:
        """One sentence: success or failure, and after how long."""
        took = seconds(self.duration)
        if self.success:
            return f"The probe succeeded in {took}."
        during = f" in phase {self.phase}" if self.phase else ""
        return f"The probe failed{during} after {took}."

    @property
    def revoked(self) -> tuple[str, ...]:
        """Sentences about certificates that an authority has revoked."""
        return tuple(
            dict.fromkeys(
                f"The certificate of {one.title}{peer.sent_by and f',{peer.sent_by},'} is revoked."
                for peer in self.peers
                for one in peer.certificates
                if one.revoked
            )
        )


def of_result(
    result: Result, *, id: int | None = None, exporter: str = EXPORTER, options: Sequence[str] = ()
) -> Report:
    """Return the report of a probe that was just measured.

    Args:
        id: its number in the history; None if it has none.
        exporter, options: as for `snippets`.
    """
    entry = record.entry(-1 if id is None else id, result)
    return of_entry(entry, details_of(result), result.module, exporter=exporter, options=options)


def of_entry(
    entry: HistoryEntry,
    details: Mapping[str, Any],
    module: Module | None,
    *,
    exporter: str = EXPORTER,
    options: Sequence[str] = (),
) -> Report:
    """Return the report of a probe of the history.

    Args:
        entry: a negative id stands for none.
        details: of the probe, as `history.details` writes them.
        module: from the configuration; None if it has none of this name.
        exporter, options: as for `snippets`.
    """
    families, samples_left_out = _families(details["families"])
    steps = details["events"]
    numbered = peers.is_numbered(details)
    runs = [_run(run, entry.duration, numbered=numbered) for run in details["runs"][:MAX_RUNS]]
    return Report(
        id=entry.id if entry.id >= 0 else None,
        module=entry.module,
        prober=details["prober"],
        target=entry.target,
        success=entry.success,
        started=entry.started,
        duration=entry.duration,
        timeout=entry.timeout,
        message=shorten(entry.message, MAX_STEP_CHARACTERS),
        phase=entry.phase,
        explanation=None if entry.success else _explanation(entry, details, module),
        parameters=details["parameters"],
        place="" if module is None else str(module.place),
        bars=() if runs else tuple(waterfall.bars(details["phases"], entry.duration)),
        peers=tuple(peers.peers(details, entry.started)),
        runs=tuple(runs),
        runs_left_out=max(0, len(details["runs"]) - MAX_RUNS),
        run_phases=tuple(dict.fromkeys([name for run in runs for name, _ in run.phases]))[:MAX_PHASE_COLUMNS],
        steps=tuple([_step(event, entry.started) for event in steps[:MAX_STEPS]]),
        steps_left_out=max(0, len(steps) - MAX_STEPS),
        families=tuple(families),
        samples_left_out=samples_left_out,
        settings=shorten(dump(details["settings"], indent=2), MAX_SETTINGS_CHARACTERS),
        snippets=_snippets(entry, details["parameters"], module, exporter, options),
    )


def _snippets(
    entry: HistoryEntry, parameters: Mapping[str, str], module: Module | None, exporter: str, options: Sequence[str]
) -> Snippets:
    timeout = 0.0 if module is None else module.timeout
    return snippets(entry.module, entry.target, parameters, timeout=timeout, exporter=exporter, options=options)


def _explanation(entry: HistoryEntry, details: Mapping[str, Any], module: Module | None) -> Explanation:
    """Return the explanation of a failure; a phase `processing` that succeeded has led to a redirect."""
    reasons: Iterable[OwnReason] = module.prober.reasons if module is not None else ()
    answered = [phase for phase in details["phases"] if phase["name"] == "processing" and not phase["failed"]]
    redirected = bool(answered) and entry.phase in ("resolve", "proxy", "connect", "tls")
    return about(explain(entry.reason, reasons), entry.target, redirected=redirected)


def seconds(duration: float) -> str:
    """Return a duration with three digits and a unit: ``850 µs``, ``12.4 ms``, ``1.52 s``, ``119 s``."""
    if round(duration * 1e6) < 1000:
        return f"{duration * 1e6:.0f} µs"
    value, unit = (duration * 1e3, "ms") if round(duration * 1e3) < 1000 else (duration, "s")
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def _run(run: Mapping[str, Any], duration: float, *, numbered: bool) -> RunRow:
    """Return the row of a run; a history that an earlier build wrote lacks some of its keys.

    Args:
        duration: of the whole probe, in seconds.
        numbered: whether the names of runs have the number of the attempt.
    """
    attempt = [f"attempt {run['attempt']}"] if numbered or not run["address"] else []
    fingerprint, not_after = run["fingerprint_sha256"], run["not_after"]
    return RunRow(
        name=", ".join([*filter(None, [run["address"]]), *attempt]),
        address=run["address"],
        attempt=run["attempt"],
        start=run["start"],
        seconds=run["seconds"],
        reason=run["reason"],
        phase=run["phase"],
        message=shorten(run["message"], MAX_STEP_CHARACTERS),
        decides=run["decides"],
        phases=tuple(run["phases"].items()),
        bars=tuple(waterfall.bars(run.get("spans", ()), duration)),
        certificate="" if not_after is None else f"{fingerprint[:16]}…, expires {peers.date(not_after)}",
        revoked=run.get("revoked", False),
    )


def _step(event: Mapping[str, Any], started: float) -> Step:
    return Step(
        offset=max(0.0, event["time"] - started),
        time=event["time"],
        level=event["level"],
        message=shorten(event["message"], MAX_STEP_CHARACTERS),
        fields=tuple([(key, shorten(_text(value), MAX_STEP_CHARACTERS)) for key, value in event["fields"].items()]),
        source=event["source"],
    )


def _text(value: object) -> str:
    """Return a value of a log line as text."""
    return value if isinstance(value, str) else to_json(value)


def _families(families: Sequence[Mapping[str, Any]]) -> tuple[list[Family], int]:
    """Return the families up to the limit of samples, and the number of samples left out."""
    found: list[Family] = []
    room = MAX_SAMPLES
    for family in families:
        samples = family["samples"][:room]
        room -= len(samples)
        if samples:
            shown = tuple([_sample(sample) for sample in samples])
            found.append(Family(family["name"], family["type"], family["help"], shown))
    return found, sum(len(family["samples"]) for family in families) - (MAX_SAMPLES - room)


def _number(value: object) -> str:
    """Return a value as in an exposition; those that JSON does not have are text already."""
    return number(value) if isinstance(value, int | float) else str(value)


def _sample(sample: Mapping[str, Any]) -> Sample:
    labels = [(name, shorten(str(value), MAX_LABEL_CHARACTERS)) for name, value in sample["labels"].items()]
    return Sample(sample["name"], tuple(labels), _number(sample["value"]), _date(sample["name"], sample["value"]))


def _date(name: str, value: object) -> str:
    """Return the date that a metric with Unix seconds has as its value; empty for others."""
    if not name.endswith(_TIMESTAMPS) or not isinstance(value, int | float) or not 0 < value < MAX_DATE_SECONDS:
        return ""
    return peers.date(value)
