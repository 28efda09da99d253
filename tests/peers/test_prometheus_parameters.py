"""A real Prometheus requests several modules, with parameters, as in examples/prometheus-parameters.yml.

The tests only change the targets, the exporter's address and the interval of the examples.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import exporters
from tests.exporters import Server, peer
from tests.peers.test_prometheus import EXAMPLES, ask, wait_for_value
from tests.targets import Site, reply
from tests.targets.dns import DnsServer, Part, Says, name

pytestmark = pytest.mark.slow

EXAMPLE = EXAMPLES / "prometheus-parameters.yml"
KNOWN, UNKNOWN = "example.com", "example.org"
Labels = dict[str, str]
Database = tuple[list[tuple[Labels, float]], list[str], list[str]]
"""The stored series, the queries that the name server received, and the requested tenants."""


def one_zone(query: bytes) -> Sequence[Part]:
    """Respond without records to a query for `KNOWN`, and with NXDOMAIN to others."""
    return Says(flags=0x8180 if name(KNOWN) in query else 0x8183)(query)


def rendered(server: str, page: str, port: int) -> dict[str, Any]:
    """Return the example with these targets, the exporter's port and a short interval."""
    text = EXAMPLE.read_text().replace("127.0.0.1:9115", f"127.0.0.1:{port}")
    config: dict[str, Any] = yaml.safe_load(text)
    config["global"] = {"scrape_interval": "3s", "scrape_timeout": "3s"}
    zones, tenants = config["scrape_configs"]
    assert zones["static_configs"][0]["targets"] == [KNOWN, UNKNOWN]
    zones["static_configs"][0]["labels"]["server"] = server
    for group in tenants["static_configs"]:
        group["targets"] = [page]
    return config


async def collect(directory: Path) -> Database:
    """Run targets, exporter and Prometheus, and return the content of Prometheus."""
    site = Site({"/health": reply(200, b'{"tenant": "blue"}')})
    server = DnsServer(one_zone)
    with exporters.ours(directory, f"--config.file={EXAMPLES / 'parameters.yml'}") as exporter:
        async with site, server:
            where, page = server.fill("127.0.0.1:{port}"), site.fill("http://127.0.0.1:{port}/health")
            config = directory / "prometheus.yml"
            config.write_text(yaml.safe_dump(rendered(where, page, exporter.port)))
            with exporters.prometheus(directory, f"--config.file={config.name}") as prometheus:
                data = await arrived(prometheus)
    series = [(found["metric"], float(found["value"][1])) for found in data["result"]]
    questions = [request.line for request in server.requests]
    return series, questions, [tenant for request in site.requests for tenant in request.all("X-Tenant")]


async def arrived(prometheus: Server) -> Any:
    await wait_for_value(prometheus, 'count(probe_success{job="zones"})', 4)
    await wait_for_value(prometheus, 'count(probe_success{job="tenants"})', 2)
    return await ask(prometheus, "query", query='{job=~".+"}')


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """Return the result of one run for all tests of this file."""
    peer("prometheus")
    return asyncio.run(collect(tmp_path_factory.mktemp("prometheus")))


def selected(database: Database, name: str, job: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return the values of a metric by some of its labels."""
    series = [(found, value) for found, value in database[0] if (found["__name__"], found["job"]) == (name, job)]
    values = {tuple(found.get(label, "") for label in labels): value for found, value in series}
    assert len(values) == len(series)
    return values


def test_one_scrape_returns_the_series_of_two_modules(database: Database) -> None:
    assert selected(database, "probe_success", "zones", "instance", "module") == {
        (KNOWN, "dns_udp"): 1,
        (KNOWN, "dns_tcp"): 1,
        (UNKNOWN, "dns_udp"): 0,
        (UNKNOWN, "dns_tcp"): 0,
    }
    assert set(selected(database, "up", "zones", "instance").values()) == {1}


def test_series_have_a_module_label_if_several_modules_are_requested(database: Database) -> None:
    ours = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_samples_post_metric_relabeling",
            "scrape_series_added"}  # fmt: skip
    named = [found for found, _ in database[0] if found["job"] == "zones" and found["__name__"] not in ours]
    assert len(named) > 20
    assert {found["module"] for found in named} == {"dns_udp", "dns_tcp"}
    assert not any("module" in found for found, _ in database[0] if found["job"] == "tenants")


def test_parameters_reach_the_target(database: Database) -> None:
    _, questions, tenants = database
    for transport in ("udp", "tcp"):
        for zone in (KNOWN, UNKNOWN):
            assert any(line.startswith(f"{transport} query: {zone}. IN SOA") for line in questions), questions
    assert set(tenants) == {"blue", "green"}


def test_response_is_checked_against_the_parameter(database: Database) -> None:
    assert selected(database, "probe_success", "tenants", "tenant") == {("blue",): 1, ("green",): 0}
    assert selected(database, "probe_failure_info", "tenants", "tenant", "reason") == {
        ("green", "http_body_mismatch"): 1
    }


def test_promtool_accepts_the_example() -> None:
    """The unchanged example is valid."""
    command = [peer("promtool"), "check", "config", "--lint=all", str(EXAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_example_modules_cause_no_warnings(tmp_path: Path) -> None:
    flags = (f"--config.file={EXAMPLES / 'parameters.yml'}", "--config.strict")
    with exporters.ours(tmp_path, *flags) as exporter:
        assert "level=WARN" not in exporter.log.read_text()
