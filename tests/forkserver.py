"""A fork server: start exporters as forks of a process that has imported them, at a twentieth of the CPU time.

How it works:

* Each test process starts one fork server, with the first exporter that it asks for, and ends it with the session.
* The server imports the exporter and its probers, and builds the models of their settings. It runs nothing else of
  their code, and has one thread and no event loop.
* `start` sends it a command line, a directory, an environment and a log file. The server forks. The fork closes all
  other files and runs ``python -m probe_exporter`` in the same interpreter.
* A fork that ends runs its exit functions and finalizers, but does not destroy what it shares with the server.
* The server is the parent of the fork. It tells `Fork` the process id, and later the exit code, over a socket.

Imports are what a fork saves, so a test of start-up, of loaded modules or of the size of the process needs an exporter
with an interpreter of its own: `tests.exporters.ours_from_scratch`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import probe_exporter
from probe_exporter.settings.block import Settings

ROOT = Path(__file__).parents[1]
MAX_REQUEST_BYTES = 1 << 17
MAX_FILES = 16
"""The most files that one request passes to the fork server."""
OWN_PID = "<own pid>"
"""As the value of a variable of a fork's environment: the process id of the fork."""
MAX_RUN_SECONDS = 600.0
"""A command that takes longer fails its test: it hangs."""
STARTUP_VARIABLES = ("PYTHON", "LANG", "LC_")
"""Prefixes of the variables that an interpreter reads when it starts, so that a fork can't have others."""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
"""The environment of the fork server, which no test has changed."""


# --- in the test process -------------------------------------------------------------------------------------


class Fork:
    """An exporter that the fork server has started. It has those methods of `subprocess.Popen` that tests use."""

    def __init__(self, args: Sequence[str], reports: socket.socket) -> None:
        self.args = args
        self.returncode: int | None = None
        self._reports = reports
        self.pid = int(self._report())

    def _report(self) -> str:
        report = self._reports.recv(64).decode()
        if not report:
            raise RuntimeError("the fork server ended")
        return report

    def poll(self) -> int | None:
        """Return the exit code, as `subprocess.Popen.poll` does; None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once the process has ended; it is negative if a signal has ended it.

        Args:
            timeout: seconds to wait for that.

        Raises:
            subprocess.TimeoutExpired: the process still runs.
        """
        if self.returncode is None:
            self._reports.settimeout(timeout)
            try:
                self.returncode = int(self._report())
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0) from None
            self._reports.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    output: int,
    errors: int | None = None,
    *,
    passed: Sequence[int] = (),
    session: bool = False,
) -> Fork:
    """Start an exporter.

    Args:
        arguments: its command line, without the name of the program.
        directory: its working directory.
        environment: all of its environment variables; the value `OWN_PID` stands for the process id of the exporter.
        output: the file descriptor that it writes its standard output to. If it is a terminal, it becomes the standard
            input and the controlling terminal, too, so that Ctrl-C there interrupts the exporter.
        errors: the same for standard error; by default `output`.
        passed: file descriptors that the exporter finds at 3, 4 and so on, as systemd passes sockets.
        session: give the exporter a session of its own, and so a process group.

    Raises:
        ValueError: the environment has another value of a variable that an interpreter reads when it starts.
    """
    for name in {*environment, *ENVIRONMENT}:
        if name.startswith(STARTUP_VARIABLES) and environment.get(name) != ENVIRONMENT.get(name):
            raise ValueError(f"a fork can't have another {name}: use `ours_from_scratch`")
    reports, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        request = {
            "arguments": [*arguments], "directory": str(directory), "environment": dict(environment),
            "session": session,
        }  # fmt: skip
        files = [theirs.fileno(), output, output if errors is None else errors, *passed]
        socket.send_fds(_server()[1], [json.dumps(request).encode()], files)
    try:
        return Fork(["probe-exporter", *arguments], reports)
    except RuntimeError:
        reports.close()
        raise


