"""Test /sd: the document for Prometheus, and a sentence for each request that can't be served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from probe_exporter.web.api import GROUPS
from tests import exporters
from tests.exporters import Server
from tests.http_client import ask
from tests.web.test_routes import PLUGINS, own_metric

CONFIG = """
modules: {http_2xx: {prober: actor}}
discovery:
  shops: {file: targets.yml, module: http_2xx}
  missing: {file: missing.yml}
"""


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("discovery")
    (directory / "blackbox.yml").write_text(CONFIG)
    (directory / "targets.yml").write_text("- {targets: [fail, ok], labels: {team: a}}\n")
    with exporters.ours(directory, f"--modules.dir={PLUGINS}") as running:
        yield running


def test_targets_of_a_source_are_json_for_prometheus(exporter: Server) -> None:
    answer = ask(exporter.port, "/sd?source=shops")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found = json.loads(answer.text)
    jsonschema.validate(found, GROUPS)
    assert [group["targets"] for group in found] == [["fail"], ["ok"]]
    assert found[1]["labels"] == {
        "__meta_probe_source": "shops",
        "__param_target": "ok",
        "__param_module": "http_2xx",
        "instance": "ok",
        "team": "a",
    }


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        (
            "",
            400,
            "The parameter source is missing: it names a source of targets. The configuration has: missing, shops",
        ),
        ("?source=", 400, "The parameter source is missing"),
        ("?source=shop", 404, 'Unknown source "shop"; did you mean `shops`?'),
        ("?source=xyz", 404, 'Unknown source "xyz". The configuration has: missing, shops'),
        (f"?source={'x' * 60_000}", 404, f'Unknown source "{"x" * 100}…". The configuration has: missing, shops'),
        ("?source=missing", 500, "The targets of source \"missing\" can't be told: missing.yml can't be read: No such"),
    ],
    ids=["no parameter", "empty", "nearly right", "unknown", "long", "without its file"],
)
def test_request_without_targets_gets_a_sentence(exporter: Server, query: str, status: int, says: str) -> None:
    answer = ask(exporter.port, f"/sd{query}")
    assert (answer.status, answer.text.startswith(says)) == (status, True), answer.text


def test_requests_are_counted_by_path(exporter: Server) -> None:
    name = 'probe_exporter_http_requests_total{code="404",handler="/sd"}'
    before = own_metric(exporter, name) if name in ask(exporter.port, "/metrics").text else 0.0
    ask(exporter.port, "/sd?source=nope")
    assert own_metric(exporter, name) == before + 1


def test_configuration_without_sources_says_so(tmp_path: Path) -> None:
    with exporters.ours(tmp_path) as exporter:
        answer = ask(exporter.port, "/sd?source=x")
    assert (answer.status, answer.text) == (404, 'Unknown source "x". The configuration has no `discovery`\n')
