"""Fixtures for all tests: event loops, shared certificates, hypothesis' profile. `tests.conftest` loads this file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from probe_exporter.config import loading
from probe_exporter.prober.declaration import Prober
from probe_exporter.settings.block import Settings
from probe_exporter.values import pool
from tests import forkserver
from tests.clocks import Clock, clock
from tests.conftest import IN_CI, NewLoop
from tests.targets import Pki

__all__ = ["clock"]  # a fixture

os.environ.setdefault("GOGC", "800")
"""Prometheus, promtool and the original spend a quarter of their time on collecting garbage of some MiB without it."""

# A slow machine must not fail a property: no deadline, no check of the speed. CI uses the same examples each time.
settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=IN_CI, print_blob=True
)
settings.load_profile("suite")


@pytest.fixture
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    """Return the factory of an asynchronous test's event loop: uvloop, as in production. A file may override it.

    A test that uses the fixture `clock` runs on the loop of that clock.
    """
    if "clock" not in request.fixturenames:
        return uvloop.new_event_loop
    clock: Clock = request.getfixturevalue("clock")
    return clock.new_loop


@pytest.fixture(scope="session", autouse=True)
def _models_are_built_once() -> None:
    """Keep the model of a file for other files with the same probers.

    Thousands of cases load a file of one module. Without this, two thirds of their time would go into models.
    """
    build, built = loading.file_model, dict[object, type[Settings]]()

    def file_model(used: Mapping[str, Prober[Any]], known: Iterable[str] = ()) -> type[Settings]:
        key = tuple(used.items()), tuple(known)
        if key not in built:
            built[key] = build(used, known)
        return built[key]

    loading.file_model = file_model


@pytest.fixture(scope="session", autouse=True)
def _processes_end_with_the_session() -> Iterator[None]:
    """End the fork server and idle helper processes: Python warns of their sockets if they are open when it exits."""
    yield
    forkserver.stop()
    while pool._idle:
        pool._idle.pop().kill()


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Return the certificates that tests share, made once a session."""
    return Pki(tmp_path_factory.mktemp("pki"))
