"""``python -m benchmarks.pythons PYTHON PYTHON``: compare the CPU time of a probe under several interpreters.

Each interpreter runs an exporter of its own. In each round every exporter gets some probes, one exporter after another,
and its CPU time is divided by that of the first. The median of many short rounds also holds on a machine with other
work, to some 10 %, because all exporters share the noise.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles

from benchmarks.instructions import PROBES_TO_WARM_UP, ask, interpreter, python
from benchmarks.probes import PROBES
from benchmarks.targets import configured, serving
from tests.exporters import ROOT, Server, probe_path
from tests.processes import free_port, listening, running

CONNECTIONS = 8
"""Connections to an exporter, each with one probe at a time."""
PROBES_OF_A_CONNECTION = 25
"""Probes on each connection in a round."""


def main() -> None:
    """Measure, and print a table with a row for each probe and a column for each interpreter."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pythons", description=__doc__)
    help = "an interpreter with probe-exporter's libraries"
    parser.add_argument("pythons", nargs="+", type=interpreter, metavar="PYTHON", help=help)
    parser.add_argument("--probe", action="append", choices=[probe.name for probe in PROBES], help="(default: all)")
    parser.add_argument("--rounds", type=int, default=40, help="at least 2 (default: 40)")
    options = parser.parse_args()
    chosen = [probe for probe in PROBES if not options.probe or probe.name in options.probe]
    names = [python(one) for one in options.pythons]
    print(f"| probe | {' | '.join(names)} |\n| --- |{' ---: |' * len(names)}")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(configured({probe.name: probe.module for probe in chosen}))
        ports = stack.enter_context(serving(directory))
        exporters = [stack.enter_context(_exporter(directory, one)) for one in options.pythons]
        for probe in chosen:
            path = probe_path(module=probe.name, target=probe.target.format(**ports))
            print(row(probe.name, _rounds(exporters, path, options.rounds)), flush=True)


@contextlib.contextmanager
def _exporter(directory: Path, program: str) -> Iterator[Server]:
    """Run our exporter with this interpreter."""
    port = free_port()
    log = directory / f"{port}.log"
    command = [program, "-m", "probe_exporter", "--config.file=blackbox.yml", f"--web.listen-address=127.0.0.1:{port}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    with running(command, directory, log, listening(port), environment=environment) as process:
        yield Server(program, port, process, log)


def _rounds(exporters: Sequence[Server], path: str, rounds: int) -> list[list[float]]:
    """Return the CPU seconds of a probe in each round, by exporter."""
    for exporter in exporters:
        ask(exporter.port, [path] * PROBES_TO_WARM_UP)
    spent: list[list[float]] = [[] for _ in exporters]
    with ThreadPoolExecutor(CONNECTIONS) as clients:
        for number in range(rounds):
            for place in range(len(exporters)):
                turn = (number + place) % len(exporters)  # each exporter comes first as often as any other
                spent[turn].append(_cost(exporters[turn], path, clients))
    return spent


def _cost(exporter: Server, path: str, clients: ThreadPoolExecutor) -> float:
    """Return the CPU seconds of a probe in one round."""
    before = cpu_seconds(exporter.process.pid)
    list(clients.map(lambda _: ask(exporter.port, [path] * PROBES_OF_A_CONNECTION), range(CONNECTIONS)))
    return (cpu_seconds(exporter.process.pid) - before) / (CONNECTIONS * PROBES_OF_A_CONNECTION)


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process's threads in seconds. The scheduler counts them in nanoseconds."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def row(probe: str, spent: Sequence[Sequence[float]]) -> str:
    """Return a row of the table: the first interpreter's microseconds, and the others' shares of it with quartiles."""
    cells = [f"{median(spent[0]) * 1e6:.0f} µs"]
    for other in spent[1:]:
        shares = [mine / first for mine, first in zip(other, spent[0], strict=True)]
        low, _, high = quantiles(shares, n=4)
        cells.append(f"{median(shares):.2f} ({low:.2f} to {high:.2f})")
    return f"| {probe} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
