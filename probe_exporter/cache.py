"""`remembered`: cache the results of a function of one argument, with a limit in bytes instead of a number of entries.

Use it where a client or a target chooses the argument: `functools.lru_cache` counts entries, so that a few thousand
arguments of 64 KiB take hundreds of megabytes. How it works:

* A cache is a `dict` whose ``__missing__`` computes the value. The decorated function is its ``__getitem__``: a hit
  runs in C, as with `lru_cache`, and costs no Python instruction.
* Two generations take the place of an order of use. New entries go to the young generation; once it is full, it
  becomes the old one, and the old one is dropped. An entry of the old generation that is used moves to the young one.
* An exception is not cached: a bad argument is examined again each time, and takes no memory.
* A result that takes more than a sixteenth of the limit is not cached, so that it can't push out all others.
* `forget_all` empties every cache. Entries that were made during a burst of probes lie between the probes' own objects;
  Python gives memory back in arenas of 1 MiB, and one entry keeps its arena.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Any, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_CACHE_BYTES = 4 << 20
"""Bytes that one cache takes, keys and values, unless it is made with another limit."""

LARGEST_SHARE = 16
"""One entry takes at most this part of the limit, or is not cached."""

MAX_USUAL_BYTES = 4096
"""For large caches: an entry of a usual target takes less. Longer ones are seldom, and not cached."""

_SLOT_BYTES = 104
"""An entry of a dict, with its share of the free room in the table."""


_NOTHING: dict[Any, Any] = {}
"""The old generation of all empty caches: nothing changes an old generation. A new object would outlive a burst."""

_caches: list[Cache[Any, Any]] = []
"""Those that `remembered` and `lookup` have made: one for each function."""


def forget_all() -> None:
    """Drop all remembered results; the next call of each function computes its result again."""
    for results in _caches:
        results.forget()


def remembered(
    max_bytes: int = MAX_CACHE_BYTES,
    weigh: Callable[[Any, Any], int] | None = None,
    max_entry_bytes: int | None = None,
) -> Callable[[Callable[[K], V]], Callable[[K], V]]:
    """Decorate a function of one hashable positional argument.

    Args:
        max_bytes: the limit, both generations together.
        weigh: returns the bytes of an argument and its result; without it, `size_of` both.
        max_entry_bytes: a larger entry is not cached; by default a sixteenth of the limit.
    """

    def decorate(function: Callable[[K], V]) -> Callable[[K], V]:
        return lookup(Cache(function, max_bytes, weigh, max_entry_bytes))

    return decorate


def lookup(results: Cache[K, V]) -> Callable[[K], V]:
    """Return the function that a cache stands for. `forget_all` empties the cache from now on."""
    _caches.append(results)
    return results.__getitem__


class Cache(dict[K, V]):
    """The young generation, by argument; `__missing__` does the rest.

    Attributes:
        bytes: the size of the young generation.
        old: the generation before.
    """

    __slots__ = ("_function", "_max_bytes", "_max_entry_bytes", "_weigh", "bytes", "old")

    def __init__(
        self,
        function: Callable[[K], V],
        max_bytes: int,
        weigh: Callable[[K, V], int] | None = None,
        max_entry_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self._function = function
        self._weigh = weigh or _weight
        self._max_bytes = max_bytes
        self._max_entry_bytes = max_entry_bytes or max_bytes // LARGEST_SHARE
        self.bytes = 0
        self.old: dict[K, V] = _NOTHING

    def __missing__(self, key: K) -> V:
        """Compute a value, or take it from the old generation, and remember it."""
        old = self.old  # another thread may replace it meanwhile
        value = old[key] if key in old else self._function(key)
        size = _SLOT_BYTES + self._weigh(key, value)
        if size > self._max_entry_bytes:
            return value
        if self.bytes + size > self._max_bytes // 2:
            self.old = dict(self)
            self.clear()
            self.bytes = 0
        self[key] = value
        self.bytes += size
        return value

    def forget(self) -> None:
        """Drop all entries."""
        self.clear()
        self.old = _NOTHING
        self.bytes = 0


def _weight(key: object, value: object) -> int:
    return size_of(key) + size_of(value)


def size_of(value: object) -> int:
    """Estimate the bytes of a value, with the contents of its tuples, lists, dicts and attributes.

    Shared objects (classes, members of an `Enum`) count only as a reference.
    """
    size = sys.getsizeof(value)
    match value:
        case None | str() | bytes() | int() | float() | type() | Enum():
            return size
        case tuple() | list() | set() | frozenset():
            return size + sum(map(size_of, value))
        case dict():
            return size + sum(size_of(key) + size_of(item) for key, item in value.items())
    names = [name for one in type(value).__mro__ for name in getattr(one, "__slots__", ())]
    parts = [getattr(value, name, None) for name in names if name != "__weakref__"]
    return size + sum(map(size_of, [*parts, *getattr(value, "__dict__", {}).values()]))
