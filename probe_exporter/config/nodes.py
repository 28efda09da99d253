"""Parse the first document of YAML text to a tree of nodes with their places, with a limit on its depth.

How it works:

* PyYAML's parser (libyaml, where it is installed) reads text and yields events: scalar, start and end of a list or
  mapping, alias. PyYAML's composer, which makes nodes of events, recurses as deep as the file is nested; `_Composer`
  here keeps a stack instead and refuses more than `MAX_DEPTH` levels.
* A `Node` is a scalar with its text, a list with its items, or a mapping with its pairs. It has no value yet: whether
  ``on`` is a boolean or text depends on the setting, see `shapes`.
* Duplicate keys and merges (``<<``) are kept; `document` handles them.
* An alias is the same `Node` object as its anchor, so a tree can have cycles. `document` limits how far it goes.
* Scalars are interpreted by YAML 1.1's rules as Go's library applies them, which is not what PyYAML does.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

import yaml

KeyPath = tuple[str | int, ...]
"""The keys and indices that lead to a value."""

MAX_DEPTH = 60
"""Levels of nesting. The deepest legal configuration has fewer than 15."""

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
CORE_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
BOOLEANS = CORE_BOOLEANS | {
    word: value
    for words, value in (("y yes on", True), ("n no off", False))
    for lower in words.split()
    for word in (lower, lower.capitalize(), lower.upper())
}
_INTEGERS = (
    (re.compile(r"[-+]?0[xX]([0-9a-fA-F]+)"), 16),
    (re.compile(r"[-+]?0[bB]([01]+)"), 2),
    (re.compile(r"[-+]?0[oO]?([0-7]+)"), 8),
    (re.compile(r"[-+]?(0|[1-9][0-9]*)"), 10),
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def parse_number(text: str) -> int | float | None:
    """Return the number for text in any of YAML 1.1's spellings that Go reads; None if it is no number."""
    if not text or text[0] not in "+-.0123456789":
        return None
    text = text.replace("_", "")
    for pattern, base in _INTEGERS:
        whole = pattern.fullmatch(text)
        if whole:
            magnitude = int(whole[1], base) if len(whole[1]) < 400 else 1 << 64
            return -magnitude if text[0] == "-" else magnitude
    if _FLOAT.fullmatch(text):
        return float(text)
    special = _SPECIAL_FLOAT.fullmatch(text)
    if special:
        return float("nan") if special[3] else float(f"{special[1]}inf")
    return None


@dataclass(slots=True, eq=False)
class Node:
    """A scalar (with text), a list (with items) or a mapping (with pairs), and its place."""

    kind: Literal["scalar", "list", "mapping"]
    line: int
    column: int
    tag: str = ""  # as written, in short form (``!!str``); empty if there is none
    plain: bool = True  # neither quoted nor a block scalar
    text: str = ""
    items: list[Node] = field(default_factory=list)
    pairs: list[tuple[Node, Node]] = field(default_factory=list)

    @property
    def is_null(self) -> bool:
        """Whether this is a null scalar."""
        untagged = self.plain and not self.tag
        return self.kind == "scalar" and (untagged or self.tag == "!!null") and self.text in NULLS

    @property
    def value(self) -> bool | int | float | str:
        """The value of a scalar that is not null, by YAML's core schema of types."""
        untagged = self.plain and not self.tag
        if (untagged or self.tag == "!!bool") and self.text in CORE_BOOLEANS:
            return CORE_BOOLEANS[self.text]
        number = parse_number(self.text) if untagged or self.tag in ("!!int", "!!float") else None
        if number is None:
            return self.text
        return float(number) if self.tag == "!!float" else number

    @property
    def contradicts_its_tag(self) -> bool:
        """Whether this is a scalar with a tag such as ``!!int``, but without such a value."""
        kinds = {"!!int": int, "!!float": float, "!!bool": bool}
        if self.kind != "scalar" or self.tag not in (*kinds, "!!null"):
            return False
        return not self.is_null if self.tag == "!!null" else type(self.value) is not kinds[self.tag]

    @property
    def is_merge(self) -> bool:
        """Whether this is the key ``<<``, which merges other mappings."""
        return self.plain and self.text == "<<" and self.tag in ("", "!!merge")

    @property
    def number(self) -> int | float | None:
        """The value of a scalar that is a number; else None."""
        value = self.value if self.kind == "scalar" else None
        return None if isinstance(value, bool | str) else value

    @property
    def found(self) -> str:
        """The kind of this node, for error messages."""
        if self.kind != "scalar":
            return f"a {self.kind}"
        if self.is_null:
            return "null"
        if self.number is not None and not -(1 << 63) <= self.number < 1 << 63:
            return "a number out of range"
        names = {bool: "true or false", int: "an integer", float: "a number"}
        return names.get(type(self.value), "a string" if self.plain else "a quoted string")


