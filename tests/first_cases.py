"""Run the first case of each parametrised test alone: `pytest --first-cases`.

.ci/pythons does so on the newest Python, where code may behave differently, and does not need all rows of each table.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--first-cases`."""
    parser.addoption("--first-cases", action="store_true", help="of each parametrised test, run the first case alone")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the other cases, after `-m` and `-k` have selected."""
    if not config.getoption("--first-cases"):
        return
    firsts = {_test(item): item for item in reversed(items)}
    others = [item for item in items if firsts[_test(item)] is not item]
    items[:] = [item for item in items if firsts[_test(item)] is item]
    config.hook.pytest_deselected(items=others)


def _test(item: pytest.Item) -> str:
    """Return what the ids of all cases of a test have in common."""
    return item.nodeid.partition("[")[0]
