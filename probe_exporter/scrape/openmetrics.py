"""Read OpenMetrics 1.0, as its specification has it: single spaces, families in one piece, ``# EOF`` at the end."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from probe_exporter.scrape.grammar import LABELS, NAME, QUOTED, labels, mask, number, parts, read_lines, unescape
from probe_exporter.scrape.page import (
    MAX_FAMILIES,
    TYPES,
    Family,
    Labels,
    Malformed,
    Page,
    too_many_families,
)

_SUFFIXES = {
    "counter": ("_total", "_created"),
    "summary": ("", "_count", "_sum", "_created"),
    "histogram": ("_count", "_sum", "_bucket", "_created"),
    "gaugehistogram": ("_gcount", "_gsum", "_bucket"),
    "info": ("_info",),
}
_NAMED_BY_SAMPLES = {"counter": "_total", "info": "_info"}
_OWN_LABELS = {"summary": "quantile", "histogram": "le", "gaugehistogram": "le"}
_NEVER_NEGATIVE = ("_total", "_sum", "_count", "_bucket", "_gcount")
_NEVER_NAN = (*_NEVER_NEGATIVE, "_gsum")
_WHOLE = ("_bucket", "_count", "_gcount")
_MAX_EXEMPLAR_CHARACTERS = 128

_METADATA = re.compile(rf"# (HELP|TYPE|UNIT) (?:({NAME})|({QUOTED})) (.*)", re.DOTALL)
_SAMPLE = re.compile(
    rf"({NAME})?(?:\{{({LABELS})\}})? ([^ #{{]++)(?: ([^ #]++))?(?: # \{{({LABELS})\}} ([^ ]++)(?: ([^ ]++))?)?",
    re.DOTALL,
)


def read(body: bytes, page: Page) -> Iterator[None]:
    """Read a page; yield where other tasks may run.

    Raises:
        Malformed, TooManySamples: the message says where and how.
    """
    reader = _Reader(page)
    number_of_lines = yield from read_lines(body, reader.line)
    try:
        reader.end()
    except Malformed as error:
        raise Malformed(f"after line {number_of_lines}: {error}") from None


class _Reader:
    """The page so far: the family that is being read, and the names in use."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._taken: set[str] = set()
        self._begun = 0  # families, with and without samples
        self._now: _FamilyReader | None = None
        self._ended = False

    def line(self, line: str) -> None:
        if self._ended:
            raise Malformed("there is a line after # EOF")
        if line == "# EOF":
            self._ended = True
        elif not line:
            raise Malformed("the line is empty")
        elif line.startswith("#"):
            self._metadata(line)
        else:
            self._sample(line)

    def end(self) -> None:
        """Take the end of the page."""
        self._close()
        if not self._ended:
            raise Malformed("# EOF is missing: the page may be cut off")

    def _metadata(self, line: str) -> None:
        found = _METADATA.fullmatch(mask(line))
        if found is None:
            raise Malformed(f"this is neither HELP, TYPE nor UNIT: {line[:60]!r}")
        keyword, plain, quoted, text = parts(found, line)
        name = plain or unescape((quoted or "")[1:-1], strict=True)
        family = self._now
        if family is None or family.name != name:
            family = self._begin(name)
        family.tell(keyword or "", text or "")

    def _sample(self, line: str) -> None:
        found = _SAMPLE.fullmatch(mask(line))
        if found is None:
            raise Malformed(f"this is not a sample: {line[:60]!r}")
        name, inside, value, stamp, marks, mark_value, mark_stamp = parts(found, line)
        quoted, pairs = labels(inside, strict=True) if inside else ("", ())
        if bool(name) == bool(quoted):
            raise Malformed(f"a sample has one metric name: {line[:60]!r}")
        name = name or quoted
        family = self._now
        if family is None or not family.has(name):
            family = self._begin(name)
        for time in (stamp, mark_stamp):
            if time is not None and not math.isfinite(number(time)):
                raise Malformed(f"{time[:60]!r} is not a timestamp in seconds")
        if marks is not None:
            _check_exemplar(family, name, marks, mark_value or "")
        family.take(name, pairs, number(value or ""), stamp)

    def _begin(self, name: str) -> _FamilyReader:
        self._close()
        self._begun += 1
        if self._begun > MAX_FAMILIES:
            raise too_many_families()
        self._now = family = _FamilyReader(self._page, name)
        return family

    def _close(self) -> None:
        """End the current family: no other may have a name that its samples could have."""
        family, self._now = self._now, None
        if family is None:
            return
        family.end()
        for suffix in {"", *_SUFFIXES.get(family.type, ())}:
            if f"{family.name}{suffix}" in self._taken:
                raise Malformed(f"{family.name[:60]}{suffix} belongs to two families, or to one in two pieces")
            self._taken.add(f"{family.name}{suffix}")


