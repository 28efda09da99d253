"""YAML text to plain values in the shapes that settings want, with the place of everything.

What does not fit is a problem with its line and column, and reading goes on, so that all problems of a file are found
at once.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from probe_exporter.config.nodes import MAX_DEPTH, Node, Path, SyntaxProblem, compose
from probe_exporter.config.placeholders import MARK, Template, parse
from probe_exporter.config.problems import Place, Problem
from probe_exporter.config.shapes import ANYTHING, Shape, shape_of
from probe_exporter.settings.fields import nearest

MAX_ALIASED = 200_000
"""Nodes that aliases may repeat in one file: far above any real use, far below what would fill memory."""


class Unfit:
    """Stands for a value that has been reported and can't be used; a mapping leaves it out, a list keeps its place."""

    def __repr__(self) -> str:
        return "<unfit>"


UNFIT = Unfit()


@dataclass(slots=True)
class Document:
    """What reading a file gave.

    `places` has an entry for each key and list item, by its path. A value at which a problem was found is `UNFIT`.
    Scalars with placeholders of parameters are `Template` in `value`, whatever is wanted there; `templates` has them.
    """

    file: str
    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    unfit: set[Path] = field(default_factory=set)
    templates: dict[Path, Template] = field(default_factory=dict)

    def place(self, path: Path) -> Place:
        """The place of `path`, or of the nearest thing around it that has one."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(self.file))

    def problem(self, path: Path, message: str) -> Problem:
        """A problem at `path`, not yet counted as one of the document's."""
        return Problem(self.place(path), dotted(path), message)


def dotted(path: Path) -> str:
    """A path as people write it: ``modules.m.http.headers``, ``….query_response[2].expect``."""
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


