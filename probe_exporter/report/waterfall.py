"""The phases of a probe as a waterfall: when each began, how long it took, and what it dealt with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from probe_exporter.settings.fields import shorten

MAX_BARS = 100
"""Bars of one waterfall; a prober may enter phases in a loop."""

MAX_ABOUT_CHARACTERS = 300


class Bar(NamedTuple):
    """One phase.

    Attributes:
        start: seconds since the probe began.
        seconds: its duration.
        about: an address, a host name or a URL that it dealt with; may be empty.
        depth: number of phases around it.
        failed: whether it ended with an error.
        left, width: place and size in percent of the probe's duration; a bar is never thinner than one percent.
    """

    name: str
    start: float
    seconds: float
    about: str
    depth: int
    failed: bool
    left: float
    width: float


def bars(phases: Sequence[Mapping[str, Any]], duration: float) -> list[Bar]:
    """Return the bars of a probe's phases, in the order of their start.

    Two phases of one name within each other are one bar: probers time a phase around a function that times it too.

    Args:
        phases: as `history.details` writes them.
        duration: of the probe, in seconds.
    """
    whole = max([duration, *(phase["start"] + phase["seconds"] for phase in phases)], default=duration) or 1.0
    found: list[Bar] = []
    around: list[Bar] = []
    # A phase around another begins no later and ends no earlier, so it comes first.
    for phase in sorted(phases, key=lambda phase: (phase["start"], -phase["seconds"])):
        if len(found) == MAX_BARS:
            break
        bar = _bar(phase, whole)
        while around and not _contains(around[-1], bar):
            around.pop()
        if around and around[-1].name == bar.name:
            outer = around[-1]
            merged = outer._replace(about=outer.about or bar.about, failed=outer.failed or bar.failed)
            found[found.index(outer)] = around[-1] = merged
            continue
        bar = bar._replace(depth=len(around))
        around.append(bar)
        found.append(bar)
    return found


def _bar(phase: Mapping[str, Any], whole: float) -> Bar:
    start, seconds, about = phase["start"], phase["seconds"], phase["about"]
    left = min(max(100 * start / whole, 0.0), 99.0)
    return Bar(
        name=phase["name"],
        start=start,
        seconds=seconds,
        about=shorten(about, MAX_ABOUT_CHARACTERS),
        depth=0,
        failed=phase["failed"],
        left=round(left, 2),
        width=round(min(max(100 * seconds / whole, 1.0), 100.0 - left), 2),
    )


def _contains(outer: Bar, inner: Bar) -> bool:
    """Whether a phase is within another; times are rounded to microseconds."""
    rounding = 2e-6
    return inner.start + inner.seconds <= outer.start + outer.seconds + rounding and inner.start < (
        outer.start + outer.seconds
    )
