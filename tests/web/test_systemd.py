"""Test systemd socket activation and Unix sockets."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import forkserver
from tests.exporters import _environment, run_ours
from tests.forkserver import OWN_PID
from tests.http_client import ask
from tests.processes import free_port, having_said, running, until_ended
from tests.programs import find
from tests.test_cli import run
from tests.waiting import wait_until
from tests.web.test_routes import PLUGINS

FLAGS = (f"--modules.dir={PLUGINS}", "--web.external-url=http://front.example/")
PASSING = (*FLAGS, "--web.systemd-socket")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a working directory with a valid config."""
    (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: actor}}\n")
    return tmp_path


@contextmanager
def activated(directory: Path, sockets: Sequence[socket.socket], *flags: str) -> Iterator[Path]:
    """Run an exporter, pass it these sockets as systemd does, and yield its log file."""
    log = directory / "log"
    environment = {**_environment(), "LISTEN_FDS": str(len(sockets)), "LISTEN_PID": OWN_PID}
    passed = [one.fileno() for one in sockets]
    with log.open("wb") as output:
        process = forkserver.start(flags, directory, environment, output.fileno(), passed=passed)
    with until_ended(process, log, having_said("Listening", log)):
        yield log


def ask_path(path: Path) -> bytes:
    """Return the answer to /-/healthy over a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
        return connection.makefile("rb").read()


# --- passed sockets ------------------------------------------------------------------------------------------


def test_passed_sockets_are_served_and_no_other_address(directory: Path) -> None:
    path = directory / "passed.sock"
    ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    with ports[0], ports[1], socket.socket(socket.AF_UNIX) as at_path:
        at_path.bind(str(path))
        at_path.listen()
        with activated(directory, [*ports, at_path], *PASSING) as log:
            for listener in ports:
                assert ask(listener.getsockname()[1], "/probe?target=x").status == 200
            assert ask_path(path).endswith(b"Healthy")
            wait_until(lambda: log.read_text().count("Listening") == 3)
            assert "9115" not in log.read_text()
    assert path.exists()  # the process that made it removes it


def test_passed_socket_is_shared_by_workers(directory: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, activated(directory, [listener], *PASSING, "--workers=2") as log:
        wait_until(lambda: log.read_text().count("Listening") == 2)
        for _ in range(10):
            assert ask(listener.getsockname()[1], "/probe?target=x").status == 200


def test_passed_socket_serves_clients_that_connected_before_the_start(directory: Path) -> None:
    """With socket activation no connection is refused while the exporter starts or is replaced."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as early:
        early.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
        with activated(directory, [listener], *PASSING):
            assert early.makefile("rb").read().endswith(b"Healthy")


def test_start_is_refused_without_an_external_url(directory: Path) -> None:
    done = run(directory, f"--modules.dir={PLUGINS}", "--web.systemd-socket")
    assert done.returncode == 1
    assert "--web.external-url" in done.stderr


@pytest.mark.parametrize(
    "variables",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}],
    ids=["no variables", "no LISTEN_PID", "LISTEN_PID of another process"],
)
def test_start_is_refused_without_passed_sockets(directory: Path, variables: dict[str, str]) -> None:
    done = run_ours(directory, *PASSING, **variables)
    assert done.returncode == 1
    assert "no sockets were passed" in done.stderr


def test_start_is_refused_with_zero_passed_sockets(directory: Path) -> None:
    with pytest.raises(RuntimeError, match="no sockets were passed"), activated(directory, [], *PASSING):
        pass


def test_passed_datagram_socket_is_refused(directory: Path) -> None:
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    start = activated(directory, [datagrams], *PASSING)
    with datagrams, pytest.raises(RuntimeError, match="no listening stream socket"), start:
        pass


def test_systemd_socket_activate_starts_the_exporter(directory: Path) -> None:
    tool = find("systemd-socket-activate")
    port, log = free_port(), directory / "log"
    command = [tool, f"--listen=127.0.0.1:{port}", "-E", "PYTHONPATH", sys.executable, "-m", "probe_exporter", *PASSING]
    with running(command, directory, log, having_said("Listening on", log), environment=_environment()):
        assert ask(port, "/probe?target=x").status == 200


# --- Unix sockets --------------------------------------------------------------------------------------------


@contextmanager
def served(directory: Path, *flags: str) -> Iterator[None]:
    """Run an exporter and wait until it listens on all its addresses."""
    log = directory / "log"
    wanted = sum(flag.startswith("--web.listen-address") for flag in flags)
    ready = lambda: log.read_text().count("Listening") == wanted  # noqa: E731  # one expression
    with log.open("wb") as output:
        process = forkserver.start(flags, directory, _environment(), output.fileno())
    with until_ended(process, log, ready):
        yield


def test_unix_socket_is_served_and_removed_at_the_end(directory: Path) -> None:
    path, port = directory / "own.sock", free_port()
    flags = (*FLAGS, f"--web.listen-address=unix://{path}", f"--web.listen-address=127.0.0.1:{port}")
    log = directory / "log"
    with served(directory, *flags):
        wait_until(lambda: log.read_text().count("Listening") == 2)
        assert ask_path(path).endswith(b"Healthy")
        assert ask(port, "/-/healthy").status == 200
        command = [find("curl"), "-sS", "--unix-socket", str(path), "http://any/probe?target=x"]
        assert b"probe_success 1\n" in subprocess.run(command, capture_output=True, timeout=60).stdout
    assert not path.exists()


def test_stale_unix_socket_is_replaced_unless_it_is_in_use(directory: Path) -> None:
    path = directory / "left.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        done = run(directory, *FLAGS, f"--web.listen-address=unix:{path}")
        assert (done.returncode, "Address already in use" in done.stderr) == (1, True)
    with served(directory, *FLAGS, f"--web.listen-address=unix:{path}"):
        assert ask_path(path).endswith(b"Healthy")


def test_unix_socket_does_not_replace_a_file(directory: Path) -> None:
    path = directory / "file"
    path.write_text("precious")
    done = run(directory, *FLAGS, f"--web.listen-address=unix:{path}")
    assert done.returncode == 1
    assert path.read_text() == "precious"


def test_unix_socket_alone_requires_an_external_url(directory: Path) -> None:
    done = run(directory, f"--modules.dir={PLUGINS}", f"--web.listen-address=unix:{directory}/x.sock")
    assert done.returncode == 1
    assert "--web.external-url" in done.stderr
