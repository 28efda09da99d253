"""Set up the JSONPath library; loaded when a module first has a query.

The library's own regular expressions could hang, so `match` and `search` use RE2.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import islice
from typing import Any, ClassVar

from jsonpath import JSONPath, JSONPathEnvironment, JSONPathError
from jsonpath.function_extensions import ExpressionType, FilterFunction

from probe_exporter.settings.regexps import Regexp

MAX_PATTERN_CHARACTERS = 1000
"""Characters of a regular expression, which can come from the document."""


class Search(FilterFunction):
    """``search(value, pattern)``: RFC 9535, 2.4.7."""

    arg_types: ClassVar[list[ExpressionType]] = [ExpressionType.VALUE, ExpressionType.VALUE]
    return_type: ClassVar[ExpressionType] = ExpressionType.LOGICAL

    def __call__(self, value: object, pattern: object) -> bool:
        if not isinstance(value, str) or not isinstance(pattern, str):
            return False
        regexp = _regexp(pattern) if len(pattern) <= MAX_PATTERN_CHARACTERS else None
        return regexp is not None and self._fits(regexp, value)

    def _fits(self, regexp: Regexp, value: str) -> bool:
        return regexp.search(value.encode("utf-8", "replace")) is not None


class Match(Search):
    """``match(value, pattern)``: the same for the whole value (RFC 9535, 2.4.6)."""

    def _fits(self, regexp: Regexp, value: str) -> bool:
        return regexp.matches_all(value)


@lru_cache(maxsize=256)
def _regexp(pattern: str) -> Regexp | None:
    try:
        return Regexp(pattern)
    except ValueError:
        return None


@cache
def _environment() -> JSONPathEnvironment:
    environment = JSONPathEnvironment(strict=True, filter_caching=False)  # a query may run in two threads at once
    environment.function_extensions |= {"search": Search(), "match": Match()}
    return environment


def compile(text: str) -> JSONPath:
    """Compile a query.

    Raises:
        ValueError: it is not one.
    """
    if not text.startswith("$"):  # the library's message says less
        raise ValueError("not a JSONPath query (RFC 9535): it begins with $")
    try:
        query = _environment().compile(text)
    except (JSONPathError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"not a JSONPath query (RFC 9535): {reason}") from None
    assert isinstance(query, JSONPath), "a strict environment has no compound queries"
    return query


def select(query: JSONPath, document: Any, limit: int) -> list[tuple[str, Any]]:
    """Return the first nodes in a list or an object: the last name or index of each one's path, and its value.

    Raises:
        ValueError: the document is nested too deep.
    """
    try:
        found = islice(query.finditer(document), limit)
        return [(str(match.parts[-1]) if match.parts else "", match.obj) for match in found]
    except (JSONPathError, RecursionError):
        raise ValueError("the document is nested too deep") from None
