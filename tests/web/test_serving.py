"""Test signals, reloads, draining, route prefixes and listen addresses of an exporter process."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path
from queue import Queue
from urllib.parse import quote

import pytest

from probe_exporter.config.reloading import Configuration, Source
from probe_exporter.exporter import _reload_interval
from probe_exporter.flags import parse
from probe_exporter.history.memory import MemoryHistory
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.start import IGNORED_SIGNALS
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.web.listening import Place
from probe_exporter.web.routes import Web
from probe_exporter.web.serving import Background, Watches, serve
from tests import exporters
from tests.clocks import StandingLoop, advance, settle
from tests.conftest import NewLoop
from tests.exporters import Response, Server
from tests.http_client import ask
from tests.processes import free_port, listening, running
from tests.waiting import until, wait_until
from tests.web.test_routes import PLUGINS, own_metric

CONFIG = "modules: {http_2xx: {prober: actor}}\n"
BETTER = "modules: {http_2xx: {prober: actor}, other: {prober: actor}}\n"
SUCCESSFUL = "blackbox_exporter_config_last_reload_successful"
STAMP = "blackbox_exporter_config_last_reload_success_timestamp_seconds"

Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Return a function that starts an exporter with flags."""
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    return lambda *flags: exporters.ours(tmp_path, f"--modules.dir={PLUGINS}", *flags)


def ask_beside(exporter: Server, path: str, headers: Mapping[str, str] | None = None) -> Queue[Response | Exception]:
    """Send a request from a thread; the queue gets the answer or the exception."""
    answers: Queue[Response | Exception] = Queue()

    def run() -> None:
        try:
            answers.put(ask(exporter.port, path, headers=headers, timeout=120))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=run, daemon=True).start()
    return answers


def answer_of(answers: Queue[Response | Exception], seconds: float = 60) -> Response:
    answer = answers.get(timeout=seconds)
    assert isinstance(answer, Response), repr(answer)
    return answer


def begin(exporter: Server, script: str, directory: Path) -> tuple[Queue[Response | Exception], Path]:
    """Start a probe and wait until it runs; return the queue for its answer, and the file that it writes."""
    witness = directory / f"witness-{time.monotonic_ns()}"
    answers = ask_beside(exporter, f"/probe?debug=true&target={quote(f'{script} {witness}')}")
    wait_until(witness.exists)
    return answers, witness


# --- shutdown ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_an_idle_exporter_with_0(start: Start, sent: signal.Signals) -> None:
    with start("--web.drain-timeout=1h") as exporter:
        assert ask(exporter.port, "/-/healthy").status == 200
        exporter.process.send_signal(sent)
        assert exporter.process.wait(60) == 0


def test_shutdown_does_not_wait_for_idle_connections(start: Start) -> None:
    """Prometheus keeps its connection open between scrapes."""
    with (
        start("--web.drain-timeout=1h") as exporter,
        socket.create_connection(("127.0.0.1", exporter.port)) as connection,
    ):
        connection.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        exporter.process.terminate()
        assert exporter.process.wait(60) == 0


def test_shutdown_finishes_running_probes_and_refuses_new_ones(start: Start, tmp_path: Path) -> None:
    with start("--web.drain-timeout=1h") as exporter:
        running, witness = begin(exporter, "hold", tmp_path)
        exporter.process.terminate()
        wait_until(lambda: b"Waiting for running probes" in exporter.log.read_bytes())
        refused = ask(exporter.port, "/probe?target=x")
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert ask(exporter.port, "/-/healthy").status == 200
        witness.unlink()
        assert "probe_success 1\n" in answer_of(running).text
        assert exporter.process.wait(60) == 0


def test_shutdown_cancels_probes_after_the_drain_timeout(start: Start, tmp_path: Path) -> None:
    with start("--web.drain-timeout=500ms") as exporter:
        _, witness = begin(exporter, "hang", tmp_path)
        before = time.monotonic()
        exporter.process.terminate()
        assert exporter.process.wait(60) == 0
        assert time.monotonic() - before >= 0.5
        assert witness.read_text() == "cancelled"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_drain(start: Start, tmp_path: Path, second: signal.Signals) -> None:
    with start("--web.drain-timeout=1h") as exporter:
        begin(exporter, "hang", tmp_path)
        exporter.process.terminate()
        wait_until(lambda: b"Waiting for running probes" in exporter.log.read_bytes())
        exporter.process.send_signal(second)
        assert exporter.process.wait(60) == 0


# --- reloading -----------------------------------------------------------------------------------------------


def test_reload_request_reloads(start: Start, tmp_path: Path) -> None:
    with start() as exporter:
        (tmp_path / "blackbox.yml").write_text(BETTER)
        answer = ask(exporter.port, "/-/reload", method="POST", body=b"")
        assert (answer.status, answer.body) == (200, b"")
        assert ask(exporter.port, "/probe?module=other&target=x").status == 200


