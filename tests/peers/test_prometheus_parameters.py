"""A real Prometheus asks for several modules and with parameters, as examples/prometheus-parameters.yml does.

The examples are used as they stand, but for the targets, the exporter's address and the interval.
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
from tests.peers.test_prometheus import EXAMPLES, ask, until
from tests.targets import Site, reply
from tests.targets.dns import DnsServer, Part, Says, name

pytestmark = pytest.mark.slow

EXAMPLE = EXAMPLES / "prometheus-parameters.yml"
KNOWN, UNKNOWN = "example.com", "example.org"
Labels = dict[str, str]
Database = tuple[list[tuple[Labels, float]], list[str], list[str]]
"""Every series that arrives, the questions that the name server was asked, and the tenants that were asked for."""


def one_zone(query: bytes) -> Sequence[Part]:
    """Knows one zone and nothing of it; any other name does not exist."""
    return Says(flags=0x8180 if name(KNOWN) in query else 0x8183)(query)


def rendered(server: str, page: str, port: int) -> dict[str, Any]:
    """The example with targets and the exporter's address put in, scraping often."""
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
    """Run targets, exporter and Prometheus, and copy what arrives."""
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
    await until(prometheus, 'count(probe_success{job="zones"})', 4)
    await until(prometheus, 'count(probe_success{job="tenants"})', 2)
    return await ask(prometheus, "query", query='{job=~".+"}')


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """One run for all tests of this file."""
    peer("prometheus")
    return asyncio.run(collect(tmp_path_factory.mktemp("prometheus")))


def selected(database: Database, name: str, job: str, *labels: str) -> dict[tuple[str, ...], float]:
    """The values of one name, by some of its labels."""
    series = [(found, value) for found, value in database[0] if (found["__name__"], found["job"]) == (name, job)]
    values = {tuple(found.get(label, "") for label in labels): value for found, value in series}
    assert len(values) == len(series)
    return values


def test_one_scrape_brings_the_series_of_two_modules(database: Database) -> None:
    assert selected(database, "probe_success", "zones", "instance", "module") == {
        (KNOWN, "dns_udp"): 1,
        (KNOWN, "dns_tcp"): 1,
        (UNKNOWN, "dns_udp"): 0,
        (UNKNOWN, "dns_tcp"): 0,
    }
    assert set(selected(database, "up", "zones", "instance").values()) == {1}


def test_every_series_of_a_scrape_with_several_modules_has_one(database: Database) -> None:
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


def test_the_answer_is_held_against_what_was_asked_for(database: Database) -> None:
    assert selected(database, "probe_success", "tenants", "tenant") == {("blue",): 1, ("green",): 0}
    assert selected(database, "probe_failure_info", "tenants", "tenant", "reason") == {
        ("green", "http_body_mismatch"): 1
    }


def test_promtool_accepts_the_example() -> None:
    """It is good as it stands."""
    command = [peer("promtool"), "check", "config", "--lint=all", str(EXAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_modules_of_the_example_are_beyond_reproach(tmp_path: Path) -> None:
    flags = (f"--config.file={EXAMPLES / 'parameters.yml'}", "--config.strict")
    with exporters.ours(tmp_path, *flags) as exporter:
        assert "level=WARN" not in exporter.log.read_text()
