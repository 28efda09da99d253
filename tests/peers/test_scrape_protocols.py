"""A real Prometheus scrapes /metrics and /probe in each scrape protocol and stores the same series from all.

A relay between the two records the media type of each response: equal series could also mean that every response was
the same text.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import exporters
from tests.exporters import Server, peer
from tests.peers.test_prometheus import ARRIVES_WITHIN, LOOKS_EVERY, ask, wait_for_value

pytestmark = pytest.mark.slow

PROTOCOLS = {
    "PrometheusProto": "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
    "OpenMetricsText1.0.0": "application/openmetrics-text; version=1.0.0; charset=utf-8",
    "OpenMetricsText0.0.1": "text/plain; version=0.0.4; charset=utf-8",  # not offered, as in the original
    "PrometheusText1.0.0": "text/plain; version=1.0.0; charset=utf-8",
    "PrometheusText0.0.4": "text/plain; version=0.0.4; charset=utf-8",
}
"""The `scrape_protocols` of a job, and the media type of the response."""

PATHS = {"metrics": "/metrics", "probe": "/probe"}
MADE_BY_PROMETHEUS = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_series_added"}
MADE_BY_PROMETHEUS |= {"scrape_samples_post_metric_relabeling"}

Labels = frozenset[tuple[str, str]]


@dataclass
class Relay:
    """Forward requests to an exporter, and record the media types of its responses by `job`."""

    exporter: Server
    port: int = 0
    answered: dict[str, set[str]] = field(default_factory=dict)
    clients: set[asyncio.StreamWriter] = field(default_factory=set)

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request, *lines = head.split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines if line)
            path = request.split(" ")[1]
            wanted: dict[str, str] = {name: headers[name] for name in ("Accept", "Accept-Encoding") if name in headers}
            answer = await self.exporter.get(path, wanted)
            job = path.partition("job=")[2].partition("&")[0]
            self.answered.setdefault(job, set()).add(answer.headers["content-type"])
            kept = [f"{k}: {v}" for k, v in answer.headers.items() if k in ("content-type", "content-encoding")]
            lines = [f"HTTP/1.1 {answer.status} Relayed", "Connection: close", *kept, "", ""]
            writer.write("\r\n".join(lines).encode() + answer.body)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.clients.discard(writer)

    async def hang_up(self) -> None:
        """Abort open connections: Prometheus still scrapes when the test has ended."""
        for client in self.clients:
            client.transport.abort()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def relaying(exporter: Server) -> AsyncIterator[Relay]:
    relay = Relay(exporter)
    server = await asyncio.start_server(relay.pass_on, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield relay
        finally:
            server.close()
            await relay.hang_up()


def config(relay: Relay) -> dict[str, Any]:
    """Return a configuration with a job for each protocol and path. Its name is a parameter for the relay."""
    jobs = [(f"{kind}-{protocol}", path, protocol) for protocol in PROTOCOLS for kind, path in PATHS.items()]
    target = f"127.0.0.1:{relay.exporter.port}/-/healthy"
    return {
        "global": {"scrape_interval": "3s", "scrape_timeout": "3s"},
        "scrape_configs": [
            {
                "job_name": name,
                "metrics_path": path,
                "params": {"job": [name], **({"target": [target]} if path == "/probe" else {})},
                "scrape_protocols": [protocol],
                "static_configs": [{"targets": [f"127.0.0.1:{relay.port}"]}],
            }
            for name, path, protocol in jobs
        ],
    }


@dataclass(frozen=True)
class Stored:
    """The series and values that Prometheus has stored from one path, and the media types, by protocol."""

    series: dict[str, set[Labels]]
    values: dict[str, dict[Labels, float]]
    media: dict[str, set[str]]


async def stored(prometheus: Server, kind: str, relay: Relay) -> Stored:
    data = await ask(prometheus, "query", query=f'{{job=~"{kind}-.*"}}')
    values: dict[str, dict[Labels, float]] = {protocol: {} for protocol in PROTOCOLS}
    for found in data["result"]:
        labels = dict(found["metric"])
        protocol = labels.pop("job").partition("-")[2]
        if labels["__name__"] not in MADE_BY_PROMETHEUS:
            values[protocol][frozenset(labels.items())] = float(found["value"][1])
    media = {protocol: relay.answered.get(f"{kind}-{protocol}", set()) for protocol in PROTOCOLS}
    return Stored({protocol: set(held) for protocol, held in values.items()}, values, media)


async def collect(directory: Path) -> dict[str, Stored]:
    """Scrape until all protocols have the same series, at most for `ARRIVES_WITHIN`."""
    with exporters.ours(directory) as exporter:
        async with relaying(exporter) as relay:
            file = directory / "prometheus.yml"
            file.write_text(yaml.safe_dump(config(relay)))
            with exporters.prometheus(directory, f"--config.file={file.name}") as prometheus:
                await wait_for_value(prometheus, "count(up)", len(PROTOCOLS) * len(PATHS))
                found: dict[str, Stored] = {}
                for _ in range(round(ARRIVES_WITHIN / LOOKS_EVERY)):
                    await asyncio.sleep(LOOKS_EVERY)
                    found = {kind: await stored(prometheus, kind, relay) for kind in PATHS}
                    if all(_alike(one) for one in found.values()):
                        break
                return found


def _alike(one: Stored) -> bool:
    first, *others = one.series.values()
    return bool(first) and all(first == other for other in others)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stored]:
    """Return the result of one run for all tests of this file."""
    peer("prometheus")
    return asyncio.run(collect(tmp_path_factory.mktemp("protocols")))


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocol_gets_its_media_type(scraped: dict[str, Stored], kind: str, protocol: str) -> None:
    [media] = scraped[kind].media[protocol]
    assert media.rpartition("; escaping=")[0] == PROTOCOLS[protocol]


@pytest.mark.parametrize("kind", PATHS)
def test_protocols_return_the_same_series(scraped: dict[str, Stored], kind: str) -> None:
    first, *others = scraped[kind].series.values()
    assert len(first) > 15
    for other in others:
        assert other == first


def test_protocols_return_the_same_values(scraped: dict[str, Stored]) -> None:
    """Compare values that don't change from scrape to scrape."""
    for kind, steady in (("probe", "probe_ip_addr_hash"), ("metrics", "process_start_time_seconds")):
        values = {
            value
            for held in scraped[kind].values.values()
            for labels, value in held.items()
            if dict(labels)["__name__"] == steady
        }
        assert len(values) == 1


def test_histogram_is_stored_with_buckets_sum_and_count(scraped: dict[str, Stored]) -> None:
    """The bounds of buckets have the same spelling in each protocol."""
    for held in scraped["metrics"].series.values():
        named = [dict(labels) for labels in held]
        bounds = {one["le"] for one in named if one["__name__"] == "probe_exporter_probe_duration_seconds_bucket"}
        assert {"0.001", "1.0", "30.0", "+Inf"} <= bounds
        names = {one["__name__"] for one in named}
        assert {f"probe_exporter_probe_duration_seconds_{end}" for end in ("sum", "count")} <= names