def test_reload_request_reports_an_invalid_config_and_keeps_the_old_one(start: Start, tmp_path: Path) -> None:
    with start() as exporter:
        (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: nonsense}}\n")
        answer = ask(exporter.port, "/-/reload", method="POST")
        assert answer.status == 500
        assert "blackbox.yml:1:" in answer.text
        assert "nonsense" in answer.text
        assert own_metric(exporter, SUCCESSFUL) == 0
        assert ask(exporter.port, "/probe?target=x").status == 200
        wait_until(lambda: "nonsense" in exporter.log.read_text())


def test_reload_request_without_a_change_updates_the_timestamp(start: Start) -> None:
    with start() as exporter:
        stamp = own_metric(exporter, STAMP)
        assert ask(exporter.port, "/-/reload", method="POST").status == 200
        assert own_metric(exporter, STAMP) > stamp


def test_sighup_reloads(start: Start, tmp_path: Path) -> None:
    with start() as exporter:
        (tmp_path / "blackbox.yml").write_text(BETTER)
        exporter.process.send_signal(signal.SIGHUP)
        wait_until(lambda: ask(exporter.port, "/probe?module=other&target=x").status == 200)


def test_sighup_logs_an_invalid_config_and_keeps_the_old_one(start: Start, tmp_path: Path) -> None:
    with start() as exporter:
        (tmp_path / "blackbox.yml").write_text("modules: [\n")
        exporter.process.send_signal(signal.SIGHUP)
        wait_until(lambda: own_metric(exporter, SUCCESSFUL) == 0)
        wait_until(lambda: "The configuration was not reloaded" in exporter.log.read_text())
        assert ask(exporter.port, "/probe?target=x").status == 200


def test_ignored_signals_do_not_end_the_exporter(start: Start) -> None:
    with start() as exporter:
        for ignored in IGNORED_SIGNALS:
            exporter.process.send_signal(ignored)
            assert ask(exporter.port, "/probe?target=x").status == 200


@pytest.mark.slow
def test_auto_reload_applies_changes(start: Start, tmp_path: Path) -> None:
    with start("--config.enable-auto-reload", "--config.auto-reload-interval=1") as exporter:
        (tmp_path / "blackbox.yml").write_text(BETTER)
        wait_until(lambda: ask(exporter.port, "/probe?module=other&target=x").status == 200)


class CountingSource(Source):
    """A configuration source that counts how often it is checked for changes."""

    looks = 0

    def digest(self) -> str:
        CountingSource.looks += 1
        return super().digest()


@pytest.fixture
def new_loop() -> NewLoop:
    """Use a simulated clock for the asynchronous tests."""
    return StandingLoop


@asynccontextmanager
async def served(directory: Path, *words: str) -> AsyncIterator[Configuration]:
    """Run the server of this process with these flags and no listen address."""
    (directory / "blackbox.yml").write_text("modules: {http_2xx: {prober: http}}\n")
    telemetry, interval = Telemetry(), _reload_interval(parse(words))
    configuration = Configuration(CountingSource((str(directory / "blackbox.yml"),)), telemetry)
    history = MemoryHistory(1, 1 << 20, ProbeLog(), telemetry.history_lost)
    place = Place("/", "/")
    web = Web(configuration, telemetry, history, ProbeLog(), timeout_offset=0.5, max_probes=1, place=place)
    serving = asyncio.ensure_future(serve(web, list, drain_timeout=1.0, reload_interval=interval))
    await until(lambda: not web.health._starting)
    await settle()
    CountingSource.looks = 0
    yield configuration
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


async def look(configuration: Configuration, number: int) -> None:
    """Advance the clock by a second and wait until the file was checked `number` times."""
    await advance(1.0)
    await until(lambda: CountingSource.looks == number and not configuration._one_at_a_time.locked())


async def test_auto_reload_does_nothing_without_a_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ("--config.enable-auto-reload", "--config.auto-reload-interval=1")
    async with served(tmp_path, *words) as configuration:
        loaded = configuration.loaded
        caplog.clear()
        for number in range(1, 4):
            await look(configuration, number)
        assert (configuration.loaded, caplog.messages) == (loaded, [])
        (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: http}, other: {prober: tcp}}\n")
        await look(configuration, 4)
        await until(lambda: "other" in configuration.current.modules)


@pytest.mark.parametrize("words", [[], ["--config.enable-auto-reload", "--config.auto-reload-interval=0"]])
async def test_auto_reload_is_off_by_default_and_at_interval_0(tmp_path: Path, words: list[str]) -> None:
    async with served(tmp_path, *words):
        for _ in range(5):
            await advance(4.0)
        assert CountingSource.looks == 0


