"""Test an exporter process with more probes than slots, and with slow, broken and hostile clients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from queue import Queue
from urllib.parse import quote

import pytest

from probe_exporter.config.reloading import Configuration, Source
from probe_exporter.history.memory import MemoryHistory
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.web.answers import Answer, Refused
from probe_exporter.web.probing import Probing
from probe_exporter.web.request import WebRequest
from tests import exporters
from tests.clocks import StandingLoop, advance
from tests.conftest import NewLoop
from tests.cost import expect_cheaper
from tests.exporters import Response, Server
from tests.http_client import ask
from tests.processes import free_port, listening
from tests.waiting import until, wait_until
from tests.web.test_routes import PLUGINS, cpu_seconds, own_metric, values
from tests.web.test_serving import answer_of, ask_beside, begin

Start = Callable[..., AbstractContextManager[Server]]

CONFIG = "modules: {http_2xx: {prober: actor}, brief: {prober: actor, timeout: 200ms}}\n"
WAITING = "probe_exporter_probes_waiting"
REJECTED = "probe_exporter_probes_rejected_total"
MEGABYTE = 1 << 20
NO_DRAIN = ("--web.drain-timeout=1ms",)
"""Flags for tests that leave probes running: the exporter does not wait for them when it ends."""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Return a function that starts an exporter with flags."""
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    return lambda *flags: exporters.ours(tmp_path, f"--modules.dir={PLUGINS}", *flags)


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one exporter for all tests of bad clients."""
    directory = tmp_path_factory.mktemp("overload")
    (directory / "blackbox.yml").write_text(CONFIG)
    with exporters.ours_from_scratch(directory, f"--modules.dir={PLUGINS}") as running:
        yield running


def ask_as_prometheus(port: int, path: str, scrape: float | str) -> Response:
    """Send a request with a scrape timeout in seconds."""
    return ask(port, path, headers={"X-Prometheus-Scrape-Timeout-Seconds": str(scrape)})


def wait_in_line(exporter: Server, number: int) -> Queue[Response | Exception]:
    """Send a probe request, and wait until `number` requests are queued."""
    answers = ask_beside(exporter, "/probe?target=x")
    wait_until(lambda: own_metric(exporter, WAITING) == number)
    return answers


# --- more probes than slots ----------------------------------------------------------------------------------


def test_probe_waits_for_a_free_slot_and_succeeds(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        running, witness = begin(exporter, "hold", tmp_path)
        waiting = wait_in_line(exporter, 1)
        time.sleep(0.1)
        witness.unlink()
        assert "probe_success 1\n" in answer_of(waiting).text
        assert "probe_success 1\n" in answer_of(running).text
        assert own_metric(exporter, WAITING) == 0
        assert own_metric(exporter, REJECTED) == 0
        assert own_metric(exporter, 'probe_exporter_probe_wait_seconds_sum{module="http_2xx"}') > 0.1
        assert ask(exporter.port, "/probe?target=x").status == 200  # the slot is free again


def test_probe_without_a_slot_in_time_gets_503(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1", *NO_DRAIN) as exporter:
        begin(exporter, "hang", tmp_path)
        for number, (module, waits) in enumerate({"http_2xx": 0.25, "brief": 0.3}.items(), 1):
            before = time.monotonic()
            answer = ask_as_prometheus(exporter.port, f"/probe?target=x&module={module}", 1.0)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert time.monotonic() - before > waits
            assert own_metric(exporter, REJECTED) == number
            assert own_metric(exporter, WAITING) == 0


@pytest.fixture
def new_loop() -> NewLoop:
    """Use a simulated clock for the asynchronous test."""
    return StandingLoop


@pytest.mark.parametrize(
    ("module", "scrape", "waits"),
    [("http_2xx", 2.5, 1.0), ("brief", 2.0, 1.3)],  # half of 2 s; 1.5 s minus the module's 0.2 s
)
async def test_probe_waits_for_a_slot_as_long_as_its_timeout_allows(
    tmp_path: Path, module: str, scrape: float, waits: float
) -> None:
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    telemetry = Telemetry()
    configuration = Configuration(Source((str(tmp_path / "blackbox.yml"),), (PLUGINS,)), telemetry)
    history = MemoryHistory(10, 1 << 20, ProbeLog(), telemetry.history_lost)
    probing = Probing(configuration, telemetry, history, ProbeLog(), 0.5, 1)

    def asked(target: str, module: str, scrape: float) -> asyncio.Task[Answer]:
        headers = {"X-Prometheus-Scrape-Timeout-Seconds": str(scrape)}
        request = WebRequest("GET", "/probe", headers)
        return asyncio.ensure_future(probing.probe(request, f"target={quote(target)}&module={module}"))

    hanging = asked("hang /dev/null", "http_2xx", 1000)
    await until(lambda: probing.running)
    waiting = asked("x", module, scrape)
    await until(lambda: telemetry.waiting == 1)
    await advance(waits - 0.01)
    assert not waiting.done()
    await advance(0.02)
    with pytest.raises(Refused, match="Too many probes at once"):
        await waiting
    hanging.cancel()


def test_probe_timeout_is_reduced_by_the_time_in_the_queue(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        _, witness = begin(exporter, "hold", tmp_path)
        headers = {"X-Prometheus-Scrape-Timeout-Seconds": "60.5"}
        waiting = ask_beside(exporter, "/probe?target=x", headers)
        wait_until(lambda: own_metric(exporter, WAITING) == 1)
        time.sleep(0.2)
        witness.unlink()
        assert 30 <= values(answer_of(waiting).text)["probe_timeout_seconds"] < 59.8


def test_queue_refuses_probes_beyond_its_limit(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=2", *NO_DRAIN) as exporter:
        for _ in range(2):
            begin(exporter, "hang", tmp_path)
        for number in (1, 2):
            wait_in_line(exporter, number)
        assert ask(exporter.port, "/probe?target=x").status == 503
        assert own_metric(exporter, WAITING) == 2, "the refused request waited as long as the queued ones"
        assert ask(exporter.port, "/-/healthy").status == 200


def test_disconnected_client_leaves_the_queue(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        running, witness = begin(exporter, "hold", tmp_path)
        with socket.create_connection(("127.0.0.1", exporter.port)) as impatient:
            impatient.sendall(b"GET /probe?target=x HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: own_metric(exporter, WAITING) == 1)
        wait_until(lambda: own_metric(exporter, WAITING) == 0)
        waiting = wait_in_line(exporter, 1)
        witness.unlink()
        assert "probe_success 1\n" in answer_of(running).text
        assert "probe_success 1\n" in answer_of(waiting).text


def test_cancelled_probe_frees_its_slot(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        witness = tmp_path / "witness"
        with socket.create_connection(("127.0.0.1", exporter.port)) as impatient:
            impatient.sendall(f"GET /probe?target=hang%20{witness} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_until(witness.exists)
        wait_until(lambda: witness.read_text() == "cancelled")
        assert ask(exporter.port, "/probe?target=x").status == 200


def test_queued_probes_run_in_order_of_arrival(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=5", "--log.prober=debug") as exporter, ExitStack() as stack:
        witnesses = [begin(exporter, "hold", tmp_path)[1] for _ in range(5)]
        for number in range(5):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port)))
            client.sendall(f"GET /probe?target=number{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            wait_until(lambda number=number: own_metric(exporter, WAITING) == number + 1)  # type: ignore[misc]
        for witness in witnesses:
            witness.unlink()
        wait_until(lambda: all(f"target=number{number}" in exporter.log.read_text() for number in range(5)))
        log = exporter.log.read_text()
        places = [log.index(f"target=number{number}") for number in range(5)]
        assert places == sorted(places)


def test_shutdown_refuses_queued_probes_and_finishes_running_ones(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        running, witness = begin(exporter, "hold", tmp_path)
        waiting = wait_in_line(exporter, 1)
        exporter.process.terminate()
        assert answer_of(waiting).status == 503
        witness.unlink()
        assert "probe_success 1\n" in answer_of(running).text


def test_max_concurrent_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="expected 1 or more"), exporters.ours(tmp_path, "--probe.max-concurrent=0"):
        pass


# --- slow, broken and hostile clients ------------------------------------------------------------------------


@contextlib.contextmanager
def others_are_unaffected(exporter: Server, growth: int = 30 * MEGABYTE) -> Iterator[None]:
    """Check after the block: a probe costs the usual CPU time, memory grew little, and nothing was logged."""
    usual = cost_of_a_probe(exporter, 20)
    before, log = exporter.resident(), exporter.logged()
    exporter.forget_peak()
    yield
    expect_cheaper(cost_of_a_probe(exporter, 1), 200 * usual, "a probe and whatever else the exporter was busy with")
    assert exporter.peak_resident() - before < growth
    assert exporter.logged() == log


def cost_of_a_probe(exporter: Server, number: int) -> float:
    """Return the exporter's CPU seconds per probe, over some probes.

    The timeout is below the 20 s after which silent clients are disconnected: a probe does not wait for that.
    """
    before = cpu_seconds(exporter)
    for _ in range(number):
        assert "probe_success 1\n" in ask(exporter.port, "/probe?target=x", timeout=18).text
    return (cpu_seconds(exporter) - before) / number


def send_while_taken(exporter: Server, first: bytes, more: bytes, total: int) -> tuple[bytes, int]:
    """Send until the exporter closes the connection or `total` is reached; return its answer and the bytes sent."""
    sent = 0
    with socket.create_connection(("127.0.0.1", exporter.port), 60) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(first)
            while sent < total:
                connection.sendall(more)
                sent += len(more)
        with contextlib.suppress(OSError):  # the connection may be reset
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(1000), sent
    return b"", sent


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"GET /probe?target=", b"x" * MEGABYTE),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ", b"x" * MEGABYTE),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-Many: x\r\n" * 10_000),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-Folded: x\r\n x\r\n" * 10_000),
        (b"", b"\r\n" * 50_000),
        (b"", bytes(MEGABYTE)),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * MEGABYTE),
    ],
    ids=["query", "header", "headers", "folded", "newlines", "zeros", "chunk"],
)
def test_endless_request_is_not_buffered(exporter: Server, first: bytes, more: bytes) -> None:
    with others_are_unaffected(exporter):
        send_while_taken(exporter, first, more, 100 * MEGABYTE)


@pytest.mark.parametrize("sent", [bytes(MEGABYTE), b"GET / HTTP/1.1\r\nX: " + b"x" * MEGABYTE, b"GET /\xff" * 200_000])
def test_endless_requests_of_fifty_clients_are_not_buffered(exporter: Server, sent: bytes) -> None:
    with others_are_unaffected(exporter, 60 * MEGABYTE), ThreadPoolExecutor(50) as clients:
        for _ in range(50):
            clients.submit(send_while_taken, exporter, sent, sent, 20 * MEGABYTE)


def test_endless_query_is_refused_early(exporter: Server) -> None:
    said, sent = send_while_taken(exporter, b"GET /probe?target=", b"x" * MEGABYTE, 100 * MEGABYTE)
    assert said[:12] in (b"HTTP/1.1 400", b"HTTP/1.0 400", b"")  # a reset may come before the answer
    assert sent < 50 * MEGABYTE


def test_request_with_a_long_body_is_answered_without_reading_it(exporter: Server) -> None:
    head = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n"
    with others_are_unaffected(exporter), socket.create_connection(("127.0.0.1", exporter.port), 60) as connection:
        connection.sendall(head + b"x" * 1000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert connection.recv(1000) == b""  # the connection is closed


def test_slow_clients_do_not_delay_others(exporter: Server) -> None:
    with ExitStack() as stack, others_are_unaffected(exporter):
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port))) for _ in range(500)]
        for byte in b"GET /probe?tar":
            for connection in slow:
                connection.sendall(bytes([byte]))


def test_half_closed_client_cancels_its_probe(exporter: Server, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    with others_are_unaffected(exporter), socket.create_connection(("127.0.0.1", exporter.port), 60) as connection:
        connection.sendall(f"GET /probe?target=hang%20{witness} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(witness.exists)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000) == b""
        wait_until(lambda: witness.read_text() == "cancelled")


def answered(exporter: Server) -> float:
    """Return how many requests for /metrics were answered before this one."""
    return own_metric(exporter, 'promhttp_metric_handler_requests_total{code="200"}')


@pytest.mark.longest
def test_clients_that_do_not_read_use_little_memory(exporter: Server) -> None:
    """Each of five clients sends 10,000 pipelined requests and reads no answer."""
    with ExitStack() as stack, others_are_unaffected(exporter):
        for _ in range(5):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", exporter.port))
            connection.setblocking(False)
            connection.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000)
        wait_until(lambda: answered(exporter) + 1 == answered(exporter))  # no other request was answered in between


def test_resets_and_garbage_are_not_logged(exporter: Server) -> None:
    with others_are_unaffected(exporter):
        for sent in (b"", b"GET", b"\xff\xfe\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00" * 100):
            connection = socket.create_connection(("127.0.0.1", exporter.port))
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
            connection.close()


def test_five_thousand_idle_connections_leave_room_for_probes(exporter: Server) -> None:
    """Half have asked for something before, half have not. 20 kB of memory each are allowed."""
    with ExitStack() as stack, others_are_unaffected(exporter, 100 * MEGABYTE):
        for number in range(5_000):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port), 60))
            if number % 2:
                connection.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("digits", ["1" * 32_000 + "x", "0x" + "1" * 32_000, "1_" * 16_000 + "x"])
def test_header_of_digits_is_refused_at_once(exporter: Server, digits: str) -> None:
    """A header of 32,000 digits once stopped everything for minutes."""
    with others_are_unaffected(exporter):
        answer = ask_as_prometheus(exporter.port, "/probe?target=x", digits)
        assert (answer.status, len(answer.body) < 200) == (400, True)


def test_refused_requests_use_no_memory(exporter: Server) -> None:
    """150 requests with thousands of parameters once took 200 MB."""
    with others_are_unaffected(exporter):
        for number in range(150):
            query = f"{number}&" + "&".join(f"{name:x}" for name in range(12_000))
            assert ask(exporter.port, f"/probe?{query}").status == 400


# --- a log without a reader ----------------------------------------------------------------------------------


@contextlib.contextmanager
def with_stderr(directory: Path, redirection: str, *flags: str, stderr: int = subprocess.DEVNULL) -> Iterator[int]:
    """Start an exporter whose stderr a shell has redirected, and yield its port."""
    (directory / "blackbox.yml").write_text(CONFIG)
    port = free_port()
    words = [f"--modules.dir={PLUGINS}", f"--web.listen-address=127.0.0.1:{port}", "--log.prober=debug", *flags]
    command = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "probe_exporter", *words]
    process = subprocess.Popen(command, cwd=directory, env=exporters._environment(), stderr=stderr)
    try:
        wait_until(listening(port))
        yield port
    finally:
        process.terminate()
        assert process.wait(60) == 0


def dropped(port: int) -> float:
    """Return the number of dropped log lines from the metrics."""
    lines = ask(port, "/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("probe_exporter_log_lines_dropped_total ")))


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "0<&- 1>&- 2>&-"])
def test_probe_is_answered_whatever_stderr_is(tmp_path: Path, redirection: str) -> None:
    with with_stderr(tmp_path, redirection) as port:
        for target in ("x", "fail", "break"):
            answer = ask(port, f"/probe?target={target}")
            assert (answer.status, f"probe_success {1 if target == 'x' else 0}\n" in answer.text) == (200, True)
        if "full" in redirection:
            wait_until(lambda: dropped(port) > 0)


@pytest.mark.parametrize("flags", [(), ("--workers=2",)])
def test_log_that_nobody_reads_stops_nothing(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A pipe holds 64 KiB: the log once stopped everything there."""
    reader, writer = os.pipe()
    try:
        with with_stderr(tmp_path, "", *flags, stderr=writer) as port:
            long = "x" * 20_000
            for number in itertools.count():
                assert ask(port, f"/probe?target=fail%20{number}{long}").status == 200
                if number % 20 == 0 and dropped(port):
                    break
            assert ask(port, "/-/healthy").status == 200
    finally:
        os.close(writer)
        os.close(reader)
