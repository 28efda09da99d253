"""What all tests share: `async def` tests run on an event loop of their own, by default uvloop as in production."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from tests.targets import Pki

LONGEST = 30.0
"""Seconds after which an asynchronous test has failed."""

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
NewLoop = Callable[[], asyncio.AbstractEventLoop]

pytest_plugins = [f"tests.servers.{path.stem}" for path in sorted(Path(__file__).parent.glob("servers/[!_]*.py"))]
"""Each brings the fixture that starts its server."""


@pytest.fixture
def new_loop() -> NewLoop:
    """Makes the event loop of an asynchronous test; a file that wants another, or several, overrides it."""
    return uvloop.new_event_loop


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run a coroutine test to its end, within reason."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    new_loop: NewLoop = pyfuncitem._request.getfixturevalue("new_loop")
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(pyfuncitem.obj(**arguments), LONGEST))
    return True


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """The zoo of certificates."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where ``CI=true`` everything is installed, so a skipped test is a promise that nobody checked."""
    report = yield
    return _refuse_skipping(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a file that skips itself."""
    report = yield
    return _refuse_skipping(report)


def _refuse_skipping(report: Report) -> Report:
    expected = hasattr(report, "wasxfail")
    if report.skipped and not expected and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"Skipped, where nothing may be: {report.longrepr}"
    return report
