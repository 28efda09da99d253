"""The Grafana dashboards of deploy/mixin: a script writes them, and a real Prometheus has data for every query."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.mixin import dashboards
from tests import exporters
from tests.exporters import ROOT, Server, peer
from tests.peers.test_prometheus import ARRIVES_WITHIN, LOOKS_EVERY, ask
from tests.targets import Pki, Site, Tls, reply

MIXIN = ROOT / "deploy" / "mixin"
NAMES = ("overview", "target", "exporter")

VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$job": ".+", "$instance": ".+"}
"""What Grafana puts in place of the variables if all jobs and instances are chosen."""

MODULES = """
modules:
  http_2xx: {{prober: http}}
  http_trusted: {{prober: http, http: {{tls_config: {{ca_file: {ca}}}}}}}
  icmp: {{prober: icmp, icmp: {{count: 2, interval: 10ms}}}}
"""

TARGETS = {
    "http_2xx": (
        "http://127.0.0.1:{port}/up",
        "http://127.0.0.1:{port}/sick",
        "http://127.0.0.1:{dead}/",
        "https://127.0.0.1:{tls_port}/up",
    ),
    "http_trusted": ("https://localhost:{tls_port}/up",),
    "icmp": ("127.0.0.1",),
}
"""The targets of each module: some are up, one answers badly, one refuses, and one has an untrusted certificate."""

Json = dict[str, Any]


def dashboard(name: str) -> Json:
    made: Json = json.loads((MIXIN / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
    return made


def queries(name: str) -> Iterator[tuple[str, str]]:
    """Yield the title of each panel with each of its queries."""
    for panel in dashboard(name)["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def test_files_are_what_the_script_writes() -> None:
    """If this fails, run `make docs` and review the diff."""
    assert {path.name: path.read_text(encoding="utf-8") for path in (MIXIN / "dashboards").iterdir()} == (
        dashboards.files()
    )


def test_script_writes_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboards, "DIRECTORY", tmp_path / "new")
    dashboards.main()
    assert {path.stem for path in (tmp_path / "new").iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_their_own_ids_and_places(name: str) -> None:
    panels = dashboard(name)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [cell for panel in panels for cell in cells_of(panel["gridPos"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < dashboards.COLUMNS


def cells_of(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    across, down = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
    return itertools.product(across, down)


@pytest.mark.parametrize("name", NAMES)
def test_queries_select_by_the_variables_of_the_dashboard(name: str) -> None:
    """Only the table of alerts shows those of all jobs."""
    declared = {variable["name"] for variable in dashboard(name)["templating"]["list"]} - {"datasource"}
    for title, expression in queries(name):
        assert title == "Alerts" or all(f'{variable}=~"${variable}"' in expression for variable in declared), title


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_and_variable_asks_the_chosen_data_source(name: str) -> None:
    made = dashboard(name)
    assert made["uid"] == f"probe-exporter-{name}"
    source, *others = made["templating"]["list"]
    assert source["type"] == "datasource"
    sources = [one["datasource"] for one in (*others, *made["panels"]) if one["type"] != "row"]
    assert all(one == dashboards.SOURCE for one in sources)


def configuration(site: Site, exporter: Server) -> Json:
    """Return a configuration of Prometheus with a job for each module, and short intervals."""
    own = {"job_name": "probe-exporter", "static_configs": [{"targets": [f"127.0.0.1:{exporter.port}"]}]}
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [own, *(job(module, site, exporter) for module in TARGETS)],
    }


def job(module: str, site: Site, exporter: Server) -> Json:
    return {
        "job_name": module,
        "metrics_path": "/probe",
        "params": {"module": [module]},
        "scrape_interval": "10s",
        "scrape_timeout": "10s",
        "static_configs": [{"targets": [site.fill(target) for target in TARGETS[module]]}],
        "relabel_configs": [
            {"source_labels": ["__address__"], "target_label": "__param_target"},
            {"source_labels": ["__param_target"], "target_label": "instance"},
            {"target_label": "__address__", "replacement": f"127.0.0.1:{exporter.port}"},
        ],
    }


async def collect(directory: Path) -> dict[str, bool]:
    """Run targets, exporter and Prometheus until every query has data. Return whether each one has, by its text."""
    pki = Pki(directory)
    (directory / "modules.yml").write_text(MODULES.format(ca=directory / "root.pem"))
    rules = (MIXIN / "rules.yml").read_text(encoding="utf-8")
    assert rules.count("interval: 1m") == 1
    (directory / "rules.yml").write_text(rules.replace("interval: 1m", "interval: 1s"))
    async with Site({"/up": reply(200, b"ok"), "/sick": reply(503, b"no")}, Tls(), pki.directory) as site:
        with exporters.ours(directory, "--config.file=modules.yml") as exporter:
            (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration(site, exporter)))
            with exporters.prometheus(directory, "--config.file=prometheus.yml") as prometheus:
                return await answers(prometheus)


async def answers(prometheus: Server) -> dict[str, bool]:
    found = {filled(expression): False for name in NAMES for _, expression in queries(name)}
    for _ in range(round(ARRIVES_WITHIN / LOOKS_EVERY)):
        if (await prometheus.get("/-/ready")).status == 200:
            for expression in [one for one, has_data in found.items() if not has_data]:
                found[expression] = await has_numbers(prometheus, expression)
        if all(found.values()):
            break
        await asyncio.sleep(LOOKS_EVERY)
    return found


async def has_numbers(prometheus: Server, expression: str) -> bool:
    result = (await ask(prometheus, "query", query=expression))["result"]
    return any(not math.isnan(float(series["value"][1])) for series in result)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Return the result of one run for all tests of this file."""
    peer("prometheus")
    return asyncio.run(collect(tmp_path_factory.mktemp("dashboards")))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_query_returns_data(name: str, data: dict[str, bool]) -> None:
    assert [(title, query) for title, query in queries(name) if not data[filled(query)]] == []
