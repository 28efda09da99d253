"""Test that pages about thousands of results and modules are made in short turns of the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from probe_exporter.config import problems
from probe_exporter.config.module import Module, Modules
from probe_exporter.config.reloading import Configuration, Source
from probe_exporter.history.memory import History, MemoryHistory, Query
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.history.record import HistoryDocument, HistoryEntry
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.metrics import FixedCollector, LabelledSeries, Metric
from probe_exporter.prober.run import Probe
from probe_exporter.runner import Result
from probe_exporter.settings.block import Settings
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.web.html import rendering
from probe_exporter.web.listening import Place
from probe_exporter.web.request import WebRequest
from probe_exporter.web.routes import Web
from probe_exporter.web.status_page import MAX_ENTRIES, MAX_ROWS
from tests.cost import short_turns

pytestmark = pytest.mark.slow


async def _nothing(probe: Probe, settings: Settings) -> None:
    """Succeed."""


PROBER = Prober("nothing", Settings, _nothing)

PATHS = ["/", "/?result=failure", "/history?limit=1000", "/form", "/config", "/metadata", "/modules", "/reasons"]

MODULES = 1000
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
LONG = "<" * 3000
"""A part of a target and of a message: it is escaped on the page."""


class LargeHistory:
    """A history of many targets that fail in turn."""

    def __init__(self) -> None:
        self.entries = [
            HistoryEntry(id, f"m{id % 7}", f"https://{id % 900}.example/{LONG}", 1e9 - id, 0.1, 9.5, reason, "", LONG)
            for id, reason in zip(range(20_000), ["", "http_status", "tls_handshake", ""] * 5000, strict=True)
        ]

    def add(self, result: Result) -> None:
        raise NotImplementedError

    async def select(self, query: Query) -> list[HistoryEntry]:
        return await asyncio.to_thread(query.select, self.entries)

    async def get(self, id: int) -> tuple[HistoryEntry, HistoryDocument] | None:
        return None

    async def recreate(self) -> object:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Web:
    return _web(LargeHistory(), tmp_path_factory.mktemp("costs") / "blackbox.yml")


def _web(history: History, file: Path) -> Web:
    modules = "".join(f"  m{number}: {{prober: tcp, description: '{LONG[:200]}'}}\n" for number in range(MODULES))
    file.write_text(f"modules:\n{modules}")
    telemetry, place = Telemetry(), Place("/", "/")
    configuration = Configuration(Source((str(file),)), telemetry)
    return Web(configuration, telemetry, history, ProbeLog(), timeout_offset=0.5, max_probes=1, place=place)


async def get(web: Web, path: str, accept: str = "text/html") -> bytes:
    answer = await web(WebRequest("GET", path, {"Accept": accept}))
    assert answer.status == 200, answer.body
    return answer.body


@pytest.mark.parametrize("path", PATHS)
async def test_page_is_made_in_short_turns(web: Web, path: str) -> None:
    await get(web, path)
    with short_turns():
        await get(web, path)


@pytest.mark.parametrize("accept", ["text/html", "*/*"])
@pytest.mark.parametrize("path", ["/history?id=0", "/logs?id=0"])
async def test_probe_of_thousands_of_samples_is_shown_in_short_turns(tmp_path: Path, path: str, accept: str) -> None:
    history = MemoryHistory(10, 1 << 30, ProbeLog(), Counter())
    history.add(_large_result())
    web = _web(history, tmp_path / "blackbox.yml")
    await get(web, path, accept)
    with short_turns():
        await get(web, path, accept)
    history.close()


def _large_result() -> Result:
    probe = Probe("large", 0.0)
    info = Metric("probe_large", "One of many.", ("number",))
    for number in range(20_000):
        probe.set(info, number, f"{number} {LONG[:50]}")
    module = Module("m", PROBER, Settings(), 0.0, problems.Place("test.yml"))
    return Result(module, "large", probe, None, "", 1e9, 0.5, 1.0)


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS, PROTOBUF])
async def test_metrics_of_a_thousand_modules_are_encoded_in_short_turns(web: Web, accept: str) -> None:
    for number in range(MODULES):
        tally = web.telemetry.tally(f"m{number}")
        tally.start()
        tally.finish("http_status", 0.1)
    await get(web, "/metrics", accept)
    with short_turns():
        await get(web, "/metrics", accept)


MANY = Metric("probe_many", "One of many.", ("number",))
SERIES: LabelledSeries = {(MANY, (str(number),)): 1.0 for number in range(20_000)}
REGISTERED = Family("registered", "One of many.", "gauge")
REGISTERED.samples = [Sample("registered", {"number": str(number)}, 1.0) for number in range(20_000)]


async def _set_many(probe: Probe, settings: Settings) -> None:
    probe.samples.series = {**SERIES}


async def _register_many(probe: Probe, settings: Settings) -> None:
    probe.registry.register(FixedCollector([REGISTERED]))


@pytest.mark.parametrize("asked", ["set", "registered", "set,registered"])
@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS, PROTOBUF])
async def test_response_with_thousands_of_series_is_encoded_in_short_turns(
    tmp_path: Path, asked: str, accept: str
) -> None:
    web = _web(MemoryHistory(0, 0, ProbeLog(), Counter()), tmp_path / "blackbox.yml")
    modules = {
        name: Module(name, Prober(name, Settings, run), Settings(), 5.0, problems.Place("test.yml"))
        for name, run in {"set": _set_many, "registered": _register_many}.items()
    }
    web._configuration.current = replace(web._configuration.current, modules=Modules(modules, {}))
    with short_turns():
        body = await get(web, f"/probe?target=x&module={asked}", accept)
    assert body.count(b"number") == 20_000 * (1 + asked.count(",")), "every series has the label"


async def test_status_page_is_bounded(web: Web) -> None:
    body = await get(web, "/")
    assert 0 < body.count(b'class="strip"') <= MAX_ROWS < MAX_ENTRIES
    assert len(body) < 1 << 20


async def test_pages_beyond_a_number_are_refused_as_text(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "MAX_WAITING", 3)
    asked = [web(WebRequest("GET", path, {"Accept": "text/html"})) for path in ["/form"] * 6]
    answers = await asyncio.gather(*asked)
    assert sorted(answer.status for answer in answers) == [200] * 3 + [503] * 3
    refused = next(answer for answer in answers if answer.status == 503)
    assert refused.body == b"Too many pages are asked for at once\n"
    assert await get(web, "/form"), "the places are free again"
