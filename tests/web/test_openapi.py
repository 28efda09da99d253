"""Test the server against its OpenAPI document with schemathesis, with valid and invalid requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests import exporters
from tests.exporters import Server
from tests.http_client import ask
from tests.web.test_routes import PLUGINS

pytestmark = pytest.mark.slow

CONFIG = """
modules:
  http_2xx: {prober: actor}
  free: {prober: actor, params: {host: {pattern: "[a-z]+", default: a}}, actor: {host: "${param:host}"}}
"""


@pytest.fixture(scope="module", params=["/", "/some/where/"], ids=["root", "prefix"])
def exporter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """Run an exporter with only the test prober `actor`, so that no target is contacted."""
    directory = tmp_path_factory.mktemp("openapi")
    (directory / "blackbox.yml").write_text(CONFIG)
    prefix = request.param
    with exporters.ours(directory, f"--modules.dir={PLUGINS}", f"--web.route-prefix={prefix}") as running:
        yield running, prefix


def document(exporter: Server, prefix: str) -> dict[str, Any]:
    answer = ask(exporter.port, f"{prefix}openapi.json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = json.loads(answer.text)
    return found


def test_every_documented_path_exists(exporter: tuple[Server, str]) -> None:
    server, prefix = exporter
    described = document(server, prefix)
    assert described["openapi"] == "3.1.0"
    assert len(described["paths"]) >= 11
    for path, methods in described["paths"].items():
        for method in methods:
            answer = ask(server.port, prefix.rstrip("/") + path, method=method.upper())
            assert str(answer.status) in methods[method]["responses"], (method, path)


@pytest.mark.longest
@pytest.mark.parametrize("exporter", ["/"], indirect=True)
def test_answers_match_the_openapi_document(exporter: tuple[Server, str]) -> None:
    # Each process of a run collects this file, and these imports take a second.
    import requests  # noqa: PLC0415
    import schemathesis  # noqa: PLC0415
    from schemathesis.checks import not_a_server_error  # noqa: PLC0415
    from schemathesis.specs.openapi import checks as conformance  # noqa: PLC0415

    checks = [
        not_a_server_error,
        conformance.status_code_conformance,
        conformance.content_type_conformance,
        conformance.response_headers_conformance,
        conformance.response_schema_conformance,
    ]
    server, prefix = exporter
    schema: Any = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}{prefix}openapi.json")
    schema.validate()
    asked = 0
    session = requests.Session()
    for operation in [found.ok() for found in schema.get_all_operations()]:
        legal = operation.as_strategy()
        takes_some = any(operation.iter_parameters())

        @given(
            case=legal | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
            if takes_some
            else legal
        )
        @settings(
            max_examples=60 if operation.path == "/probe" else 15,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def answers(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.validate_response(case.call(timeout=60, session=session), checks=checks)

        answers()
    assert asked > 300
    assert own_metric_of(server, prefix, "probe_exporter_internal_errors_total") == 0


def own_metric_of(server: Server, prefix: str, name: str) -> float:
    lines = ask(server.port, f"{prefix}metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))
