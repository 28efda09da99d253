"""Find programs that the tests of deploy/ run."""

from __future__ import annotations

import os
import shutil

import pytest


def find(name: str) -> str:
    """Return the path of a program. If it is not installed, skip the test; in CI, fail it."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found
