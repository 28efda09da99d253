"""What the text formats have in common: names, labels, escapes and numbers, each read by an expression that is linear.

(Possessive are only its character classes: Python 3.11 before 3.11.5 matches possessive groups wrongly.)

Names beyond ASCII stand in quotes (Prometheus 3, "UTF-8 support"), the metric's among the labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from probe_exporter.scrape.page import Labels, Malformed

LONGEST_LINE = 256 * 1024
"""Bytes of the longest line that is read."""

CHUNK = 64 * 1024
"""Bytes that are decoded at a time."""

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*+"
QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*"'
LABELS = rf'[^"{{}}]*+(?:{QUOTED}[^"{{}}]*+)*'
"""What stands between braces."""

_LABEL = rf"(?:(?P<name>[a-zA-Z_][a-zA-Z0-9_]*+)|(?P<quoted>{QUOTED}))"
_TERM = re.compile(rf"{_LABEL}[ \t]*+(?:=[ \t]*+(?P<value>{QUOTED})[ \t]*+)?(?:,[ \t]*+|$)")
_STRICT_TERM = re.compile(rf"{_LABEL}(?:=(?P<value>{QUOTED}))?(?:,(?=.)|$)")
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_MEANINGS = {"n": "\n", "\\": "\\", '"': '"'}
_NUMBER = re.compile(
    r"[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:e[-+]?[0-9]++)?|[-+]?inf(?:inity)?|nan", re.IGNORECASE | re.ASCII
)
_COUNT = re.compile(r"[-+]?[0-9]{1,19}")


def lines(body: bytes) -> Iterator[str]:
    """The lines of a page, without their ends.

    Raises:
        Malformed: the last one does not end, one is too long, or not UTF-8.
    """
    start, number = 0, 0
    while start < len(body):
        end = body.rfind(b"\n", start, start + CHUNK) + 1 or body.find(b"\n", start + CHUNK, start + LONGEST_LINE) + 1
        if not end:
            why = "is too long" if len(body) - start > LONGEST_LINE else "does not end: the page is cut off"
            raise Malformed(f"line {number + 1 + body.count(bytes([10]), start)} {why}")
        try:
            found = body[start:end].decode().split("\n")
        except UnicodeDecodeError as error:
            good = body[start : body.rfind(b"\n", start, start + error.start) + 1].decode().split("\n")[:-1]
            yield from good  # what is wrong with these comes first
            raise Malformed(f"line {number + len(good) + 1} is not UTF-8") from None
        found.pop()
        yield from found
        start, number = end, number + len(found)


def labels(text: str, *, strict: bool) -> tuple[str, Labels]:
    """A name that stands among the labels (empty for none), and the labels.

    Args:
        text: what stands between the braces.
        strict: OpenMetrics: no blanks, no comma at the end, and an escape of anything means the thing itself.

    Raises:
        Malformed: these are no labels.
    """
    name, pairs, place = "", [], 0
    term = _STRICT_TERM if strict else _TERM
    if not strict:
        text = text.lstrip(" \t")
    while place < len(text):
        found = term.match(text, place)
        if found is None:
            raise Malformed(f"these are no labels: {text[place : place + 60]!r}")
        plain, quoted, value = found.groups()
        label = plain if plain is not None else unescape(quoted[1:-1], strict=strict)
        if value is not None:
            pairs.append((label, unescape(value[1:-1], strict=strict)))
        elif plain is not None or name or pairs or not label:
            raise Malformed(f"a label has no value: {label[:60]!r}")
        else:
            name = label
        place = found.end()
    _check_names(pairs)
    return name, tuple(pairs)


def _check_names(pairs: list[tuple[str, str]]) -> None:
    names = [label for label, _ in pairs]
    if len(names) > 1 and len(set(names)) < len(names):
        raise Malformed("a label is there twice")
    if "__name__" in names:
        raise Malformed("the label __name__ is reserved")
    if "" in names:
        raise Malformed("a label has no name")


def unescape(text: str, *, strict: bool, known: str = 'n\\"') -> str:
    """What a text with escapes stands for.

    Raises:
        Malformed: an escape is none of the known, and `strict` is not set.
    """
    if "\\" not in text:
        return text

    def meant(found: re.Match[str]) -> str:
        if found[1] and found[1] in known:
            return _MEANINGS[found[1]]
        if not strict:
            raise Malformed(f"\\{found[1]} is no escape")
        return found[0]

    return _ESCAPE.sub(meant, text)


def number(text: str) -> float:
    """A value.

    Raises:
        Malformed: it is none as Go writes and reads them.
    """
    if _NUMBER.fullmatch(text) is None:
        raise Malformed(f"{text[:60]!r} is not a number")
    return float(text)


def whole(text: str) -> int:
    """A time in milliseconds.

    Raises:
        Malformed: it is not a whole number of 64 bits.
    """
    if _COUNT.fullmatch(text) is None or not -(1 << 63) <= int(text) < 1 << 63:
        raise Malformed(f"{text[:60]!r} is not a time in whole milliseconds")
    return int(text)
