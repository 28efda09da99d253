"""Move the few objects that outlive a burst of probes together, so that Python returns the memory between them.

How Python's allocator works, for objects of up to 512 bytes:

* Places for objects of one size, a multiple of 16, form a pool of 16 KiB. 64 pools form an arena of 1 MiB, and memory
  is returned by the arena: one object keeps it.
* A new object takes a free place in any pool of its size. Only if there is none, Python takes an empty pool, of the
  arena that is fullest.

After a burst, free places are in some 35 arenas that are nearly empty. So `fill_holes` takes all of them. Whatever is
created next comes into the fullest arenas: `recreate` copies objects that live on, and `refill` replaces those that a
type written in C keeps for reuse. Then the old objects and the fillers are dropped together, and their arenas are
returned.

An allocator of another kind, or with other sizes, loses nothing: `fill_holes` gives up after `MAX_FILLER_BYTES`.
"""

from __future__ import annotations

import asyncio
import io
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from types import MethodType
from typing import TypeVar

T = TypeVar("T")

POOL_BITS = 14
"""The last bits of an address that differ within a pool (`POOL_BITS` in CPython's pycore_obmalloc.h, for 64 bits)."""
POOL_BYTES = (1 << POOL_BITS) - 48
"""The bytes of a pool for objects: without its header."""
SIZES = range(32, 513, 16)
"""Sizes of places. Smaller ones, of at most 16 bytes, hold no object."""
MAX_FILLER_BYTES = 16 << 20
"""Bytes of fillers, which are in places that are free: 5 MiB after 2,000 probes."""

_EMPTY_BYTES = 33  # the size of b""


async def fill_holes() -> list[object]:
    """Return objects in all free places, so that objects created from now on are in the fullest arenas.

    A turn of the event loop creates up to 1,530 objects, which takes 1 ms.
    """
    fillers: list[object] = []
    room = MAX_FILLER_BYTES
    for size in SIZES:
        last = False
        while not last and room > 0:
            some, last = _fill(size)
            fillers += some
            room -= len(some) * size
            await asyncio.sleep(0)
    return fillers


def _fill(size: int) -> tuple[list[object], bool]:
    """Return objects in free places of one size, and whether those were the last ones.

    They were if a pool has nothing else, as Python takes an empty pool only if no other one has a free place.
    """
    places = POOL_BYTES // size
    number = 3 * places  # after the last free places in pools, they take at least one whole pool
    fillers = [bytes(size - _EMPTY_BYTES) if size > _EMPTY_BYTES else one + 0.5 for one in range(number)]
    taken = Counter([id(filler) >> POOL_BITS for filler in fillers])
    among_others = [filler for filler in fillers if taken[id(filler) >> POOL_BITS] < places]
    return among_others, len(among_others) < number


async def refill(create: Callable[[], object], kept: int) -> list[object]:
    """Replace the objects that a type in C keeps for reuse. Return the old ones, for which it then has no room.

    Args:
        create: creates an object of the type.
        kept: how many the type keeps, at most.
    """
    objects = [create() for _ in range(2 * kept)]  # first those that were kept, then new ones
    await asyncio.sleep(0)  # the event loop runs handles, and forgets them
    del objects[kept:]
    return objects


COPIED = frozenset({int, float, str, bytes, tuple, list, dict, MethodType})
"""Types whose objects `recreate` copies in any case."""


def recreate(objects: Sequence[T], types: frozenset[type]) -> Sequence[T]:
    """Return copies that share no object of `types` and `COPIED` with the originals, and all other objects.

    Args:
        objects: finished data: nothing changes it.
    """
    written = io.BytesIO()
    pickler = _Pickler(written, types | COPIED)
    try:
        pickler.dump(objects)
    except RecursionError:  # a target may send JSON in a thousand layers
        return objects
    copies: Sequence[T] = _Unpickler(io.BytesIO(written.getbuffer()), pickler.shared).load()
    return copies


class _Pickler(pickle.Pickler):
    """Writes objects of some types, and the numbers of all others in `shared`."""

    def __init__(self, file: io.BytesIO, types: frozenset[type]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._types = types
        self.shared: list[object] = []

    def persistent_id(self, obj: object) -> int | None:
        if type(obj) in self._types:
            return None
        self.shared.append(obj)
        return len(self.shared) - 1

    def reducer_override(self, obj: object) -> object:
        """Copy exceptions without their ``__init__``, whose arguments they don't keep."""
        if isinstance(obj, BaseException):
            return type(obj).__new__, (type(obj), *obj.args), obj.__dict__
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` wrote in this process."""

    def __init__(self, file: io.BytesIO, shared: Sequence[object]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, pid: int) -> object:
        return self._shared[pid]
