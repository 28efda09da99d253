"""A pytest plugin: run a test again that was too expensive, because others on the machine can only add to a cost.

`tests.cost` raises `TooExpensive`. pytest-rerunfailures does the same, but asks a server for each test where
pytest-xdist runs tests in parallel. That waits for 40 ms each, a third of the time of all tests.

It also spares pytest-xdist four of the six messages that a test process sends about each test: to send and to handle
them takes as much CPU time as half of the tests do. Left out are the begin and the end of a test, which xdist only
passes on, and the setup and the teardown of one that passes, which are reported if they take long (`--durations`).
"""

from __future__ import annotations

from collections.abc import Generator

import pytest
from _pytest.runner import runtestprotocol

from tests.cost import TooExpensive

MAX_RUNS = 3

MIN_REPORTED_SECONDS = 0.005
"""The shortest setup or teardown that is reported; `--durations` shows no shorter ones."""

_AGAIN = pytest.StashKey[bool]()
"""Whether the last run of a test was too expensive."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether a test was too expensive."""
    if call.when == "call":
        item.stash[_AGAIN] = call.excinfo is not None and call.excinfo.errisinstance(TooExpensive)
    return (yield)


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test up to `MAX_RUNS` times, with new fixtures each time; report runs that are repeated as `rerun`."""
    in_worker = hasattr(item.config, "workerinput")  # a process of pytest-xdist
    if not in_worker:
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for number in range(1, MAX_RUNS + 1):
        item.stash[_AGAIN] = False
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        again = item.stash[_AGAIN] and number < MAX_RUNS
        for report in reports:
            if again and report.when == "call":
                report.outcome = "rerun"  # type: ignore[assignment]  # an outcome of our own
            if not in_worker or _says_something(report):
                item.ihook.pytest_runtest_logreport(report=report)
        if not again:
            break
    if not in_worker:
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _says_something(report: pytest.TestReport) -> bool:
    """Return whether a report is needed. That of a short setup or teardown without an error is not."""
    return report.when == "call" or report.outcome != "passed" or report.duration >= MIN_REPORTED_SECONDS


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Show a repeated run as ``R``, and count it at the end."""
    outcome: str = report.outcome
    return ("rerun", "R", "RERUN") if outcome == "rerun" else None
