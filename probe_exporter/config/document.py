"""Read YAML nodes as plain values in the shapes of settings; note the place of every value, and every problem.

How it works:

* `nodes` parses the text to a tree, and `shapes` says what a setting expects. `_Reader` walks both at once and makes
  plain values: dictionaries, lists, text, numbers, booleans. pydantic validates these afterwards, in `loading`.
* Each value has a path, the keys and indices from the root: ``("modules", "m", "http", "headers")``. `Document` has the
  place (line and column) of each path, so that errors of the validation have places, too.
* A value of the wrong kind is a problem, and `INVALID` replaces it. Reading continues, so one load finds all problems.
  Validation reports nothing more about such a path.
* Merges (``<<``) are resolved here, with Go's precedence. Aliases may repeat or contain themselves: a count of repeated
  nodes and a limit on the depth keep the walk finite.
* ``${NAME}`` is replaced from the environment while a scalar is read. ``${param:name}`` makes the scalar a
  `ParameterTemplate`, which `placeholders` fills for each request.
* Null leaves a key of a block unset, is dropped from a list, and is the empty value in a mapping, as in Go.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from probe_exporter.config.nodes import MAX_DEPTH, KeyPath, Node, SyntaxProblem, compose
from probe_exporter.config.placeholders import MARK, ParameterTemplate, parse
from probe_exporter.config.problems import Place, Problem
from probe_exporter.config.shapes import ANYTHING, Shape, shape_of
from probe_exporter.settings.fields import nearest

MAX_ALIASED = 200_000
"""Nodes that aliases may repeat in one file: far more than real files need, far fewer than would fill the memory."""


class Invalid:
    """Replaces a value that has a problem. A mapping leaves it out; a list keeps it, so that indices stay right."""

    def __repr__(self) -> str:
        return "<invalid>"


INVALID = Invalid()


@dataclass(slots=True)
class Document:
    """The result of reading a file.

    Attributes:
        value: the plain values; `INVALID` or nothing in the place of a value that has a problem.
        places: the place of each key and list item, by path.
        invalid_paths: the paths of the values that have a problem.
        templates: the scalars with placeholders, by path. In `value` they are `ParameterTemplate`, for any setting.
    """

    file: str
    value: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    invalid_paths: set[KeyPath] = field(default_factory=set)
    templates: dict[KeyPath, ParameterTemplate] = field(default_factory=dict)

    def place(self, path: KeyPath) -> Place:
        """Return the place of `path`, or of the nearest value around it that has a place."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(self.file))

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Make a problem at `path`; the caller adds it to a list."""
        return Problem(self.place(path), dotted(path), message)


def dotted(path: KeyPath) -> str:
    """Format a path: ``modules.m.http.headers``, ``….query_response[2].expect``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read(data: bytes, file: str, model: type[BaseModel], environment: Mapping[str, str] | None = None) -> Document:
    """Read the first YAML document of `data` into values that `model` can be made of.

    Args:
        file: its name, for places.
        environment: where ``${NAME}`` in a value is looked up; None leaves such text alone.
    """
    document, root = parsed(data, file)
    return document if root is None else interpreted(document, root, shape_of(model), environment)


def parsed(data: bytes, file: str, max_items: float = math.inf) -> tuple[Document, Node | None]:
    """Parse the first YAML document of `data`. Return its root, or None and a document with the problem.

    Raises:
        TooManyItems: its lists have more items than `max_items`.
    """
    document = Document(file)
    try:
        root = compose(data, max_items)
    except SyntaxProblem as error:
        document.problems.append(Problem(Place(file, error.line, error.column), "", f"not valid YAML: {error}"))
        return document, None
    if root is None:
        document.problems.append(Problem(Place(file), "", "the file holds no YAML document"))
    return document, root


def interpreted(document: Document, root: Node, shape: Shape, environment: Mapping[str, str] | None = None) -> Document:
    """Read a parsed document into plain values; the arguments are those of `read`."""
    document.places[()] = Place(document.file, root.line, root.column)
    reader = _Reader(document, environment)
    document.value = {} if root.is_null else reader.read(root, shape, ())
    return document


# --- reading -----------------------------------------------------------------------------------------------

