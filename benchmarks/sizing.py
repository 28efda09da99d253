"""``python -m benchmarks.sizing``: how many targets one core probes, and write docs/sizing.md.

For each probe, the exporter is loaded at a steady rate that takes 50, 70 and 90 % of a core. The rate is found by
measuring the CPU time of a probe at a lower rate. The exporter has a core of its own; the load and the targets share
the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvloop
import yaml

from benchmarks.__main__ import interpreter
from benchmarks.measure import AS_PROMETHEUS, cpu_seconds
from benchmarks.pace import PaceResult, pace
from benchmarks.probes import PROBES, Probe
from benchmarks.targets import configured, serving
from probe_exporter.version import VERSION
from tests import exporters
from tests.exporters import Server

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("sizing.json")
PAGE = ROOT / "docs" / "sizing.md"
VALUES = ROOT / "deploy" / "helm" / "probe-exporter" / "values.yaml"

SIZED = (
    *PROBES,
    Probe("unix", {"prober": "unix"}, "{directory}/nginx.socket"),
    Probe("exporter", {"prober": "exporter", "exporter": {}}, "http://127.0.0.1:{http}/metrics"),
)
"""The probes of the benchmark, and those that need no comparison; the page that `exporter` reads has 300 series."""

SHARES = (0.5, 0.7, 0.9)
PLANNED = 0.7
"""The share of a core for which the page plans: bursts and slow probes need the rest."""

INTERVALS = (15, 30, 60)
"""Scrape intervals in seconds."""

PROBING_SECONDS, FIRST_RATE = 2.0, 200.0
"""How the CPU time of a probe is found: first at this rate, then twice at the rate of half a core."""

TARGETS = 500
"""Different targets of the http probes, so that what is kept for each target counts."""

TOLERANCE = 0.02
"""The share of probes that may be unanswered at the end of a level; beyond, the exporter does not keep up."""

LEAST_CPU = 0.8
"""If an exporter falls behind with less than this share of the CPU that it should take, other programs took it."""


@dataclass(frozen=True, slots=True)
class Level:
    """One rate: the share of a core that it took, probes a second, seconds until 99 % were answered, and memory."""

    wanted: float
    share: float
    rate: float
    median_seconds: float
    p99_seconds: float
    resident: int
    keeps_up: bool


class Sizing:
    """Measures the probes of one exporter."""

    def __init__(self, exporter: Server, places: Mapping[str, object], seconds: float) -> None:
        """
        Args:
            places: of the targets: ports, and a directory.
        """
        self._exporter = exporter
        self._places = places
        self._seconds = seconds

    def levels(self, probe: Probe) -> list[Level]:
        """Return the levels of one probe."""
        paths = self._paths(probe)
        cost = self._cost(paths, FIRST_RATE)
        for _ in range(2):
            cost = self._cost(paths, SHARES[0] / cost)
        found = []
        for share in SHARES:
            found.append(self._level(paths, share, share / cost))
            cost = found[-1].share / found[-1].rate  # busier processes take less CPU for each probe
        return found

    def _paths(self, probe: Probe) -> list[str]:
        target = probe.target.format(**self._places)
        each = [f"{target}?{number}" for number in range(TARGETS)] if "://" in target else [target]
        return [f"/probe?{urlencode({'module': probe.name, 'target': one})}" for one in each]

    def _cost(self, paths: Sequence[str], rate: float) -> float:
        """Return the CPU seconds of a probe at a rate."""
        paced, used, _ = self._load(paths, rate, PROBING_SECONDS)
        return used / len(paced.seconds)

    def _level(self, paths: Sequence[str], wanted: float, rate: float) -> Level:
        paced, used, lasted = self._load(paths, rate, self._seconds)
        keeps_up = paced.answered_in_time >= paced.sent * (1 - TOLERANCE)
        if not keeps_up and used / lasted < wanted * LEAST_CPU:
            raise SystemExit(
                f"the machine is busy: {used / lasted:.0%} of a core was left for the exporter, not {wanted:.0%}"
            )
        return Level(
            wanted,
            used / lasted,
            len(paced.seconds) / lasted,
            paced.percentile(0.5),
            paced.percentile(0.99),
            self._exporter.resident(),
            keeps_up,
        )

    def _load(self, paths: Sequence[str], rate: float, seconds: float) -> tuple[PaceResult, float, float]:
        """Load the exporter; return what was answered, CPU seconds used, and how long it lasted."""
        process = self._exporter.process.pid
        before = cpu_seconds(process)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            begun = runner.get_loop().time()
            paced = runner.run(pace(self._exporter.port, paths, AS_PROMETHEUS, rate, seconds))
            lasted = runner.get_loop().time() - begun
        if paced.wrong or not paced.seconds:
            raise SystemExit(f"{paced.wrong} of {paced.sent} probes did not succeed: {paths[0]}")
        return paced, cpu_seconds(process) - before, lasted


def main() -> int:
    """Measure and write the page, or only write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__)
    parser.add_argument("probes", nargs="*", metavar="PROBE", help="only these probes; the others keep their results")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of load for each level (10)")
    parser.add_argument("--render", action="store_true", help="write the page from the results of the last run")
    options = parser.parse_args()
    known = [probe.name for probe in SIZED]
    if unknown := set(options.probes) - set(known):
        parser.error(f"unknown probe {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    if not options.render:
        results = measured([probe for probe in SIZED if probe.name in (options.probes or known)], options.seconds)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text()), yaml.safe_load(VALUES.read_text())), encoding="utf-8")
    return 0


