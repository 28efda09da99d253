r"""Find what Go's regexp package refuses and RE2's C++ library accepts: ``\C``, huge repeat counts, deep nesting.

Both read one dialect, so a pattern is compiled by RE2 first, and what is checked here is a legal pattern of RE2. The
walk below needs no recursion, so a pattern that is nested ten thousand deep can't exhaust the stack. It computes the
height of the tree that Go's parser builds: a literal has 1; a group that captures, a repetition, a sequence and an
alternation each have one more than their highest part. A group that does not capture adds nothing.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

MAX_HEIGHT = 1000
"""The height of the highest pattern that Go compiles (``maxHeight`` in its package regexp/syntax)."""

_REPEAT = re.compile(r"\{(0|[1-9][0-9]*)(?:,(0|[1-9][0-9]*)?)?\}", re.ASCII)
_HUGE_DIGITS = 9
"""From so many digits on, RE2 takes a repeat count for text, and Go for a count that is too large."""

_OPEN = re.compile(r"\((?:\?P?<[^>]*>|\?[a-zA-Z-]*(:|\)))?")
_ESCAPE = re.compile(r"\\(?:[pP]\{[^}]*\}|x\{[^}]*\}|x[0-9a-fA-F]{2}|[pP]?.)", re.DOTALL)
_CLASS = re.compile(r"\[\^?\]?(?:\[:[^\]]*:\]|\\.|[^\]\\])*\]", re.DOTALL)

_Kind = Literal["literal", "sequence", "alternation", "other"]


class _Item(NamedTuple):
    kind: _Kind
    height: int


class _Group:
    """An open group: its finished alternatives, and the items of the one that is being read."""

    def __init__(self, *, captures: bool) -> None:
        self.captures = captures
        self._alternatives: list[_Item] = []
        self._items = 0
        self._height = 0  # of the highest item before the last
        self._last: _Item | None = None
        self._longer = False  # whether the last item is a literal of several characters

    def add(self, item: _Item) -> None:
        if item.kind == "literal" and self._last is not None and self._last.kind == "literal":
            self._longer = True  # literals in a row are one
            return
        self._settle()
        self._last, self._longer = item, False
        self._items += 1

    def repeat(self) -> None:
        """Repeat the last item. Of literals in a row, only the last is repeated."""
        if self._last is None:
            return
        if self._longer:
            self._items += 1
        self._last, self._longer = _Item("other", self._last.height + 1), False

    def next_alternative(self) -> None:
        self._settle()
        alone = _Item("sequence", self._height + 1) if self._items > 1 else self._last or _Item("other", 1)
        self._alternatives.append(alone)
        self._items, self._height, self._last, self._longer = 0, 0, None, False

    def end(self) -> _Item:
        self.next_alternative()
        heights = [one.height - (one.kind == "alternation") for one in self._alternatives]
        item = self._alternatives[0] if len(heights) == 1 else _Item("alternation", 1 + max(heights))
        return _Item("other", item.height + 1) if self.captures else item

    def _settle(self) -> None:
        if self._last is not None:  # a sequence within a sequence is one with it
            self._height = max(self._height, self._last.height - (self._last.kind == "sequence"))


def check(text: str) -> None:
    r"""Check a pattern that RE2 has compiled.

    Raises:
        ValueError: Go's regexp package refuses it.
    """
    if _may_be_refused(text) and _height(text) > MAX_HEIGHT:
        raise ValueError("expression nests too deeply")


def _may_be_refused(text: str) -> bool:
    """Whether a closer look is worth its time: few patterns are as long as one that is too deep."""
    return len(text) > MAX_HEIGHT or "{" in text or "\\C" in text


def _height(text: str) -> int:
    """Return the height of a pattern.

    Raises:
        ValueError: it has a repeat count that is too large, or ``\\C``.
    """
    groups = [_Group(captures=False)]
    at = 0
    while at < len(text):
        at = _step(text, at, groups)
    while len(groups) > 1:
        inner = groups.pop().end()
        groups[-1].add(inner)
    return groups[0].end().height


def _step(text: str, at: int, groups: list[_Group]) -> int:
    """Read what begins at `at`; return where the next thing begins."""
    group, character = groups[-1], text[at]
    if character == "\\":
        return _escape(text, at, group)
    if character == "(":
        return _open(text, at, groups)
    if character == ")" and len(groups) > 1:
        groups.pop()
        groups[-1].add(group.end())
    elif character == "|":
        group.next_alternative()
    elif character in "*+?":
        group.repeat()
        return at + 2 if text[at + 1 : at + 2] == "?" else at + 1  # the ? after it only makes it lazy
    elif character == "{" and (found := _REPEAT.match(text, at)):
        if any(len(count) >= _HUGE_DIGITS for count in found.groups(default="")):
            raise ValueError(f"invalid repeat count: {found[0]}")
        group.repeat()
        return found.end() + (text[found.end() : found.end() + 1] == "?")
    elif character == "[" and (found := _CLASS.match(text, at)):
        group.add(_Item("other", 1))
        return found.end()
    else:
        group.add(_Item("other" if character in ".^$" else "literal", 1))
    return at + 1


def _open(text: str, at: int, groups: list[_Group]) -> int:
    found = _OPEN.match(text, at)
    end = at + 1 if found is None else found.end()
    if found is None or found[1] is None:
        groups.append(_Group(captures=True))
    elif found[1] == ":":
        groups.append(_Group(captures=False))
    return end  # after flags alone, as in (?i), no group is open


def _escape(text: str, at: int, group: _Group) -> int:
    if text.startswith("\\Q", at):
        end = text.find("\\E", at + 2)
        group.add(_Item("literal", 1))
        return len(text) if end < 0 else end + 2
    if text.startswith("\\C", at):
        raise ValueError(r"there is no \C (a single byte)")
    found = _ESCAPE.match(text, at)
    group.add(_Item("other", 1))
    return at + 1 if found is None else found.end()
