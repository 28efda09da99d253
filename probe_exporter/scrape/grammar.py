"""Parse what the text formats have in common: lines, names, labels, escapes and numbers, in linear time.

Only the character classes of the expressions are possessive: Python before 3.11.5 matches possessive groups wrongly.
The expressions know no escapes: they match a line in which `mask` has replaced escaped quotes and backslashes, and
`parts` cuts the groups out of the original line. An expression with escapes takes ten times as long.

Names beyond ASCII are quoted, the metric's among the labels (Prometheus 3, "UTF-8 support").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence

from probe_exporter.scrape.page import LINE_COST_BYTES, MAX_LABELS, STEP_BYTES, Labels, Malformed

MAX_LINE_BYTES = 256 * 1024
"""Bytes of one line."""

CHUNK_BYTES = 64 * 1024
"""Bytes that are decoded at a time."""

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*+"
QUOTED = r'"[^"]*+"'
LABELS = rf'[^"{{}}]*+(?:{QUOTED}[^"{{}}]*+)*'
"""The text between braces."""

_LABEL = rf"(?:(?P<name>[a-zA-Z_][a-zA-Z0-9_]*+)|(?P<quoted>{QUOTED}))"
_TERM = re.compile(rf"{_LABEL}[ \t]*+(?:=[ \t]*+(?P<value>{QUOTED})[ \t]*+)?(?:,[ \t]*+|$)")
_STRICT_TERM = re.compile(rf"{_LABEL}(?:=(?P<value>{QUOTED}))?(?:,(?=.)|$)")
_MAX_QUOTES = 4 * (MAX_LABELS + 20)
_NUMBER = re.compile(
    r"[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:e[-+]?[0-9]++)?|[-+]?inf(?:inity)?|nan", re.IGNORECASE | re.ASCII
)
_COUNT = re.compile(r"[-+]?[0-9]{1,19}")


def lines(body: bytes) -> Iterator[str]:
    """Yield the lines of a page, without their ends.

    Raises:
        Malformed: the last line has no end, or a line is too long or not UTF-8.
    """
    start, number = 0, 0
    while start < len(body):
        end = (
            body.rfind(b"\n", start, start + CHUNK_BYTES) + 1
            or body.find(b"\n", start + CHUNK_BYTES, start + MAX_LINE_BYTES) + 1
        )
        if not end:
            too_long = len(body) - start > MAX_LINE_BYTES
            why = f"has more than {MAX_LINE_BYTES} bytes" if too_long else "has no end: the page is cut off"
            raise Malformed(f"line {number + 1} {why}")
        try:
            found = body[start:end].decode().split("\n")
        except UnicodeDecodeError as error:
            good = body[start : body.rfind(b"\n", start, start + error.start) + 1].decode().split("\n")[:-1]
            yield from good  # errors in these lines come first
            raise Malformed(f"line {number + len(good) + 1} is not UTF-8") from None
        found.pop()
        yield from found
        start, number = end, number + len(found)


def read_lines(body: bytes, read: Callable[[str], None]) -> Generator[None, None, int]:
    """Read a page line by line; yield where other tasks may run; return the number of lines.

    Raises:
        Malformed: `read` refused a line; the message has its number.
    """
    index = work = 0
    for index, line in enumerate(lines(body), 1):
        work += LINE_COST_BYTES + len(line)
        try:
            read(line)
        except Malformed as error:
            raise Malformed(f"line {index}: {error}") from None
        if work >= STEP_BYTES:
            yield
            work = 0
    return index


def mask(line: str) -> str:
    """Return a line of the same length without escaped quotes, so that each of its quotes begins or ends a text.

    Raises:
        Malformed: it has more quotes than a sample with `MAX_LABELS` labels and an exemplar can have.
    """
    masked = line.replace("\\\\", "\0\0").replace('\\"', "\0\0") if "\\" in line else line
    if len(masked) > _MAX_QUOTES and masked.count('"') > _MAX_QUOTES:
        raise Malformed(f"a sample has more than {MAX_LABELS} labels")
    return masked


def parts(found: re.Match[str], line: str) -> Sequence[str | None]:
    """Return the groups of a match of the masked line, as they are in `line`."""
    if found.string is line:
        return found.groups()
    return [line[start:end] if start >= 0 else None for start, end in found.regs[1:]]


def labels(text: str, *, strict: bool) -> tuple[str, Labels]:
    """Parse labels; return the metric's name if it is among them (otherwise an empty string), and the labels.

    Args:
        text: the text between the braces.
        strict: OpenMetrics: no spaces, no comma at the end, and an unknown escape stands for itself.

    Raises:
        Malformed: these are not labels.
    """
    name, pairs, place = "", [], 0
    term = _STRICT_TERM if strict else _TERM
    if not strict:
        text = text.lstrip(" \t")
    masked = mask(text)
    while place < len(text):
        found = term.match(masked, place)
        if found is None:
            raise Malformed(f"these are not labels: {text[place : place + 60]!r}")
        plain, quoted, value = parts(found, text)
        label = plain if plain is not None else unescape((quoted or "")[1:-1], strict=strict)
        if value is not None:
            pairs.append((label, unescape(value[1:-1], strict=strict)))
        elif plain is not None or name or pairs or not label:
            raise Malformed(f"a label has no value: {label[:60]!r}")
        else:
            name = label
        if len(pairs) > MAX_LABELS:
            raise Malformed(f"a sample has more than {MAX_LABELS} labels")
        place = found.end()
    _check_names(pairs)
    return name, tuple(pairs)


def _check_names(pairs: list[tuple[str, str]]) -> None:
    names = [label for label, _ in pairs]
    if len(names) > 1 and len(set(names)) < len(names):
        raise Malformed("a label is repeated")
    if "__name__" in names:
        raise Malformed("the label __name__ is reserved")
    if "" in names:
        raise Malformed("a label has no name")


def unescape(text: str, *, strict: bool, known: str = 'n\\"') -> str:
    """Return a text with its escapes replaced.

    Args:
        strict: leave unknown escapes as they are.

    Raises:
        Malformed: an escape is unknown, and `strict` is not set.
    """
    if "\\" not in text:
        return text
    # Splitting at escaped backslashes leaves backslashes that begin another escape. This takes no Python code for
    # each escape, of which a line can have 100,000.
    parts = text.split("\\\\")
    if not strict:
        for part in parts:
            _check_escapes(part, known)
    if '"' in known:
        parts = [part.replace('\\"', '"') for part in parts]
    return "\\".join([part.replace("\\n", "\n") for part in parts])


def _check_escapes(part: str, known: str) -> None:
    escapes = part.count("\\")
    if escapes != sum(part.count(f"\\{character}") for character in known if character != "\\"):
        character = next(c[1] for c in re.finditer(r"\\(.?)", part, re.DOTALL) if not c[1] or c[1] not in known)
        raise Malformed(f"\\{character} is not an escape")


def number(text: str) -> float:
    """Return a value.

    Raises:
        Malformed: it is not a number as Go formats and parses it.
    """
    if _NUMBER.fullmatch(text) is None:
        raise Malformed(f"{text[:60]!r} is not a number")
    return float(text)


def whole(text: str) -> int:
    """Return a timestamp in milliseconds.

    Raises:
        Malformed: it is not a whole number of 64 bits.
    """
    if _COUNT.fullmatch(text) is None or not -(1 << 63) <= int(text) < 1 << 63:
        raise Malformed(f"{text[:60]!r} is not a timestamp in whole milliseconds")
    return int(text)
