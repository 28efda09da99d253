"""``python -m benchmarks.growth``: does a probe cost the same with few and with many targets and modules?

It counts user instructions in callgrind, as `benchmarks.instructions` does, so the machine's load does not matter:

* **targets**: probes of 10 and of 20,000 targets, in turn.
* **modules**: probes of 10 and of 2,000 modules of one configuration file, in turn.

A full garbage collection takes as much as a dozen probes, and is due after some thousand. So it must not fall into the
count by chance: `benchmarks.garbage` runs one before each window of probes, and then none is due in it. One collection
is counted by itself. A probe takes the median of the windows, and its share of a collection.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.garbage import COLLECT, LOG
from benchmarks.instructions import PROBES_TO_WARM_UP, Simulated, simulated
from benchmarks.targets import configured, serving
from tests.exporters import probe_path

FEW_TARGETS, MANY_TARGETS = 10, 20_000
FEW_MODULES, MANY_MODULES = 10, 2_000

ALLOWANCE = 1.03
"""A probe of many may need 3 % more instructions than one of few."""

WINDOWS = 5
PROBES_IN_WINDOW = 50
MAX_COLLECTION_SECONDS = 120.0

MODULES: Mapping[str, Mapping[str, object]] = {
    "http": {"prober": "http", "http": {"enable_http2": False}},
    "tcp": {"prober": "tcp"},
}
TARGETS = {"http": "http://127.0.0.1:{http}/", "tcp": "127.0.0.1:{http}"}


class Counts(NamedTuple):
    """The instructions of a probe of few and of many."""

    few: int
    many: int


def main() -> int:
    """Count, print a table. Return 1 if a probe of many costs too much, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="targets or modules (both)")
    parser.add_argument("--many", type=int, help=f"targets and modules that are many ({MANY_TARGETS}, {MANY_MODULES})")
    options = parser.parse_args()
    kinds = options.kinds or [*KINDS]
    if unknown := set(kinds) - KINDS.keys():
        parser.error(f"unknown kind {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
    counts: dict[str, Counts] = {}
    for kind in kinds:
        counts |= KINDS[kind](options.many)
    print("| probe | of few | of many | |\n| --- | ---: | ---: | ---: |")
    for name, (few, many) in counts.items():
        print(f"| {name} | {few:,} | {many:,} | {many / few - 1:+.1%} |")
    over = exceeded(counts)
    print(*[f"{name}: more than {ALLOWANCE - 1:.0%}" for name in over], sep="\n")
    return 1 if over else 0


def exceeded(counts: Mapping[str, Counts]) -> list[str]:
    """Return the names of the probes that cost too much of many."""
    return [name for name, (few, many) in counts.items() if many > few * ALLOWANCE]


def targets(many: int | None) -> dict[str, Counts]:
    """Return the instructions of http probes of few and of many targets, which differ in their path."""
    numbers = FEW_TARGETS, many or MANY_TARGETS
    counts = [_count(1, {"http": [f"{one}" for one in range(number)]})["http"] for number in numbers]
    return {f"http, {numbers[0]} and {numbers[1]:,} targets": Counts(*counts)}


def modules(many: int | None) -> dict[str, Counts]:
    """Return the instructions of probes of few and of many modules."""
    numbers = FEW_MODULES, many or MANY_MODULES
    few, more = [_count(number, {name: [""] for name in MODULES}) for number in numbers]
    return {f"{name}, {numbers[0]} and {numbers[1]:,} modules": Counts(few[name], more[name]) for name in MODULES}


KINDS = {"targets": targets, "modules": modules}


def _count(number: int, ends: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the instructions of a probe by its name in `MODULES`.

    Args:
        number: how many equal modules the configuration has for each name.
        ends: what the targets of a name end with.
    """
    counts = {}
    many = {f"{name}_{one}": module for name, module in MODULES.items() for one in range(number)}
    with (
        configured(many) as directory,
        serving(directory) as ports,
        simulated(directory, exporter="benchmarks.garbage") as exporter,
    ):
        collector = Collector(exporter.pid, directory / LOG)
        for name, endings in ends.items():
            target = TARGETS[name].format(**ports)
            paths = [
                probe_path(module=f"{name}_{one}", target=f"{target}{end}") for end in endings for one in range(number)
            ]
            print(f"{name}: {len(paths):,} different probes …", file=sys.stderr)
            counts[name] = _count_probe(exporter, collector, paths)
    return counts


class Collector:
    """Lets the exporter run full garbage collections."""

    def __init__(self, pid: int, log: Path) -> None:
        """
        Args:
            log: the file to which `benchmarks.garbage` writes.
        """
        self._pid = pid
        self._log = log
        log.touch()

    def collect(self) -> float:
        """Wait for a full collection; return how much of one had become due since the last call.

        Raises:
            SystemExit: the exporter does not collect.
        """
        before, end = len(self._lines()), time.monotonic() + MAX_COLLECTION_SECONDS
        os.kill(self._pid, COLLECT)
        while len(lines := self._lines()) == before:
            if time.monotonic() > end:
                raise SystemExit("the exporter does not run the garbage collection")
            time.sleep(0.05)
        return float(lines[-1])

    def _lines(self) -> list[str]:
        return [line for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _count_probe(exporter: Simulated, collector: Collector, paths: Sequence[str]) -> int:
    """Return the instructions of one probe, with its share of a full collection; say both on standard error.

    Args:
        paths: of the probes, in turn; each is requested at least once before the count begins.
    """
    turns = itertools.cycle(paths)
    exporter.ask(itertools.islice(turns, max(PROBES_TO_WARM_UP, len(paths))))
    exporter.begin()
    windows: list[int] = []
    due = 0.0
    for _ in range(WINDOWS):
        collector.collect()
        own, _ = exporter.count_window(turns, PROBES_IN_WINDOW)
        windows.append(own)
        due += collector.collect() / (PROBES_IN_WINDOW + 1)
    collection, _ = exporter.during(collector.collect)
    exporter.end()
    share = round(collection * due / WINDOWS)
    print(f"  {windows} and {share:,} of {collection:,} for a full collection", file=sys.stderr)
    return round(statistics.median(windows)) + share


if __name__ == "__main__":
    sys.exit(main())
