"""Event loops of the tests of HTTP: uvloop, or one that skips idle time for a test that asks for `clock`."""

from __future__ import annotations

import pytest

from tests.conftest import NewLoop
from tests.targets.clock import Clock, clock

__all__ = ["clock"]


@pytest.fixture
def new_loop(request: pytest.FixtureRequest, new_loop: NewLoop) -> NewLoop:
    """Make the loop of `clock` for a test that uses it."""
    if "clock" not in request.fixturenames:
        return new_loop
    clock: Clock = request.getfixturevalue("clock")
    return clock.new_loop
