"""Fixtures and hooks for all tests: the event loop of `async def` tests, hypothesis' profile, no skipping in CI."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from probe_exporter.config import loading
from probe_exporter.prober.declaration import Prober
from probe_exporter.settings.block import Settings
from probe_exporter.values import pool
from tests import forkserver
from tests.clocks import Clock, clock
from tests.targets import Pki

__all__ = ["clock"]  # a fixture

IN_CI = os.environ.get("CI") == "true"

os.environ.setdefault("GOGC", "800")
"""Prometheus, promtool and the original spend a quarter of their time on collecting garbage of some MiB without it."""

MAX_ASYNC_TEST_SECONDS = 300.0
"""An asynchronous test that takes longer fails. This only ends a test that hangs: no test is judged by its duration."""

# A slow machine must not fail a property: no deadline, no check of the speed. CI uses the same examples each time.
settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=IN_CI, print_blob=True
)
settings.load_profile("suite")

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
NewLoop = Callable[[], asyncio.AbstractEventLoop]

pytest_plugins = [
    "tests.repeating",
    "tests.first_cases",
    *[f"tests.servers.{path.stem}" for path in sorted(Path(__file__).parent.glob("servers/[!_]*.py"))],
]
"""Each file of servers has the fixture that starts its server."""


@pytest.fixture
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    """Return the factory of an asynchronous test's event loop: uvloop, as in production. A file may override it.

    A test that uses the fixture `clock` runs on the loop of that clock.
    """
    if "clock" not in request.fixturenames:
        return uvloop.new_event_loop
    clock: Clock = request.getfixturevalue("clock")
    return clock.new_loop


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run a coroutine test on an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    new_loop: NewLoop = pyfuncitem._request.getfixturevalue("new_loop")
    runner = asyncio.Runner(loop_factory=new_loop)
    try:
        runner.run(asyncio.wait_for(pyfuncitem.obj(**arguments), MAX_ASYNC_TEST_SECONDS))
    finally:
        _close(runner)
    return True


def _close(runner: asyncio.Runner) -> None:
    """Close an event loop; fail if the test left something open.

    The warnings are raised only afterwards: uvloop drops an error that it meets while it closes what is open, leaves
    the rest open, and waits for it without end.
    """
    with warnings.catch_warnings(record=True) as left_open:
        warnings.simplefilter("always")
        runner.close()
    for warning in left_open:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


MAX_ID_CHARS = 60


def pytest_make_parametrize_id(val: object) -> str | None:
    """Describe mappings and sequences in the ids of tests, which pytest would only number."""
    if not isinstance(val, Mapping | list | tuple):
        return None
    return _words(val)[:MAX_ID_CHARS].encode("unicode_escape").decode() or None


def _words(value: object) -> str:
    """Return a text that is the same in each test process, so without addresses of objects and the order of sets."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)}: {_words(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    if value is None or isinstance(value, str | bytes | int | float):
        return str(value)
    return str(getattr(value, "__name__", type(value).__name__))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector, which would find nothing, at a fifth of the time of collecting."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first: at the end, the other processes would have nothing left and wait for one."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from the tests themselves: hundreds of them call it, at a quarter of a second each.

    Garbage of the collection is kept, too. It is some megabytes, and would take half a second in each process.
    """
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that hypothesis runs with a hundred examples, so that `make quick` leaves them out.

    Refuse ids with the address of an object: they differ from process to process, and pytest-xdist needs the same.
    """
    if " at 0x" in item.nodeid:
        raise pytest.UsageError(f"the id has an address, so that it changes from process to process: {item.nodeid}")
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        item.add_marker("generated")


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail skipped tests where ``CI=true``: everything is installed there, so each promise can be checked."""
    report = yield
    return _refuse_skipping(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail skipped test files where ``CI=true``."""
    report = yield
    return _refuse_skipping(report)


def _refuse_skipping(report: Report) -> Report:
    expected = hasattr(report, "wasxfail")
    if report.skipped and not expected and IN_CI:
        report.outcome = "failed"
        report.longrepr = f"Skipped, but CI=true allows no skipped test: {report.longrepr}"
    return report