def measured(probes: Sequence[Probe], seconds: float) -> dict[str, Any]:
    """Measure probes; return all results, with those of the last run for the other probes."""
    before = json.loads(RESULTS.read_text())["probes"] if RESULTS.exists() else {}
    cores = sorted(os.sched_getaffinity(0))
    try:
        found = before | _measure(probes, seconds, {cores[0]}, set(cores[1:] or cores))
    finally:
        os.sched_setaffinity(0, cores)
    about = {"date": datetime.now(UTC).date().isoformat(), "version": VERSION, "python": interpreter(), "cpu": _cpu()}
    return {**about, "probes": {probe.name: found[probe.name] for probe in SIZED if probe.name in found}}


def _measure(probes: Sequence[Probe], seconds: float, own: set[int], others: set[int]) -> dict[str, Any]:
    """Measure probes, each with an exporter of its own, so that memory begins anew.

    Args:
        own: the core of the exporter; a process inherits the cores of this one when it starts.
        others: the cores of the load and the targets.
    """
    found = {}
    with configured({probe.name: probe.module for probe in probes}) as directory:
        os.sched_setaffinity(0, others)
        with serving(directory) as ports:
            for probe in probes:
                print(f"{probe.name} …", file=sys.stderr)
                os.sched_setaffinity(0, own)
                with exporters.ours_from_scratch(directory, "--config.file=blackbox.yml") as exporter:
                    os.sched_setaffinity(0, others)
                    sizing = Sizing(exporter, {**ports, "directory": directory}, seconds)
                    found[probe.name] = [asdict(level) for level in sizing.levels(probe)]
    return found


def _cpu() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


# --- the page ----------------------------------------------------------------------------------------------

INTRODUCTION = """\
# Sizing

`make sizing` measures how much one core probes, and writes this page. The figures are those of {cpu},
{python}, probe-exporter {version}, {date}. Run it on your own machine before you choose its size.

## How many targets a core probes

Plan with {planned:.0%} of a core. Bursts, slow targets and certificates with large keys need the rest. With scrapes
every 15, 30 or 60 s, one core probes this many targets:

"""

AFTER_TARGETS = """
A slow target takes no more CPU than a quick one, only memory: see [overload](how-to/scale.md#overload). A probe that
fails early takes less CPU. More modules for a target count as more targets.

Multiply by the number of cores for [several processes or replicas](how-to/scale.md). Multiply targets by
[series](how-to/scale.md#series) for what Prometheus stores.

## At 50, 70 and 90 % of a core

"""

