"""``python -m benchmarks.memory``: measure the exporter's memory, and say which of the limits are met.

Memory does not depend on the machine's load. What is measured:

* **At rest**: one process with the default configuration, and how much more all processes of ``--workers=2`` take.
  Pages that processes share are divided among them (PSS), so that the sum over the processes is what they take.
* **Hanging probes**: 2,000 probes of targets that accept a connection and never answer, and what is left afterwards.
* **Mixed probes**: 200,000 probes of all kinds with changing targets, after the first 5,000.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import uvloop
import yaml

from benchmarks.measure import processes
from benchmarks.probes import PROBES
from benchmarks.targets import hanging, serving
from tests import exporters
from tests.exporters import Server, probe_path
from tests.targets import Pki

MIB = 1 << 20

MAX_AT_REST = 60.0
"""MiB of resident memory of one process, after its start."""
MAX_SECOND_WORKER = 25.0
"""MiB that two workers and their supervisor take beyond one process."""
HANGING = 2000
MAX_HANGING = 105.0
"""MiB of resident memory while as many probes hang."""
MAX_AFTER_HANGING = 0.10
"""Growth after the hanging probes, of the memory before them."""
FIRST, MIXED = 5_000, 200_000
MAX_AFTER_MIXED = 0.05
"""Growth from the first mixed probes to the last."""

CONNECTIONS = 8
TARGETS = 300
"""Different targets of each mixed probe: the first probes reach all of them, so that caches are as full as they get."""
SETTLING_SECONDS = 3.0
"""The time after which memory counts as that at rest: what a burst leaves is given back within two seconds."""

HANGING_MODULES: Mapping[str, Mapping[str, object]] = {
    "http": {"prober": "http", "timeout": "20s"},
    "tcp": {"prober": "tcp", "timeout": "20s", "tcp": {"query_response": [{"expect": "never"}]}},
    "tls": {"prober": "tcp", "timeout": "20s", "tcp": {"tls": True}},
}
"""Modules whose probes hang: for a response, for a line, in the handshake."""


class Size(NamedTuple):
    """The memory of processes, in MiB: resident, and with shared pages divided among those that share them."""

    resident: float
    proportional: float

    def __str__(self) -> str:
        return f"{self.resident:.1f} MiB RSS, {self.proportional:.1f} MiB PSS"


class Verdict(NamedTuple):
    """A limit and what was measured."""

    what: str
    measured: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether the limit is met."""
        return self.measured <= self.limit

    def __str__(self) -> str:
        words = "met" if self.met else "MISSED"
        return f"| {self.what} | {self.measured:.1f}{self.unit} | {self.limit:.0f}{self.unit} | {words} |"


def main() -> int:
    """Measure, print the table. Return 1 if a limit is missed, else 0."""
    options = _arguments()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _remember_bytecode(directory)
        for part in PARTS:
            if not options.parts or part.__name__ in options.parts:
                verdicts += part(directory)
    print("\n| | measured | at most | |\n| --- | ---: | ---: | --- |")
    print(*verdicts, sep="\n")
    return 0 if all(verdict.met for verdict in verdicts) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    names = [part.__name__ for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(names)} (all)")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(names):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    return options


def size(*pids: int) -> Size:
    """Return the memory of some processes, added up."""
    total = dict.fromkeys(("Rss", "Pss"), 0)
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, kib, _ = line.split()
            if name[:-1] in total:
                total[name[:-1]] += int(kib)
    return Size(total["Rss"] / 1024, total["Pss"] / 1024)


def _say(what: str, measured: object) -> None:
    print(f"{what}: {measured}", flush=True)


# --- at rest -------------------------------------------------------------------------------------------------


def rest(directory: Path) -> list[Verdict]:
    """Measure one process and two workers, with the shipped modules: after the start, and after some probes."""
    one, one_after = _at_rest(directory)
    two, two_after = _at_rest(directory, "--workers=2")
    _say("one process at rest", one)
    _say("two workers and their supervisor", two)
    _say("one process after probes", one_after)
    _say("two workers and their supervisor after probes", two_after)
    return [
        Verdict("one process at rest", one.resident, MAX_AT_REST, " MiB"),
        Verdict(
            "the second worker, with the supervisor", two.proportional - one.proportional, MAX_SECOND_WORKER, " MiB"
        ),
    ]


def _remember_bytecode(directory: Path) -> None:
    """Start once, so that Python has compiled the sources, as an installer does."""
    modules = {name: {"prober": name} for name in ("http", "tcp", "icmp", "grpc", "websocket")}
    (directory / "first.yml").write_text(yaml.safe_dump({"modules": modules}))
    for flags in ([], ["--config.file=first.yml"], ["--workers=2"]):
        with exporters.ours_from_scratch(directory, *flags, **_bytecode(directory)):
            pass


def _bytecode(directory: Path) -> dict[str, str]:
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(directory / "bytecode")}


def _at_rest(directory: Path, *flags: str) -> tuple[Size, Size]:
    """Return the memory after the start, and after some probes of the exporter by itself."""
    with exporters.ours_from_scratch(directory, *flags, **_bytecode(directory)) as exporter:
        time.sleep(SETTLING_SECONDS)
        before = size(*processes(exporter))
        target = f"127.0.0.1:{exporter.port}/-/healthy"
        paths = [
            probe_path(module="http_2xx", target=target),
            probe_path(module="tcp_connect", target=target.partition("/")[0]),
        ]
        for _ in range(4):  # the kernel gives each connection to any of the workers
            uvloop.run(ask(exporter.port, paths, 500))
        time.sleep(SETTLING_SECONDS)
        return before, size(*processes(exporter))


