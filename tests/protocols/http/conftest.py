"""Event loops of the tests of HTTP: uvloop, or one that skips idle time for a test that asks for `clock`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import NewLoop
from tests.exporters import ROOT
from tests.targets.clock import Clock, clock

__all__ = ["clock"]


@pytest.fixture
def new_loop(request: pytest.FixtureRequest, new_loop: NewLoop) -> NewLoop:
    """Make the loop of `clock` for a test that uses it."""
    if "clock" not in request.fixturenames:
        return new_loop
    clock: Clock = request.getfixturevalue("clock")
    return clock.new_loop


@pytest.fixture(scope="session")
def modules_at_start() -> frozenset[str]:
    """Return the names of the Python modules that the exporter has loaded before its first probe."""
    code = "import sys, probe_exporter.cli, probe_exporter.probers.http; print(*sys.modules)"
    started = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return frozenset(started.stdout.split())
