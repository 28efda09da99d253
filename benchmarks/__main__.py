"""``python -m benchmarks``: measure the CPU per probe of this exporter and of the original, and print a table."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import yaml

from benchmarks import machine
from benchmarks.measure import AS_PROMETHEUS, Load, Measurement, measure
from benchmarks.probes import PROBES, Probe
from benchmarks.targets import configured, serving
from probe_exporter.version import VERSION
from tests import exporters
from tests.exporters import Server, find_peer, probe_path

Rounds = dict[str, list[Measurement]]

WARM_UP = Load(seconds=1)
"""Not measured: it loads imports and caches and grows the heap."""


def main() -> int:
    """Measure, print the table, and write JSON on request. Return 1 if ``--check`` finds a budget exceeded, else 0."""
    options = _arguments()
    chosen = [probe for probe in PROBES if not options.probes or probe.name in options.probes]
    load = Load(options.seconds, options.connections, AS_PROMETHEUS if options.as_prometheus else {})
    cores = machine.share(os.sched_getaffinity(0))
    busy, before = os.getloadavg()[0], machine.ticks()
    results = run(chosen, options.rounds, load, cores, options.workers)
    steal = machine.stolen(before, machine.ticks())
    print(table(chosen, results))
    print(
        f"\nours on {interpreter()}; exporters on core {_listed(cores.exporters)}, load on core {_listed(cores.load)}"
    )
    noise = machine.complaints(busy, len(os.sched_getaffinity(0)), steal, spreads(results))
    for complaint in noise:
        print(f"too noisy to tell: {complaint}")
    if options.json is not None:
        options.json.write_text(json.dumps(report(chosen, results, options) | {"noise": noise}, indent=2) + "\n")
    over = [probe.name for probe in chosen if exceeds(probe, ratio(results[probe.name]))]
    if over:
        print(f"over budget: {', '.join(over)}")
    return 1 if over and options.check and not noise else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = {probe.name: probe for probe in PROBES}
    parser.add_argument("probes", nargs="*", metavar="PROBE", help=f"probes to measure: {', '.join(names)} (all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per exporter, alternating (5)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds of load per round (3)")
    parser.add_argument("--connections", type=int, default=8, help="concurrent probes (8)")
    parser.add_argument("--workers", type=int, default=1, help="processes of our exporter (1)")
    parser.add_argument(
        "--as-prometheus", action="store_true", help="send the headers of Prometheus: answers are compressed"
    )
    parser.add_argument("--json", type=Path, help="write every round to this file, too")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a budget is exceeded, unless the machine was too noisy"
    )
    options = parser.parse_args()
    if unknown := set(options.probes) - names.keys():
        parser.error(f"unknown probe {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    return options


def _listed(cores: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(cores)))


def run(probes: Sequence[Probe], rounds: int, load: Load, cores: machine.Cores, workers: int = 1) -> dict[str, Rounds]:
    """Return all rounds of all exporters, by probe. The exporters alternate, so that noise affects both.

    Args:
        workers: processes of our exporter; the original uses all cores in one.
    """
    results: dict[str, Rounds] = {}
    if find_peer("blackbox_exporter") is None:
        _say("blackbox_exporter is not installed (see PROBE_EXPORTER_PEERS): measuring ours alone")
    with configured({}) as directory, contextlib.ExitStack() as running:
        with machine.on(cores.targets):
            ports = running.enter_context(serving(directory))
        running.enter_context(machine.on(cores.load))
        for probe in probes:
            path = probe_path(module=probe.name, target=probe.target.format(**ports))
            with _started(directory, probe, cores, workers) as started:
                for exporter in started:
                    measure(exporter, path, WARM_UP)
                results[probe.name] = {exporter.name: [] for exporter in started}
                for number in range(rounds):
                    _say(f"{probe.name}, round {number + 1} of {rounds}")
                    for exporter in started:
                        results[probe.name][exporter.name].append(measure(exporter, path, load))
    return results


@contextlib.contextmanager
def _started(directory: Path, probe: Probe, cores: machine.Cores, workers: int) -> Iterator[Sequence[Server]]:
    """Run the exporters that have this probe. New ones for each: after HTTP/2 and 3 the original holds 300 MiB."""
    config = directory / "blackbox.yml"
    config.write_text(yaml.safe_dump({"modules": {probe.name: dict(probe.module)}}))
    with contextlib.ExitStack() as running:
        everybody = []
        for start in _installed():
            ours = start is exporters.ours_from_scratch
            flags = [f"--workers={workers}"] if ours and workers > 1 else []
            if ours or probe.budget:
                with machine.on(cores.exporters):
                    everybody.append(running.enter_context(start(directory, f"--config.file={config}", *flags)))
        yield everybody


def _installed() -> list[exporters.Start]:
    """Return the start functions of both exporters, or of ours alone if the original is not installed."""
    return [exporters.ours_from_scratch, *([exporters.original] if find_peer("blackbox_exporter") else [])]


def interpreter() -> str:
    """Describe the Python that runs our exporter; its build changes the results (see README.md)."""
    shared = "libpython" in Path("/proc/self/maps").read_text()
    return f"Python {platform.python_version()}, a {'shared' if shared else 'static'} build"


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def ratio(rounds: Rounds) -> float | None:
    """Return our median CPU per probe divided by the original's; None without the original."""
    if "original" not in rounds:
        return None
    mine, theirs = (median(m.cpu_per_probe for m in rounds[name]) for name in ("ours", "original"))
    return mine / theirs


