"""Serialise the metric families of several worker processes and merge them, for `--workers`.

A worker that serves /metrics collects ``snapshot(telemetry.families())`` of every other worker and responds with
``merged([own, *others])``. The counters of a worker must be kept after it exits, because sums would fall without them:
its last snapshot is merged as ``settled(snapshot)``.

A snapshot is text: lines of JSON, deflated, in base64. Those of 2,000 modules are 4.5 MB of JSON. One call would parse
these in 0.1 s, and no other thread runs meanwhile. So a line has at most `MAX_LINE_SAMPLES` samples, and the text has
a sixteenth of the bytes: a message with it is parsed in less than 1 ms.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

_COUNTING = frozenset({"counter", "histogram", "summary"})

_MERGED_BY: dict[str, Callable[[float, float], float]] = {
    # The configuration is loaded everywhere when the last worker has loaded it.
    "blackbox_exporter_config_last_reload_successful": min,
    "blackbox_exporter_config_last_reload_success_timestamp_seconds": min,
    "process_start_time_seconds": min,
    "probe_exporter_event_loop_lag_seconds": max,
    "probe_exporter_probers_not_loaded": max,
    # These are 1 in every worker.
    "blackbox_exporter_build_info": max,
    "probe_exporter_build": max,
    "python_info": max,
}
"""The functions that merge the samples of these families; samples of all others are added."""


MAX_LINE_SAMPLES = 200
"""Samples in a line of a snapshot: a line of 20 KB is read in 0.2 ms."""


def snapshot(families: Iterable[Family]) -> bytes:
    """Serialise families, without exemplars and timestamps, which the exporter's do not have."""
    return _packed(fields for family in families for fields in _as_json(family))


def families(snapshot: bytes) -> list[Family]:
    """Return the families of a snapshot.

    Raises:
        ValueError: `snapshot` is invalid.
    """
    found: dict[str, Family] = {}
    for part in map(_from_json, _unpacked(snapshot)):
        found.setdefault(part.name, Family(part.name, part.documentation, part.type)).samples += part.samples
    return [*found.values()]


def merged(snapshots: Iterable[bytes]) -> list[Family]:
    """Return one family for each name, with the samples of all snapshots added or merged by `_MERGED_BY`.

    Raises:
        ValueError: a snapshot is invalid.
    """
    sums: dict[str, tuple[Family, dict[tuple[Any, ...], Sample]]] = {}
    for one in snapshots:
        for family in map(_from_json, _unpacked(one)):
            _, samples = sums.setdefault(family.name, (family, {}))
            merge = _MERGED_BY.get(family.name, _add)
            for sample in family.samples:
                key = (sample.name, *sorted(sample.labels.items()))
                before = samples.get(key)
                value = sample.value if before is None else merge(before.value, sample.value)
                samples[key] = Sample(sample.name, sample.labels, value)
    for family, samples in sums.values():
        family.samples = list(samples.values())
    return [family for family, _ in sums.values()]


def settled(snapshot: bytes) -> bytes:
    """Return a snapshot of an exited process with its counters, histograms and summaries, without its gauges.

    ``snapshot(merged([settled(…), …]))`` makes one of several.
    """
    return _packed(fields for fields in _unpacked(snapshot) if fields["type"] in _COUNTING)


def _packed(lines: Iterable[dict[str, Any]]) -> bytes:
    """Return the text of a snapshot."""
    packer = zlib.compressobj(1)
    packed = [packer.compress(json.dumps(fields, separators=(",", ":")).encode() + b"\n") for fields in lines]
    return base64.b64encode(b"".join([*packed, packer.flush()]))


def _unpacked(snapshot: bytes) -> Iterator[dict[str, Any]]:
    """Yield the lines of a snapshot.

    Raises:
        ValueError: `snapshot` is invalid.
    """
    try:
        lines = zlib.decompress(base64.b64decode(snapshot, validate=True)).splitlines()
    except zlib.error as error:
        raise ValueError(f"not a snapshot: {error}") from error
    yield from map(json.loads, lines)


def _add(one: float, other: float) -> float:
    return one + other


def _as_json(family: Family) -> Iterator[dict[str, Any]]:
    """Yield a family in parts of some samples each; one without samples is a part, too."""
    samples = [[sample.name, sample.labels, sample.value] for sample in family.samples]
    for start in range(0, len(samples) or 1, MAX_LINE_SAMPLES):
        part = samples[start : start + MAX_LINE_SAMPLES]
        yield {"name": family.name, "help": family.documentation, "type": family.type, "samples": part}


def _from_json(fields: dict[str, Any]) -> Family:
    family = Family(fields["name"], fields["help"], fields["type"])
    for name, labels, value in fields["samples"]:
        family.add_sample(name, labels, value)
    return family


NOTHING = snapshot([])
"""The snapshot of no families."""