def run(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Run an exporter's command to its end; the arguments are those of `start`."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = start(arguments, directory, environment, output.fileno(), errors.fileno())
        try:
            code = process.wait(MAX_RUN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess([*process.args], code, output.read(), errors.read())


@functools.cache
def _server() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Return the fork server of this process, and the socket for requests."""
    requests, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forkserver", str(theirs.fileno())],
            cwd=ROOT, env=ENVIRONMENT, pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return process, requests


def stop() -> None:
    """End the fork server of this process, if there is one. Exporters that it has started go on."""
    if _server.cache_info().currsize:
        process, requests = _server()
        requests.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _server.cache_clear()


# --- in the fork server --------------------------------------------------------------------------------------


def main(number: int) -> None:
    """Fork for each request that comes over a socket, until that is closed. In a fork, run the exporter.

    Args:
        number: the socket's file descriptor.
    """
    _import_all()
    if len([*Path("/proc/self/task").iterdir()]) > 1:
        raise SystemExit("an import has started a thread, which a fork would not have")
    request = _serve(socket.socket(fileno=number))
    if request is not None:
        _run(**request)


def _import_all() -> None:
    """Import every file of the exporter but its pytest plugin, and build the models of all settings.

    Keep the garbage collector from what they made. At its end, each fork would collect that garbage, at a quarter of a
    second.
    """
    for module in pkgutil.walk_packages(probe_exporter.__path__, "probe_exporter."):
        if module.name not in ("probe_exporter.__main__", "probe_exporter.testing"):
            importlib.import_module(module.name)
    _build_models(Settings)
    gc.collect()
    gc.freeze()


def _build_models(base: type[Settings]) -> None:
    """Build the model of a class and of its subclasses, which every fork that uses it would do, at up to 40 ms."""
    base.model_rebuild()
    for model in base.__subclasses__():
        _build_models(model)


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for each request, and report the end of each fork. Return None at the end; in a fork, return its request."""
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not requests:
                    selector.unregister(key.fd)
                    _report_end(key.fd, *key.data)
                    continue
                message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, MAX_FILES)
                if not message:
                    return None
                reports, *files = descriptors
                process = os.fork()
                if not process:
                    requests.detach()
                    selector.close()
                    _keep_only(*files)
                    request: dict[str, Any] = json.loads(message)
                    return request
                for file in files:
                    os.close(file)
                _report(reports, process)
                selector.register(os.pidfd_open(process), selectors.EVENT_READ, (process, reports))


def _report_end(descriptor: int, process: int, reports: int) -> None:
    """Report the exit code of a fork that has ended."""
    os.close(descriptor)
    _report(reports, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    os.close(reports)


def _report(reports: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test process does not ask any more
        os.write(reports, str(number).encode())


def _keep_only(*files: int) -> None:
    """Close all files but these, which become standard output, standard error, and the numbers from 3 on."""
    above = [fcntl.fcntl(file, fcntl.F_DUPFD, 3 + len(files)) for file in (os.open(os.devnull, os.O_RDONLY), *files)]
    for number, file in enumerate(above):
        os.dup2(file, number)
    os.closerange(len(above), os.sysconf("SC_OPEN_MAX"))


def _run(arguments: Sequence[str], directory: str, environment: Mapping[str, str], session: bool) -> None:
    """Do what ``python -m probe_exporter`` does."""
    if os.isatty(1):
        _enter_terminal()
    elif session:
        os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update({name: str(os.getpid()) if value == OWN_PID else value for name, value in environment.items()})
    time.tzset()
    sys.path[0] = directory
    sys.argv[1:] = arguments
    try:
        runpy.run_module("probe_exporter", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        _exit(end.code)


def _exit(code: int) -> None:
    """End this process as an interpreter does, but without destroying what was imported.

    To destroy an object, a fork must first copy the memory that it is in: that took half of the CPU time of a fork that
    starts and ends. What the exporter itself has made and left is collected, so that its finalizers can complain.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons, as the interpreter does
    atexit._run_exitfuncs()
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _enter_terminal() -> None:
    """Behave as an interpreter that was started in the terminal which is standard output."""
    os.login_tty(os.dup(1))
    # Background jobs of a shell ignore Ctrl-C, and the fork server may be one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout, sys.stderr = map(_reopened, (sys.stdout, sys.stderr))


def _reopened(stream: TextIO) -> TextIO:
    """Return a new object for a standard stream, which notices the terminal: it can't seek, and writes each line."""
    return open(stream.fileno(), "w", encoding=stream.encoding, errors=stream.errors, closefd=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
