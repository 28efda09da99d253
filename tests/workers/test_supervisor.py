"""Tests of `--workers`: shared connections, reload, dead and stopped workers, and shutdown."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from probe_exporter.start import IGNORED_SIGNALS
from tests import exporters, forkserver
from tests.exporters import Server, _environment
from tests.http_client import ask
from tests.processes import free_port, having_said, until_ended
from tests.test_cli import run
from tests.waiting import PATIENCE, wait_until
from tests.web.test_routes import PLUGINS, own_metric
from tests.web.test_serving import answer_of, begin

pytestmark = pytest.mark.slow

Start = Callable[..., AbstractContextManager[Server]]

CONFIG = "modules: {http_2xx: {prober: actor}}\n"
BETTER = "modules: {http_2xx: {prober: actor}, other: {prober: actor}}\n"
PROBES = 'probe_exporter_probes_total{module="http_2xx",reason="",result="success"}'


@contextlib.contextmanager
def two_workers(directory: Path, *flags: str) -> Iterator[Server]:
    """Start an exporter with two workers and wait until both listen."""
    (directory / "blackbox.yml").write_text(CONFIG)
    with exporters.ours(directory, f"--modules.dir={PLUGINS}", "--workers=2", *flags) as exporter:
        wait_until(lambda: exporter.log.read_text().count("Listening") == 2)
        yield exporter


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Return a function that starts an exporter with two workers."""
    return partial(two_workers, tmp_path)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One exporter, shared by tests that do not change it."""
    with two_workers(tmp_path_factory.mktemp("steady")) as exporter:
        yield exporter


def workers(exporter: Server) -> list[int]:
    """Return the process ids of the workers."""
    process = exporter.process.pid
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def sockets(process: int) -> int:
    """Return the number of open sockets of a process."""
    links = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(link.readlink()))
    return sum(link.startswith("socket:") for link in links)


def probe_times(exporter: Server, number: int) -> None:
    for _ in range(number):
        assert "probe_success 1\n" in ask(exporter.port, "/probe?target=x").text


def asked_somebody(exporter: Server, path: str) -> tuple[int, str]:
    """Send several requests at once and return the first response, because a stopped worker answers none.

    The connections are not awaited: the kernel drops those to a stopped worker whose backlog is full.
    """
    with ExitStack() as stack:
        connecting = [stack.enter_context(socket.socket()) for _ in range(24)]
        for connection in connecting:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", exporter.port))
        asked: list[socket.socket] = []
        while True:
            answered, connected, _ = select.select(asked, connecting, [], PATIENCE)
            assert answered or connected, "nobody answers"
            if answered:
                answered[0].setblocking(True)
                head, _, body = answered[0].makefile("rb").read().partition(b"\r\n\r\n")
                return int(head.split(b" ")[1]), body.decode()
            for connection in connected:
                connecting.remove(connection)
                connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                asked.append(connection)


def kill(exporter: Server, process: int) -> None:
    """Kill a worker and wait until the supervisor has noticed."""
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: f"process={process} signal=SIGKILL" in exporter.log.read_text())


# --- one exporter ------------------------------------------------------------------------------------------


def test_workers_share_connections_and_sum_counters(steady: Server) -> None:
    exporter = steady
    with ExitStack() as stack:
        first, second = workers(exporter)
        before = {process: sockets(process) for process in (first, second)}
        for _ in range(64):
            stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port)))
        # Those of the question whether it listens may be among those before, and go.
        wait_until(lambda: sum(sockets(process) - before[process] for process in before) >= 60)
        assert all(sockets(process) - before[process] > 10 for process in before)
        probe_times(exporter, 30)
        for _ in range(10):
            assert own_metric(exporter, PROBES) == 30
        assert own_metric(exporter, "blackbox_exporter_config_last_reload_successful") == 1
        shown = ask(exporter.port, "/metrics").text
        assert shown.count("# TYPE process_cpu_seconds_total counter\n") == 1


def test_workers_share_history_file(start: Start, tmp_path: Path) -> None:
    with start(f"--history.path={tmp_path}/history") as exporter:
        probe_times(exporter, 20)
        wait_until(lambda: len(json.loads(ask(exporter.port, "/history").text)["probes"]) == 20)
        assert "are lost: --history.path keeps them" not in exporter.log.read_text()


def _is_found(exporter: Server, path: str) -> bool:
    return ask(exporter.port, path).status == 200


def test_workers_without_history_file_show_the_results_of_all(start: Start) -> None:
    """Each request may be answered by another worker. One that is late is left out, so the test asks again then."""
    with start() as exporter:
        wait_until(lambda: "are lost: --history.path keeps them" in exporter.log.read_text())
        probe_times(exporter, 20)

        def listed(query: str = "") -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = json.loads(ask(exporter.port, f"/history{query}").text)["probes"]
            return found

        for _ in range(10):
            wait_until(lambda: len({entry["id"] for entry in listed()}) == 20)
        wait_until(lambda: {entry["id"] % 2 for entry in listed()} == {0, 1})
        found = listed()
        assert sorted(found, key=lambda entry: -entry["started"] - entry["duration_seconds"]) == found
        wait_until(lambda: len(listed("?limit=7&result=success")) == 7)
        for entry in found[:3]:
            for path in (f"/history?id={entry['id']}", f"/logs?id={entry['id']}"):
                wait_until(partial(_is_found, exporter, path))
        assert ask(exporter.port, "/history?id=12345").status == 404
        wait_until(lambda: "The only target succeeds" in ask(exporter.port, "/").text)


def test_workers_port_in_use_is_refused(steady: Server, tmp_path: Path) -> None:
    flags = (f"--modules.dir={PLUGINS}", "--workers=2", f"--web.listen-address=127.0.0.1:{steady.port}")
    done = run(tmp_path, *flags)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr


def test_workers_share_unix_socket_and_remove_it(tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    path, log = tmp_path / "own.sock", tmp_path / "log"
    flags = [
        "--workers=2",
        f"--modules.dir={PLUGINS}",
        "--web.external-url=http://x/",
        f"--web.listen-address=unix:{path}",
    ]
    with log.open("wb") as output:
        process = forkserver.start(flags, tmp_path, _environment(), output.fileno())
    with until_ended(process, log, having_said("Listening", log)):
        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
                assert connection.makefile("rb").read().endswith(b"Healthy")
    assert not path.exists()


# --- reload ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["post", "signal"])
def test_reload_reaches_all_and_future_workers(start: Start, tmp_path: Path, by: str) -> None:
    with start() as exporter:
        (tmp_path / "blackbox.yml").write_text(BETTER)
        if by == "post":
            assert ask(exporter.port, "/-/reload", method="POST").status == 200
        else:
            exporter.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "All workers have reloaded the configuration" in exporter.log.read_text())
        (tmp_path / "blackbox.yml").write_text("nonsense")
        kill(exporter, workers(exporter)[0])
        wait_until(lambda: len(workers(exporter)) == 2)
        for _ in range(20):
            assert ask(exporter.port, "/probe?module=other&target=x").status == 200


def test_reload_of_bad_config_is_refused_once_for_all_workers(start: Start, tmp_path: Path) -> None:
    with start() as exporter:
        (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: nonsense}}\n")
        answer = ask(exporter.port, "/-/reload", method="POST")
        assert answer.status == 500
        assert answer.text.count("nonsense") == 1
        assert own_metric(exporter, "blackbox_exporter_config_last_reload_successful") == 0
        exporter.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "The configuration was not reloaded" in exporter.log.read_text())
        probe_times(exporter, 10)


def test_many_signals_cause_few_reloads(start: Start) -> None:
    """150 SIGHUPs once kept the exporter busy for two minutes, and POST /-/reload unanswered."""
    with start() as exporter:
        for _ in range(150):
            exporter.process.send_signal(signal.SIGHUP)
        assert ask(exporter.port, "/-/reload", method="POST").status == 200
        wait_until(lambda: "All workers have reloaded the configuration" in exporter.log.read_text())
        assert ask(exporter.port, "/-/reload", method="POST").status == 200
        assert exporter.log.read_text().count("All workers have reloaded the configuration") < 20


# --- workers that fail -------------------------------------------------------------------------------------


def test_dead_worker_is_replaced_and_its_counters_stay(start: Start) -> None:
    with start() as exporter:
        probe_times(exporter, 20)
        assert own_metric(exporter, PROBES) == 20
        for process in workers(exporter):
            kill(exporter, process)
            for _ in range(10):  # those that come to the dead one's socket wait there for the next one
                assert ask(exporter.port, "/-/ready").status in (200, 503)
            assert own_metric(exporter, PROBES) == 20
        wait_until(lambda: ask(exporter.port, "/-/healthy").status == 200)
        assert own_metric(exporter, "probe_exporter_worker_restarts_total") == 2
        probe_times(exporter, 10)
        assert own_metric(exporter, PROBES) == 30


def test_worker_dying_repeatedly_is_replaced_with_backoff(start: Start) -> None:
    with start() as exporter:
        healthy, status, text = workers(exporter)[1], 0, ""
        for killed in range(1, 9):
            wait_until(lambda: len(workers(exporter)) == 2)
            [dying] = set(workers(exporter)) - {healthy}
            kill(exporter, dying)
            if killed < 5:
                continue
            status, text = asked_somebody(exporter, "/health")
            if status == 503:  # if not, the pause was over before the question: the next one is twice as long
                break
        assert status == 503
        assert "1 of 2 workers has died and is not replaced yet." in text
        log = exporter.log.read_text()
        assert "replaced_in_seconds=0.1\n" in log
        assert "replaced_in_seconds=1.6\n" in log
        wait_until(lambda: asked_somebody(exporter, "/-/healthy") == (200, "Healthy"))


def test_stopped_worker_does_not_prevent_metrics(start: Start) -> None:
    with start() as exporter:
        probe_times(exporter, 20)
        assert own_metric(exporter, PROBES) == 20
        stopped = workers(exporter)[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            status, text = asked_somebody(exporter, "/metrics")
            assert (status, f"{PROBES} 20\n" in text) == (200, True)
            report = json.loads(asked_somebody(exporter, "/health")[1])
            assert report["checks"]["workers"]["message"].startswith("Worker 0 ")
        finally:
            os.kill(stopped, signal.SIGCONT)
        wait_until(lambda: own_metric(exporter, PROBES) == 20 and ask(exporter.port, "/-/healthy").status == 200)


def test_stopped_worker_is_detected_by_heartbeat(start: Start) -> None:
    with start() as exporter:
        hanging = workers(exporter)[0]
        os.kill(hanging, signal.SIGSTOP)
        try:
            wait_until(lambda: asked_somebody(exporter, "/-/healthy") == (503, "Worker 0 does not answer.\n"))
        finally:
            os.kill(hanging, signal.SIGCONT)
        wait_until(lambda: [ask(exporter.port, "/-/healthy").text for _ in range(10)] == ["Healthy"] * 10)


def test_workers_exit_if_supervisor_dies(start: Start) -> None:
    with start() as exporter:
        children = workers(exporter)
        exporter.process.kill()
        exporter.process.wait()
        with contextlib.suppress(OSError):  # until they are gone
            for _ in range(20):
                assert ask(exporter.port, "/metrics").status == 503
        wait_until(lambda: not any(Path(f"/proc/{child}/cmdline").exists() for child in children))
        log = exporter.log.read_text()
        assert "level=ERROR" not in log
        assert "Traceback" not in log


def test_ignored_signals_end_neither_the_supervisor_nor_a_worker(steady: Server) -> None:
    before = workers(steady)
    for process, ignored in itertools.product((steady.process.pid, *before), IGNORED_SIGNALS):
        os.kill(process, ignored)
    assert ask(steady.port, "/metrics").status == 200  # both workers answer the one that is asked
    assert workers(steady) == before
    assert "A worker has died" not in steady.log.read_text()


# --- the end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_supervisor_or_group_lets_probes_finish(
    tmp_path: Path, sent: signal.Signals, whole_group: bool
) -> None:
    """Terminals and systemd signal all processes of the group; this does not count as a second signal."""
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    port, log = free_port(), tmp_path / "log"
    flags = [f"--modules.dir={PLUGINS}", "--workers=2", f"--web.listen-address=127.0.0.1:{port}"]
    with log.open("wb") as output:
        process = forkserver.start(flags, tmp_path, _environment(), output.fileno(), session=True)
    exporter = Server("ours", port, process, log)
    try:
        wait_until(lambda: log.read_text().count("Listening") == 2)
        probes = [begin(exporter, "linger", tmp_path)[0] for _ in range(6)]
        if whole_group:
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
        for probe in probes:
            assert "probe_success 1\n" in answer_of(probe, PATIENCE).text
        assert process.wait(PATIENCE) == 0
        assert "replaced" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_second_signal_cancels_probes(start: Start, tmp_path: Path) -> None:
    with start() as exporter:
        witness = begin(exporter, "hang", tmp_path)[1]
        exporter.process.terminate()
        wait_until(lambda: "Waiting for running probes" in exporter.log.read_text())
        exporter.process.terminate()
        assert exporter.process.wait(PATIENCE) == 0
        assert witness.read_text() == "cancelled"
