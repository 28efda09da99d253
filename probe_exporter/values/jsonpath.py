"""JSONPath (RFC 9535): compile queries at load, and run them on targets' documents in a limited number of steps."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator
from typing import Any, ClassVar

from probe_exporter.settings.fields import SCALAR_TYPES, Scalar, Written

MAX_STEPS = 200_000
"""Elements of lists and objects that the queries on one document look at: less than a second of work."""


class JsonPath(Scalar):
    """A query such as ``$.queues[*].length``, compiled at load."""

    __slots__ = ("_compiled", "_select", "text")
    written = Written("JSONPath query")
    schema: ClassVar[dict[str, Any]] = {"type": SCALAR_TYPES, "description": "A JSONPath query (RFC 9535)."}

    def __init__(self, text: str) -> None:
        """
        Raises:
            ValueError: not a query.
        """
        from probe_exporter.values import jsonpath_library  # noqa: PLC0415  # few modules need it, and it takes a while to load

        self.text = text
        self._compiled = jsonpath_library.compile(text)
        self._select = jsonpath_library.select

    def nodes(self, document: object, limit: int) -> list[tuple[str, Any]]:
        """Return the first nodes that the query selects: the last name or index of each one's path, and its value.

        Args:
            document: from `metered`, or a part of one.

        Raises:
            ValueError: the document is too large for the query, or nested too deep.
        """
        if not isinstance(document, dict | list):
            return [("", document)] if self._compiled.empty() else []
        return self._select(self._compiled, document, limit)

    def first(self, document: object) -> Any:
        """Return the value of the first node; None if there is none."""
        return next((value for _, value in self.nodes(document, 1)), None)

    def __reduce__(self) -> tuple[type[JsonPath], tuple[str]]:
        """Pickle the text alone, for helper processes."""
        return type(self), (self.text,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonPath) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"JsonPath({self.text!r})"


class Meter:
    """Counts the elements that queries look at, and raises an exception for one too many."""

    __slots__ = ("_excess", "_left")

    def __init__(self, steps: int = MAX_STEPS, excess: type[Exception] = ValueError) -> None:
        self._left = steps
        self._excess = excess

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise self._excess(f"the queries would look at more than {MAX_STEPS} elements of the document")


class _List(list[Any]):
    """A list whose iteration is metered."""

    __slots__ = ("meter",)
    meter: Meter

    def __iter__(self) -> Iterator[Any]:
        self.meter.spend(len(self))
        return super().__iter__()


class _Object(dict[str, Any]):
    """An object whose iteration is metered."""

    __slots__ = ("meter",)
    meter: Meter

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        self.meter.spend(len(self))
        return super().items()


def metered(document: object, meter: Meter) -> Any:
    """Return a parsed document in a form whose elements are counted when queries look at them.

    Raises:
        ValueError: it is nested too deep.
    """
    try:
        return _metered(document, meter)
    except RecursionError:
        raise ValueError("the document is nested too deep") from None


def _metered(value: object, meter: Meter) -> Any:
    if isinstance(value, list):
        items = _List([_metered(item, meter) for item in value])
        items.meter = meter
        return items
    if isinstance(value, dict):
        members = _Object({key: _metered(item, meter) for key, item in value.items()})
        members.meter = meter
        return members
    return value
