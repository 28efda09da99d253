"""Render the details of a finished probe as JSON data, with secrets masked: log, phases, runs, TLS, metrics, settings.

A probe is rendered only for a request, or to be written to a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from probe_exporter.cache import remembered
from probe_exporter.config.dump import module_to_yaml, plain_module
from probe_exporter.config.module import Module
from probe_exporter.exposition.text_format import number
from probe_exporter.history.probe_log import source_of
from probe_exporter.prober.metrics import Samples
from probe_exporter.prober.run import Span
from probe_exporter.runner import Result
from probe_exporter.telemetry.logs import level_name
from probe_exporter.telemetry.masking import Identity, Mask

if TYPE_CHECKING:
    from probe_exporter.runs.several import Run


def to_json(value: object, indent: int | None = None) -> str:
    """Encode a value of this module as JSON; bytes that are not UTF-8 (surrogate escapes) become ``\\udc80``."""
    return json.dumps(value, allow_nan=False, indent=indent)


def details_of(result: Result) -> dict[str, object]:
    """Return the data of a result that its entry lacks, with secrets masked."""
    mask = mask_of(result)
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
        "families": list(_families(masked_samples(result.probe.samples, mask))),
        "settings": effective_settings(Identity(result.module)).data,
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


class EffectiveSettings(NamedTuple):
    """The settings in effect of a module, with secrets masked."""

    text: str
    data: dict[str, object]


def _weight(_module: object, effective: EffectiveSettings) -> int:
    """Return about the bytes of a cached module, which may have a request's parameters in it."""
    return 8 * len(effective.text)


@remembered(weigh=_weight)  # YAML takes half a millisecond
def effective_settings(module: Identity[Module]) -> EffectiveSettings:
    """Return the settings in effect of a module."""
    return EffectiveSettings(module_to_yaml(module.value), plain_module(module.value))


def mask_of(result: Result) -> Mask:
    """Return the masker of a result's secrets: those of its target and of its module's settings."""
    return Mask(result.target, result.module.settings)


def masked_samples(samples: Samples, mask: Mask) -> Samples:
    """Return the samples with secrets in labels masked; a prober with a registry of its own masks its labels itself."""
    shown = {(metric, tuple(map(mask.text, labels))): value for (metric, labels), value in samples.series.items()}
    return samples if shown == samples.series else samples.with_series(shown)


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
