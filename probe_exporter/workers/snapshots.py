"""Serialise the metric families of several worker processes and merge them, for `--workers`.

A worker that serves /metrics collects ``snapshot(registry.collect())`` of every other worker and responds with
``merged([own, *others])``. The counters of a worker must be kept after it exits, because sums would fall without them:
its last snapshot is merged as ``settled(snapshot)``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
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


def snapshot(families: Iterable[Family]) -> bytes:
    """Serialise families as one line of JSON, without exemplars and timestamps, which the exporter's do not have."""
    return json.dumps([_as_json(family) for family in families], separators=(",", ":")).encode()


def families(snapshot: bytes) -> list[Family]:
    """Return the families of a snapshot.

    Raises:
        ValueError: `snapshot` is invalid.
    """
    return [_from_json(fields) for fields in json.loads(snapshot)]


def merged(snapshots: Iterable[bytes]) -> list[Family]:
    """Return one family for each name, with the samples of all snapshots added or merged by `_MERGED_BY`.

    Raises:
        ValueError: a snapshot is invalid.
    """
    sums: dict[str, tuple[Family, dict[tuple[Any, ...], Sample]]] = {}
    for one in snapshots:
        for family in families(one):
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
    return json.dumps([fields for fields in json.loads(snapshot) if fields["type"] in _COUNTING]).encode()


def _add(one: float, other: float) -> float:
    return one + other


def _as_json(family: Family) -> dict[str, Any]:
    samples = [[sample.name, sample.labels, sample.value] for sample in family.samples]
    return {"name": family.name, "help": family.documentation, "type": family.type, "samples": samples}


def _from_json(fields: dict[str, Any]) -> Family:
    family = Family(fields["name"], fields["help"], fields["type"])
    for name, labels, value in fields["samples"]:
        family.add_sample(name, labels, value)
    return family
