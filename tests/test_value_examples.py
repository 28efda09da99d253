"""Tests of examples/values.yml: the metrics are those of docs/values-from-answers.md and reach a Prometheus."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from examples.json_health import HEALTH
from tests import exporters
from tests.exporters import ROOT, ours
from tests.peers.test_prometheus import ask, wait_for_value
from tests.test_examples import example

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "values-from-answers.md").read_text(encoding="utf-8")
SHOWN = re.search(r"```\n(app_.*?)```", PAGE, re.DOTALL)


def test_values_page_shows_the_example() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert json.loads(shown) == HEALTH
    (metric,) = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
    module = yaml.safe_load((ROOT / "examples" / "values.yml").read_text())["modules"]["app_health"]
    assert metric in module["http"]["metrics"]


def test_values_example_reaches_prometheus(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "values.yml", tmp_path)
    with (
        example("json_health", tmp_path) as port,
        ours(tmp_path, "--config.file=values.yml", "--timeout-offset=0") as exporter,
    ):
        assert SHOWN is not None
        answer = asyncio.run(exporter.probe("app_health", f"127.0.0.1:{port}/health"))
        found = [line for line in answer.text.splitlines() if line.startswith("app_")]
        assert found == SHOWN[1].splitlines()
        job = {
            "job_name": "app",
            "metrics_path": "/probe",
            "params": {"module": ["app_health"], "target": [f"127.0.0.1:{port}/health"]},
            "static_configs": [{"targets": [f"127.0.0.1:{exporter.port}"]}],
        }
        config = tmp_path / "prometheus.yml"
        config.write_text(yaml.safe_dump({"global": {"scrape_interval": "2s"}, "scrape_configs": [job]}))
        with exporters.prometheus(tmp_path, f"--config.file={config.name}") as prometheus:
            asyncio.run(_arrives(prometheus))


async def _arrives(prometheus: exporters.Server) -> None:
    await wait_for_value(prometheus, 'count(app_queue_jobs{queue="mail"} == 17)', 1)
    await wait_for_value(prometheus, "count(app_check_ok == 0)", 1)
    data = await ask(prometheus, "metadata", metric="app_requests")  # the family, in OpenMetrics
    assert data["app_requests"][0]["type"] == "counter"
