"""Summarise the history for the status page: of each module and target the state, since when, and the last results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from probe_exporter.history.record import HistoryEntry

MAX_RESULTS = 30
"""Results of one target in its strip."""


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """The state of one module and target.

    Args:
        results: the newest results, newest first, at most `MAX_RESULTS`.
        since: Unix seconds at which the first of the latest equal results began.
        known: whether the history has the result before that one. If not, the state may have begun earlier.
    """

    results: tuple[HistoryEntry, ...]
    since: float
    known: bool

    @property
    def latest(self) -> HistoryEntry:
        """The newest result."""
        return self.results[0]

    @property
    def success(self) -> bool:
        return self.latest.success


class _StatusBuilder:
    """A `TargetStatus` while entries are added, newest first."""

    __slots__ = ("known", "results", "since")

    def __init__(self, latest: HistoryEntry) -> None:
        self.results = [latest]
        self.since = latest.started
        self.known = False

    def add(self, entry: HistoryEntry) -> None:
        if len(self.results) < MAX_RESULTS:
            self.results.append(entry)
        if not self.known:
            if entry.success == self.results[0].success:
                self.since = entry.started
            else:
                self.known = True


def summarise(entries: Iterable[HistoryEntry]) -> list[TargetStatus]:
    """Return the state of each module and target: failures first, those that failed last before the others.

    Args:
        entries: newest first.
    """
    found: dict[tuple[str, str], _StatusBuilder] = {}
    for entry in entries:
        key = entry.module, entry.target
        builder = found.get(key)
        if builder is None:
            found[key] = _StatusBuilder(entry)
        else:
            builder.add(entry)
    states = [TargetStatus(tuple(one.results), one.since, one.known) for one in found.values()]
    states.sort(key=lambda state: (state.success, -state.since if not state.success else 0.0, _name(state)))
    return states


def _name(state: TargetStatus) -> tuple[str, str]:
    return state.latest.target, state.latest.module


class Strip(NamedTuple):
    """The results of a target as a picture: SVG paths of bars, the newest at the right, and the text for it.

    A failure is a bar of full height and a success one of half the height, so the colour is not needed.
    """

    good: str
    bad: str
    text: str


BAR_WIDTH, BAR_STEP, BAR_HEIGHT = 5, 7, 20
"""The bars of a `Strip`, in units of its SVG, which is `MAX_RESULTS * BAR_STEP` wide."""


def strip(state: TargetStatus) -> Strip:
    """Return the picture of the results of a target."""
    bars: tuple[list[str], list[str]] = ([], [])
    right = MAX_RESULTS * BAR_STEP
    for number, entry in enumerate(state.results, 1):
        height = BAR_HEIGHT // 2 if entry.success else BAR_HEIGHT
        left = right - number * BAR_STEP
        bars[entry.success].append(f"M{left} {BAR_HEIGHT - height}h{BAR_WIDTH}v{height}h-{BAR_WIDTH}z")
    failures = len(bars[False])
    return Strip(
        "".join(bars[True]), "".join(bars[False]), f"{failures} of the last {len(state.results)} probes failed"
    )


@dataclass(frozen=True, slots=True)
class StatusFilter:
    """What the status page shows; an empty text shows all.

    Args:
        target: a part of the target, in any case.
        result: `success` or `failure`.
    """

    module: str = ""
    target: str = ""
    result: str = ""
    reason: str = ""

    def select(self, states: Iterable[TargetStatus]) -> list[TargetStatus]:
        """Return the states that match, in the given order."""
        wanted = self.target.casefold()
        return [
            state
            for state in states
            if self.module in ("", state.latest.module)
            and wanted in state.latest.target.casefold()
            and (not self.result or state.success == (self.result == "success"))
            and self.reason in ("", state.latest.reason)
        ]
