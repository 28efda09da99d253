"""Move the few objects that outlive a burst of probes together, so that Python returns the memory around them.

How Python's allocator works, for objects of up to 512 bytes:

* A pool is 16 KiB for objects of one size, rounded up to 16 bytes. 64 pools are an arena of 1 MiB. Memory is returned
  by the arena, so one object keeps a whole one.
* A new object takes a free place in a pool of its size. Only if there is none, Python takes an empty pool, of the
  arena with the fewest empty ones.

After 2,000 probes, 35 arenas are nearly empty, and each has free places for most sizes. `fill_holes` takes these
places. Then Python puts the next objects into fuller arenas: `recreate` copies objects that live on, and `refill`
replaces those that a type in C keeps for reuse. The old objects and the fillers are dropped together afterwards.

Python without this allocator loses nothing: `fill_holes` stops after `MAX_FILLER_BYTES`.
"""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pickle import HIGHEST_PROTOCOL, Pickler, Unpickler
from types import MethodType
from typing import Any, TypeVar

T = TypeVar("T")

POOL_BITS = 14
"""The low bits of an address that differ within a pool: `POOL_BITS` of CPython's pycore_obmalloc.h."""
POOL_BYTES = (1 << POOL_BITS) - 48
"""The bytes of a pool that objects take: all but its header."""
SIZES = range(32, 513, 16)
"""Sizes of places in bytes. No object with a type fits into 16."""
MAX_FILLER_BYTES = 16 << 20
"""Bytes of all fillers; the free places after 2,000 probes are 5 MiB."""

_EMPTY_BYTES = 33  # the size of b""


async def fill_holes() -> list[object]:
    """Return objects that take all free places of pools in use.

    A turn of the event loop creates up to 1,530 of them, which takes 1 ms.
    """
    fillers: list[object] = []
    room = MAX_FILLER_BYTES
    for size in SIZES:
        full = False
        while not full and room > 0:
            some, full = _fill(size)
            fillers += some
            room -= len(some) * size
            await asyncio.sleep(0)
    return fillers


def _fill(size: int) -> tuple[list[object], bool]:
    """Return objects in some free places of one size, and whether those were the last ones.

    They were if a pool has new objects alone: it was empty before, and Python takes such a pool last.
    """
    places = POOL_BYTES // size
    number = 3 * places  # so that they take at least one whole pool if fewer than a pool's places are free
    fillers: list[object] = [_place(size, one) for one in range(number)]
    taken = Counter([id(filler) >> POOL_BITS for filler in fillers])
    among_others = [filler for filler in fillers if taken[id(filler) >> POOL_BITS] < places]
    return among_others, len(among_others) < number


def _place(size: int, number: int) -> object:
    """Return a new object of a size."""
    return bytes(size - _EMPTY_BYTES) if size > _EMPTY_BYTES else number + 0.5


async def refill(create: Callable[[], object], kept: int) -> list[object]:
    """Replace the objects that a type in C keeps for reuse.

    Args:
        create: creates an object of the type.
        kept: the most objects that the type keeps.

    Returns:
        The old objects. The type has no room for them, so that dropping them frees their memory.
    """
    objects = [create() for _ in range(2 * kept)]  # the first are those that the type has kept
    await asyncio.sleep(0)  # the event loop runs handles, and drops them
    del objects[kept:]  # the type keeps these
    return objects


COPIED = frozenset({int, float, str, bytes, tuple, list, dict, MethodType})
"""Types whose objects `recreate` always copies."""


def recreate(objects: Sequence[T], types: frozenset[type]) -> Sequence[T]:
    """Copy objects, with all that they refer to, as far as it is of `types` or `COPIED`; the rest is shared.

    Args:
        objects: data that nothing changes any more.

    Returns:
        The copies; the same objects if they are nested too deeply.
    """
    written = io.BytesIO()
    pickler = _CopyPickler(written, types | COPIED)
    try:
        pickler.dump(objects)
    except RecursionError:
        return objects
    copies: Sequence[T] = _CopyUnpickler(io.BytesIO(written.getbuffer()), pickler.shared).load()
    return copies


class _CopyPickler(Pickler):
    """Writes objects of some types, and collects all others in `shared`.

    `copy.deepcopy` copies no numbers and no texts, which are most of what lives on.
    """

    def __init__(self, file: io.BytesIO, types: frozenset[type]) -> None:
        super().__init__(file, HIGHEST_PROTOCOL)
        self._types = types
        self.shared: list[object] = []

    def persistent_id(self, obj: object) -> int | None:
        if type(obj) in self._types:
            return None
        self.shared.append(obj)
        return len(self.shared) - 1

    def reducer_override(self, obj: Any) -> Any:
        """Copy exceptions without a call of ``__init__``, whose arguments they don't keep."""
        if isinstance(obj, BaseException):
            return type(obj).__new__, (type(obj), *obj.args), obj.__dict__
        return NotImplemented


class _CopyUnpickler(Unpickler):
    """Reads what `_CopyPickler` has written."""

    def __init__(self, file: io.BytesIO, shared: Sequence[object]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, pid: int) -> object:
        return self._shared[pid]
