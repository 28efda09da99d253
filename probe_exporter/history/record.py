"""A finished probe as others may have it: plain data, and the debug document. Secrets are masked in both.

Made when somebody looks, or when it is written to a file; never for a probe that nobody asks about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from probe_exporter.addresses.cache import remembered
from probe_exporter.config.dump import module_to_yaml, plain_module
from probe_exporter.config.module import Module
from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.formats import TEXT
from probe_exporter.exposition.text_format import number
from probe_exporter.history.probe_log import ProbeLog, source_of
from probe_exporter.prober.metrics import Samples
from probe_exporter.runner import Result
from probe_exporter.telemetry.logs import level_name
from probe_exporter.telemetry.masking import Identity, Mask, mask_urls


class HistoryEntry(NamedTuple):
    """What lists show of a finished probe."""

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
        """The entry as it stands in JSON; a success has null for reason, phase and message."""
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
    """All about a finished probe: what its entry does not say as data, and everything as text for people."""

    details: dict[str, object]
    debug: str


def entry(id: int, result: Result) -> HistoryEntry:
    """What lists show of a result."""
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
    """All about a result, secrets masked."""
    return Document(_details(result), debug_document(result, log))


def debug_documents(results: Sequence[Result], log: ProbeLog) -> str:
    """All about the probes of one request; of several, each under its module's name."""
    if len(results) == 1:
        return debug_document(results[0], log)
    return "\n\n".join([f"Module {result.module.name}\n\n{debug_document(result, log)}" for result in results])


def debug_document(result: Result, log: ProbeLog) -> str:
    """All about a result as text: its log, its metrics and the module that it ran with, secrets masked."""
    metrics = encode(_shown(result.probe.samples, _mask(result)), TEXT).decode()
    return (
        f"Logs for the probe:\n{log.text(result)}\n\n\n"
        f"Metrics that would have been returned:\n{metrics}\n\n\n"
        f"Module configuration:\n{_effective(Identity(result.module)).text}"
    )


def to_json(value: object, indent: int | None = None) -> str:
    """JSON of a value that was made here; what is no UTF-8 (bytes as surrogate escapes) is shown as ``\\udc80``."""
    return json.dumps(value, allow_nan=False, indent=indent)


def _details(result: Result) -> dict[str, object]:
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
        "events": events,
        "families": list(_families(_shown(result.probe.samples, mask))),
        "settings": _effective(Identity(result.module)).data,
    }


class _Effective(NamedTuple):
    """The settings that a module has in effect, secrets masked."""

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
    """The samples with labels that are fit to be shown; the ones of an author's registry are the author's to mask."""
    shown = {
        metric: {tuple(map(mask.text, labels)): value for labels, value in series.items()}
        for metric, series in samples.labelled.items()
    }
    return samples if shown == samples.labelled else samples.with_labelled(shown)


def _families(samples: Samples) -> Iterator[dict[str, object]]:
    """Each family with its samples, by name; as in an exposition, those without samples are absent."""
    for family in sorted(samples.collect(), key=lambda family: family.name):
        shown: list[dict[str, object]] = [
            {"name": sample.name, "labels": sample.labels, "value": _finite(sample.value)}
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]
        if shown:
            yield {"name": family.name, "type": family.type, "help": family.documentation, "samples": shown}


def _finite(value: object) -> object:
    """Numbers that JSON does not have, as text: ``+Inf``, ``NaN``."""
    match value:
        case float():
            return value if math.isfinite(value) else number(value)
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list():
            return [_finite(item) for item in value]
        case _:
            return value
