"""Families as bytes and back, and the sum of several processes' families: what `--workers` shows as one exporter.

A worker that is asked for metrics collects ``snapshot(registry.collect())`` of every other one and answers with
``merged([own, *others])``. What a worker counted must outlive it, or sums would fall: the last snapshot of one that
has ended takes part as ``settled(snapshot)``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

_COUNTING = frozenset({"counter", "histogram", "summary"})

_MERGED_BY: dict[str, Callable[[float, float], float]] = {
    # All workers have loaded the configuration when the last one has.
    "blackbox_exporter_config_last_reload_successful": min,
    "blackbox_exporter_config_last_reload_success_timestamp_seconds": min,
    "process_start_time_seconds": min,
    "probe_exporter_event_loop_lag_seconds": max,
    # The same in all of them, and 1.
    "blackbox_exporter_build_info": max,
    "probe_exporter_build": max,
    "python_info": max,
}
"""How the samples of a family become one; all others are added up."""


def snapshot(families: Iterable[Family]) -> bytes:
    """Families as one line of JSON; exemplars and timestamps, which none of ours has, stay behind."""
    return json.dumps([_as_json(family) for family in families], separators=(",", ":")).encode()


def families(snapshot: bytes) -> list[Family]:
    """What `snapshot` was made of.

    Raises:
        ValueError: it is no snapshot.
    """
    return [_from_json(fields) for fields in json.loads(snapshot)]


def merged(snapshots: Iterable[bytes]) -> list[Family]:
    """One family for each name, with the samples of all snapshots in it: added up, or as `_MERGED_BY` says.

    Raises:
        ValueError: one of them is no snapshot.
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
    """What a process that has ended leaves behind: what it counted, and nothing of how it was.

    Several of them are kept as one by ``snapshot(merged([settled(…), …]))``.
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
