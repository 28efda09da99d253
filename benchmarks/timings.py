"""``python -m benchmarks.timings``: how wrong are the durations that both exporters measure?

A target answers 50 ms after each request, and remembers how long each answer really took. The exporters probe it at a
steady rate, in turn. The error of a probe is the duration of its phase `processing` minus the time that its answer
took. So it includes the way over loopback and the target's own wake-up, which are the same for both exporters.

Run it on a quiet machine: other programs make both exporters late.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import uvloop
import yaml

from benchmarks import machine
from benchmarks.measure import AS_PROMETHEUS
from benchmarks.pace import pace
from benchmarks.targets import timed
from benchmarks.timed_server import TOOK
from tests import exporters
from tests.exporters import Server, find_peer, probe_path

RATES = (100, 400)
"""Probes a second."""

MAX_MEDIAN_SECONDS = 0.0003
"""The limit for our median error."""

PROCESSING = re.compile(rb'\nprobe_http_duration_seconds\{phase="processing"\} (\S+)')
DELAY = re.compile(rb"\nprobe_event_loop_delay_seconds (\S+)")
NUMBER = re.compile(rb"target=[^ &]*%2F(\d+)[ &]")

MODULES = {"modules": {"timed": {"prober": "http", "http": {"enable_http2": False, "preferred_ip_protocol": "ip4"}}}}


@dataclass(slots=True)
class Errors:
    """The errors of one exporter at one rate, in seconds, and the errors of probes that saw no delay of the loop."""

    of_all: list[float] = field(default_factory=list)
    of_undelayed: list[float] = field(default_factory=list)

    def add(self, error: float, delay: float) -> None:
        """Note the error of a probe, and the delay of the event loop that it reports."""
        self.of_all.append(error)
        if not delay:
            self.of_undelayed.append(error)


def percentile(errors: Sequence[float], share: float) -> float:
    """Return the error that this share of the probes stays below, in seconds; the sign of an error does not count."""
    ordered = sorted(map(abs, errors))
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main() -> int:
    """Measure and print a table. Return 1 if a limit is missed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timings", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each exporter and rate, in turn (3)")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of each round (10)")
    options = parser.parse_args()
    cores = machine.share(os.sched_getaffinity(0))
    busy, before = os.getloadavg()[0], machine.ticks()
    results = run(options.rounds, options.seconds, cores)
    print(table(results))
    for complaint in machine.complaints(
        busy, len(os.sched_getaffinity(0)), machine.stolen(before, machine.ticks()), {}
    ):
        print(f"too noisy to tell: {complaint}")
    found = missed(results)
    print(*found, sep="\n")
    return 1 if found else 0


Results = dict[tuple[int, str], Errors]
"""By rate and exporter."""


def run(rounds: int, seconds: float, cores: machine.Cores) -> Results:
    """Return the errors of all rounds. The exporters alternate, so that noise affects both."""
    results: Results = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        directory = Path(name)
        (directory / "timed.yml").write_text(yaml.safe_dump(MODULES))
        with machine.on(cores.targets):
            target = running.enter_context(timed())
        with machine.on(cores.exporters):
            started = [
                running.enter_context(
                    exporters.ours_from_scratch(directory, "--config.file=timed.yml", "--probe.event-loop-delay")
                )
            ]
            if find_peer("blackbox_exporter") is not None:
                started.append(running.enter_context(exporters.original(directory, "--config.file=timed.yml")))
        running.enter_context(machine.on(cores.load))
        for exporter in started:
            measure(exporter, target, RATES[0], 1.0)  # loads and compiles what later probes need
        for number in range(rounds):
            for rate in RATES:
                for exporter in started:
                    print(f"{exporter.name}, {rate}/s, round {number + 1} of {rounds}", file=sys.stderr)
                    errors = results.setdefault((rate, exporter.name), Errors())
                    for error, delay in measure(exporter, target, rate, seconds):
                        errors.add(error, delay)
    return results


def measure(exporter: Server, target: int, rate: int, seconds: float) -> list[tuple[float, float]]:
    """Probe the target at a rate; return the error of each probe, and the delay of the event loop that it reports.

    Raises:
        SystemExit: a probe failed or was not answered.
    """
    measured: dict[str, tuple[float, float]] = {}

    def read(request: bytes, text: bytes) -> None:
        number, processing = NUMBER.search(request), PROCESSING.search(text)
        if number is not None and processing is not None:
            delay = DELAY.search(text)
            measured[f"/{number[1].decode()}"] = float(processing[1]), 0.0 if delay is None else float(delay[1])

    paths = [
        probe_path(module="timed", target=f"http://127.0.0.1:{target}/{one}") for one in range(int(rate * seconds) + 1)
    ]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        paced = runner.run(pace(exporter.port, paths, AS_PROMETHEUS, rate, seconds, read))
    if paced.wrong or len(measured) != paced.sent:
        raise SystemExit(f"{exporter.name}: of {paced.sent} probes {paced.wrong} failed, {len(measured)} were timed")
    with urllib.request.urlopen(f"http://127.0.0.1:{target}{quote(TOOK)}") as answer:
        took: dict[str, float] = json.load(answer)
    return [(processing - took[path], delay) for path, (processing, delay) in measured.items()]


def table(results: Results) -> str:
    """Return the errors as a Markdown table, in milliseconds."""
    rows = [
        "| probes/s | exporter | probes | median error | p99 | p99 of undelayed probes |",
        "| ---: | --- |" + " ---: |" * 4,
    ]
    for (rate, name), errors in results.items():
        figures = [percentile(errors.of_all, 0.5), percentile(errors.of_all, 0.99)]
        figures.append(percentile(errors.of_undelayed, 0.99) if errors.of_undelayed else float("nan"))
        shown = " | ".join([f"{figure * 1000:.2f} ms" for figure in figures])
        rows.append(f"| {rate} | {name} | {len(errors.of_all):,} | {shown} |")
    return "\n".join(rows)


def missed(results: Results) -> list[str]:
    """Return the limits that our errors miss: that of the median, and the original's p99."""
    found = []
    for (rate, name), errors in results.items():
        if name != "ours":
            continue
        median = percentile(errors.of_all, 0.5)
        if median > MAX_MEDIAN_SECONDS:
            found.append(
                f"at {rate}/s the median error is {median * 1000:.2f} ms, above {MAX_MEDIAN_SECONDS * 1000} ms"
            )
        theirs = results.get((rate, "original"))
        if theirs is not None and (ours := percentile(errors.of_all, 0.99)) > percentile(theirs.of_all, 0.99):
            found.append(f"at {rate}/s the p99 of the errors is {ours * 1000:.2f} ms, above the original's")
    return found


if __name__ == "__main__":
    sys.exit(main())
