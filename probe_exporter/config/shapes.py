"""Derive from the annotations of a settings model how to read the YAML nodes of its keys.

YAML alone can't tell whether ``on`` is a boolean or the text ``on``; the annotation can.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin

from pydantic import BaseModel

from probe_exporter.config.nodes import BOOLEANS, CORE_BOOLEANS, KeyPath, Node, parse_number
from probe_exporter.settings.fields import Shorthand, Written


class Reader(Protocol):
    """The methods of `document`'s reader that shapes use."""

    def reject(self, path: KeyPath, message: str) -> Any:
        """Report the value at `path` as unusable; return the value that replaces it."""

    def items(self, node: Node, shape: Shape, path: KeyPath) -> list[Any]:
        """Return the items of a list, each in this shape."""

    def entries(self, node: Node, shape: Shape, path: KeyPath) -> dict[str, Any]:
        """Return the entries of a mapping with free keys, each value in this shape."""

    def block(
        self, node: Node, shape: Callable[[str], Shape | None], known: Sequence[str], path: KeyPath
    ) -> dict[str, Any]:
        """Return the settings of a block, each in the shape of its key. Keys without a shape are unknown."""

    def binary(self, node: Node, path: KeyPath) -> Any:
        """Return the text of a ``!!binary`` scalar."""


Read = Callable[[Reader, Node, KeyPath], Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """How to read a node, and its name in error messages.

    Args:
        expected: the name, as in "expected an integer".
        plural: its plural, as in "a list of integers".
        read: reads a node.
        empty: makes the value for null in a mapping, such as an empty string. In a block, null leaves a key unset.
        of_text: converts the text of a request's parameter to a value; text that is no such value remains text.
    """

    expected: str
    plural: str
    read: Read
    empty: Callable[[], Any] = str
    of_text: Callable[[str], Any] = str


_QUOTED = " (remove the quotes)"


def _boolean(reader: Reader, node: Node, path: KeyPath) -> Any:
    if node.kind == "scalar" and isinstance(node.value, bool):
        return node.value
    if node.text in BOOLEANS and node.text not in CORE_BOOLEANS:  # even in quotes, as in Go
        return BOOLEANS[node.text]
    hint = _QUOTED if not node.plain and node.text in CORE_BOOLEANS else ""
    return reader.reject(path, f"expected true or false, found {node.found}{hint}")


def _integer(reader: Reader, node: Node, path: KeyPath) -> Any:
    if node.number is not None and -(1 << 63) <= node.number < 1 << 63:
        return int(node.number)
    hint = _QUOTED if not node.plain and parse_number(node.text) is not None else ""
    return reader.reject(path, f"expected an integer, found {node.found}{hint}")


def _float(reader: Reader, node: Node, path: KeyPath) -> Any:
    if node.number is not None:
        return float(node.number)
    return reader.reject(path, f"expected a number, found {node.found}")


def _anything(reader: Reader, node: Node, path: KeyPath) -> Any:
    if node.kind == "list":
        return reader.items(node, ANYTHING, path)
    if node.kind == "mapping":
        return reader.entries(node, ANYTHING, path)
    if node.is_null:
        return None
    return reader.binary(node, path) if node.tag == "!!binary" else node.value


def _decimal(text: str) -> int | str:
    return int(text) if _DECIMAL.fullmatch(text) else text


_DECIMAL = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)

BOOLEAN = Shape("true or false", "booleans", _boolean, of_text=lambda text: BOOLEANS.get(text, text))
INTEGER = Shape("an integer", "integers", _integer, of_text=_decimal)
FLOAT = Shape("a number", "numbers", _float)
ANYTHING = Shape("a value", "values", _anything, empty=lambda: None)
_PLAIN_SHAPES = {bool: BOOLEAN, int: INTEGER, float: FLOAT}


def _text_shape(written: Written) -> Shape:
    def read(reader: Reader, node: Node, path: KeyPath) -> Any:
        if node.kind != "scalar":
            return reader.reject(path, f"expected {written.expected}, found {node.found}")
        if node.tag == "!!binary":
            return reader.binary(node, path)
        return node.value if written.numbers else node.text

    return Shape(written.expected, written.plural, read)


