"""More probes than run at once, and clients that are slow, broken or hostile, at the program that users run."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from queue import Queue

import pytest

from tests import exporters
from tests.asking import ask
from tests.exporters import Response, Server
from tests.web.test_routes import PLUGINS, own_metric, until
from tests.web.test_serving import answer_of, ask_beside, begin

Start = Callable[..., AbstractContextManager[Server]]

CONFIG = "modules: {http_2xx: {prober: actor}, brief: {prober: actor, timeout: 200ms}}\n"
WAITING = "probe_exporter_probes_waiting"
REJECTED = "probe_exporter_probes_rejected_total"
MEGABYTE = 1 << 20


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


def ask_timed(port: int, path: str, scrape: float) -> tuple[Response, float]:
    """An answer, and the seconds that it took, for a Prometheus that waits so long."""
    before = time.monotonic()
    answer = ask(port, path, headers={"X-Prometheus-Scrape-Timeout-Seconds": str(scrape)})
    return answer, time.monotonic() - before


def wait_in_line(exporter: Server, number: int) -> Queue[Response | Exception]:
    """A request that is the so-manieth to wait."""
    answers = ask_beside(exporter, "/probe?target=x")
    until(lambda: own_metric(exporter, WAITING) == number)
    return answers


# --- more probes than run at once --------------------------------------------------------------------------


def test_a_probe_waits_for_its_turn_and_succeeds(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        running, _ = begin(exporter, "linger", tmp_path)
        waiting = wait_in_line(exporter, 1)
        assert "probe_success 1\n" in answer_of(waiting).text
        assert "probe_success 1\n" in answer_of(running).text
        assert own_metric(exporter, WAITING) == 0
        assert own_metric(exporter, REJECTED) == 0
        assert own_metric(exporter, 'probe_exporter_probe_wait_seconds_sum{module="http_2xx"}') > 0.3
        assert ask(exporter.port, "/probe?target=x").status == 200  # the turn was given back


@pytest.mark.parametrize(
    ("module", "scrape", "waits"),
    [("http_2xx", 2.5, 1.0), ("brief", 2.0, 1.3)],  # half of the 2 seconds; all of 1.5 but the module's 0.2
)
def test_without_a_turn_in_time_it_is_503_and_not_a_target_that_is_down(
    start: Start, tmp_path: Path, module: str, scrape: float, waits: float
) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        begin(exporter, "hang", tmp_path)
        answer, seconds = ask_timed(exporter.port, f"/probe?target=x&module={module}", scrape)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert waits - 0.1 < seconds < waits + 0.4
        assert own_metric(exporter, REJECTED) == 1
        assert own_metric(exporter, WAITING) == 0


def test_what_waited_has_less_time_and_no_more_than_is_left(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        begin(exporter, "linger", tmp_path)
        answer, seconds = ask_timed(exporter.port, "/probe?target=wait%2030", 4.0)
        assert "probe_success 0\n" in answer.text
        assert 3.3 < seconds < 3.9


def test_the_queue_is_bounded(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=2") as exporter:
        for _ in range(2):
            begin(exporter, "hang", tmp_path)
        for number in (1, 2):
            wait_in_line(exporter, number)
        answer, seconds = ask_timed(exporter.port, "/probe?target=x", 30)
        assert answer.status == 503
        assert seconds < 1
        assert ask(exporter.port, "/-/healthy").status == 200


def test_who_hangs_up_leaves_the_queue(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        running, _ = begin(exporter, "linger", tmp_path)
        with socket.create_connection(("127.0.0.1", exporter.port)) as impatient:
            impatient.sendall(b"GET /probe?target=x HTTP/1.1\r\nHost: x\r\n\r\n")
            until(lambda: own_metric(exporter, WAITING) == 1)
        until(lambda: own_metric(exporter, WAITING) == 0)
        waiting = wait_in_line(exporter, 1)
        assert "probe_success 1\n" in answer_of(running).text
        assert "probe_success 1\n" in answer_of(waiting).text


def test_a_probe_that_is_cancelled_gives_its_turn_back(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        witness = tmp_path / "witness"
        with socket.create_connection(("127.0.0.1", exporter.port)) as impatient:
            impatient.sendall(f"GET /probe?target=hang%20{witness} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            until(witness.exists)
        until(lambda: witness.read_text() == "cancelled")
        assert ask_timed(exporter.port, "/probe?target=x", 3)[0].status == 200


def test_turns_are_taken_in_the_order_of_asking(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=5", "--log.prober=debug") as exporter, ExitStack() as stack:
        for _ in range(5):
            begin(exporter, "linger", tmp_path)
        for number in range(5):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port)))
            client.sendall(f"GET /probe?target=number{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            until(lambda number=number: own_metric(exporter, WAITING) == number + 1)  # type: ignore[misc]
        until(lambda: "number4" in exporter.log.read_text())
        log = exporter.log.read_text()
        places = [log.index(f"target=number{number}") for number in range(5)]
        assert places == sorted(places)


def test_the_end_of_the_exporter_is_the_end_of_the_queue(start: Start, tmp_path: Path) -> None:
    with start("--probe.max-concurrent=1") as exporter:
        running, _ = begin(exporter, "linger", tmp_path)
        waiting = wait_in_line(exporter, 1)
        exporter.process.terminate()
        assert answer_of(waiting).status == 503
        assert "probe_success 1\n" in answer_of(running).text


def test_a_number_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="at least 1"), exporters.ours(tmp_path, "--probe.max-concurrent=0"):
        pass


# --- bad clients -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nobody_else_suffers(exporter: Server, growth: int = 30 * MEGABYTE) -> Iterator[None]:
    """Afterwards others are served at once, little memory was used, and nothing stands in the log."""
    before, log = exporter.resident(), exporter.log.read_text()
    exporter.forget_peak()
    yield
    answer, seconds = ask_timed(exporter.port, "/probe?target=x", 10)
    assert "probe_success 1\n" in answer.text
    assert seconds < 1
    assert exporter.peak_resident() - before < growth
    assert exporter.log.read_text() == log


def send_while_taken(exporter: Server, first: bytes, more: bytes, total: int) -> tuple[bytes, int]:
    """Send until the exporter has had enough; what it said to that, and how much it took."""
    sent = 0
    with socket.create_connection(("127.0.0.1", exporter.port), 10) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(first)
            while sent < total:
                connection.sendall(more)
                sent += len(more)
        connection.settimeout(1)
        with contextlib.suppress(ConnectionError, TimeoutError):
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
    with nobody_else_suffers(exporter), socket.create_connection(("127.0.0.1", exporter.port), 10) as connection:
        connection.sendall(head + b"x" * 1000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert connection.recv(1000) == b""  # and soon that was all


def test_five_hundred_slow_clients_hold_up_nobody(exporter: Server) -> None:
    with ExitStack() as stack, nobody_else_suffers(exporter):
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port))) for _ in range(500)]
        for byte in b"GET /probe?tar":
            for connection in slow:
                connection.sendall(bytes([byte]))
        assert ask_timed(exporter.port, "/probe?target=x", 10)[1] < 1


def test_who_closes_one_half_is_taken_for_gone(exporter: Server, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    with nobody_else_suffers(exporter), socket.create_connection(("127.0.0.1", exporter.port), 5) as connection:
        connection.sendall(f"GET /probe?target=hang%20{witness} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        until(witness.exists)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000) == b""
        until(lambda: witness.read_text() == "cancelled")


def test_who_reads_no_answer_fills_no_memory(exporter: Server) -> None:
    """Ten thousand requests in a row for a large answer, from each of 20 clients that read none of them."""
    with ExitStack() as stack, nobody_else_suffers(exporter):
        for _ in range(20):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port)))
            connection.settimeout(0.2)
            with contextlib.suppress(TimeoutError, ConnectionError):
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000)


def test_resets_and_garbage_leave_no_trace(exporter: Server) -> None:
    with nobody_else_suffers(exporter):
        for sent in (b"", b"GET", b"\xff\xfe\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00" * 100):
            connection = socket.create_connection(("127.0.0.1", exporter.port))
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
            connection.close()