def test_running_probe_keeps_its_config_across_a_reload(start: Start, tmp_path: Path) -> None:
    with start() as exporter:
        running, witness = begin(exporter, "hold", tmp_path)
        (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: actor, actor: {host: new.example}}}\n")
        assert ask(exporter.port, "/-/reload", method="POST").status == 200
        witness.unlink()
        assert "new.example" not in answer_of(running).text
        assert "new.example" in ask(exporter.port, "/probe?target=x&debug=true").text


# --- addresses and paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "root"),
    [
        (["--web.route-prefix=/p"], "/p/"),  # the original redirects in a loop
        (["--web.external-url=http://front.example/p/"], "http://front.example/p"),
        (["--web.external-url=http://front.example/q", "--web.route-prefix=p/"], "http://front.example/q"),
    ],
)
def test_route_prefix_applies_to_every_path(start: Start, flags: list[str], root: str) -> None:
    with start(*flags) as exporter:
        for path in ("probe?target=x", "metrics", "config", "-/healthy", ""):
            assert ask(exporter.port, f"/p/{path}").status == 200, path
            assert ask(exporter.port, f"/{path}").status == (404 if path else 302), path
        assert ask(exporter.port, "/").headers["location"] == root
        for path, status, location in [
            ("/p", 301, "/p/"),
            ("/p//probe?target=x", 301, "/p/probe?target=x"),
            ("/p/../p", 301, "/p/"),
        ]:
            answer = ask(exporter.port, path)
            assert (answer.status, answer.headers["location"]) == (status, location)
        assert ask(exporter.port, "/p/nope").status == 404
        assert ask(exporter.port, "/p/-/reload", method="POST").status == 200


def test_every_listen_address_is_served(start: Start) -> None:
    other, everywhere = free_port(), free_port()
    flags = [f"--web.listen-address=[::1]:{other}", f"--web.listen-address=:{everywhere}"]
    with start(*flags) as exporter:
        for host, port in [
            ("127.0.0.1", exporter.port),
            ("::1", other),
            ("127.0.0.1", everywhere),
            ("::1", everywhere),
        ]:
            with socket.create_connection((host, port), 60) as connection:
                connection.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
                assert connection.makefile("rb").read().endswith(b"\r\n\r\nHealthy")
        wait_until(lambda: exporter.log.read_text().count("Listening") == 3)
        log = exporter.log.read_text()
        for address in (f"127.0.0.1:{exporter.port}", f"[::1]:{other}", f"[::]:{everywhere}"):
            assert f"msg=Listening address={address} tls=false\n" in log


def test_probes_beyond_the_open_file_limit_wait_and_get_503(tmp_path: Path) -> None:
    """With 128 files, 16 probes run at once. No probe fails for want of a file, and no client is cut off."""
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    log = tmp_path / "log"
    port = free_port()
    flags = [f"--modules.dir={PLUGINS}", f"--web.listen-address=127.0.0.1:{port}", "--web.drain-timeout=1ms"]
    command = ["/bin/sh", "-c", 'ulimit -n 128; exec "$@"', "sh", sys.executable, "-m", "probe_exporter", *flags]
    with running(command, tmp_path, log, listening(port), environment=exporters._environment()) as process:
        exporter = Server("ours", port, process, log)
        answers = [ask_beside(exporter, f"/probe?target=hang%20{tmp_path}/{number}") for number in range(60)]
        wait_until(lambda: own_metric(exporter, "probe_exporter_probes_waiting") == 16)
        wait_until(lambda: len(list(tmp_path.glob("[0-9]*"))) == 16)
        refused = [answer_of(answers) for answers in answers if not answers.empty()]
        wait_until(lambda: sum(not one.empty() for one in answers) + len(refused) == 28)
        assert ask(port, "/-/healthy").status == 200
        wait_until(lambda: "wanted=4096 allowed=16" in log.read_text())


def test_open_file_limit_is_raised_to_the_hard_limit(start: Start, tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "probe_exporter",
        f"--modules.dir={PLUGINS}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh", *command],
        cwd=tmp_path,
        env=exporters._environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: is_open(port))
        limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        soft = next(line.split()[3] for line in limits if line.startswith("Max open files"))
        assert soft == str(hard)
    finally:
        process.terminate()
        process.wait(60)


def is_open(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


async def test_each_watch_runs_once_after_a_restart() -> None:
    started, running = 0, 0

    async def watch() -> None:
        nonlocal started, running
        started += 1
        running += 1
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1

    background = Background()
    watches = Watches(background, [watch, watch])
    await asyncio.sleep(0)
    for restarts in range(1, 3):
        await watches.restart()
        assert (started, running) == (2 + 2 * restarts, 2)
    background.cancel()
