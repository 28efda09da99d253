"""Rules between the keys of one block, such as "a needs b". `Settings.rules` lists them.

A rule gets the block as written, before validation, so an invalid value of one key does not hide a violated rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Block = Mapping[str, Any]
"""A block as it was written: only keys that are present and not null."""


class Absent(dict[str, Any]):
    """Stands for the block of a module that has no block of its prober: all keys have their defaults."""


Rule = Callable[[Block], Iterable[tuple[str, str]]]
"""A function that yields the violations in a block: the key, and a sentence."""


NO_SECRET_MANAGER = "there is no secret manager to resolve a reference: every probe of this module will fail"
"""Warning for ``*_ref`` keys, which are accepted for compatibility only."""


def _is_set(value: object) -> bool:
    return bool(value) or isinstance(value, Mapping | list)


def exclusive(*keys: str) -> Rule:
    """Make a rule: at most one of `keys` may be set. An empty string counts as unset, an empty block as set."""

    def rule(block: Block) -> Iterator[tuple[str, str]]:
        first, *others = [key for key in keys if _is_set(block.get(key))] or [""]
        for key in others:
            yield key, f"`{key}` and `{first}` exclude each other"

    return rule


def required(*keys: str) -> Rule:
    """Make a rule: each of `keys` must be present and not empty."""

    def rule(block: Block) -> Iterator[tuple[str, str]]:
        for key in keys:
            if not block.get(key):
                yield key, f"`{key}` is required"

    return rule


def needs(keys: Iterable[str], one_of: Iterable[str], explanation: str) -> Rule:
    """Make a rule: if any of `keys` is set, one of `one_of` must be set; `explanation` is the error message."""
    wanted = tuple(one_of)
    asking = tuple(keys)

    def rule(block: Block) -> Iterator[tuple[str, str]]:
        if not any(block.get(key) for key in wanted):
            yield from ((key, explanation) for key in asking if block.get(key))

    return rule