def _check_exemplar(family: _FamilyReader, name: str, marks: str, value: str) -> None:
    suffix = name[len(family.name) :]
    if (family.type, suffix) not in (("counter", "_total"), ("histogram", "_bucket"), ("gaugehistogram", "_bucket")):
        raise Malformed("only counters and buckets have exemplars")
    pairs = labels(marks, strict=True)[1]
    if sum(len(label) + len(text) for label, text in pairs) > _MAX_EXEMPLAR_CHARACTERS:
        raise Malformed(f"the labels of an exemplar have more than {_MAX_EXEMPLAR_CHARACTERS} characters")
    number(value)


class _FamilyReader:
    """A family whose lines are being read."""

    def __init__(self, page: Page, name: str) -> None:
        self.name = name
        self.type = "unknown"
        self._page = page
        self._told: set[str] = set()
        self._unit = ""
        self._family: Family | None = None  # set by the first sample, when the type is known
        self._help = False
        self._group: Labels | None = None
        self._groups = page.hashes()
        self._stamp: float | None = None
        self._buckets = _Buckets()

    def tell(self, keyword: str, text: str) -> None:
        """Take the text of a HELP, TYPE or UNIT line."""
        if self._family is not None:
            raise Malformed(f"{keyword} of {self.name[:60]} after its samples")
        if keyword in self._told:
            raise Malformed(f"a second {keyword} for {self.name[:60]}")
        self._told.add(keyword)
        if keyword == "HELP":
            self._help = bool(text)
        elif keyword == "UNIT":
            self._unit = text
        elif text not in TYPES:
            raise Malformed(f"{text[:60]!r} is not a metric type")
        else:
            self.type = text

    def has(self, name: str) -> bool:
        """Return whether a sample of this name belongs to the family."""
        return name.startswith(self.name) and name[len(self.name) :] in _SUFFIXES.get(self.type, ("",))

    def take(self, name: str, pairs: Labels, value: float, stamp: str | None) -> None:
        """Take a sample."""
        if self._family is None:
            self._family = self._page.begin(f"{self.name}{_NAMED_BY_SAMPLES.get(self.type, '')}", self.type)
            self._family.help = self._help
        suffix, own = name[len(self.name) :], self._own_label(name)
        _check_value(self.type, suffix, value)
        belonging = dict(pairs).get(own, "") if own else ""
        if own:
            self._check_own(own, belonging)
        self._follow(tuple(sorted([pair for pair in pairs if pair[0] != own])), stamp)
        if self.type in ("histogram", "gaugehistogram"):
            self._buckets.take(suffix, float(belonging) if suffix == "_bucket" else 0.0, value)
        own = _OWN_LABELS.get(self.type, "")
        self._page.take(self._family, name, pairs, value, own, stamp or "")

    def _own_label(self, name: str) -> str:
        """Return the label that distinguishes the samples of one group."""
        if self.type == "stateset":
            return self.name
        parts = {"summary": "", "histogram": "_bucket", "gaugehistogram": "_bucket"}
        return _OWN_LABELS[self.type] if parts.get(self.type) == name[len(self.name) :] else ""

    def _check_own(self, label: str, value: str) -> None:
        if self.type == "stateset":
            if not value:
                raise Malformed(f"a state set must have the label {label[:60]}")
            return
        bound = number(value) if value else float("nan")
        good = 0 <= bound <= 1 if label == "quantile" else bound == bound
        if not good or (bound == float("inf") and value != "+Inf"):
            raise Malformed(f"{value[:60]!r} is not valid for the label {label[:60]}")

    def _follow(self, group: Labels, stamp: str | None) -> None:
        """Check that the samples of a group stand together, in the order of their timestamps."""
        if self.type == "info":
            group = ()
        time = None if stamp is None else float(stamp)
        if group == self._group:
            if (time is None) != (self._stamp is None):
                raise Malformed("only some samples of a group have a timestamp")
            if time is not None and self._stamp is not None and time < self._stamp and self.type != "info":
                raise Malformed("timestamps go backwards")
        elif not self._groups.add(hash(group)):
            raise Malformed("the samples of a group do not stand together")
        if (group, time) != (self._group, self._stamp):
            self._buckets.end()
        self._group, self._stamp = group, time

    def end(self) -> None:
        """Take the end of the family."""
        self._buckets.end()
        if self._unit and not self.name.endswith(f"_{self._unit}"):
            raise Malformed(f"{self.name[:60]} does not end in its unit, {self._unit[:60]}")
        if self._unit and self.type in ("info", "stateset"):
            raise Malformed(f"{self.name[:60]} is of type {self.type}, which has no unit")


