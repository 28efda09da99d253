"""Run programs in a pseudo-terminal of a given width, as a person would, for tests of what they see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from tests import forkserver
from tests.processes import Process
from tests.waiting import PATIENCE

ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
"""A control sequence: CSI, OSC, or a short one (ECMA-48)."""
TYPE = "xterm-256color"


class Terminal:
    """A program and its terminal.

    Attributes:
        process: the program.
        output: all that it has written, with control sequences.
    """

    def __init__(self, process: Process, descriptor: int) -> None:
        self.process = process
        self.output = ""
        self._descriptor = descriptor

    @property
    def text(self) -> str:
        """The output without control sequences and carriage returns."""
        return ESCAPE.sub("", self.output).replace("\r", "")

    def type(self, text: str) -> None:
        """Send keystrokes."""
        os.write(self._descriptor, text.encode())

    def expect(self, text: str) -> None:
        """Wait until a text is in the output.

        Raises:
            AssertionError: it does not come, or the program ends without it.
        """
        give_up = time.monotonic() + PATIENCE
        while text not in self.text:
            assert time.monotonic() < give_up, f"{text!r} is not in {self.text!r}"
            assert self.read(), f"the program ended without {text!r}: {self.text!r}"

    def finish(self) -> int:
        """Read to the end; return the exit code.

        Raises:
            AssertionError: the program does not end.
        """
        give_up = time.monotonic() + PATIENCE
        while self.read():
            assert time.monotonic() < give_up, f"the program does not end: {self.text[-1000:]!r}"
        return self.process.wait(PATIENCE)

    def read(self) -> bool:
        """Wait for output, for a short time; return False at the end."""
        readable, _, _ = select.select([self._descriptor], [], [], 0.1)
        if not readable:
            return True
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # EIO: the program has closed its side
            return False
        self.output += data.decode("utf-8", "replace")
        return bool(data)


def _enter(descriptor: int) -> None:
    """Make a terminal the controlling one of this process; obey Ctrl-C, which background jobs of a shell ignore."""
    os.login_tty(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def exporter_terminal(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str], *, columns: int = 80
) -> Iterator[Terminal]:
    """Run the exporter's command line in a terminal while the block lasts, as a fork (see `tests.forkserver`)."""
    start = partial(forkserver.start, arguments, directory, {**environment, "TERM": TYPE})
    with _opened(start, columns=columns, rows=40) as opened:
        yield opened


@contextlib.contextmanager
def terminal(
    command: Sequence[str], directory: Path, environment: Mapping[str, str], *, columns: int = 80, rows: int = 40
) -> Iterator[Terminal]:
    """Run a program in a terminal while the block lasts."""

    def start(theirs: int) -> Process:
        return subprocess.Popen(
            command,
            cwd=directory,
            env={**environment, "TERM": TYPE},
            preexec_fn=partial(_enter, theirs),  # noqa: PLW1509  # the child has no threads yet
            close_fds=False,
        )

    with _opened(start, columns=columns, rows=rows) as opened:
        yield opened


@contextlib.contextmanager
def _opened(start: Callable[[int], Process], *, columns: int, rows: int) -> Iterator[Terminal]:
    """Open a terminal, start a process with its file descriptor, and end the process at the end of the block."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = start(theirs)
    finally:
        os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        os.close(ours)
        process.kill()
        process.wait()
