"""`Page`: the families of a page of metrics, and those samples that are kept.

The readers of all formats fill a page. They are generators that yield after a little work, `STEP_BYTES`, so that the
caller can let other tasks run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

Labels = tuple[tuple[str, str], ...]

TYPES = ("counter", "gauge", "histogram", "summary", "gaugehistogram", "info", "stateset", "unknown")
"""The types of families; ``unknown`` is ``untyped`` in the text format."""

STEP_BYTES = 8192
"""Bytes of a page that a reader handles between two yields: about a millisecond of work."""

LINE_COST_BYTES = 128
"""Bytes that each line, field or message counts as in addition to its own."""

MAX_LABELS = 1000
"""Labels of one sample. Prometheus has no such limit by default; its `label_limit` is usually below 100."""

MAX_FAMILIES = 20_000
"""Families of one page. Prometheus has no such limit; large programs have a few thousand. The garbage collector takes
some 5 ms for so many."""

MAX_LABEL_NAMES = 1000
"""Names of labels that are kept of one family."""

MAX_LABEL_NAMES_OF_PAGE = 100_000
"""Names of labels that are kept of all families, and those of one sample more."""


class Malformed(ValueError):
    """The page violates its format; the message says where and how."""


class TooManySamples(Exception):
    """The page has more samples or families than allowed."""


def too_many_families() -> TooManySamples:
    """Return the error for a page with more than `MAX_FAMILIES`."""
    return TooManySamples(f"the page has more than {MAX_FAMILIES} metric families")


class Sample(NamedTuple):
    """One sample that is kept, and the type of its family."""

    name: str
    labels: Labels
    value: float
    type: str


_NO_LABELS: dict[str, None] = {}
"""The labels of all families without labels. Nothing changes it."""


class Family:
    """One family of a page.

    Attributes:
        name: that of its samples, without the suffixes of histograms and summaries: a counter's with ``_total``.
        type: one of `TYPES`.
        help: whether it has a HELP text that is not empty.
        samples: number of samples.
        labels: the names of labels, as far as they are kept: see `MAX_LABEL_NAMES` and `MAX_LABEL_NAMES_OF_PAGE`.
            Without ``le`` and ``quantile`` if they belong to the type. As in `Hashes`, a dictionary spares the garbage
            collector: 1,000 sets of 1,000 names in ten pages took it 0.1 s.
        duplicates: number of samples that repeat a series.
    """

    __slots__ = ("duplicates", "help", "labels", "name", "samples", "type")

    def __init__(self, name: str, type: str = "unknown") -> None:
        self.name = name
        self.type = type
        self.help = False
        self.samples = 0
        self.labels = _NO_LABELS
        self.duplicates = 0


class Selection:
    """Selects samples to keep.

    Attributes:
        kept: the samples.
        left_out: number of samples with a matching name that were not kept.
    """

    def __init__(self, wanted: Callable[[Sample], bool], names: Callable[[str], bool], room: int) -> None:
        """
        Args:
            wanted: returns whether to keep a sample.
            names: returns whether samples of a name can be kept; called once for each name.
            room: number of samples kept at most.
        """
        self.kept: list[Sample] = []
        self.left_out = 0
        self.names = names
        self._wanted = wanted
        self._room = room

    def take(self, sample: Sample) -> None:
        """Keep a sample if it is wanted and there is room."""
        if len(self.kept) < self._room and self._wanted(sample):
            self.kept.append(sample)
        else:
            self.left_out += 1


class Hashes:
    """A set of hashes, in parts that grow one by one: growing one of 450,000 takes 25 ms.

    A hash of eight bytes represents what was hashed. Two of 100,000 have the same once in 10^9 pages.

    A part is small, since the integers of one part lie in as many pages of memory: where each first use of a page
    takes 10 us, as on some virtual machines, freeing 1,800 at a time would take 18 ms. It is a dictionary, since the
    garbage collector ignores those of integers (up to Python 3.13), while it takes up to 100 ms for sets.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts = defaultdict[int, dict[int, None]](dict)

    def add(self, hash: int) -> bool:
        """Add a hash; return whether it is new."""
        part = self._parts[hash >> 54]  # the low bits choose a place in the part
        if hash in part:
            return False
        part[hash] = None
        return True

    def take_apart(self) -> Iterator[object]:
        """Remove one part after another."""
        while self._parts:
            yield self._parts.popitem()


class Page:
    """The part of a page that has been read.

    Attributes:
        limit: samples allowed.
        families: in the order of the page.
        samples: number of samples.
        families_by_type, samples_by_type: numbers of families with samples, and of samples.
    """

    def __init__(self, limit: int, *selections: Selection) -> None:
        """
        Args:
            limit: samples allowed.
            selections: the samples to keep.
        """
        self.limit = limit
        self.families: list[Family] = []
        self.samples = 0
        self.families_by_type = dict.fromkeys(TYPES, 0)
        self.samples_by_type = dict.fromkeys(TYPES, 0)
        self._selections = selections
        self._chosen: dict[str, list[Selection]] = {}
        self._label_names = 0
        self._hashes: list[Hashes] = []
        self._seen = self.hashes()

    def hashes(self) -> Hashes:
        """Return a new set of hashes for a reader of this page."""
        hashes = Hashes()
        self._hashes.append(hashes)
        return hashes

    def take_apart(self) -> Iterator[object]:
        """Remove one after another what may hold much memory; who drops it frees it."""
        for hashes in self._hashes:
            yield from hashes.take_apart()
        while self.families:
            yield self.families.pop()

    def begin(self, name: str, type: str = "unknown") -> Family:
        """Add a family.

        Raises:
            TooManySamples: there are too many families.
        """
        if len(self.families) == MAX_FAMILIES:
            raise too_many_families()
        family = Family(name, type)
        self.families.append(family)
        return family

    def take(self, family: Family, name: str, labels: Labels, value: float, own: str = "", stamp: str = "") -> None:
        """Add a sample.

        Args:
            own: the label that belongs to the family's type, such as ``le``.
            stamp: its timestamp, if the format allows several samples of a series.

        Raises:
            TooManySamples: there are more than the limit.
        """
        self.samples += 1
        if self.samples > self.limit:
            raise TooManySamples(f"the page has more than {self.limit} samples")
        if not family.samples:
            self.families_by_type[family.type] += 1
        family.samples += 1
        self.samples_by_type[family.type] += 1
        if labels and len(family.labels) < MAX_LABEL_NAMES and self._label_names < MAX_LABEL_NAMES_OF_PAGE:
            names = {label for label, _ in labels}
            names.discard(own)
            if not family.labels.keys() >= names:
                self._label_names -= len(family.labels)
                family.labels = {**family.labels, **dict.fromkeys(names)}
                self._label_names += len(family.labels)
        if len(labels) > 1:
            labels = tuple(sorted(labels))
        if not self._seen.add(hash((name, labels, stamp))):
            family.duplicates += 1
        if name not in self._chosen:
            self._chosen[name] = [one for one in self._selections if one.names(name)]
        for selection in self._chosen[name]:
            selection.take(Sample(name, labels, value, family.type))
