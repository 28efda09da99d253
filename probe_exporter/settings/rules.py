"""Rules between the keys of one block, as data: `Settings.rules` lists them.

A rule sees the block as it was written, so that an error in one key does not hide a broken rule about others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Block = Mapping[str, Any]
"""A block as it was written: only the keys that are there, none of them null."""


class Absent(dict[str, Any]):
    """The block of a module that has none: empty, and its defaults count."""


Rule = Callable[[Block], Iterable[tuple[str, str]]]
"""Tells what a block breaks: pairs of the key at fault and a sentence for a person."""


NO_SECRET_MANAGER = "there is no secret manager to resolve a reference: every probe of this module will fail"
"""What to say of a ``*_ref`` key: it is read for compatibility and can't be followed."""


def _is_set(value: object) -> bool:
    return bool(value) or isinstance(value, Mapping | list)


def exclusive(*keys: str) -> Rule:
    """At most one of `keys` may be set; an empty string is not set, an empty block is."""

    def rule(block: Block) -> Iterator[tuple[str, str]]:
        first, *others = [key for key in keys if _is_set(block.get(key))] or [""]
        for key in others:
            yield key, f"`{key}` and `{first}` exclude each other"

    return rule


def required(*keys: str) -> Rule:
    """Each of `keys` must be there and not be empty."""

    def rule(block: Block) -> Iterator[tuple[str, str]]:
        for key in keys:
            if not block.get(key):
                yield key, f"`{key}` is required"

    return rule


def needs(keys: Iterable[str], one_of: Iterable[str], explanation: str) -> Rule:
    """If any of `keys` is set, one of `one_of` must be there; `explanation` says so."""
    wanted = tuple(one_of)
    asking = tuple(keys)

    def rule(block: Block) -> Iterator[tuple[str, str]]:
        if not any(block.get(key) for key in wanted):
            yield from ((key, explanation) for key in asking if block.get(key))

    return rule
