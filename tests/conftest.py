"""Hooks for all tests: `async def` tests, ids, order, no skipping in CI. Fixtures are in `tests.fixtures`."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import warnings
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

IN_CI = os.environ.get("CI") == "true"

MAX_ASYNC_TEST_SECONDS = 300.0
"""An asynchronous test that takes longer fails. This only ends a test that hangs: no test is judged by its duration."""

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
NewLoop = Callable[[], asyncio.AbstractEventLoop]

pytest_plugins = ["tests.repeating", "tests.first_cases"]

FIXTURES = [
    "tests.fixtures",
    *[f"tests.servers.{path.stem}" for path in sorted(Path(__file__).parent.glob("servers/[!_]*.py"))],
]
"""Each file of servers has the fixture that starts its server."""


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures where tests run. The process that only starts those of pytest-xdist begins a second earlier."""
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        for name in FIXTURES:
            config.pluginmanager.import_plugin(name)


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
