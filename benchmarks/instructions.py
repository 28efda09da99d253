"""``python -m benchmarks.instructions``: count the user instructions of a probe, and hold them to a budget.

How it works:

* Our exporter runs in callgrind, a simulator of the processor, so that neither other programs nor the machine's speed
  change the result: two runs agree to 1 %. The simulator counts from the first measured probe on.
* Instructions of OpenSSL are counted apart. They are four fifths of a TLS handshake, and ours to choose but not to
  write; without them, a change of ours shows.
* `instructions.json` has the budget of each probe. Instructions depend on the build of Python and on the versions of
  libraries (constraints.txt), so the budget names its Python, and is checked on no other.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.measure import AS_PROMETHEUS
from benchmarks.probes import PROBES, Probe
from benchmarks.targets import configured, serving
from tests.exporters import ROOT, probe_path
from tests.processes import free_port, listening, running

BUDGET = Path(__file__).with_name("instructions.json")
ALLOWANCE = 1.05
"""A probe may need 5 % more than its budget: libraries within one machine's caches differ by 1 %."""
MAX_COUNTS = 3
"""Counts of a probe that exceeds its budget; the least one stands. On a busy machine answers come in more pieces and
timers expire, which costs some percent."""
PROBES_TO_WARM_UP = 250
"""More than the history keeps: from then on each probe frees an old result, and the collector has little to do."""
PROBES_TO_COUNT = 100

OPENSSL = re.compile(r"/(?:_rust\.abi3\.so|libssl\.so|libcrypto\.so)")
"""The files with OpenSSL: cryptography links it into its own library."""

Count = tuple[int, int]
"""Instructions of a probe: all but OpenSSL's, and OpenSSL's."""


