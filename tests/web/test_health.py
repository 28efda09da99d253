"""Test /-/healthy, /-/ready and /health: every check passes and fails."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from probe_exporter.config.reloading import Configuration, Source
from probe_exporter.history.memory import MemoryHistory
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.web.connections import Connections
from probe_exporter.web.listening import Place
from probe_exporter.web.routes import Web
from probe_exporter.workers.snapshots import snapshot
from probe_exporter.workers.worker import SupervisorTimeout
from tests import exporters
from tests.exporters import Server
from tests.http_client import ask
from tests.waiting import wait_until
from tests.web.test_routes import PLUGINS, own_metric

CONFIG = "modules: {http_2xx: {prober: actor}}\n"
ALL_WELL = {
    key: {"status": "pass", "message": ""}
    for key in ("event_loop", "workers", "configuration", "web_configuration", "readiness")
}


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Server]:
    """Run an exporter for one test, which may change it."""
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    with exporters.ours(tmp_path, f"--modules.dir={PLUGINS}") as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run an exporter for the tests that leave it as it is."""
    directory = tmp_path_factory.mktemp("health")
    (directory / "blackbox.yml").write_text(CONFIG)
    with exporters.ours(directory, f"--modules.dir={PLUGINS}") as running:
        yield running


def health(exporter: Server) -> tuple[int, str, dict[str, dict[str, str]]]:
    """Return the HTTP status, the overall status and the checks by name."""
    answer = ask(exporter.port, "/health")
    assert answer.headers["content-type"] == "application/json"
    report: dict[str, Any] = json.loads(answer.text)
    return answer.status, report["status"], report["checks"]


def failing(exporter: Server) -> tuple[int, str, str, dict[str, str]]:
    """Return the HTTP status, the overall status, and the name and result of the only check that does not pass."""
    status, verdict, checks = health(exporter)
    [(name, check)] = [item for item in checks.items() if item[1]["status"] != "pass"]
    return status, verdict, name, check


def test_all_checks_pass_on_an_idle_exporter(shared: Server) -> None:
    assert ask(shared.port, "/-/healthy").text == "Healthy"
    assert ask(shared.port, "/-/ready").text == "Ready"
    assert health(shared) == (200, "pass", ALL_WELL)


def test_short_event_loop_delay_is_measured_and_healthy(shared: Server) -> None:
    """The prober blocks the event loop."""
    assert ask(shared.port, "/probe?target=block+0.7").status == 200
    assert ask(shared.port, "/-/healthy").status == 200
    assert own_metric(shared, "probe_exporter_event_loop_lag_seconds") > 0.19, (
        "at least 0.7 s minus the interval of half a second"
    )


def test_rejected_reload_is_a_warning_and_healthy(exporter: Server, tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: actr}}\n")
    assert ask(exporter.port, "/-/reload", method="POST").status == 500
    assert ask(exporter.port, "/-/healthy").text == "Healthy"
    assert ask(exporter.port, "/-/ready").text == "Ready"
    status, verdict, name, check = failing(exporter)
    assert (status, verdict, name, check["status"]) == (200, "warn", "configuration", "warn")
    assert "unknown prober `actr`" in check["message"]
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    assert ask(exporter.port, "/-/reload", method="POST").status == 200
    assert health(exporter) == (200, "pass", ALL_WELL)


def test_draining_exporter_is_healthy_and_not_ready(exporter: Server, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    with socket.create_connection(("127.0.0.1", exporter.port)) as running:
        running.sendall(f"GET /probe?target=hold+{witness} HTTP/1.0\r\n\r\n".encode())
        wait_until(witness.exists)
        exporter.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ask(exporter.port, "/-/ready").status == 503)
        assert ask(exporter.port, "/-/ready").text == "The exporter is shutting down.\n"
        assert ask(exporter.port, "/-/healthy").text == "Healthy"
        assert failing(exporter)[:3] == (200, "warn", "readiness")
        witness.unlink()
        assert running.recv(100).startswith(b"HTTP/1.1 200 "), "the running probe was not answered"


@pytest.mark.parametrize("path", ["/-/ready", "/health"])
def test_ready_and_health_allow_only_get_and_head(shared: Server, path: str) -> None:
    answer = ask(shared.port, path, method="POST")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    answer = ask(shared.port, path, method="HEAD")
    assert (answer.status, answer.body) == (200, b"")


# --- states that a single process does not reach, in-process -------------------------------------------------


class OtherWorkers:
    """Other workers with a problem that the test sets."""

    number = 3

    def __init__(self) -> None:
        self.lost = ""
        self.slow = ""

    async def snapshots(self) -> list[bytes]:
        return []

    async def reload(self, own: Callable[[], Awaitable[None]]) -> None:
        await own()

    def problem(self) -> str:
        return self.lost

    def late(self) -> str:
        return self.slow


@asynccontextmanager
async def serving(web: Web) -> AsyncIterator[str]:
    """Serve before the start-up is complete."""
    connections = Connections(web)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await connections.close()


