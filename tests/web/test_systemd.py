"""Sockets that are passed instead of opened, and sockets that have a path."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.asking import ask
from tests.exporters import _environment
from tests.processes import free_port, having_said, running, wait_until
from tests.test_cli import run
from tests.web.test_routes import PLUGINS, until

FLAGS = (f"--modules.dir={PLUGINS}", "--web.external-url=http://front.example/")
PASSING = (*FLAGS, "--web.systemd-socket")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A working directory with a good config."""
    (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: actor}}\n")
    return tmp_path


LAUNCHER = """
import os, sys
passed, *command = sys.argv[1:]
for number, descriptor in enumerate(map(int, filter(None, passed.split(",")))):
    os.dup2(descriptor, 3 + number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "probe_exporter", *command])
"""
"""Does what systemd does between fork and exec."""


@contextmanager
def activated(directory: Path, sockets: Sequence[socket.socket], *flags: str) -> Iterator[Path]:
    """An exporter that is passed these sockets; its log."""
    # Numbers beyond those that they are passed as, so that none is overwritten before its turn.
    passed = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 50) for one in sockets]
    command = [sys.executable, "-c", LAUNCHER, ",".join(map(str, passed)), *flags]
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**_environment(), "LISTEN_FDS": str(len(passed))},
            stderr=output,
            pass_fds=passed,
        )
    try:
        for descriptor in passed:
            os.close(descriptor)
        wait_until(having_said("Listening", log), process, log)
        yield log
    finally:
        process.terminate()
        process.wait(60)


def find(name: str) -> str:
    """A tool's path; skips without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def ask_path(path: Path) -> bytes:
    """What an exporter says over its Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
        return connection.makefile("rb").read()


# --- passed ------------------------------------------------------------------------------------------------


def test_all_passed_sockets_are_served_and_no_address_of_our_own(directory: Path) -> None:
    path = directory / "passed.sock"
    ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    with ports[0], ports[1], socket.socket(socket.AF_UNIX) as at_path:
        at_path.bind(str(path))
        at_path.listen()
        with activated(directory, [*ports, at_path], *PASSING) as log:
            for listener in ports:
                assert ask(listener.getsockname()[1], "/probe?target=x").status == 200
            assert ask_path(path).endswith(b"Healthy")
            assert log.read_text().count("Listening") == 3
            assert "9115" not in log.read_text()
    assert path.exists()  # it is the one's who made it


def test_several_workers_share_a_passed_socket(directory: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, activated(directory, [listener], *PASSING, "--workers=2") as log:
        until(lambda: log.read_text().count("Listening") == 2)
        for _ in range(10):
            assert ask(listener.getsockname()[1], "/probe?target=x").status == 200


def test_a_client_that_came_before_the_exporter_is_served(directory: Path) -> None:
    """What socket activation is for: nobody is refused while the exporter starts or is replaced."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as early:
        early.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
        with activated(directory, [listener], *PASSING):
            assert early.makefile("rb").read().endswith(b"Healthy")


def test_without_an_external_url_the_start_is_refused(directory: Path) -> None:
    done = run(directory, f"--modules.dir={PLUGINS}", "--web.systemd-socket")
    assert done.returncode == 1
    assert "--web.external-url" in done.stderr


@pytest.mark.parametrize(
    "variables",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}],
    ids=["none", "nobody's", "another's"],
)
def test_without_passed_sockets_the_start_is_refused(directory: Path, variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "probe_exporter", *PASSING]
    environment = {**_environment(), **variables}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "no sockets were passed" in done.stderr


def test_a_number_of_none_is_none(directory: Path) -> None:
    with pytest.raises(RuntimeError, match="no sockets were passed"), activated(directory, [], *PASSING):
        pass


def test_what_is_passed_has_to_be_a_listening_stream_socket(directory: Path) -> None:
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    start = activated(directory, [datagrams], *PASSING)
    with datagrams, pytest.raises(RuntimeError, match="no listening stream socket"), start:
        pass


def test_systemd_s_own_tool_activates_it(directory: Path) -> None:
    tool = find("systemd-socket-activate")
    port, log = free_port(), directory / "log"
    command = [tool, f"--listen=127.0.0.1:{port}", "-E", "PYTHONPATH", sys.executable, "-m", "probe_exporter", *PASSING]
    with running(command, directory, log, having_said("Listening on", log), environment=_environment()):
        assert ask(port, "/probe?target=x").status == 200


# --- with a path -------------------------------------------------------------------------------------------


@contextmanager
def served(directory: Path, *flags: str) -> Iterator[None]:
    """An exporter with these flags, once it listens on the last of its addresses."""
    log = directory / "log"
    command = [sys.executable, "-m", "probe_exporter", *flags]
    wanted = sum(flag.startswith("--web.listen-address") for flag in flags)
    ready = lambda: log.read_text().count("Listening") == wanted  # noqa: E731  # it says all in one line
    with running(command, directory, log, ready, environment=_environment()):
        yield


def test_a_unix_socket_is_served_beside_a_port_and_taken_away_at_the_end(directory: Path) -> None:
    path, port = directory / "own.sock", free_port()
    flags = (*FLAGS, f"--web.listen-address=unix://{path}", f"--web.listen-address=127.0.0.1:{port}")
    log = directory / "log"
    with served(directory, *flags):
        assert log.read_text().count("Listening") == 2
        assert ask_path(path).endswith(b"Healthy")
        assert ask(port, "/-/healthy").status == 200
        command = [find("curl"), "-sS", "--unix-socket", str(path), "http://any/probe?target=x"]
        assert b"probe_success 1\n" in subprocess.run(command, capture_output=True, timeout=60).stdout
    assert not path.exists()


def test_a_socket_that_a_process_left_behind_is_replaced_and_one_in_use_is_not(directory: Path) -> None:
    path = directory / "left.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        done = run(directory, *FLAGS, f"--web.listen-address=unix:{path}")
        assert (done.returncode, "Address already in use" in done.stderr) == (1, True)
    with served(directory, *FLAGS, f"--web.listen-address=unix:{path}"):
        assert ask_path(path).endswith(b"Healthy")


def test_a_file_is_not_replaced_by_a_socket(directory: Path) -> None:
    path = directory / "file"
    path.write_text("precious")
    done = run(directory, *FLAGS, f"--web.listen-address=unix:{path}")
    assert done.returncode == 1
    assert path.read_text() == "precious"


def test_a_path_alone_does_not_tell_where_the_exporter_is_reached(directory: Path) -> None:
    done = run(directory, f"--modules.dir={PLUGINS}", f"--web.listen-address=unix:{directory}/x.sock")
    assert done.returncode == 1
    assert "--web.external-url" in done.stderr
