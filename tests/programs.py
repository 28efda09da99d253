"""Find programs that tests run."""

from __future__ import annotations

import shutil

import pytest


def find(name: str) -> str:
    """Return the path of a program. Without it, skip the test; where ``CI=true``, `tests.conftest` fails it then."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