def main() -> int:
    """Count, print a table, and compare or write the budget. Return 1 if a budget is exceeded, else 0."""
    options = _arguments()
    chosen = [probe for probe in PROBES if not options.probes or probe.name in options.probes]
    counts = count(chosen, options.python, AS_PROMETHEUS if options.as_prometheus else {})
    if options.as_prometheus:
        print(table(counts, {}))
        return 0
    budget = json.loads(BUDGET.read_text())
    counted = python(options.python)
    if budget["python"] == counted and not options.write:
        recount(counts, budget["probes"], options.python)
    print(table(counts, budget["probes"]))
    if options.write:
        budget = {"python": counted, "probes": budget["probes"] | {name: own for name, (own, _) in counts.items()}}
        BUDGET.write_text(json.dumps(budget, indent=2) + "\n")
    if budget["python"] != counted:
        print(f"The budget is for {budget['python']}, and this is {counted}: nothing to compare.")
        return 0
    over = exceeded(counts, budget["probes"])
    for name in over:
        print(f"{name}: {counts[name][0]:,} instructions, and the budget is {budget['probes'].get(name, 0):,}")
    return 1 if over else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    names = [probe.name for probe in PROBES]
    parser.add_argument("probes", nargs="*", metavar="PROBE", help=f"probes to count: {', '.join(names)} (all)")
    parser.add_argument("--write", action="store_true", help="make these counts the budget")
    parser.add_argument(
        "--python", type=interpreter, default=sys.executable,
        help="interpreter that runs the exporter, with its libraries installed (default: the one that runs this)",
    )  # fmt: skip
    parser.add_argument(
        "--as-prometheus", action="store_true",
        help="send the headers of Prometheus, so that answers are compressed; compare with nothing",
    )  # fmt: skip
    options = parser.parse_args()
    if unknown := set(options.probes) - set(names):
        parser.error(f"unknown probe {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    return options


def interpreter(name: str) -> str:
    """Return the absolute path of an interpreter, whose directory tells it its environment: links stay links.

    Raises:
        argparse.ArgumentTypeError: there is no such program.
    """
    found = shutil.which(name)
    if found is None:
        raise argparse.ArgumentTypeError(f"there is no program {name}")
    return str(Path(found).absolute())


def python(path: str) -> str:
    """Return the version of an interpreter, which the budget depends on, such as ``CPython 3.11``."""
    code = "import platform as p; print(p.python_implementation(), *p.python_version_tuple()[:2])"
    answer = subprocess.run([path, "-c", code], capture_output=True, text=True, check=True).stdout
    return "{} {}.{}".format(*answer.split())


def recount(counts: dict[str, Count], budget: Mapping[str, int], program: str) -> None:
    """Count probes that exceed their budget again, and keep the least counts."""
    for _ in range(MAX_COUNTS - 1):
        over = exceeded(counts, budget)
        if not over:
            break
        again = count([probe for probe in PROBES if probe.name in over], program)
        counts |= {name: min(counts[name], found) for name, found in again.items()}


def exceeded(counts: Mapping[str, Count], budget: Mapping[str, int]) -> list[str]:
    """Return the names of the probes that need more instructions than their budget allows."""
    return [name for name, (own, _) in counts.items() if own > budget.get(name, 0) * ALLOWANCE]


def table(counts: Mapping[str, Count], budget: Mapping[str, int]) -> str:
    """Return the counts as a Markdown table."""
    rows = ["| probe | instructions | of the budget | and of OpenSSL |", "| --- | ---: | ---: | ---: |"]
    for name, (own, openssl) in counts.items():
        share = f"{own / budget[name]:.1%}" if name in budget else "none yet"
        rows.append(f"| {name} | {own:,} | {share} | {openssl:,} |")
    return "\n".join(rows)


# --- counting ------------------------------------------------------------------------------------------------


def count(probes: Sequence[Probe], program: str, headers: Mapping[str, str] = {}) -> dict[str, Count]:
    """Return the instructions of a probe, by its name, if this interpreter runs the exporter.

    Args:
        headers: of the requests.
    """
    counts: dict[str, Count] = {}
    with (
        configured({probe.name: probe.module for probe in probes}) as directory,
        serving(directory) as ports,
        simulated(directory, program) as exporter,
    ):
        for probe in probes:
            print(f"{probe.name} ...", file=sys.stderr)
            path = probe_path(module=probe.name, target=probe.target.format(**ports))
            counts[probe.name] = exporter.count([path], headers)
    return counts


@contextlib.contextmanager
def simulated(directory: Path, program: str = sys.executable, exporter: str = "probe_exporter") -> Iterator[Simulated]:
    """Run our exporter in callgrind, with the directory's blackbox.yml.

    Args:
        program: the interpreter.
        exporter: the module that is run.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise SystemExit("valgrind is not installed: apt install valgrind")
    port = free_port()
    command = [
        valgrind, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={directory}/counts",
        program, "-m", exporter,
        "--config.file=blackbox.yml", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    with running(command, directory, directory / "valgrind.log", listening(port), environment=environment) as process:
        yield Simulated(process.pid, port, directory)


def ask(port: int, paths: Iterable[str], headers: Mapping[str, str] = {}) -> None:
    """Request probes one after another, on one connection.

    Raises:
        SystemExit: a probe failed.
    """
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
        for path in paths:
            client.request("GET", path, headers=dict(headers))
            answer = client.getresponse()
            body = answer.read()
            text = (gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body).decode()
            if not re.search(r"^probe_success 1(\.0)?$", text, re.MULTILINE):
                raise SystemExit(f"{path} failed:\n{text}")


class Simulated:
    """An exporter in callgrind."""

    def __init__(self, pid: int, port: int, directory: Path) -> None:
        self.pid = pid
        self._directory = directory
        self._port = port

    def count(self, paths: Sequence[str], headers: Mapping[str, str] = {}) -> Count:
        """Return the instructions of one probe, the mean of `PROBES_TO_COUNT`.

        Args:
            paths: of the probes, in turn; each is requested at least once before the count begins.
            headers: of the requests.
        """
        turns = itertools.cycle(paths)
        self.ask(itertools.islice(turns, max(PROBES_TO_WARM_UP, len(paths))), headers)
        self.begin()
        self.ask(itertools.islice(turns, 1), headers)  # so that the simulator has translated the code
        own, openssl = self.during(lambda: self.ask(itertools.islice(turns, PROBES_TO_COUNT), headers))
        self.end()
        return own // PROBES_TO_COUNT, openssl // PROBES_TO_COUNT

    def ask(self, paths: Iterable[str], headers: Mapping[str, str] = {}) -> None:
        """Request probes, as the function of this name."""
        ask(self._port, paths, headers)

    def begin(self) -> None:
        """Let the simulator count, which makes the exporter slower."""
        self._control("--instr=on")

    def end(self) -> None:
        """Let the simulator count no more."""
        self._control("--instr=off")

    def during(self, work: Callable[[], object]) -> Count:
        """Return the instructions that the exporter takes while this function runs, after `begin`."""
        self._control("--zero")
        work()
        self._control("--dump")
        (dump,) = self._directory.glob("counts.*")
        counted = read_dump(dump.read_text(errors="replace"))
        dump.unlink()
        return counted

    def _control(self, command: str) -> None:
        subprocess.run(
            ["callgrind_control", command, str(self.pid)],
            cwd=self._directory, check=True, capture_output=True, timeout=300,
        )  # fmt: skip


def read_dump(text: str) -> Count:
    """Return the instructions in a profile of callgrind: all but OpenSSL's, and OpenSSL's.

    The line after ``calls=`` is the cost of the called function, which stands at that function, too.
    Source: Valgrind's manual, "Callgrind Format Specification".
    """
    names: dict[str, str] = {}
    costs: Counter[bool] = Counter()
    openssl = called = False
    for line in text.splitlines():
        if line.startswith("ob="):
            number, _, name = line[3:].partition(" ")
            openssl = OPENSSL.search(names.setdefault(number, name)) is not None
        elif line.startswith(("cob=", "calls=")):
            number, _, name = line[4:].partition(" ")
            if line.startswith("cob="):
                names.setdefault(number, name)
            called = line.startswith("calls=")
        elif line[:1] in "0123456789+-*" and line:
            if not called:
                costs[openssl] += int(line.split()[1])
            called = False
    return costs[False], costs[True]


if __name__ == "__main__":
    sys.exit(main())
