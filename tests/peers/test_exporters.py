"""The exporter prober against Prometheus, the original and our own exporter: all are healthy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import exporters
from tests.exporters import Server

pytestmark = pytest.mark.slow


def probed(exporter: Server, module: str, target: Server) -> dict[str, float]:
    """Return the samples of a probe, by their name and the value of one label."""
    answer = asyncio.run(exporter.probe(module, f"127.0.0.1:{target.port}"))
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            one = sample.labels.get("source") or next(iter(sample.labels.values()), "")
            found[f"{sample.name} {one}".rstrip()] = sample.value
    return found


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with exporters.ours(tmp_path_factory.mktemp("ours")) as server:
        yield server


@pytest.mark.parametrize("module", ["exporter", "exporter_protobuf"])
def test_prometheus_is_healthy(exporter: Server, module: str, tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text("{}")
    with exporters.prometheus(tmp_path, "--config.file=prometheus.yml") as prometheus:
        found = probed(exporter, module, prometheus)
    assert found["probe_success"] == found["probe_exporter_healthy"] == 1
    assert found["probe_exporter_metadata_info prometheus_build_info"] == 1
    assert found["probe_exporter_samples histogram"] > 100
    assert found["probe_exporter_lint_findings duplicate_series"] == 0


def test_original_is_healthy(exporter: Server, tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: http}}")
    with exporters.original(tmp_path, "--config.file=blackbox.yml") as original:
        found = probed(exporter, "exporter", original)
    assert found["probe_success"] == found["probe_exporter_healthy"] == 1
    assert found["probe_exporter_metadata_info blackbox_exporter_build_info"] == 1


@pytest.mark.parametrize("module", ["exporter", "exporter_strict", "exporter_protobuf"])
def test_our_exporter_is_healthy(exporter: Server, module: str) -> None:
    """Our exporter meets the rules of its own exporter prober."""
    found = probed(exporter, module, exporter)
    assert found["probe_success"] == found["probe_exporter_healthy"] == 1
    assert found["probe_exporter_metadata_info /metadata"] == 1