_VARIABLE = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Reader:
    """Reads nodes into one document."""

    def __init__(self, document: Document, environment: Mapping[str, str] | None) -> None:
        self._document = document
        self._environment = environment
        self._seen: set[Node] = set()
        self._aliased = 0

    def reject(self, path: KeyPath, message: str) -> Invalid:
        """Report the value at `path` as unusable; return `INVALID`."""
        self._document.problems.append(self._document.problem(path, message))
        self._document.invalid_paths.add(path)
        return INVALID

    def read(self, node: Node, shape: Shape, path: KeyPath) -> Any:
        """Return the value of `node` in this shape, or `INVALID`."""
        if node in self._seen:
            self._aliased += 1
            if self._aliased > MAX_ALIASED:
                # This is reported once; the rest of the file is not read.
                first = self._aliased == MAX_ALIASED + 1
                return self.reject(path, "the aliases of this file repeat too much") if first else INVALID
        self._seen.add(node)
        if len(path) > MAX_DEPTH:
            return self.reject(path, "nested too deeply (an anchor that holds an alias of itself?)")
        if node.kind == "scalar" and "${" in node.text:
            if MARK in node.text and node.tag != "!!binary":
                return self._template(node, shape, path)
            node = self._expanded(node, path)
        if node.contradicts_its_tag:
            return self.reject(path, f"the value is not what its tag {node.tag} says")
        return INVALID if path in self._document.invalid_paths else shape.read(self, node, path)

    def items(self, node: Node, shape: Shape, path: KeyPath) -> list[Any]:
        """Return the items of a list, without null ones, as in Go."""
        values: list[Any] = []
        for item in node.items:
            if item.is_null and shape is not ANYTHING:
                continue
            here = (*path, len(values))
            self._document.places[here] = Place(self._document.file, item.line, item.column)
            values.append(self.read(item, shape, here))
        return values

    def entries(self, node: Node, shape: Shape, path: KeyPath) -> dict[str, Any]:
        """Return the entries of a mapping with free keys."""
        values: dict[str, Any] = {}
        for name, value in self._pairs(node, path):
            read = shape.empty() if value.is_null else self.read(value, shape, (*path, name))
            if read is not INVALID:
                values[name] = read
        return values

    def block(
        self, node: Node, shape: Callable[[str], Shape | None], known: Sequence[str], path: KeyPath
    ) -> dict[str, Any]:
        """Return the settings of a block. An unknown key is a problem; null leaves a key unset."""
        values: dict[str, Any] = {}
        for name, value in self._pairs(node, path):
            here = (*path, name)
            wanted = shape(name)
            if wanted is None:
                self.reject(here, f"unknown key `{name}`{nearest(name, known) or _listed(known)}")
                continue
            read = INVALID if value.is_null else self.read(value, wanted, here)
            if read is not INVALID:
                values[name] = read
        return values

    def binary(self, node: Node, path: KeyPath) -> Any:
        """Return the text of a ``!!binary`` scalar; bytes that are not UTF-8 become surrogate escapes."""
        try:
            return base64.b64decode("".join(node.text.split()), validate=True).decode("utf-8", "surrogateescape")
        except ValueError:  # binascii.Error is one; another tells of letters beyond ASCII
            return self.reject(path, "expected base64 after !!binary")

    def _pairs(self, node: Node, path: KeyPath) -> Iterator[tuple[str, Node]]:
        """Yield key and value of each entry, with merged ones, and note their places."""
        for name, (key, value) in self._merged(node, path, ()).items():
            self._document.places[*path, name] = Place(self._document.file, key.line, key.column)
            yield name, value

    def _merged(self, node: Node, path: KeyPath, within: tuple[Node, ...]) -> dict[str, tuple[Node, Node]]:
        """Return the entries of a mapping: its own, then those of its merges (``<<``) in their order."""
        own: dict[str, tuple[Node, Node]] = {}
        merges: list[Node] = []
        for key, value in node.pairs:
            name = self._key(key, path)
            if name in own:
                self._twice(name, own[name][0], key, path)
            elif name is not None:
                own[name] = key, value
        if "<<" in own and own["<<"][0].is_merge:
            merges = self._merge_sources(own.pop("<<")[1], path)
        for source in merges:
            self._aliased += 1 + len(source.pairs)
            if source is node or source in within or self._aliased > MAX_ALIASED:
                self.reject(path, "this merge holds itself, or repeats too much")
                return {}
            for name, pair in self._merged(source, path, (*within, node)).items():
                own.setdefault(name, pair)
        return own

    def _merge_sources(self, node: Node, path: KeyPath) -> list[Node]:
        sources = node.items if node.kind == "list" else [node]
        if any(source.kind != "mapping" for source in sources):
            self.reject((*path, "<<"), "expected a mapping or a list of mappings to merge")
            return []
        return sources

    def _key(self, key: Node, path: KeyPath) -> str | None:
        """Return the text of a key; report a key that can't be used and return None."""
        place = Place(self._document.file, key.line, key.column)
        if key.kind != "scalar":
            message = f"expected a string as a key, found {key.found}"
            self._document.problems.append(Problem(place, dotted(path), message))
            return None
        if key.is_null:
            self._document.warnings.append(Problem(place, dotted(path), "a null key: the entry is left out"))
            return None
        if key.tag == "!!binary":
            decoded = self.binary(key, path)
            return None if decoded is INVALID else decoded
        return key.text

    def _twice(self, name: str, first: Node, second: Node, path: KeyPath) -> None:
        """Report a duplicate key, unless this mapping was read before and is merged or repeated here."""
        if second not in self._seen:
            self._seen.add(second)
            place = Place(self._document.file, second.line, second.column)
            message = f"`{name}` is here twice; the first is in line {first.line}, column {first.column}"
            self._document.problems.append(Problem(place, dotted((*path, name)), message))

    def _expanded(self, node: Node, path: KeyPath) -> Node:
        """Return the scalar with ``${NAME}`` replaced. It counts as unquoted, as the environment has no types."""
        text = self._expanded_text(node.text, path)
        return node if text == node.text else replace(node, text=text, plain=True)

    def _template(self, node: Node, shape: Shape, path: KeyPath) -> ParameterTemplate | Invalid:
        """Parse a scalar with placeholders of parameters. Values of the environment can't add placeholders."""
        template = parse(node.text, lambda text: self._expanded_text(text, path), shape.of_text)
        self._document.templates[path] = template
        return INVALID if path in self._document.invalid_paths else template

    def _expanded_text(self, text: str, path: KeyPath) -> str:
        """Return the text with ``${NAME}`` replaced from the environment, if a flag says so.

        ``$${NAME}`` means the text ``${NAME}``. Anything else, such as ``${1}`` or ``$$``, remains.
        """
        if self._environment is None:
            return text
        environment = self._environment

        def replacement(found: re.Match[str]) -> str:
            if found[0].startswith("$$"):
                return found[0][1:]
            if found[1] not in environment:
                self.reject(path, f"the environment variable {found[1]} is not set")
            return environment.get(found[1], "")

        return _VARIABLE.sub(replacement, text)


def _listed(keys: Sequence[str]) -> str:
    """List the known keys, if they are few."""
    return f" (known: {', '.join(keys)})" if len(keys) <= 16 else ""
