"""A real Prometheus finds its targets by the exporter's `/sd`, and probes them with one rule of relabeling."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests import exporters
from tests.discovery.test_dns import says
from tests.peers.test_prometheus import wait_for_value
from tests.targets.dns import DnsServer, record
from tests.web.test_routes import PLUGINS

pytestmark = pytest.mark.slow

CONFIG = """
modules:
  http_2xx: {{prober: actor}}
  act: {{prober: actor, resolver: {{servers: ["127.0.0.1:{port}"]}}}}
discovery:
  scripts: {{file: targets.yml, module: http_2xx, labels: {{team: stage}}}}
  zone: {{ns: zone.test, module: act}}
"""


def job(name: str, exporter: int) -> dict[str, object]:
    return {
        "job_name": name,
        "metrics_path": "/probe",
        "http_sd_configs": [{"url": f"http://127.0.0.1:{exporter}/sd?source={name}", "refresh_interval": "1s"}],
        "relabel_configs": [{"target_label": "__address__", "replacement": f"127.0.0.1:{exporter}"}],
    }


async def test_prometheus_discovers_and_probes(tmp_path: Path) -> None:
    zone = says([record("zone.test", "NS", "ns1.test."), record("zone.test", "NS", "ns2.test.")])
    targets = tmp_path / "targets.yml"
    targets.write_text("- {targets: [ok, fail]}\n")
    async with DnsServer(zone) as server:
        (tmp_path / "blackbox.yml").write_text(CONFIG.format(port=server["port"]))
        with exporters.ours(tmp_path, f"--modules.dir={PLUGINS}", "--timeout-offset=0") as exporter:
            jobs = [job(name, exporter.port) for name in ("scripts", "zone")]
            config = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
            (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
            with exporters.prometheus(tmp_path, "--config.file=prometheus.yml") as prometheus:
                await wait_for_value(prometheus, 'probe_success{instance="ok", job="scripts", team="stage"}', 1)
                await wait_for_value(prometheus, 'probe_success{instance="fail", job="scripts", team="stage"}', 0)
                await wait_for_value(prometheus, 'count(up{job="zone"} == 1)', 2)
                targets.write_text("- {targets: [ok, fail, more]}\n")
                await wait_for_value(prometheus, 'probe_success{instance="more"}', 1)
