"""A page of metrics as its readers take it in: families, and of their samples what is counted, judged or kept.

Readers are generators that yield after every few samples, so that whoever reads a large page can let others run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Labels = tuple[tuple[str, str], ...]

TYPES = ("counter", "gauge", "histogram", "summary", "gaugehistogram", "info", "stateset", "unknown")
"""What a family can be; ``unknown`` is what the text format calls untyped."""

STEP = 64
"""Samples that a reader takes between two yields: less than a millisecond of work."""


class Malformed(ValueError):
    """The page is not of its format; the message says where and why."""


class TooManySamples(Exception):
    """The page has more samples than are allowed."""


class Sample(NamedTuple):
    """One sample that somebody wants to keep, and the type of its family."""

    name: str
    labels: Labels
    value: float
    type: str


class Family:
    """One family of a page.

    Attributes:
        name: as its samples have it, but for what histograms and summaries add: a counter's with ``_total``.
        type: one of `TYPES`.
        help: whether it has a text that is not empty.
        samples: how many.
        labels: the names of all labels; ``le`` and ``quantile`` only where they do not belong to the type.
        duplicates: how many samples repeat a series that was there before.
    """

    __slots__ = ("duplicates", "help", "labels", "name", "samples", "type")

    def __init__(self, name: str, type: str = "unknown") -> None:
        self.name = name
        self.type = type
        self.help = False
        self.samples = 0
        self.labels: set[str] = set()
        self.duplicates = 0


class Selection:
    """Samples that somebody wants to keep.

    Attributes:
        kept: those that there was room for.
        left_out: how many others had a name that fits.
    """

    def __init__(self, wanted: Callable[[Sample], bool], names: Callable[[str], bool], room: int) -> None:
        """
        Args:
            wanted: whether a sample is.
            names: whether samples of a name can be; asked once for each name.
            room: how many are kept at most.
        """
        self.kept: list[Sample] = []
        self.left_out = 0
        self.names = names
        self._wanted = wanted
        self._room = room

    def take(self, sample: Sample) -> None:
        """Keep a sample, if it is wanted and there is room."""
        if len(self.kept) < self._room and self._wanted(sample):
            self.kept.append(sample)
        else:
            self.left_out += 1


class Page:
    """What has been read of a page.

    Attributes:
        families: in the order in which they came.
        samples: how many.
    """

    def __init__(self, limit: int, *selections: Selection) -> None:
        """
        Args:
            limit: samples allowed.
            selections: what of them to keep.
        """
        self.families: list[Family] = []
        self.samples = 0
        self._limit = limit
        self._selections = selections
        self._chosen: dict[str, list[Selection]] = {}
        self._seen: set[int] = set()

    def begin(self, name: str, type: str = "unknown") -> Family:
        """A family that has not been there before."""
        family = Family(name, type)
        self.families.append(family)
        return family

    def take(self, family: Family, name: str, labels: Labels, value: float, own: str = "", stamp: str = "") -> None:
        """Take in a sample.

        Args:
            own: the label that belongs to the family's type, such as ``le``.
            stamp: its time, where a page may have several samples of a series.

        Raises:
            TooManySamples: it is one too many.
        """
        self.samples += 1
        if self.samples > self._limit:
            raise TooManySamples(f"the page has more than {self._limit} samples")
        family.samples += 1
        if labels:
            family.labels.update([label for label, _ in labels if label != own])
            labels = tuple(sorted(labels)) if len(labels) > 1 else labels
        # Eight bytes stand for a series. That two of 100,000 have the same by chance happens once in 10^9 pages.
        series = hash((name, labels, stamp))
        if series in self._seen:
            family.duplicates += 1
        else:
            self._seen.add(series)
        if name not in self._chosen:
            self._chosen[name] = [one for one in self._selections if one.names(name)]
        for selection in self._chosen[name]:
            selection.take(Sample(name, labels, value, family.type))