def exceeds(probe: Probe, ratio: float | None) -> bool:
    """Return whether a ratio is larger than the probe's budget; False if there is nothing to compare."""
    return ratio is not None and probe.budget is not None and ratio > probe.budget


def spreads(results: Mapping[str, Rounds]) -> dict[str, float]:
    """Return the spread of the CPU per probe over the rounds, by probe and exporter."""
    return {
        f"{probe} ({exporter})": machine.spread([one.cpu_per_probe for one in rounds])
        for probe, by_exporter in results.items()
        for exporter, rounds in by_exporter.items()
    }


def table(probes: Sequence[Probe], results: Mapping[str, Rounds]) -> str:
    """Return the medians as a Markdown table, with the spread of the CPU over the rounds."""
    rows = [
        "| probe | exporter | CPU µs/probe | spread | probes/s | RSS MiB |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for probe in probes:
        medians = {name: _medians(rounds) for name, rounds in results[probe.name].items()}
        for name, (cpu, rate, resident) in medians.items():
            wide = machine.spread([one.cpu_per_probe for one in results[probe.name][name]])
            rows.append(f"| {probe.name} | {name} | {cpu:.0f} | {wide:.0%} | {rate:.0f} | {resident / 2**20:.0f} |")
        if "original" in medians:
            shares = [mine / theirs for mine, theirs in zip(medians["ours"], medians["original"], strict=True)]
            rows.append(
                f"| {probe.name} | ratio | **{shares[0]:.2f}** (at most {probe.budget:.2f}) "
                f"| | {shares[1]:.2f} | {shares[2]:.2f} |"
            )
    return "\n".join(rows)


def _medians(rounds: Sequence[Measurement]) -> tuple[float, float, float]:
    return (
        median(one.cpu_per_probe for one in rounds),
        median(one.probes_per_second for one in rounds),
        median(one.resident for one in rounds),
    )


def report(probes: Sequence[Probe], results: Mapping[str, Rounds], options: argparse.Namespace) -> dict[str, object]:
    """Return all measurements and the environment, for the JSON file."""
    return {
        "version": VERSION,
        "python": interpreter(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "connections": options.connections,
        "workers": options.workers,
        "as_prometheus": options.as_prometheus,
        "probes": {
            probe.name: {
                "budget": probe.budget,
                "ratio": ratio(results[probe.name]),
                "rounds": {
                    name: [
                        {
                            "cpu_us_per_probe": round(one.cpu_per_probe, 1),
                            "probes_per_second": round(one.probes_per_second, 1),
                            "resident_bytes": one.resident,
                        }
                        for one in rounds
                    ]
                    for name, rounds in results[probe.name].items()
                },
            }
            for probe in probes
        },
    }


if __name__ == "__main__":
    sys.exit(main())
