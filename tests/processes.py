"""Programs that tests start: each has a log of its own, is waited for until it is ready, and is ended by its id."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

STARTED_WITHIN = 20.0  # seconds; a loaded CI machine starts slowly
ENDED_WITHIN = 5.0  # seconds, before it is killed

Ready = Callable[[], bool]


def free_port() -> int:
    """A loopback port that nobody listens on, out of the range that the system gives to connections.

    Those that the kernel chooses (``bind`` to port 0) may be given to an outgoing connection before the server that
    is to have it has started.
    """
    for port in iter(lambda: random.randrange(15_000, 32_000), None):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable")


def listening(*ports: int) -> Ready:
    """Whether somebody accepts connections on each of these ports of loopback."""

    def ready() -> bool:
        with contextlib.suppress(OSError):
            for port in ports:
                socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    return ready


def having_said(words: str, log: Path) -> Ready:
    """Whether a program has written these words to its log."""
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
    """Have a program run in a directory while the block lasts, which begins once the program is ready.

    Args:
        command: the program and its arguments.
        directory: where it runs.
        log: what gets its output, on both streams, at its end.
        ready: says whether it can be used yet.
        environment: its variables; without it, those of this process.
        user: whom it runs as; root may choose.

    Raises:
        RuntimeError: it ended, or is not ready in time; with what it wrote to its log.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            user=user, extra_groups=None if user is None else [],
        )  # fmt: skip
    try:
        wait_until(ready, process, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(ENDED_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(ready: Ready, process: subprocess.Popen[bytes], log: Path) -> None:
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
        time.sleep(0.02)
    raise RuntimeError(f"{name} is not ready after {STARTED_WITHIN} s:\n{log.read_text()}")
