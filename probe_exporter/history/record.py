"""Render a finished probe as plain data and as the debug document, with secrets masked, for `/history` and `/logs`.

A probe is rendered only for a request, or to be written to a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from probe_exporter.addresses.cache import remembered
from probe_exporter.config.dump import module_to_yaml, plain_module
from probe_exporter.config.module import Module
from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.formats import TEXT
from probe_exporter.exposition.text_format import number
from probe_exporter.history import run_lines
from probe_exporter.history.probe_log import ProbeLog, source_of
from probe_exporter.prober.metrics import Samples
from probe_exporter.prober.run import Span
from probe_exporter.runner import Result
from probe_exporter.telemetry.logs import level_name
from probe_exporter.telemetry.masking import Identity, Mask, mask_urls

if TYPE_CHECKING:
    from probe_exporter.runs.several import Run


class HistoryEntry(NamedTuple):
    """A finished probe in a list."""

    id: int
    module: str
    target: str  # without the password of a URL
    started: float  # Unix seconds
    duration: float  # seconds
    timeout: float  # seconds
    reason: str  # why it failed; empty if it did not
    phase: str  # where it failed
    message: str

    @property
    def success(self) -> bool:
        return not self.reason

    def data(self) -> dict[str, object]:
        """Return the entry as a JSON object; a success has null for reason, phase and message."""
        return {
            "id": self.id,
            "module": self.module,
            "target": self.target,
            "result": "success" if self.success else "failure",
            "reason": self.reason or None,
            "phase": None if self.success else self.phase,
            "message": None if self.success else self.message,
            "started": self.started,
            "duration_seconds": self.duration,
            "timeout_seconds": self.timeout,
        }


class Document(NamedTuple):
    """The details of a finished probe: the data that its entry lacks, and the debug document as text."""

    details: dict[str, object]
    debug: str


def entry(id: int, result: Result) -> HistoryEntry:
    """Return the entry of a result."""
    failure = result.failure
    return HistoryEntry(
        id=id,
        module=result.module.name,
        target=mask_urls(result.target),
        started=result.started,
        duration=result.duration,
        timeout=result.timeout,
        reason=failure.reason.value if failure else "",
        phase=result.phase if failure else "",
        message=_mask(result).text(failure.message) if failure else "",
    )


def document(result: Result, log: ProbeLog) -> Document:
    """Return the document of a result, with secrets masked."""
    return Document(details(result), debug_document(result, log))


def debug_documents(results: Sequence[Result], log: ProbeLog) -> str:
    """Return the debug documents of the probes of one request; several have their modules' names as headings."""
    if len(results) == 1:
        return debug_document(results[0], log)
    return "\n\n".join([f"Module {result.module.name}\n\n{debug_document(result, log)}" for result in results])


def debug_document(result: Result, log: ProbeLog) -> str:
    """Return the debug document of a result: log, runs, metrics and settings of its module, with secrets masked."""
    mask = _mask(result)
    metrics = encode(_shown(result.probe.samples, mask), TEXT).decode()
    return (
        f"Logs for the probe:\n{log.text(result)}\n\n\n"
        f"{run_lines.sections(result, mask)}"
        f"Metrics that would have been returned:\n{metrics}\n\n\n"
        f"Module configuration:\n{_effective(Identity(result.module)).text}"
    )


def to_json(value: object, indent: int | None = None) -> str:
    """Encode a value of this module as JSON; bytes that are not UTF-8 (surrogate escapes) become ``\\udc80``."""
    return json.dumps(value, allow_nan=False, indent=indent)


def details(result: Result) -> dict[str, object]:
    """Return the data of a result that its entry lacks, with secrets masked."""
    mask = _mask(result)
    events = [
        {
            "time": event.time,
            "level": level_name(event.level),
            "source": source_of(event),
            "message": mask.text(event.message),
            "fields": _finite(mask.plain(event.fields)),
        }
        for event in result.probe.events
    ]
    return {
        "prober": result.module.prober.name,
        "parameters": {name: mask.parameter(value) for name, value in result.module.request.items()},
        "events": events,
        "phases": [_phase(span, result.probe.started, mask) for span in sorted(result.probe.spans, key=itemgetter(1))],
        "runs": [_run(run, result.probe.started, mask) for run in result.runs],
        "tls": [evidence.data(mask.text) for evidence in result.probe.evidence],
        "families": list(_families(_shown(result.probe.samples, mask))),
        "settings": _effective(Identity(result.module)).data,
    }


def _phase(span: Span, started: float, mask: Mask) -> dict[str, object]:
    name, start, seconds, about, failed = span
    return {
        "name": name,
        "start": round(start - started, 6),
        "seconds": round(seconds, 6),
        "about": mask.text(about),
        "failed": failed,
    }


def _run(run: Run, started: float, mask: Mask) -> dict[str, object]:
    spans = [_phase(span, started, mask) for span in run.spans]
    return run._asdict() | {"message": mask.text(run.message), "spans": spans}


class _Effective(NamedTuple):
    """The settings in effect of a module, with secrets masked."""

    text: str
    data: dict[str, object]


def _weight(_module: object, effective: _Effective) -> int:
    """Return about the bytes of a cached module, which may have a request's parameters in it."""
    return 8 * len(effective.text)


@remembered(weigh=_weight)  # YAML takes half a millisecond
def _effective(module: Identity[Module]) -> _Effective:
    return _Effective(module_to_yaml(module.value), plain_module(module.value))


def _mask(result: Result) -> Mask:
    return Mask(result.target, result.module.settings)


def _shown(samples: Samples, mask: Mask) -> Samples:
    """Return the samples with secrets in labels masked; a prober with a registry of its own masks its labels itself."""
    shown = {
        metric: {tuple(map(mask.text, labels)): value for labels, value in series.items()}
        for metric, series in samples.labelled.items()
    }
    return samples if shown == samples.labelled else samples.with_labelled(shown)


def _families(samples: Samples) -> Iterator[dict[str, object]]:
    """Yield each family with its samples, sorted by name; as in an exposition, families without samples are absent."""
    for family in sorted(samples.collect(), key=lambda family: family.name):
        shown: list[dict[str, object]] = [
            {"name": sample.name, "labels": sample.labels, "value": _finite(sample.value)}
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]
        if shown:
            yield {"name": family.name, "type": family.type, "help": family.documentation, "samples": shown}


def _finite(value: object) -> object:
    """Return a value; numbers that JSON does not have become text: ``+Inf``, ``NaN``."""
    match value:
        case float():
            return value if math.isfinite(value) else number(value)
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list():
            return [_finite(item) for item in value]
        case _:
            return value
