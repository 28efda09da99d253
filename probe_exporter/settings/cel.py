"""CEL expressions in settings: compile and type-check them at load, evaluate them with a limit on their cost."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, ClassVar

from probe_exporter.settings.fields import SCALAR_TYPES, Scalar, Written

_CEL_CODE = re.compile(r"^[A-Z_]+: ")
_CEL_END = "Syntax error: mismatched input '<EOF>'"


_INVALID = "INVALID_ARGUMENT: "
_FALSE_ALARM = "expression of type 'dyn' cannot be the range of a comprehension"
"""The library's complaint of ``body["a"].all(…)``. It accepts ``body.a.all(…)``, which means the same."""


@functools.cache
def _cel_compiler() -> Callable[..., Any]:
    """Return the function that compiles expressions over the variable ``body``."""
    # Imported here: it is large, and few configurations use it.
    from cel_expr_python import cel  # type: ignore[import-untyped]  # noqa: PLC0415  # see above

    environment = cel.NewEnv(variables={"body": cel.Type.DYN})
    compiler: Callable[..., Any] = environment.compile
    return compiler


def _compile(text: str) -> Any:
    """Compile and type-check an expression. If the library has only false alarms, compile it without the check.

    Raises:
        RuntimeError: the expression has an error.
    """
    try:
        return _cel_compiler()(text)
    except RuntimeError as error:
        if _FALSE_ALARM not in str(error):
            raise
        for line in str(error).removeprefix(_INVALID).splitlines():
            if line.startswith("ERROR: ") and _FALSE_ALARM not in line:
                raise RuntimeError(_INVALID + line) from None
    return _cel_compiler()(text, disable_check=True)


MAX_COPIED_ELEMENTS = 4000
"""Elements of the longest list in a body, for expressions with map() or filter().

These copy the list for each element, so the time grows with the square; at this limit it is 0.3 s.
"""

_COPYING = re.compile(r"\.\s*(map|filter)\s*\(")
_MACRO = re.compile(r"\.\s*(map|filter|all|exists|exists_one|existsOne)\s*\(")


def _longest(value: object) -> int:
    """Return the length of the longest list or object in a value from the json module."""
    if not isinstance(value, list | dict):
        return 0
    items = value.values() if isinstance(value, dict) else value
    return max(len(value), *map(_longest, items), 0)


class Cel(Scalar):
    """A CEL expression over the variable ``body``, compiled and type-checked at load.

    Attributes:
        has_macro: whether it looks at each element of a list or object, so that the body decides what it costs.
    """

    __slots__ = ("_compiled", "_copies", "has_macro", "text")
    written = Written("CEL expression")
    schema: ClassVar[dict[str, Any]] = {"type": SCALAR_TYPES, "description": "A CEL expression over `body`."}

    def __init__(self, text: str) -> None:
        """
        Raises:
            ValueError: the expression has a syntax error, an unknown name or a type error.
        """
        self.text = text
        self._copies = _COPYING.search(text) is not None
        self.has_macro = _MACRO.search(text) is not None
        try:
            self._compiled = _compile(text)
        except RuntimeError as error:
            raise ValueError(f"not a CEL expression over `body`: {_cel_reason(str(error))}") from None

    def evaluate(self, body: object) -> object:
        """Evaluate the expression for `body`, a value from the json module.

        Raises:
            ValueError: the evaluation failed (such as for a missing key) or would take too long.
        """
        try:
            if self._copies and _longest(body) > MAX_COPIED_ELEMENTS:
                raise ValueError(f"map() and filter() take lists of at most {MAX_COPIED_ELEMENTS} elements")
            result = self._compiled.eval(data={"body": body})
            value: object = result.value()
        except RecursionError:
            raise ValueError("the body is nested too deep") from None
        except RuntimeError as error:  # such as the library's limit of 10,000 rounds of all comprehensions together
            raise ValueError(_cel_reason(str(error).removeprefix("INTERNAL: "))) from None
        if str(result.type()) in ("ERROR", "UNKNOWN"):
            raise ValueError(_cel_reason(str(value)))
        return value

    def __reduce__(self) -> tuple[type[Cel], tuple[str]]:
        """Pickle the text alone, for helper processes."""
        return type(self), (self.text,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cel) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Cel({self.text!r})"


def _cel_reason(message: str) -> str:
    """Return the sentence in a message of the CEL library, without source excerpt, codes and token lists."""
    line = message.split("\n", 1)[0].split(" [INVALID_ARGUMENT]", 1)[0]
    line = _CEL_CODE.sub("", line).removeprefix("ERROR: <input>:1:")
    line = line.split(" (in container", 1)[0].split(" expecting {", 1)[0]
    column, separator, rest = line.partition(": ")
    if separator and column.isdigit():
        return f"{rest.replace(_CEL_END, 'the expression ends too early')} (at character {column})"
    return line
