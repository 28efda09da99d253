"""Our reader of OpenMetrics rejects all that a real Prometheus rejects."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml

from tests import exporters
from tests.peers.test_prometheus import ask
from tests.scrape.test_openmetrics import PAGE, REFUSED, ours
from tests.targets import Site, reply

pytestmark = pytest.mark.slow

TYPE = ("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
PAGES = {"everything": PAGE} | {name: PAGE.replace(before, after, 1) for name, (before, after, _) in REFUSED.items()}

REFUSED_BY_BOTH = {
    "no EOF",
    "more after EOF",
    "an empty line",
    "a remark",
    "an unknown type",
    "a label twice",
    "another unit",
    "two blanks",
    "a blank at the end",
}
"""Pages that violate the grammar. Prometheus accepts violations of other rules, as docs/modules/exporter.md says."""


async def test_prometheus_accepts_each_page_that_we_accept(tmp_path: Path) -> None:
    sites = {f"/{number}": reply(200, PAGES[name].encode(), TYPE) for number, name in enumerate(PAGES)}
    async with Site(sites) as site:
        jobs = [
            {
                "job_name": name,
                "metrics_path": f"/{number}",
                "static_configs": [{"targets": [f"127.0.0.1:{site['port']}"]}],
            }
            for number, name in enumerate(PAGES)
        ]
        config = tmp_path / "prometheus.yml"
        often = {"scrape_interval": "3s", "scrape_timeout": "3s"}
        config.write_text(yaml.safe_dump({"global": often, "scrape_configs": jobs}))
        with exporters.prometheus(tmp_path, f"--config.file={config.name}") as prometheus:
            up: dict[str, float] = {}
            while len(up) < len(PAGES):
                await asyncio.sleep(0.2)
                data = await ask(prometheus, "query", query="up")
                up = {found["metric"]["job"]: float(found["value"][1]) for found in data["result"]}
    taken = {name for name in PAGES if up[name]}
    read = {name for name, page in PAGES.items() if ours(page) is None}
    assert read == {"everything"}
    assert set(PAGES) - taken == REFUSED_BY_BOTH
