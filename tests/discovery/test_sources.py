"""Sources are looked up once at a time, kept for the TTL, and forgotten at a reload."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from probe_exporter.config.reloading import Configuration, Source
from probe_exporter.discovery.groups import DiscoveryError
from probe_exporter.discovery.sources import FAILURE_SECONDS, Sources, UnknownSource
from probe_exporter.telemetry.counters import Telemetry
from tests.clocks import StandingLoop, advance
from tests.conftest import NewLoop
from tests.discovery.test_dns import NXDOMAIN, says
from tests.targets.dns import DnsServer, Part, record

TTL = 60

CONFIG = """
modules:
  m: {{prober: tcp, resolver: {{servers: ["127.0.0.1:{port}"], timeout: 1h}}}}
discovery:
  zone: {{ns: zone.test, module: m, port: 53}}
  file: {{file: "{directory}/targets.yml", module: m}}
"""


@pytest.fixture
def new_loop() -> NewLoop:
    """Use a simulated clock."""
    return StandingLoop


class SourcesUnderTest:
    """Sources of a configuration whose name server a test controls."""

    def __init__(self) -> None:
        self.hosts = ["ns1.test"]
        self.code = 0x8180
        self.held: asyncio.Event | None = None
        self.server = DnsServer(self.script)

    def script(self, query: bytes) -> Sequence[Part]:
        return says([record("zone.test", "NS", f"{host}.", TTL) for host in self.hosts], self.code)(query)

    def load(self, directory: Path) -> None:
        """Load the configuration for the server's port."""
        self.file = directory / "blackbox.yml"
        self.file.write_text(CONFIG.format(port=self.server["port"], directory=directory))
        self.configuration = Configuration(Source((str(self.file),)), Telemetry())
        self.sources = Sources(self.configuration)

    async def targets(self, name: str = "zone") -> list[str]:
        return [group["targets"][0] for group in json.loads(await self.sources.targets(name))]

    @property
    def asked(self) -> int:
        """The number of queries that the name server has received."""
        return len(self.server.requests)


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[SourcesUnderTest]:
    one = SourcesUnderTest()
    async with one.server:
        one.load(directory)
        yield one


async def test_answer_is_kept_for_its_ttl(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        assert await one.targets() == ["ns1.test:53"]
        one.hosts = ["ns2.test"]
        await advance(TTL - 1)
        assert (await one.targets(), one.asked) == (["ns1.test:53"], 1)
        await advance(1)
        assert (await one.targets(), one.asked) == (["ns2.test:53"], 2)


async def test_failure_is_kept_for_a_while(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        one.code = NXDOMAIN
        for _ in range(3):
            with pytest.raises(DiscoveryError, match="there is no such name"):
                await one.targets()
        assert one.asked == 1
        one.code = 0x8180
        await advance(FAILURE_SECONDS)
        assert (await one.targets(), one.asked) == (["ns1.test:53"], 2)


async def test_requests_at_once_share_a_lookup(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        answers = await asyncio.gather(*[one.targets() for _ in range(20)])
        assert (answers, one.asked) == ([["ns1.test:53"]] * 20, 1)


async def test_lookup_goes_on_if_its_first_client_disconnects(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        first = asyncio.ensure_future(one.targets())
        second = asyncio.ensure_future(one.targets())
        await asyncio.sleep(0)
        first.cancel()
        assert (await second, one.asked) == (["ns1.test:53"], 1)
        assert first.cancelled()


async def test_reload_forgets_what_was_found(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        await one.targets()
        one.file.write_text(one.file.read_text().replace("port: 53", "port: 853"))
        await one.configuration.reload()
        assert (await one.targets(), one.asked) == (["ns1.test:853"], 2)


async def test_file_is_read_again_at_once_when_it_changes(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        with pytest.raises(DiscoveryError, match="can't be read"):
            await one.targets("file")
        (tmp_path / "targets.yml").write_text("- {targets: [a]}")
        assert await one.targets("file") == ["a"]
        (tmp_path / "targets.yml").write_text("- {targets: [a, b]}")
        assert await one.targets("file") == ["a", "b"]


async def test_unknown_source_is_told(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        with pytest.raises(UnknownSource):
            await one.targets("nope")
        assert one.asked == 0