def _sequence_shape(container: Callable[[list[Any]], Any], item: Shape) -> Shape:
    expected = f"a list of {item.plural}"

    def read(reader: Reader, node: Node, path: KeyPath) -> Any:
        if node.kind != "list":
            return reader.reject(path, f"expected {expected}, found {node.found}")
        return container(reader.items(node, item, path))

    return Shape(expected, "lists", read, empty=lambda: container([]))


def mapping_shape(value: Shape) -> Shape:
    """The shape of a mapping with free keys, all of whose values have one shape."""
    expected = f"a mapping of names to {value.plural}"

    def read(reader: Reader, node: Node, path: KeyPath) -> Any:
        if node.kind != "mapping":
            return reader.reject(path, f"expected {expected}, found {node.found}")
        return reader.entries(node, value, path)

    return Shape(expected, "mappings", read, empty=dict)


def _model_shape(model: type[BaseModel]) -> Shape:
    return block_shape(model_keys(model), open_ended=model.model_config.get("extra") == "allow")


def model_keys(model: type[BaseModel]) -> dict[str, Callable[[], Shape]]:
    """The keys of a model, each with a function that makes its shape."""
    return {
        info.alias or name: partial(shape_of, info.annotation, info.metadata)
        for name, info in model.model_fields.items()
    }


def block_shape(keys: Mapping[str, Callable[[], Shape]], *, open_ended: bool = False) -> Shape:
    """The shape of a block of settings.

    Args:
        keys: its keys; the shape of a key is made when a file first uses the key.
        open_ended: accept other keys, with any value.
    """
    shapes: dict[str, Shape] = {}

    def shape(key: str) -> Shape | None:
        if key not in shapes:
            if key not in keys:
                return ANYTHING if open_ended else None
            shapes[key] = keys[key]()
        return shapes[key]

    def read(reader: Reader, node: Node, path: KeyPath) -> Any:
        if node.kind != "mapping":
            return reader.reject(path, f"expected a mapping of settings, found {node.found}")
        return reader.block(node, shape, list(keys), path)

    return Shape("a mapping of settings", "mappings", read, empty=dict)


def _either_shape(scalar: Shape, other: Shape) -> Shape:
    def read(reader: Reader, node: Node, path: KeyPath) -> Any:
        return (scalar if node.kind == "scalar" else other).read(reader, node, path)

    return Shape(f"{other.expected} or {scalar.expected}", other.plural, read, empty=other.empty)


_SEQUENCES: dict[Any, Callable[[list[Any]], Any]] = {
    list: list,
    tuple: tuple,
    Sequence: list,
    set: list,
    frozenset: list,
}


def shape_of(annotation: Any, metadata: Sequence[Any] = ()) -> Shape:
    """Return the shape for an annotation. Unknown annotations accept any value; pydantic validates it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return shape_of(arguments[0], (*arguments[1:], *metadata))
    written = next((m for m in metadata if isinstance(m, Written)), getattr(annotation, "written", None))
    if isinstance(written, Written):
        return _text_shape(written)
    shorthand = next((m for m in metadata if isinstance(m, Shorthand)), None)
    if shorthand:
        return _either_shape(_text_shape(Written(shorthand.noun)), shape_of(annotation))
    if origin in (Union, UnionType):
        others = [argument for argument in arguments if argument is not NoneType]
        return shape_of(others[0]) if len(others) == 1 else ANYTHING
    if origin is Literal:
        return _text_shape(Written("string")) if all(isinstance(a, str) for a in arguments) else ANYTHING
    if origin in _SEQUENCES:
        fixed = origin is tuple and Ellipsis not in arguments
        return _sequence_shape(_SEQUENCES[origin], ANYTHING if fixed else shape_of(arguments[0]))
    if origin in (dict, Mapping):
        return mapping_shape(shape_of(arguments[1]))
    return _class_shape(annotation)


def _class_shape(kind: Any) -> Shape:
    if not isinstance(kind, type):
        return ANYTHING
    if issubclass(kind, BaseModel):
        return _model_shape(kind)
    if issubclass(kind, str):
        return _text_shape(Written("string"))
    return ANYTHING if issubclass(kind, Enum) else _PLAIN_SHAPES.get(kind, ANYTHING)
