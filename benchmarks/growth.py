"""``python -m benchmarks.growth``: does a probe cost the same with few and with many targets and modules?

It counts user instructions in callgrind, as `benchmarks.instructions` does, so the machine's load does not matter:

* **targets**: probes of 10 and of 20,000 targets, in turn.
* **modules**: probes of 10 and of 2,000 modules of one configuration file, in turn.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from benchmarks.instructions import simulated
from benchmarks.targets import serving
from tests.exporters import probe_path
from tests.targets import Pki

FEW_TARGETS, MANY_TARGETS = 10, 20_000
FEW_MODULES, MANY_MODULES = 10, 2_000

ALLOWANCE = 1.03
"""A probe of many may need 3 % more instructions than one of few."""

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
    kinds = parser.parse_args().kinds or [*KINDS]
    if unknown := set(kinds) - KINDS.keys():
        parser.error(f"unknown kind {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
    counts: dict[str, Counts] = {}
    for kind in kinds:
        counts |= KINDS[kind]()
    print("| probe | of few | of many | |\n| --- | ---: | ---: | ---: |")
    for name, (few, many) in counts.items():
        print(f"| {name} | {few:,} | {many:,} | {many / few - 1:+.1%} |")
    over = exceeded(counts)
    print(*[f"{name}: more than {ALLOWANCE - 1:.0%}" for name in over], sep="\n")
    return 1 if over else 0


def exceeded(counts: Mapping[str, Counts]) -> list[str]:
    """Return the names of the probes that cost too much of many."""
    return [name for name, (few, many) in counts.items() if many > few * ALLOWANCE]


def targets() -> dict[str, Counts]:
    """Return the instructions of probes of few and of many targets; those of http differ in their path."""
    counts = [
        _count(1, [("http", f"{number}") for number in range(many)])["http"] for many in (FEW_TARGETS, MANY_TARGETS)
    ]
    return {f"http, {FEW_TARGETS} and {MANY_TARGETS:,} targets": Counts(*counts)}


def modules() -> dict[str, Counts]:
    """Return the instructions of probes of few and of many modules."""
    found = {}
    counts = [_count(many, [(name, "") for name in MODULES]) for many in (FEW_MODULES, MANY_MODULES)]
    for name in MODULES:
        found[f"{name}, {FEW_MODULES} and {MANY_MODULES:,} modules"] = Counts(counts[0][name], counts[1][name])
    return found


KINDS = {"targets": targets, "modules": modules}


def _count(number: int, asked: list[tuple[str, str]]) -> dict[str, int]:
    """Return the instructions of a probe for each name of `MODULES` that is asked for.

    Args:
        number: how many modules the configuration has of each name.
        asked: a name of `MODULES`, and what its targets end with.
    """
    counts = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        Pki(directory)
        many = {f"{name}_{one}": dict(module) for name, module in MODULES.items() for one in range(number)}
        (directory / "blackbox.yml").write_text(yaml.safe_dump({"modules": many}))
        with serving(directory) as ports, simulated(directory) as exporter:
            for wanted in dict.fromkeys(one for one, _ in asked):
                target = TARGETS[wanted].format(**ports)
                paths = [
                    probe_path(module=f"{wanted}_{one}", target=f"{target}{end}")
                    for own, end in asked
                    if own == wanted
                    for one in range(number)
                ]
                print(f"{wanted}: {len(paths):,} different probes …", file=sys.stderr)
                counts[wanted] = exporter.count(paths)[0]
    return counts


if __name__ == "__main__":
    sys.exit(main())
