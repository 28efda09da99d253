"""Measure how much memory a block leaves allocated."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def growth() -> Iterator[list[int]]:
    """Yield a list that holds, after the block, the bytes that Python allocated in it and did not free."""
    grown: list[int] = []
    gc.collect()
    tracemalloc.start()
    try:
        yield grown
        gc.collect()
        grown.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
