"""``probe-exporter prometheus-config``: write the configuration of a Prometheus that probes the targets of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from probe_exporter.addresses.endpoints import join_host_port, split_host_port
from probe_exporter.addresses.host_names import is_name
from probe_exporter.addresses.literals import literal
from probe_exporter.config.dump import dump
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.report.snippets import scrape_job
from probe_exporter.tools.targets import Line

OWN_JOB = "probe-exporter"
"""The job of the exporter's own metrics; the example alerts need this name."""

SHARD = "{shard}"
"""Stands for the number of a shard in the address of an exporter."""

_INTERVALS = {"scrape_interval": "15s", "scrape_timeout": "10s"}
_SHARD_LABEL = "__tmp_shard"

Rule = dict[str, Any]
"""A rule of `relabel_configs`."""


class BadShards(Exception):
    """The addresses of the exporters or the number of shards can't be used."""


class Shards(NamedTuple):
    """How the targets are divided.

    Args:
        number: of exporters, or of Prometheus servers; 1 does not divide.
        own: the index of the Prometheus server that the file is for, from 0; None to divide among exporters.
    """

    number: int = 1
    own: int | None = None


def exporters(given: Sequence[str], shards: Shards) -> list[str]:
    """Return the addresses of the exporters, one for each shard.

    Args:
        given: as typed; one of them may have `SHARD` in it.

    Raises:
        BadShards: an address is wrong, or there are not as many as shards.
    """
    number = 1 if shards.own is not None else shards.number
    if shards.own is not None and shards.own >= shards.number:
        raise BadShards(f"--shard {shards.own}: the shards are 0 to {shards.number - 1} (--shards {shards.number})")
    addresses = [
        address.replace(SHARD, str(shard))
        for address in given
        for shard in range(number if SHARD in address else 1)
    ]  # fmt: skip
    if len(addresses) != number:
        raise BadShards(
            f"{len(addresses)} exporters for {number} shards: give --exporter {number} times, or once with {SHARD}, "
            "as in probe-exporter-{shard}:9115; with --shard K the shards are Prometheus servers with one exporter each"
            if number > 1
            else f"{len(addresses)} exporters: to divide the targets among them add --shards {len(addresses)}"
        )
    return [_checked(address) for address in addresses]


def _checked(address: str) -> str:
    try:
        host, port = split_host_port(address)
    except ProbeFailed:
        host = port = ""
    if not (is_name(host) or literal(host)) or not port.isdecimal():
        raise BadShards(f"--exporter {address}: expected HOST:PORT, such as 127.0.0.1:9115")
    return join_host_port(host, port)


def configuration(
    targets: Iterable[Line], addresses: Sequence[str], shards: Shards, timeouts: Mapping[str, float]
) -> str:
    """Return a whole Prometheus configuration as YAML.

    Args:
        addresses: as `exporters` returns them.
        timeouts: of modules, in seconds, where they are known.
    """
    by_module: dict[str, list[str]] = {}
    for line in targets:
        by_module.setdefault(line.module, []).append(line.target)
    keep = _keep_own(shards)
    rules = [*keep, *_to_exporters(addresses)]
    jobs = [
        scrape_job(module, listed, {}, timeout=timeouts.get(module, 0.0)) | {"relabel_configs": rules}
        for module, listed in by_module.items()
    ]
    own: dict[str, Any] = {"job_name": OWN_JOB, "static_configs": [{"targets": list(addresses)}]}
    if keep:
        own["relabel_configs"] = keep
    return dump({"global": _INTERVALS, "scrape_configs": [*jobs, own]}, indent=2)


def _keep_own(shards: Shards) -> list[Rule]:
    """Return the rules that drop the targets of the other Prometheus servers."""
    if shards.own is None or shards.number == 1:
        return []
    keep = {"source_labels": [_SHARD_LABEL], "regex": str(shards.own), "action": "keep"}
    return [_hash("__address__", shards.number), keep]


def _to_exporters(addresses: Sequence[str]) -> list[Rule]:
    """Return the rules that make an address the target of a probe by one of the exporters."""
    rules: list[Rule] = [
        {"source_labels": ["__address__"], "target_label": "__param_target"},
        {"source_labels": ["__param_target"], "target_label": "instance"},
    ]
    if len(addresses) == 1:
        return [*rules, {"target_label": "__address__", "replacement": addresses[0]}]
    chosen = [
        {
            "source_labels": [_SHARD_LABEL],
            "regex": str(shard),
            "target_label": "__address__",
            "replacement": address,
        }
        for shard, address in enumerate(addresses)
    ]
    return [*rules, _hash("__param_target", len(addresses)), *chosen]


def _hash(label: str, number: int) -> Rule:
    return {"source_labels": [label], "modulus": number, "target_label": _SHARD_LABEL, "action": "hashmod"}
