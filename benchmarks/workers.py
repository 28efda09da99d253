"""``python -m benchmarks.workers``: does a probe take more CPU with several worker processes than with one process?

Both kinds of our exporter run at once, and the load goes to them in turn, round by round: between two runs of
``python -m benchmarks`` the speed of a machine changes by more than what is asked here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import Load, Measurement, measure
from benchmarks.probes import PROBES, Probe
from benchmarks.targets import configured, serving
from tests import exporters
from tests.exporters import Server, probe_path

USUAL = "http", "tcp", "dns", "tls", "https-http2"


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("probes", nargs="*", metavar="PROBE", help=f"probes to measure ({', '.join(USUAL)})")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each exporter, in turn (5)")
    parser.add_argument("--seconds", type=int, default=2, help="seconds of load in a round (2)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (one a core)")
    options = parser.parse_args()
    chosen = [probe for probe in PROBES if probe.name in (options.probes or USUAL)]
    print(f"| probe | one process, µs | {options.workers} workers, µs | ratio | probes/s | probes/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with (
        configured({probe.name: probe.module for probe in chosen}) as directory,
        serving(directory) as ports,
        both(directory, options.workers) as servers,
    ):
        for probe in chosen:
            path = probe_path(module=probe.name, target=probe.target.format(**ports))
            print(row(probe, *rounds(servers, path, options.rounds, options.seconds)), flush=True)
    return 0


@contextlib.contextmanager
def both(directory: Path, workers: int) -> Iterator[Sequence[Server]]:
    """Run our exporter with one process, and with several."""
    start = partial(exporters.ours_from_scratch, directory, "--config.file=blackbox.yml")
    with start() as one, start(f"--workers={workers}") as several:
        yield one, several


def rounds(servers: Sequence[Server], path: str, number: int, seconds: int) -> Sequence[list[Measurement]]:
    """Return the measurements of each server, after one round that is not measured."""
    found: Sequence[list[Measurement]] = [[] for _ in servers]
    for one in range(number + 1):
        for server, measured in zip(servers, found, strict=True):
            result = measure(server, path, Load(seconds))
            if one:
                measured.append(result)
    return found


def row(probe: Probe, one: Sequence[Measurement], several: Sequence[Measurement]) -> str:
    """Return a line of the table: medians, and the median of the rounds' ratios."""
    costs = [median([round_.cpu_per_probe for round_ in measured]) for measured in (one, several)]
    ratio = median([b.cpu_per_probe / a.cpu_per_probe for a, b in zip(one, several, strict=True)])
    rates = [median([round_.probes_per_second for round_ in measured]) for measured in (one, several)]
    return f"| {probe.name} | {costs[0]:.0f} | {costs[1]:.0f} | {ratio:.2f} | {rates[0]:,.0f} | {rates[1]:,.0f} |"


if __name__ == "__main__":
    sys.exit(main())
