"""deploy/compose.yml: the files that it mounts are there, and its programs accept them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.exporters import peer

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICES: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text(encoding="utf-8"))["services"]

pytestmark = pytest.mark.slow


def mounted(service: str) -> list[Path]:
    """Return the files and directories of this repository that a service mounts."""
    return [DEPLOY / volume.split(":")[0] for volume in SERVICES[service]["volumes"] if volume.startswith("./")]


def test_mounted_files_exist_and_are_read_only() -> None:
    for service, settings in SERVICES.items():
        assert all(path.exists() for path in mounted(service)), mounted(service)
        assert all(volume.endswith(":ro") for volume in settings["volumes"] if volume.startswith("./"))


def test_exporter_is_confined_and_has_time_to_drain() -> None:
    exporter = SERVICES["exporter"]
    assert (exporter["read_only"], exporter["cap_drop"]) == (True, ["ALL"])
    assert exporter["stop_grace_period"] == "25s"
    assert (DEPLOY / exporter["build"]["context"] / exporter["build"]["dockerfile"]).is_file()


def test_ports_are_open_on_loopback_alone() -> None:
    ports = [port for settings in SERVICES.values() for port in settings["ports"]]
    assert len(ports) == len(SERVICES)
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_exporter_accepts_its_configuration() -> None:
    (file,) = mounted("exporter")
    command = [sys.executable, "-m", "probe_exporter", f"--config.file={file}", "--config.check", "--config.strict"]
    done = subprocess.run(command, cwd=DEPLOY.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_prometheus_accepts_its_configuration_and_rules(tmp_path: Path) -> None:
    for path in mounted("prometheus"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    command = [peer("promtool"), "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


def test_grafana_finds_dashboards() -> None:
    dashboards = next(path for path in mounted("grafana") if path.name == "dashboards")
    assert [path.name for path in dashboards.glob("*.json")]
    provider = yaml.safe_load((DEPLOY / "compose" / "grafana-dashboards.yml").read_text(encoding="utf-8"))
    (mount,) = [one for one in SERVICES["grafana"]["volumes"] if one.startswith("./mixin/dashboards:")]
    assert mount.split(":")[1] == provider["providers"][0]["options"]["path"]
