"""Put load on one exporter with wrk, and measure the CPU time and memory of its process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.exporters import Server

SCRIPT = Path(__file__).with_name("load.lua")
AS_PROMETHEUS = {
    "User-Agent": "Prometheus/3.5.0",
    "Accept": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    "Accept-Encoding": "gzip",
    "X-Prometheus-Scrape-Timeout-Seconds": "10",
}
"""The headers of Prometheus 3.5. The answer is compressed, and ours is OpenMetrics."""

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of one round of load."""

    probes: int
    seconds: float
    cpu_seconds: float
    resident: int

    @property
    def cpu_per_probe(self) -> float:
        """Return user and system CPU time of the exporter per probe, in microseconds."""
        return self.cpu_seconds / self.probes * 1e6

    @property
    def probes_per_second(self) -> float:
        """Return the throughput, with one probe at a time per connection."""
        return self.probes / self.seconds


@dataclass(frozen=True, slots=True)
class Load:
    """The load: duration in seconds, number of connections, and request headers."""

    seconds: int = 3
    connections: int = 8
    headers: Mapping[str, str] = field(default_factory=dict)


def measure(exporter: Server, path: str, load: Load) -> Measurement:
    """Load one exporter.

    Raises:
        SystemExit: wrk is missing, or an answer was not a successful probe, which makes the result invalid.
    """
    pids = processes(exporter)
    before = sum(map(cpu_seconds, pids))
    probes, lasted = _ask(f"http://127.0.0.1:{exporter.port}{path}", exporter.name, load)
    used = sum(map(cpu_seconds, pids)) - before
    return Measurement(probes, lasted, used, exporter.resident())


def _ask(url: str, name: str, load: Load) -> tuple[int, float]:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("wrk is not installed: apt install wrk")
    command = [wrk, "-t1", f"-c{load.connections}", f"-d{load.seconds}s", "-s", str(SCRIPT)]
    command += [f"-H{name}: {value}" for name, value in load.headers.items()]
    output = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT requests=(\d+) microseconds=(\d+) wrong=(\d+) errors=(\d+)", output)
    if found is None:
        raise SystemExit(f"unexpected output of wrk:\n{output}")
    requests, microseconds, wrong, errors = map(int, found.groups())
    if wrong or errors or not requests:
        raise SystemExit(f"{name}: of {requests} probes {wrong} did not succeed, {errors} were not answered")
    return requests, microseconds / 1e6


def processes(exporter: Server) -> list[int]:
    """Return the process ids of an exporter and of its workers."""
    pid = exporter.process.pid
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, workers)]


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process with all its threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
