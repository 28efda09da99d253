"""Read the text format (0.0.4, and 1.0.0 with quoted names), as strictly as Prometheus' client library.

The scraper of Prometheus accepts some pages that violate the format, such as a TYPE after its samples; promtool and
this reader do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from probe_exporter.scrape.grammar import LABELS, NAME, QUOTED, labels, mask, number, parts, read_lines, unescape, whole
from probe_exporter.scrape.page import Family, Labels, Malformed, Page

_TYPES = {
    "COUNTER": "counter",
    "GAUGE": "gauge",
    "HISTOGRAM": "histogram",
    "SUMMARY": "summary",
    "GAUGE_HISTOGRAM": "gaugehistogram",
    "GAUGEHISTOGRAM": "gaugehistogram",
    "UNTYPED": "unknown",
}
_PARTS = {
    "summary": ("_sum", "_count"),
    "histogram": ("_bucket", "_sum", "_count"),
    "gaugehistogram": ("_bucket", "_sum", "_count"),
}
"""Suffixes that the samples of a family may have."""

OWN_LABELS = {"summary": "quantile", "histogram": "le", "gaugehistogram": "le"}
"""Labels that belong to a type."""

_SAMPLE = re.compile(rf"[ \t]*+({NAME})?[ \t]*+(?:\{{({LABELS})\}})?[ \t]*+([^ \t]++)(?:[ \t]++([^ \t]++))?", re.DOTALL)
_KEYWORD = re.compile(r"[ \t]*+#[ \t]*+(HELP|TYPE)(?:[ \t]++|$)(.*)", re.DOTALL)
_METADATA = re.compile(rf"(?:({NAME})|({QUOTED}))(?:[ \t]++(.*))?", re.DOTALL)
_HELP_ESCAPES = "n\\"


def read(body: bytes, page: Page) -> Iterator[None]:
    """Read a page; yield where other tasks may run.

    Raises:
        Malformed, TooManySamples: the message says where and how.
    """
    yield from read_lines(body, _Reader(page).line)


class _Reader:
    """The families of the page so far."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._families: dict[str, Family] = {}
        self._typed: set[str] = set()  # with a TYPE, or with samples, after which no TYPE may come
        self._helped: set[str] = set()

    def line(self, line: str) -> None:
        stripped = line.lstrip(" \t")
        if stripped.startswith("#"):
            self._comment(line)
        elif stripped:
            self._sample(line)

    def _comment(self, line: str) -> None:
        keyword = _KEYWORD.fullmatch(line)
        if keyword is None or not keyword[2]:
            return  # a comment
        found = _METADATA.fullmatch(mask(keyword[2]))
        if found is None:
            raise Malformed(f"{keyword[1]} without a metric name")
        plain, quoted, text = parts(found, keyword[2])
        if text is None:
            return
        family = self._family(plain or unescape((quoted or "")[1:-1], strict=False))
        if text:
            (self._help if keyword[1] == "HELP" else self._type)(family, text)

    def _help(self, family: Family, text: str) -> None:
        if family.name in self._helped:
            raise Malformed(f"a second HELP for {family.name[:60]}")
        self._helped.add(family.name)
        family.help = bool(unescape(text, strict=False, known=_HELP_ESCAPES))

    def _type(self, family: Family, text: str) -> None:
        if family.name in self._typed:
            raise Malformed(f"a second TYPE for {family.name[:60]}, or one after its samples")
        if text.upper() not in _TYPES:
            raise Malformed(f"{text[:60]!r} is not a metric type")
        self._typed.add(family.name)
        family.type = _TYPES[text.upper()]

    def _family(self, name: str) -> Family:
        """Return the family of a sample's name, which may have the suffix of a histogram or summary."""
        family = self._families.get(name)
        if family is not None:
            return family
        base, separator, part = name.rpartition("_")
        owner = self._families.get(base) if separator else None
        if owner is not None and f"_{part}" in _PARTS.get(owner.type, ()):
            return owner
        self._families[name] = family = self._page.begin(name)
        return family

    def _sample(self, line: str) -> None:
        found = _SAMPLE.fullmatch(mask(line))
        if found is None:
            raise Malformed(f"this is not a sample: {line[:60]!r}")
        name, inside, value, stamp = parts(found, line)
        pairs: Labels = ()
        if inside:
            quoted, pairs = labels(inside, strict=False)
            if quoted and name:
                raise Malformed(f"a sample has two names: {name[:60]} and {quoted[:60]}")
            name = name or quoted
        if not name:
            raise Malformed(f"a sample has no metric name: {line[:60]!r}")
        family = self._family(name)
        self._typed.add(family.name)
        own = OWN_LABELS.get(family.type, "")
        for label, text in pairs:
            if label == own:
                number(text)
        if stamp is not None:
            whole(stamp)
        self._page.take(family, name, pairs, number(value or ""), own)
