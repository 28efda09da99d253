"""File descriptors of this process: those that are open, and a shortage of them."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path


def open_descriptors() -> frozenset[tuple[str, str]]:
    """Return the descriptors that are open: the number of each, and what it is, such as ``socket:[4711]``.

    Garbage is collected first: what earlier tests left, such as the epoll of an event loop, may be closed at any time.
    So compare which descriptors are new or gone, and not how many there are.
    """
    gc.collect()
    found = set[tuple[str, str]]()
    for path in [*Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(FileNotFoundError):  # that of the directory itself is closed now
            found.add((path.name, str(path.readlink())))
    return frozenset(found)


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no more files while the block lasts.

    Garbage is collected first: a descriptor that earlier tests left may be closed in the block, and be free then.
    """
    gc.collect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
