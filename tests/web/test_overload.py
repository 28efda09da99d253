"""More probes than run at once, and clients that are slow, broken or hostile, at the program that users run."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from queue import Queue
from urllib.parse import quote

import pytest
from aiohttp.test_utils import make_mocked_request

from probe_exporter.config.current import Configuration, Source
from probe_exporter.history.memory import MemoryHistory
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.web.answers import Answer, Refused
from probe_exporter.web.probing import Probing
from tests import exporters
from tests.asking import ask
from tests.conftest import NewLoop
from tests.exporters import Response, Server
from tests.web.clock import StandingLoop, advance, happens
from tests.web.test_routes import PLUGINS, cpu_seconds, own_metric, until, values
from tests.web.test_serving import answer_of, ask_beside, begin

Start = Callable[..., AbstractContextManager[Server]]

CONFIG = "modules: {http_2xx: {prober: actor}, brief: {prober: actor, timeout: 200ms}}\n"
WAITING = "probe_exporter_probes_waiting"
REJECTED = "probe_exporter_probes_rejected_total"
MEGABYTE = 1 << 20
AT_ONCE = ("--web.drain-timeout=1ms",)
"""Flags for the exporter of a test that leaves probes behind, so that it does not wait for them at its end."""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts an exporter of the test's own, with flags of its choice."""
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    return lambda *flags: exporters.ours(tmp_path, f"--modules.dir={PLUGINS}", *flags)


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One exporter for all bad clients."""
    directory = tmp_path_factory.mktemp("overload")
    (directory / "blackbox.yml").write_text(CONFIG)
    with exporters.ours(directory, f"--modules.dir={PLUGINS}") as running:
        yield running


def ask_as_prometheus(port: int, path: str, scrape: float) -> Response:
    """An answer for a Prometheus that waits so long."""
    return ask(port, path, headers={"X-Prometheus-Scrape-Timeout-Seconds": str(scrape)})


def wait_in_line(exporter: Server, number: int) -> Queue[Response | Exception]:
    """A request that is the so-manieth to wait."""
    answers = ask_beside(exporter, "/probe?target=x")
    until(lambda: own_metric(exporter, WAITING) == number)
    return answers


# --- more probes than run at once --------------------------------------------------------------------------


def test_a_probe_waits_for_its_turn_and_succeeds(start: Start, tmp_path: Path) -> None:
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
        assert ask(exporter.port, "/probe?target=x").status == 200  # the turn was given back


def test_without_a_turn_in_time_it_is_503_and_not_a_target_that_is_down(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1", *AT_ONCE) as exporter:
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
    """For the asynchronous test, whose time the test makes."""
    return StandingLoop


@pytest.mark.parametrize(
    ("module", "scrape", "waits"),
    [("http_2xx", 2.5, 1.0), ("brief", 2.0, 1.3)],  # half of the 2 seconds; all of 1.5 but the module's 0.2
)
async def test_a_request_waits_for_its_turn_as_long_as_its_probe_has_time_left(
    tmp_path: Path, module: str, scrape: float, waits: float
) -> None:
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    telemetry = Telemetry()
    configuration = Configuration(Source((str(tmp_path / "blackbox.yml"),), (PLUGINS,)), telemetry)
    history = MemoryHistory(10, 1 << 20, ProbeLog(), telemetry.history_lost)
    probing = Probing(configuration, telemetry, history, ProbeLog(), 0.5, 1)

    def asked(target: str, module: str, scrape: float) -> asyncio.Task[Answer]:
        headers = {"X-Prometheus-Scrape-Timeout-Seconds": str(scrape)}
        request = make_mocked_request("GET", "/probe", headers=headers)
        return asyncio.ensure_future(probing.probe(request, f"target={quote(target)}&module={module}"))

    hanging = asked("hang /dev/null", "http_2xx", 1000)
    await happens(lambda: probing.running)
    waiting = asked("x", module, scrape)
    await happens(lambda: telemetry.waiting == 1)
    await advance(waits - 0.01)
    assert not waiting.done()
    await advance(0.02)
    with pytest.raises(Refused, match="Too many probes at once"):
        await waiting
    hanging.cancel()


def test_what_waited_has_no_more_time_than_is_left(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        _, witness = begin(exporter, "hold", tmp_path)
        headers = {"X-Prometheus-Scrape-Timeout-Seconds": "60.5"}
        waiting = ask_beside(exporter, "/probe?target=x", headers)
        until(lambda: own_metric(exporter, WAITING) == 1)
        time.sleep(0.2)
        witness.unlink()
        assert 30 <= values(answer_of(waiting).text)["probe_timeout_seconds"] < 59.8


def test_the_queue_is_bounded(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=2", *AT_ONCE) as exporter:
        for _ in range(2):
            begin(exporter, "hang", tmp_path)
        for number in (1, 2):
            wait_in_line(exporter, number)
        assert ask(exporter.port, "/probe?target=x").status == 503
        assert own_metric(exporter, WAITING) == 2, "it did not wait for half of its two minutes, as these still do"
        assert ask(exporter.port, "/-/healthy").status == 200


def test_who_hangs_up_leaves_the_queue(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        running, witness = begin(exporter, "hold", tmp_path)
        with socket.create_connection(("127.0.0.1", exporter.port)) as impatient:
            impatient.sendall(b"GET /probe?target=x HTTP/1.1\r\nHost: x\r\n\r\n")
            until(lambda: own_metric(exporter, WAITING) == 1)
        until(lambda: own_metric(exporter, WAITING) == 0)
        waiting = wait_in_line(exporter, 1)
        witness.unlink()
        assert "probe_success 1\n" in answer_of(running).text
        assert "probe_success 1\n" in answer_of(waiting).text


def test_a_probe_that_is_cancelled_gives_its_turn_back(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        witness = tmp_path / "witness"
        with socket.create_connection(("127.0.0.1", exporter.port)) as impatient:
            impatient.sendall(f"GET /probe?target=hang%20{witness} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            until(witness.exists)
        until(lambda: witness.read_text() == "cancelled")
        assert ask(exporter.port, "/probe?target=x").status == 200


def test_turns_are_taken_in_the_order_of_asking(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=5", "--log.prober=debug") as exporter, ExitStack() as stack:
        witnesses = [begin(exporter, "hold", tmp_path)[1] for _ in range(5)]
        for number in range(5):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port)))
            client.sendall(f"GET /probe?target=number{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            until(lambda number=number: own_metric(exporter, WAITING) == number + 1)  # type: ignore[misc]
        for witness in witnesses:
            witness.unlink()
        until(lambda: all(f"target=number{number}" in exporter.log.read_text() for number in range(5)))
        log = exporter.log.read_text()
        places = [log.index(f"target=number{number}") for number in range(5)]
        assert places == sorted(places)


def test_the_end_of_the_exporter_is_the_end_of_the_queue(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        running, witness = begin(exporter, "hold", tmp_path)
        waiting = wait_in_line(exporter, 1)
        exporter.process.terminate()
        assert answer_of(waiting).status == 503
        witness.unlink()
        assert "probe_success 1\n" in answer_of(running).text


def test_a_number_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="at least 1"), exporters.ours(tmp_path, "--probe.max-concurrent=0"):
        pass


# --- bad clients -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nobody_else_suffers(exporter: Server, growth: int = 30 * MEGABYTE) -> Iterator[None]:
    """Afterwards others are served at the usual cost, little memory was used, and nothing stands in the log."""
    usual = cost_of_a_probe(exporter, 20)
    before, log = exporter.resident(), exporter.log.read_text()
    exporter.forget_peak()
    yield
    assert cost_of_a_probe(exporter, 1) < 200 * usual, "nothing else was to be done first"
    assert exporter.peak_resident() - before < growth
    assert exporter.log.read_text() == log


def cost_of_a_probe(exporter: Server, number: int) -> float:
    """The CPU seconds of the exporter for each of some probes, and whatever else it does meanwhile.

    Nobody waits for clients that are let go: that takes 20 seconds.
    """
    before = cpu_seconds(exporter)
    for _ in range(number):
        assert "probe_success 1\n" in ask(exporter.port, "/probe?target=x", timeout=18).text
    return (cpu_seconds(exporter) - before) / number


def send_while_taken(exporter: Server, first: bytes, more: bytes, total: int) -> tuple[bytes, int]:
    """Send until the exporter has had enough; what it said to that, and how much it took."""
    sent = 0
    with socket.create_connection(("127.0.0.1", exporter.port), 60) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(first)
            while sent < total:
                connection.sendall(more)
                sent += len(more)
        with contextlib.suppress(OSError):  # it may have been reset
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
def test_a_hundred_megabytes_of_anything_are_not_kept(exporter: Server, first: bytes, more: bytes) -> None:
    with nobody_else_suffers(exporter):
        send_while_taken(exporter, first, more, 100 * MEGABYTE)


@pytest.mark.parametrize("sent", [bytes(MEGABYTE), b"GET / HTTP/1.1\r\nX: " + b"x" * MEGABYTE, b"GET /\xff" * 200_000])
def test_neither_are_those_of_fifty_clients_at_once(exporter: Server, sent: bytes) -> None:
    with nobody_else_suffers(exporter, 60 * MEGABYTE), ThreadPoolExecutor(50) as clients:
        for _ in range(50):
            clients.submit(send_while_taken, exporter, sent, sent, 20 * MEGABYTE)


def test_a_query_of_a_hundred_megabytes_is_refused_early(exporter: Server) -> None:
    said, sent = send_while_taken(exporter, b"GET /probe?target=", b"x" * MEGABYTE, 100 * MEGABYTE)
    assert said[:12] in (b"HTTP/1.1 400", b"HTTP/1.0 400", b"")  # a reset may overtake the answer
    assert sent < 50 * MEGABYTE


def test_a_body_that_nobody_asked_for_does_not_hold_up_the_answer(exporter: Server) -> None:
    head = b"POST /-/healthy HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n"
    with nobody_else_suffers(exporter), socket.create_connection(("127.0.0.1", exporter.port), 60) as connection:
        connection.sendall(head + b"x" * 1000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert connection.recv(1000) == b""  # and soon that was all


def test_five_hundred_slow_clients_hold_up_nobody(exporter: Server) -> None:
    with ExitStack() as stack, nobody_else_suffers(exporter):
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port))) for _ in range(500)]
        for byte in b"GET /probe?tar":
            for connection in slow:
                connection.sendall(bytes([byte]))


def test_who_closes_one_half_is_taken_for_gone(exporter: Server, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    with nobody_else_suffers(exporter), socket.create_connection(("127.0.0.1", exporter.port), 60) as connection:
        connection.sendall(f"GET /probe?target=hang%20{witness} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        until(witness.exists)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000) == b""
        until(lambda: witness.read_text() == "cancelled")


def answered(exporter: Server) -> float:
    """How many requests for the exporter's own metrics have been answered, that for this number left out."""
    return own_metric(exporter, 'promhttp_metric_handler_requests_total{code="200"}')


def test_who_reads_no_answer_fills_no_memory(exporter: Server) -> None:
    """Ten thousand requests in a row for a large answer, from each of five clients that read none of them."""
    with ExitStack() as stack, nobody_else_suffers(exporter):
        for _ in range(5):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", exporter.port))
            connection.setblocking(False)
            connection.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000)
        until(lambda: answered(exporter) + 1 == answered(exporter))  # there was nothing else to answer in between


def test_resets_and_garbage_leave_no_trace(exporter: Server) -> None:
    with nobody_else_suffers(exporter):
        for sent in (b"", b"GET", b"\xff\xfe\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00" * 100):
            connection = socket.create_connection(("127.0.0.1", exporter.port))
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
            connection.close()