def _check_value(type: str, suffix: str, value: float) -> None:
    if value != value and suffix in _NEVER_NAN:
        raise Malformed("a counter, count or sum can't be NaN")
    if value < 0 and suffix in _NEVER_NEGATIVE:
        raise Malformed("a counter, count or sum can't be negative")
    if suffix in _WHOLE and type != "unknown" and not float(value).is_integer():
        raise Malformed("a count must be a whole number")
    if type == "info" and value != 1:
        raise Malformed("the value of an info must be 1")
    if type == "stateset" and value not in (0, 1):
        raise Malformed("a state must be 0 or 1")
    if type == "summary" and not suffix and value < 0:
        raise Malformed("a quantile can't be negative")


class _Buckets:
    """The buckets, count and sum of one histogram."""

    def __init__(self) -> None:
        self._begun = False
        self._forget()

    def _forget(self) -> None:
        self._begun = False
        self._bound: float | None = None
        self._value = 0.0
        self._count: float | None = None
        self._sums: set[str] = set()
        self._negative = False  # a bucket
        self._negative_sum = False

    def take(self, suffix: str, bound: float, value: float) -> None:
        """Take a sample of the histogram."""
        if suffix == "_created":
            return
        self._begun = True
        if suffix == "_bucket":
            if self._bound is not None and bound < self._bound:
                raise Malformed("buckets are not in increasing order")
            if value < self._value:
                raise Malformed("a bucket has a lower count than the one below it")
            self._bound, self._value = bound, value
            self._negative |= bound < 0
        elif suffix in ("_count", "_gcount"):
            self._count = value
        else:
            self._sums.add(suffix)
            self._negative_sum |= value < 0

    def end(self) -> None:
        """Take the end of the histogram."""
        if self._begun:
            self._check()
        self._forget()

    def _check(self) -> None:
        if self._bound != float("inf"):
            raise Malformed("a histogram has no bucket +Inf")
        if self._count is not None and self._count != self._value:
            raise Malformed("the count of a histogram differs from its bucket +Inf")
        if bool(self._sums) != (self._count is not None):
            raise Malformed("a histogram must have both count and sum, or neither")
        if self._negative and "_sum" in self._sums:
            raise Malformed("a histogram with negative buckets can't have a sum")
        if not self._negative and self._negative_sum:
            raise Malformed("a histogram without negative buckets can't have a negative sum")