class _Composer:
    """Makes the tree of one document from its events."""

    def __init__(self, max_items: float) -> None:
        self._max_items = max_items
        self._items = 0  # of the lists that have ended
        self._anchors: dict[str | None, Node] = {}
        self._children: list[Node] = []  # of the collection that is being read; its end moves them to its node
        self._outer: list[tuple[Node, list[Node]]] = []

    def feed(self, event: yaml.Event) -> Node | None:
        """Process one event; return the root at the end of the document, else None."""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _error(f"unknown anchor {event.anchor}", event)
            self._append(self._anchors[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            self._add(event, Node("scalar", *_position(event), _tag(event), not event.style, event.value))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin(event, Node("list", *_position(event)))
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin(event, Node("mapping", *_position(event)))
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.DocumentEndEvent):
            return self._children[0]
        return None

    def _add(self, event: yaml.NodeEvent, node: Node) -> None:
        self._append(node)
        if event.anchor:
            self._anchors[event.anchor] = node

    def _append(self, node: Node) -> None:
        self._children.append(node)
        if self._items + len(self._children) > self._max_items:
            raise TooManyItems

    def _begin(self, event: yaml.NodeEvent, node: Node) -> None:
        self._add(event, node)
        self._outer.append((node, self._children))
        self._children = []
        if len(self._outer) > MAX_DEPTH:
            raise _error("nested too deeply", event)

    def _end(self) -> None:
        node, siblings = self._outer.pop()
        if node.kind == "list":
            node.items = self._children
            self._items += len(self._children)
        else:
            node.pairs = list(zip(self._children[::2], self._children[1::2], strict=True))
        self._children = siblings


def _position(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)


def _tag(event: yaml.ScalarEvent) -> str:
    return "" if event.tag in (None, "!") else str(event.tag).replace("tag:yaml.org,2002:", "!!")


class TooManyItems(Exception):
    """The lists of a document have more items than the caller allows."""


class SyntaxProblem(Exception):
    """The text is no YAML that can be used; `line` and `column` count from 1."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


def _error(message: str, event: yaml.Event) -> SyntaxProblem:
    return SyntaxProblem(message, *_position(event))


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def compose(data: bytes, max_items: float = math.inf) -> Node | None:
    """Return the root of the first document; None if there is no document.

    Args:
        max_items: about the most items that its lists may have together, so that reading stops early.

    Raises:
        SyntaxProblem: the text is no YAML, has an alias without an anchor, or is nested more than `MAX_DEPTH` deep.
        TooManyItems: it has more items.
    """
    composer = _Composer(max_items)
    try:
        for event in yaml.parse(data, Loader=_LOADER):
            root = composer.feed(event)
            if root is not None:
                return root
    except yaml.MarkedYAMLError as error:
        words = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        raise SyntaxProblem(words, mark.line + 1 if mark else 0, mark.column + 1 if mark else 0) from None
    except yaml.reader.ReaderError as error:
        before = data[: error.position]
        line, column = before.count(b"\n") + 1, error.position - before.rfind(b"\n")
        raise SyntaxProblem(str(error.reason), line, column) from None
    return None