def parsed(data: bytes, file: str) -> tuple[Document, Node | None]:
    """Parse the first YAML document of `data`. Return its root, or None and a document with the problem."""
    document = Document(file)
    try:
        root = compose(data)
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

    def unfit(self, path: Path, message: str) -> Unfit:
        """Report the value at `path` as unusable."""
        self._document.problems.append(self._document.problem(path, message))
        self._document.unfit.add(path)
        return UNFIT

    def read(self, node: Node, shape: Shape, path: Path) -> Any:
        """The value of `node` in this shape, or `UNFIT`."""
        if node in self._seen:
            self._aliased += 1
            if self._aliased > MAX_ALIASED:
                # Said once, where it happens; everything after it is left unread.
                first = self._aliased == MAX_ALIASED + 1
                return self.unfit(path, "the aliases of this file repeat too much") if first else UNFIT
        self._seen.add(node)
        if len(path) > MAX_DEPTH:
            return self.unfit(path, "nested too deeply (an anchor that holds an alias of itself?)")
        if node.kind == "scalar" and "${" in node.text:
            if MARK in node.text and node.tag != "!!binary":
                return self._template(node, shape, path)
            node = self._expanded(node, path)
        if node.belies_its_tag:
            return self.unfit(path, f"the value is not what its tag {node.tag} says")
        return UNFIT if path in self._document.unfit else shape.read(self, node, path)

    def items(self, node: Node, shape: Shape, path: Path) -> list[Any]:
        """The items of a list; null ones are left out, as Go leaves them out."""
        values: list[Any] = []
        for item in node.items:
            if item.is_null and shape is not ANYTHING:
                continue
            here = (*path, len(values))
            self._document.places[here] = Place(self._document.file, item.line, item.column)
            values.append(self.read(item, shape, here))
        return values

    def entries(self, node: Node, shape: Shape, path: Path) -> dict[str, Any]:
        """The entries of a mapping whose keys are free."""
        values: dict[str, Any] = {}
        for name, value in self._pairs(node, path):
            read = shape.empty() if value.is_null else self.read(value, shape, (*path, name))
            if read is not UNFIT:
                values[name] = read
        return values

    def block(
        self, node: Node, shape: Callable[[str], Shape | None], known: Sequence[str], path: Path
    ) -> dict[str, Any]:
        """The settings of a block; unknown keys are problems, and null leaves a key unset."""
        values: dict[str, Any] = {}
        for name, value in self._pairs(node, path):
            here = (*path, name)
            wanted = shape(name)
            if wanted is None:
                self.unfit(here, f"unknown key `{name}`{nearest(name, known) or _listed(known)}")
                continue
            read = UNFIT if value.is_null else self.read(value, wanted, here)
            if read is not UNFIT:
                values[name] = read
        return values

    def binary(self, node: Node, path: Path) -> Any:
        """The text of a ``!!binary`` scalar; bytes that are not UTF-8 become surrogate escapes."""
        try:
            return base64.b64decode("".join(node.text.split()), validate=True).decode("utf-8", "surrogateescape")
        except binascii.Error:
            return self.unfit(path, "expected base64 after !!binary")

    def _pairs(self, node: Node, path: Path) -> Iterator[tuple[str, Node]]:
        """Key and value of each entry, merged ones included, with their places noted."""
        for name, (key, value) in self._merged(node, path, ()).items():
            self._document.places[*path, name] = Place(self._document.file, key.line, key.column)
            yield name, value

    def _merged(self, node: Node, path: Path, within: tuple[Node, ...]) -> dict[str, tuple[Node, Node]]:
        """The entries of a mapping: its own first, then those of its merges (``<<``), earlier ones first."""
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
                self.unfit(path, "this merge holds itself, or repeats too much")
                return {}
            for name, pair in self._merged(source, path, (*within, node)).items():
                own.setdefault(name, pair)
        return own

    def _merge_sources(self, node: Node, path: Path) -> list[Node]:
        sources = node.items if node.kind == "list" else [node]
        if any(source.kind != "mapping" for source in sources):
            self.unfit((*path, "<<"), "expected a mapping or a list of mappings to merge")
            return []
        return sources

    def _key(self, key: Node, path: Path) -> str | None:
        """The text of a key; None for one that can't be used, which is reported."""
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
            return None if decoded is UNFIT else decoded
        return key.text

    def _twice(self, name: str, first: Node, second: Node, path: Path) -> None:
        """Report a duplicate key, unless this mapping has been read before and is merged or repeated here."""
        if second not in self._seen:
            self._seen.add(second)
            place = Place(self._document.file, second.line, second.column)
            message = f"`{name}` is here twice; the first is in line {first.line}, column {first.column}"
            self._document.problems.append(Problem(place, dotted((*path, name)), message))

    def _expanded(self, node: Node, path: Path) -> Node:
        """The scalar with ``${NAME}`` replaced; it counts as plain, for the environment knows no types."""
        text = self._expanded_text(node.text, path)
        return node if text == node.text else replace(node, text=text, plain=True)

    def _template(self, node: Node, shape: Shape, path: Path) -> Template | Unfit:
        """A scalar with placeholders of parameters. What the environment holds can't become one."""
        template = parse(node.text, lambda text: self._expanded_text(text, path), shape.of_text)
        self._document.templates[path] = template
        return UNFIT if path in self._document.unfit else template

    def _expanded_text(self, text: str, path: Path) -> str:
        """The text with ``${NAME}`` replaced from the environment, if that is wanted.

        ``$${NAME}`` stands for the text ``${NAME}``. Anything else, such as ``${1}`` or ``$$``, is left alone.
        """
        if self._environment is None:
            return text
        environment = self._environment

        def replacement(found: re.Match[str]) -> str:
            if found[0].startswith("$$"):
                return found[0][1:]
            if found[1] not in environment:
                self.unfit(path, f"the environment variable {found[1]} is not set")
            return environment.get(found[1], "")

        return _VARIABLE.sub(replacement, text)


def _listed(keys: Sequence[str]) -> str:
    """The known keys, where they are few enough to read."""
    return f" (known: {', '.join(keys)})" if len(keys) <= 16 else ""
