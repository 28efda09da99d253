"""Templates for text to send: groups of a match replace ``${name}`` and ``$1``, as in Go's Regexp.Expand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile

from probe_exporter.settings.fields import encode
from probe_exporter.settings.regexps import Match


class DialogueTemplate:
    """Text with references to groups of a match: ``$1``, ``${1}``, ``$name``, ``$0``; ``$$`` is ``$``.

    The rules are Go's: a name without braces is as long as possible, an unknown name is empty, and any other ``$``
    stays.
    """

    __slots__ = ("_parts",)

    def __init__(self, text: str, groups: Mapping[str, int]) -> None:
        """
        Args:
            groups: the regular expression's named groups and their numbers.
        """
        parts = (groups.get(part.name, part.number) if isinstance(part, _Reference) else part for part in _parse(text))
        self._parts: tuple[bytes | int, ...] = tuple(encode(p) if isinstance(p, str) else p for p in parts)

    def expand(self, found: Match) -> bytes:
        """Return the text with the groups of a match filled in; a group that took no part is empty."""
        groups = (found.group(0), *found.groups())
        return b"".join(
            part if isinstance(part, bytes) else (groups[part] or b"") if 0 <= part < len(groups) else b""
            for part in self._parts
        )


class _Reference:
    """A reference by name or number."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def number(self) -> int:
        """The number of the group; -1 for a name and for a number with a leading zero."""
        return int(self.name) if re.fullmatch(r"0|[1-9][0-9]{0,7}", self.name) else -1


def _parse(text: str) -> Iterator[str | _Reference]:
    while True:
        plain, dollar, text = text.partition("$")
        yield plain
        if not dollar:
            return
        braces = text.startswith("{")
        name = "".join(takewhile(_is_of_a_name, text[braces:]))
        if text.startswith("$"):
            yield "$"
            text = text[1:]
        elif not name or (braces and not text.startswith(f"{{{name}}}")):
            yield "$"
        else:
            yield _Reference(name)
            text = text[len(name) + 2 * braces :]


def _is_of_a_name(char: str) -> bool:
    return char == "_" or char.isalpha() or char.isdecimal()
