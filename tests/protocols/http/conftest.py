"""Fixtures of the tests of HTTP."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.exporters import ROOT


@pytest.fixture(scope="session")
def modules_at_start() -> frozenset[str]:
    """Return the names of the Python modules that the exporter has loaded before its first probe."""
    code = "import sys, probe_exporter.cli, probe_exporter.probers.http; print(*sys.modules)"
    started = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return frozenset(started.stdout.split())
