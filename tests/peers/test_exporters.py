"""The exporter prober against exporters that others wrote, and against our own: all can be read and are healthy."""

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
    """The samples of a probe, those with labels by one of their values."""
    answer = asyncio.run(exporter.probe(module, f"127.0.0.1:{target.port}"))
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            one = sample.labels.get("source") or next(iter(sample.labels.values()), "")
            found[f"{sample.name} {one}".rstrip()] = sample.value
    return found


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Server]:
    with exporters.ours(tmp_path) as server:
        yield server


@pytest.mark.parametrize("module", ["exporter", "exporter_protobuf"])
def test_prometheus(exporter: Server, module: str, tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text("{}")
    with exporters.prometheus(tmp_path, "--config.file=prometheus.yml") as prometheus:
        found = probed(exporter, module, prometheus)
    assert found["probe_success"] == found["probe_exporter_healthy"] == 1
    assert found["probe_exporter_metadata_info prometheus_build_info"] == 1
    assert found["probe_exporter_samples histogram"] > 100
    assert found["probe_exporter_lint_findings duplicate_series"] == 0


def test_the_original(exporter: Server, tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: http}}")
    with exporters.original(tmp_path, "--config.file=blackbox.yml") as original:
        found = probed(exporter, "exporter", original)
    assert found["probe_success"] == found["probe_exporter_healthy"] == 1
    assert found["probe_exporter_metadata_info blackbox_exporter_build_info"] == 1


@pytest.mark.parametrize("module", ["exporter", "exporter_strict", "exporter_protobuf"])
def test_our_own(exporter: Server, module: str) -> None:
    """It has nothing that its own prober would object to."""
    found = probed(exporter, module, exporter)
    assert found["probe_success"] == found["probe_exporter_healthy"] == 1
    assert found["probe_exporter_metadata_info /metadata"] == 1
