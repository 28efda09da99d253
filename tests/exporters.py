"""Start exporters and their peers as processes, and send them requests.

The peers are the original blackbox_exporter, Prometheus and promtool. They are searched in the directory that
``PROBE_EXPORTER_PEERS`` names, then on PATH. Without them their tests skip; where ``CI=true``, they fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import forkserver
from tests.processes import Process, free_port, listening, running, until_ended

ROOT = Path(__file__).parents[1]
NAMES = {
    "blackbox_exporter": ("prometheus-blackbox-exporter", "blackbox_exporter"),
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
}
EMPTY: Mapping[str, str] = {}

ANSWERED_WITHIN = 300.0  # seconds; only ends a test that would wait for ever


def find_peer(name: str) -> str | None:
    """Return the path of a peer's binary, or None where it is not installed."""
    directory = os.environ.get("PROBE_EXPORTER_PEERS")
    path = os.pathsep.join(filter(None, [directory, os.environ.get("PATH")]))
    return next((found for one in NAMES[name] if (found := shutil.which(one, path=path))), None)


def peer(name: str) -> str:
    """Return the path of a peer's binary. Without it, skip the test; in CI, fail it."""
    found = find_peer(name)
    if found is None:
        message = f"{name} is neither in the directory PROBE_EXPORTER_PEERS names nor on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@dataclass(frozen=True, slots=True)
class Response:
    """A server's response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body, decoded as UTF-8."""
        return self.body.decode()


@dataclass(frozen=True, slots=True)
class Server:
    """A running exporter or Prometheus: a process that serves HTTP on a port of loopback."""

    name: str
    port: int
    process: Process
    log: Path

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        """GET one path (with its query) and return the whole response."""
        async with asyncio.timeout(ANSWERED_WITHIN), self.asking(path, headers) as reader:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = (line.split(": ", 1) for line in head[1:] if line)
            body = await reader.read()
            return Response(int(head[0].split(" ")[1]), {k.lower(): v for k, v in pairs}, body)

    @contextlib.asynccontextmanager
    async def asking(self, path: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[asyncio.StreamReader]:
        """Send a GET and yield the reader of the response. Close the connection at the end of the block.

        The request is HTTP/1.0, so that the end of the response is the end of the connection.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        try:
            lines = [f"GET {path} HTTP/1.0", *(f"{k}: {v}" for k, v in (headers or {}).items()), "", ""]
            writer.write("\r\n".join(lines).encode())
            yield reader
        finally:
            writer.close()

    async def probe(self, module: str, target: str, headers: Mapping[str, str] | None = None) -> Response:
        """Request one probe from an exporter."""
        return await self.get(probe_path(module=module, target=target), headers)

    def logged(self) -> list[str]:
        """Return the lines of the log that don't depend on the machine.

        Those of the watchdog do: the exporter may get no CPU for a second.
        """
        return [line for line in self.log.read_text().splitlines() if "source=watchdog.py:" not in line]

    def resident(self) -> int:
        """Return the resident memory of the process in bytes."""
        return self._status("VmRSS")

    def peak_resident(self) -> int:
        """Return the maximum of resident memory since the process started, or since `forget_peak`, in bytes."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Reset the maximum that `peak_resident` returns."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _status(self, key: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def probe_path(**parameters: str) -> str:
    """Return the path and query of a request for a probe."""
    return "/probe?" + urllib.parse.urlencode(parameters)


Start = Callable[..., contextlib.AbstractContextManager[Server]]


@contextlib.contextmanager
def ours(directory: Path, *flags: str, **environment: str) -> Iterator[Server]:
    """Start this project's exporter in a directory, with these flags and environment variables.

    It is a fork of a process that has imported the exporter: see `tests.forkserver`. Where the process itself is the
    subject, use `ours_from_scratch`.
    """
    port = free_port()
    log = directory / f"ours.{port}.log"
    with log.open("ab") as output:
        arguments = [*flags, f"--web.listen-address=127.0.0.1:{port}"]
        process = forkserver.start(arguments, directory, {**_environment(), **environment}, output.fileno())
    with until_ended(process, log, listening(port)):
        yield Server("ours", port, process, log)


def ours_from_scratch(directory: Path, *flags: str, **environment: str) -> contextlib.AbstractContextManager[Server]:
    """Start this project's exporter as `ours` does, with an interpreter of its own, as users start it."""
    return _running("ours", [sys.executable, "-m", "probe_exporter"], directory, flags, environment)


def run_ours(directory: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of our exporter to its end, as a fork as `ours` does; it has no standard input."""
    done = forkserver.run(words, directory, {**_environment(), **environment})
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def original(directory: Path, *flags: str, **environment: str) -> contextlib.AbstractContextManager[Server]:
    """Start the original blackbox_exporter; skip the test where it is not installed."""
    return _running("original", [peer("blackbox_exporter")], directory, flags, environment)


def prometheus(directory: Path, *flags: str, through: Sequence[str] = ()) -> contextlib.AbstractContextManager[Server]:
    """Start a Prometheus that keeps its data in the directory; skip the test where it is not installed.

    Args:
        through: a command that executes the command of Prometheus, such as one that unshares a namespace.
    """
    return _running(
        "prometheus", [*through, peer("prometheus")], directory, [*flags, f"--storage.tsdb.path={directory}/data"]
    )


def prometheus_agent(directory: Path, *flags: str) -> contextlib.AbstractContextManager[Server]:
    """Start a Prometheus in agent mode, which only sends what it scrapes; skip the test where it is not installed."""
    return _running(
        "agent", [peer("prometheus"), "--agent"], directory, [*flags, f"--storage.agent.path={directory}/data"]
    )


@contextlib.contextmanager
def _running(
    name: str, command: Sequence[str], directory: Path, flags: Sequence[str], environment: Mapping[str, str] = EMPTY
) -> Iterator[Server]:
    port = free_port()
    log = directory / f"{name}.{port}.log"
    whole = [*command, *flags, f"--web.listen-address=127.0.0.1:{port}"]
    with running(whole, directory, log, listening(port), environment={**_environment(), **environment}) as process:
        yield Server(name, port, process, log)


def _environment() -> dict[str, str]:
    """Return our environment without proxy settings, with this checkout on the import path."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": str(ROOT)}
