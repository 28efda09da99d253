"""Golden files: write and compare the outcomes of our exporter, in a form that shows a change well in review.

The first case of a table is written in full. Each other case is written as its difference from that one, so that a
response of 404 shows a status code, a failure and its reason, and nothing else.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from probe_exporter.version import VERSION
from tests.peers.cases import Case, Outcome

DIRECTORY = Path(__file__).parents[1] / "golden"
UPDATING = bool(os.environ.get("UPDATE_GOLDEN"))


class Outcomes(Protocol):
    """The outcomes of cases, by their names."""

    def __getitem__(self, name: str, /) -> Outcome: ...


def hold(path: Path, text: str) -> None:
    """Assert that a golden file has this text; with ``UPDATE_GOLDEN=1``, rewrite the file instead."""
    if UPDATING:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    pinned = path.read_text().splitlines() if path.exists() else []
    changes = list(difflib.unified_diff(pinned, text.splitlines(), path.name, "now", lineterm="", n=3))
    assert not changes, "\n".join(changes)


def different(path: Path, text: str) -> set[str]:
    """Return the names of the cases whose text is not that of a golden file."""
    pinned = _sections(path.read_text()) if path.exists() else {}
    return {name for name, section in _sections(text).items() if pinned.get(name) != section}


def _sections(text: str) -> dict[str, str]:
    """Return the text of each case, by its name."""
    return {part.partition("\n")[0]: part for part in text.rstrip("\n").split("\n\n== ")[1:]}


def render(title: str, cases: Iterable[Case], outcomes: Outcomes, plain: Case, names: Mapping[str, str]) -> str:
    """Return the text of one golden file.

    Args:
        title: describes the cases of the file.
        cases: in the order of the table.
        outcomes: by the name of the case; includes that of `plain`.
        plain: the case that the others are compared with.
        names: replacements for values that change from session to session.
    """
    rows = [f"# {title}: each case as it differs from {plain.name!r}. UPDATE_GOLDEN=1 rewrites this file."]
    base = _stable(outcomes[plain.name], names)
    for case in cases:
        if not case.pinned:
            continue
        lines = _stable(outcomes[case.name], names)
        rows += ["", f"== {case.name}", f"   {case.target}"]
        rows += [f"     {line}" for line in lines] if case is plain else _differences(base, lines)
    return "\n".join(rows) + "\n"


def _stable(outcome: Outcome, names: Mapping[str, str]) -> list[str]:
    """Return the lines, with names for values that change from session to session or from version to version."""
    pattern = re.compile("|".join(sorted(map(re.escape, names), key=len, reverse=True)) + rf"|(?<=/){VERSION}")
    lines = [pattern.sub(lambda found: names.get(found[0], "<version>"), line) for line in outcome.lines]
    # A server that closes without having read our data ends or resets the connection, depending on timing.
    return [re.sub("connect_(closed|reset)", "connect_closed|reset", line) for line in lines]


def _differences(base: list[str], lines: list[str]) -> list[str]:
    """Return changed, removed and added lines. Each further request is compared with the headers of the first."""
    first = [line.removeprefix("request 1: ") for line in base if re.match(r"request 1: [\w-]+: ", line)]
    requests = {int(found[1]) for line in lines if (found := re.match(r"request (\d+): ", line))}
    base = base + [f"request {number}: {line}" for number in sorted(requests - {1}) for line in first]
    gone = [line for line in base if line not in lines]
    came = [line for line in lines if line not in base]
    values = {_series(line): line.rpartition(" ")[2] for line in came if _series(line)}
    changed = {_series(line): line for line in gone if _series(line) in values}
    return [
        *(f"     {line} -> {values[series]}" for series, line in changed.items()),
        *(f"   - {line}" for line in gone if line not in changed.values()),
        *(f"   + {line}" for line in came if _series(line) not in changed),
    ]


def _series(line: str) -> str:
    """Return the series of a sample's line; "" for a line of a request."""
    return "" if line.startswith("request ") else line.rpartition(" ")[0]
