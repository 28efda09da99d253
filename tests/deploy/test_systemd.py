"""The systemd units: systemd accepts them, they confine the exporter, and the exporter works within them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exporters import _environment
from tests.http_client import ask
from tests.processes import free_port, having_said, running
from tests.programs import find

pytestmark = pytest.mark.slow

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
INSTALLED = "/opt/probe-exporter/bin/probe-exporter"
PYTHON_MODULE = [sys.executable, "-m", "probe_exporter"]

MAX_EXPOSURE = 1.3
"""`systemd-analyze security` counts from 0 (confined) to 10 (exposed). What is left are the network, /proc and a root
directory of the service's own."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Return a directory with the units, whose program exists on this machine."""
    for unit in UNITS.glob("probe-exporter.*"):
        text = unit.read_text(encoding="utf-8").replace(INSTALLED, sys.executable)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    return tmp_path


def read(name: str) -> dict[str, list[str]]:
    """Return the settings of a unit, each with all its values in order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        if (parsed := re.fullmatch(r"(\w+)=(.*)", line)) is not None:
            found.setdefault(parsed[1], []).append(parsed[2])
    return found


def started(*arguments: str) -> list[str]:
    """Return the command of the service with these ARGS, as systemd would run it."""
    words = read("probe-exporter.service")["ExecStart"][0].replace("%H", "host.example").split()
    assert words[0] == INSTALLED
    assert words[-1] == "$ARGS"
    return [*PYTHON_MODULE, *words[1:-1], *arguments]


def test_units_are_accepted_by_systemd(units: Path) -> None:
    done = subprocess.run(
        [find("systemd-analyze"), "verify", *map(str, sorted(units.iterdir()))], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_service_is_confined(units: Path) -> None:
    threshold = f"--threshold={MAX_EXPOSURE * 10:.0f}"
    unit = units / "probe-exporter.service"
    command = [find("systemd-analyze"), "security", "--offline=true", threshold, str(unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    overall = re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    assert overall is not None
    assert float(overall[1]) <= MAX_EXPOSURE


def test_service_has_no_capability_and_waits_for_the_drain() -> None:
    service = read("probe-exporter.service")
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == [""]
    assert service["TimeoutStopSec"] == ["25"]


def test_service_serves_the_sockets_of_its_socket_unit(tmp_path: Path) -> None:
    assert read("probe-exporter.socket")["ListenStream"] == ["9115"]
    port, log = free_port(), tmp_path / "log"
    activate = [
        find("systemd-socket-activate"),
        f"--listen=127.0.0.1:{port}",
        "-E",
        "PYTHONPATH",
        *started("--workers=2"),
    ]
    with running(activate, tmp_path, log, having_said("Listening on", log), environment=_environment()):
        target = f"127.0.0.1:{port}"
        answer = ask(port, f"/probe?module=http_2xx&target={target}/-/healthy")
        assert b"probe_success 1\n" in answer.body