AFTER_LEVELS = """
* **CPU** is the share of one core that the process took, all its threads, from `/proc/PID/stat`.
* **Within** is the time from the moment when a request was due to its answer, for half of the requests and for 99 %.
  The targets are on the same machine, so this is what the exporter adds.
* **Memory** is the resident memory at the end, with the history of probes.

The requests come at a steady rate, with the headers of Prometheus: compressed OpenMetrics. The exporter has one core of
its own; load and targets run on others.

"""

REQUESTS = """\
## What the chart requests

The [chart](deploy/kubernetes.md) requests {cpu_request} CPU and {memory_request} of memory for each pod. {planned:.0%}
of that CPU is for about {http:,} plain HTTP probes a second, or {https:,} over TLS: {http_targets:,} or
{https_targets:,} targets with a scrape every {interval} s.

Raise the request of CPU with the number of targets, and set no CPU limit: a throttled exporter measures its own pauses.
With `--workers=auto`, a process is started for each whole core.
"""


def page(results: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Return docs/sizing.md.

    Args:
        results: those of `measured`.
        values: the default values of the chart.
    """
    probes: Mapping[str, Sequence[Mapping[str, Any]]] = results["probes"]
    text = INTRODUCTION.format(**{key: results[key] for key in ("cpu", "python", "version", "date")}, planned=PLANNED)
    rows = [[name, *[f"{_round(_planned(levels) * each):,}" for each in INTERVALS]] for name, levels in probes.items()]
    text += _table(["probe", *[f"every {each} s" for each in INTERVALS]], rows) + _missing(probes) + AFTER_TARGETS
    levels_of = [[name, *_level(level)] for name, levels in probes.items() for level in levels]
    head = ["probe", "CPU", "probes/s", "half within", "99 % within", "memory"]
    return text + _table(head, levels_of) + AFTER_LEVELS + _requests(probes, values["resources"]["requests"])


def _missing(probes: Mapping[str, object]) -> str:
    """Return a sentence about the probes without results; empty if there are none."""
    names = [probe.name for probe in SIZED if probe.name not in probes]
    if not names:
        return ""
    return f'\nNot measured yet: {", ".join(names)}. `make sizing ARGS="{" ".join(names)}"` adds what is missing.\n'


def _planned(levels: Sequence[Mapping[str, Any]]) -> float:
    """Return probes a second at the planned share of a core."""
    level = min(levels, key=lambda one: abs(float(one["wanted"]) - PLANNED))
    return float(level["rate"]) / float(level["share"]) * PLANNED


def _level(level: Mapping[str, Any]) -> list[str]:
    rate = f"{level['rate']:,.0f}" + ("" if level["keeps_up"] else " (falls behind)")
    within = [f"{level[key] * 1000:.1f} ms" for key in ("median_seconds", "p99_seconds")]
    return [f"{level['share']:.0%}", rate, *within, f"{level['resident'] / (1 << 20):.0f} MiB"]


def _requests(probes: Mapping[str, Sequence[Mapping[str, Any]]], requests: Mapping[str, str]) -> str:
    """Return the section about the chart; empty if one of its probes was not measured."""
    if not {"http", "https"} <= probes.keys():
        return ""
    http, https = (_planned(probes[name]) * cores(requests["cpu"]) for name in ("http", "https"))
    interval = INTERVALS[0]
    return REQUESTS.format(
        cpu_request=requests["cpu"],
        memory_request=requests["memory"],
        planned=PLANNED,
        http=_round(http),
        https=_round(https),
        http_targets=_round(http * interval),
        https_targets=_round(https * interval),
        interval=interval,
    )


def cores(quantity: str) -> float:
    """Return the number of cores of a Kubernetes quantity, ``250m`` or ``2``."""
    return float(quantity.removesuffix("m")) / 1000 if quantity.endswith("m") else float(quantity)


def _round(number: float) -> int:
    """Round down to two digits: more would claim a precision that another machine does not have."""
    unit = 10 ** max(0, len(str(int(number))) - 2)
    return int(number // unit * unit)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
