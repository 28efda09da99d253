"""Tests of the programs in examples/: they run unchanged, and a real Prometheus scrapes them."""

from __future__ import annotations

import asyncio
import runpy
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import prometheus_client
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests import exporters
from tests.exporters import ROOT
from tests.peers.test_prometheus import wait_for_value
from tests.processes import free_port, listening, running
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

GROWING, STILL = "myapp_processed_ops_total", "myapp_processed_ops_total1"


@contextmanager
def example(name: str, directory: Path) -> Iterator[int]:
    """Run one of the programs on a free port, its only argument."""
    port = free_port()
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), str(port)]
    with running(command, directory, directory / f"{name}.log", listening(port)):
        yield port


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        body: bytes = answer.read()
    return body.decode()


def value(text: str, name: str) -> float:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return next(sample.value for sample in samples if sample.name == name)


def test_instrumented_app_counts_every_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    with example("instrumented_app", tmp_path) as port:
        first = value(scrape(port), GROWING)
        wait_until(lambda: value(scrape(port), GROWING) > first)

    class Enough(Exception):
        pass

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise Enough

    monkeypatch.setattr(time, "sleep", pause)
    monkeypatch.setattr(prometheus_client, "start_http_server", lambda port: None)
    application = runpy.run_path(str(ROOT / "examples" / "instrumented_app.py"))
    with pytest.raises(Enough):
        application["main"]()
    prometheus_client.REGISTRY.unregister(application["PROCESSED"])
    assert pauses == [2, 2, 2]


def test_smallest_exporter_exposes_one_counter(tmp_path: Path) -> None:
    with example("smallest_exporter", tmp_path) as port:
        lines = scrape(port).splitlines()
    assert lines[0].startswith(f"# HELP {STILL} ")
    assert lines[1:] == [f"# TYPE {STILL} counter", f'{STILL}{{date="Thursday"}} 1622']


def test_prometheus_scrapes_both_examples(tmp_path: Path) -> None:
    with example("instrumented_app", tmp_path) as growing, example("smallest_exporter", tmp_path) as still:
        jobs = [{"job_name": "app", "static_configs": [{"targets": [f"127.0.0.1:{growing}", f"127.0.0.1:{still}"]}]}]
        config = tmp_path / "prometheus.yml"
        config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
        with exporters.prometheus(tmp_path, f"--config.file={config.name}") as prometheus:
            asyncio.run(_arrives(prometheus))


async def _arrives(prometheus: exporters.Server) -> None:
    await wait_for_value(prometheus, f"count({GROWING} >= 2)", 1)
    await wait_for_value(prometheus, f'count({STILL}{{date="Thursday"}} == 1622)', 1)
    await wait_for_value(prometheus, 'sum(up{job="app"})', 2)


def test_exporter_prober_probes_both_examples(tmp_path: Path) -> None:
    """The application has no lint findings; the smallest exporter has a counter with an unusual name."""
    with (
        example("instrumented_app", tmp_path) as growing,
        example("smallest_exporter", tmp_path) as still,
        exporters.ours(tmp_path) as exporter,
    ):
        for port, findings, samples in ((growing, 0, 12), (still, 1, 1)):
            text = asyncio.run(exporter.probe("exporter", f"localhost:{port}")).text
            assert value(text, "probe_success") == 1
            assert value(text, "probe_exporter_healthy") == 1
            assert sum_of(text, "probe_exporter_lint_findings") == findings
            assert f'probe_exporter_samples{{type="counter"}} {samples}\n' in text
        strict = asyncio.run(exporter.probe("exporter_strict", f"localhost:{still}")).text
        assert 'probe_failure_info{phase="lint",reason="exporter_lint"} 1\n' in strict


def sum_of(text: str, name: str) -> float:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)