# --- hanging probes ------------------------------------------------------------------------------------------


def hang(directory: Path) -> list[Verdict]:
    """Measure each module whose probes hang, with an exporter of its own."""
    (directory / "hanging.yml").write_text(yaml.safe_dump({"modules": dict(HANGING_MODULES)}))
    verdicts = []
    for module in HANGING_MODULES:
        with (
            hanging() as port,
            exporters.ours_from_scratch(directory, "--config.file=hanging.yml", **_bytecode(directory)) as exporter,
        ):
            before, during, after = uvloop.run(_hang(exporter, module, port))
        _say(f"{module}: before", before)
        _say(f"{module}: {HANGING:,} probes hang", during)
        _say(f"{module}: after", after)
        if module == "http":
            growth = (after.resident / before.resident - 1) * 100
            verdicts += [
                Verdict(f"{HANGING:,} {module} probes hang", during.resident, MAX_HANGING, " MiB"),
                Verdict(f"growth after {HANGING:,} {module} probes", growth, MAX_AFTER_HANGING * 100, " %"),
            ]
    return verdicts


async def _hang(exporter: Server, module: str, port: int) -> tuple[Size, Size, Size]:
    """Start probes that hang until their timeout; return the memory before, meanwhile and after."""
    pid = exporter.process.pid
    await exporter.get("/metrics")  # what this needs is at rest, too
    first = await exporter.probe(module, f"127.0.0.1:{port}", {"X-Prometheus-Scrape-Timeout-Seconds": "1"})
    assert "\nprobe_success 0\n" in first.text
    await asyncio.sleep(SETTLING_SECONDS)
    before = size(pid)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(HANGING):
            path = probe_path(module=module, target=f"127.0.0.1:{port}", number=str(number))
            await stack.enter_async_context(exporter.asking(path))
        await _until_running(exporter, module, HANGING)
        await asyncio.sleep(SETTLING_SECONDS)
        during = size(pid)
        await _until_running(exporter, module, 0)
    await asyncio.sleep(2 * SETTLING_SECONDS)
    return before, during, size(pid)


async def _until_running(exporter: Server, module: str, number: int) -> None:
    """Wait until so many probes of a module are running.

    Raises:
        SystemExit: the exporter refuses some.
    """
    text = ""
    while f'in_flight{{module="{module}"}} {number}\n' not in text:
        await asyncio.sleep(0.5)  # another process counts them
        text = (await exporter.get("/metrics")).text
        if "probes_rejected_total 0" not in text:
            raise SystemExit("the exporter refuses probes: raise the limit on open files (ulimit -n)")


# --- mixed probes --------------------------------------------------------------------------------------------


def mixed(directory: Path) -> list[Verdict]:
    """Measure the growth from the first probes to the last."""
    Pki(directory)
    modules = {probe.name: dict(probe.module) for probe in PROBES}
    (directory / "mixed.yml").write_text(yaml.safe_dump({"modules": modules}))
    with (
        serving(directory) as ports,
        exporters.ours_from_scratch(directory, "--config.file=mixed.yml", **_bytecode(directory)) as exporter,
    ):
        paths = [*_mixed_paths(ports)]
        uvloop.run(ask(exporter.port, paths, FIRST))
        time.sleep(SETTLING_SECONDS)
        first = size(exporter.process.pid)
        _say(f"after {FIRST:,} mixed probes", first)
        for done in range(FIRST, MIXED, MIXED // 10):
            uvloop.run(ask(exporter.port, paths, MIXED // 10, begin=done))
            _say(f"after {done + MIXED // 10:,}", size(exporter.process.pid))
        time.sleep(SETTLING_SECONDS)
        last = size(exporter.process.pid)
    growth = (last.resident / first.resident - 1) * 100
    return [Verdict(f"growth from {FIRST:,} to {MIXED:,} mixed probes", growth, MAX_AFTER_MIXED * 100, " %")]


def _mixed_paths(ports: Mapping[str, int]) -> Iterator[str]:
    """Yield paths of all probes in turn, some of which fail, with as many targets as `TARGETS`."""
    for number in range(TARGETS):
        for probe in PROBES:
            target = probe.target.format(**ports)
            yield probe_path(module=probe.name, target=f"{target}?{number}" if "://" in target else target)
        yield probe_path(module="http", target=f"http://127.0.0.1:{ports['http']}/metrics?{number}")
        yield probe_path(module="tcp", target=f"127.0.0.1:{1 + number}")  # fails: nothing listens


PARTS = (rest, hang, mixed)


# --- load ----------------------------------------------------------------------------------------------------


async def ask(port: int, paths: Sequence[str], number: int, *, begin: int = 0) -> None:
    """Request a number of paths in turn, `CONNECTIONS` at a time, each on a connection that stays open.

    Args:
        begin: the number of requests before this call, which tells the path to begin with.

    Raises:
        SystemExit: a response is not 200.
    """
    turns = iter(itertools.islice(itertools.cycle(paths), begin % len(paths), begin % len(paths) + number))
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(_ask(port, turns))


async def _ask(port: int, paths: Iterator[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for path in paths:
        writer.write(f"GET {quote(path, safe='/?&=%+')} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"{path}: {head!r}")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(lengths[0].split()[1]))
    writer.close()


if __name__ == "__main__":
    sys.exit(main())
