"""Start programs for tests: each has a log file, is waited for until it is ready, and is ended by its process id."""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

STARTED_WITHIN = 300.0  # seconds; only ends a test that would wait for ever
ENDED_WITHIN = 60.0  # seconds after SIGTERM; then SIGKILL
LOOKS_EVERY = 0.02  # seconds

PORTS = range(15_000, 32_000)
"""Below the range that Linux gives to outgoing connections (32768 and above)."""
PORTS_PER_PROCESS = 250

Ready = Callable[[], bool]


class Process(Protocol):
    """A process of `subprocess.Popen` or `tests.forkserver.Fork`."""

    @property
    def pid(self) -> int:
        """The process id."""

    @property
    def args(self) -> object:
        """The command."""

    returncode: Any
    """The exit code; None until a wait for the process has ended."""

    def poll(self) -> int | None:
        """Return the exit code; None while the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once the process has ended; raise `subprocess.TimeoutExpired` if it does not in time."""

    def send_signal(self, sig: int, /) -> None:
        """Send a signal, unless the process has ended."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""


def free_port() -> int:
    """Return a port of loopback that nothing listens on and that no other test process is given.

    Each process that runs tests (each worker of pytest-xdist, each further pytest on the machine) claims a block of
    ports for as long as it lives, and uses the ports of its block in turn. A port that the kernel chooses (``bind`` to
    port 0) won't do: it may be given to an outgoing connection before the server that shall have it listens.

    Raises:
        RuntimeError: no port is free.
    """
    block, turns = _own_block()
    for _ in block:
        port = block[next(turns) % len(block)]
        with (
            contextlib.suppress(OSError),
            socket.socket() as stream,
            socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        ):
            stream.bind(("127.0.0.1", port))
            datagrams.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"none of the ports {block.start} to {block.stop - 1} is free")


@functools.cache
def _own_block() -> tuple[range, Iterator[int]]:
    """Return the block of ports of this process, and a counter of those used.

    The claim is an abstract Unix socket, which only one process can bind, and which the kernel frees with the process.
    """
    for start in PORTS[::PORTS_PER_PROCESS]:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0probe-exporter-tests-ports-{start}")
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            return range(start, start + PORTS_PER_PROCESS), itertools.count()
    raise RuntimeError("every block of ports is claimed by another test process")


_claims: list[socket.socket] = []
"""Keeps the claim open."""


def listening(*ports: int) -> Ready:
    """Return a function that tells whether all these ports of loopback accept connections."""

    def ready() -> bool:
        with contextlib.suppress(OSError):
            for port in ports:
                socket.create_connection(("127.0.0.1", port), 10).close()
            return True
        return False

    return ready


def having_said(words: str, log: Path) -> Ready:
    """Return a function that tells whether a program has written these words to its log."""
    return lambda: words in log.read_text(errors="replace")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    directory: Path,
    log: Path,
    ready: Ready,
    *,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a directory while the block lasts. The block begins once the program is ready.

    Args:
        command: the program and its arguments.
        directory: its working directory.
        log: file that its standard output and standard error are appended to.
        ready: tells whether the program can be used yet.
        environment: its variables; by default those of this process.
        user: the user that it runs as; only root may choose one.

    Raises:
        RuntimeError: the program ended, or is not ready in time. The message has its log.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            user=user, extra_groups=None if user is None else [],
        )  # fmt: skip
    with until_ended(process, log, ready):
        yield process


@contextlib.contextmanager
def until_ended(process: Process, log: Path, ready: Ready) -> Iterator[None]:
    """Wait until a program is ready; end it at the end of the block.

    Raises:
        RuntimeError: as for `running`.
    """
    try:
        wait_until_ready(ready, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(ENDED_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(ready: Ready, process: Process, log: Path) -> None:
    """Return once a program is ready.

    Raises:
        RuntimeError: as for `running`.
    """
    name = Path(str(process.args[0] if isinstance(process.args, Sequence) else process.args)).name
    give_up = time.monotonic() + STARTED_WITHIN
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended at once with code {process.returncode}:\n{log.read_text()}")
        if ready():
            return
        time.sleep(LOOKS_EVERY)
    raise RuntimeError(f"{name} is not ready after {STARTED_WITHIN} s:\n{log.read_text()}")