def a_web(directory: Path, others: OtherWorkers) -> Web:
    file = directory / "blackbox.yml"
    file.write_text("modules: {http_2xx: {prober: http}}\n")
    telemetry = Telemetry()
    return Web(
        Configuration(Source((str(file),)), telemetry),
        telemetry,
        MemoryHistory(1, 1 << 20, ProbeLog(), telemetry.history_lost),
        ProbeLog(50, "logfmt"),
        timeout_offset=0.5,
        max_probes=1,
        place=Place("/", "/"),
        workers=others,
    )


async def asked(client: ClientSession, url: str) -> tuple[int, str]:
    async with client.get(url) as answer:
        return answer.status, await answer.text()


async def test_late_event_loop_is_healthy_and_not_ready(tmp_path: Path) -> None:
    """A restart of a process that gets too little CPU makes it no faster."""
    now, late = 0.0, "The event loop was 5.2 s late, more than 5 s."
    web = a_web(tmp_path, OtherWorkers())
    web.telemetry.lag._clock = lambda: now
    web.health.started()
    watching = asyncio.ensure_future(web.telemetry.lag.watch())
    async with serving(web) as url, ClientSession() as client:
        assert await asked(client, f"{url}/-/ready") == (200, "Ready")
        now = 5.7
        assert await asked(client, f"{url}/-/healthy") == (200, "Healthy")
        assert await asked(client, f"{url}/-/ready") == (503, f"{late}\n")
        async with client.get(f"{url}/-/ready") as answer:
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        status, text = await asked(client, f"{url}/health")
        report = json.loads(text)
        assert (status, report["status"]) == (200, "warn")
        assert report["checks"]["event_loop"] == report["checks"]["readiness"] == {"status": "warn", "message": late}
        assert "\nprobe_exporter_event_loop_lag_seconds 5.2\n" in (await asked(client, f"{url}/metrics"))[1]
    watching.cancel()


async def test_late_worker_is_healthy_and_a_warning(tmp_path: Path) -> None:
    others = OtherWorkers()
    web = a_web(tmp_path, others)
    web.health.started()
    others.slow = "Worker 1 is late."
    async with serving(web) as url, ClientSession() as client:
        assert await asked(client, f"{url}/-/healthy") == (200, "Healthy")
        status, text = await asked(client, f"{url}/health")
        assert (status, json.loads(text)["checks"]["workers"]) == (
            200,
            {"status": "warn", "message": "Worker 1 is late."},
        )
        others.lost = "Worker 0 does not answer."
        status, text = await asked(client, f"{url}/health")
        assert (status, json.loads(text)["checks"]["workers"]) == (503, {"status": "fail", "message": others.lost})


async def test_starting_exporter_is_not_ready(tmp_path: Path) -> None:
    web = a_web(tmp_path, OtherWorkers())
    async with serving(web) as url, ClientSession() as client:
        assert await asked(client, f"{url}/-/ready") == (503, "The exporter is starting.\n")
        assert await asked(client, f"{url}/-/healthy") == (200, "Healthy")
        web.health.started()
        assert await asked(client, f"{url}/-/ready") == (200, "Ready")


async def test_dead_worker_is_unhealthy(tmp_path: Path) -> None:
    others = OtherWorkers()
    web = a_web(tmp_path, others)
    web.health.started()
    async with serving(web) as url, ClientSession() as client:
        assert await asked(client, f"{url}/-/healthy") == (200, "Healthy")
        others.lost = "1 of 4 workers has died and was not replaced."
        assert await asked(client, f"{url}/-/healthy") == (503, f"{others.lost}\n")
        status, text = await asked(client, f"{url}/health")
        assert (status, json.loads(text)["checks"]["workers"]) == (503, {"status": "fail", "message": others.lost})
        assert (await asked(client, f"{url}/-/ready"))[0] == 200


async def test_unresponsive_supervisor_gives_503(tmp_path: Path) -> None:
    class Silent(OtherWorkers):
        async def snapshots(self) -> list[bytes]:
            raise SupervisorTimeout("no answer")

        async def reload(self, own: Callable[[], Awaitable[None]]) -> None:
            raise SupervisorTimeout("no answer")

    async with serving(a_web(tmp_path, Silent())) as url, ClientSession() as client:
        assert await asked(client, f"{url}/metrics") == (503, "no answer\n")
        async with client.post(f"{url}/-/reload") as answer:
            assert (answer.status, await answer.text()) == (503, "no answer\n")


async def test_metrics_are_summed_over_all_workers(tmp_path: Path) -> None:
    """Snapshots of other workers are added to this worker's metrics."""
    web = a_web(tmp_path, OtherWorkers())
    web.telemetry.unknown_modules = 2
    beside = snapshot(web.telemetry.registry.collect())

    class Two(OtherWorkers):
        async def snapshots(self) -> list[bytes]:
            return [snapshot(web.telemetry.registry.collect()), beside, beside]

    web._workers = Two()
    async with serving(web) as url, ClientSession() as client:
        assert "\nblackbox_module_unknown_total 6\n" in (await asked(client, f"{url}/metrics"))[1]
