"""The helper process of `pool`: read jobs from the socket on file descriptor 0, answer each with its result."""

from __future__ import annotations

import contextlib
import gc
import pickle
import socket
from pathlib import Path
from typing import BinaryIO

from probe_exporter.values.pool import SIZE


def main() -> None:
    """Serve jobs until the exporter closes the socket."""
    gc.disable()  # a document has no cycles; looking for them in millions of values takes seconds
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(EOFError, ConnectionError), socket.socket(fileno=0) as connection:
        jobs = connection.makefile("rb")
        while True:
            connection.sendall(_result(jobs))


def _result(jobs: BinaryIO) -> bytes:
    """Read a job, and return its result as `pool` reads it."""
    (count,) = SIZE.unpack(_read(jobs))
    function, arguments = pickle.loads(_read(jobs))
    result = pickle.dumps(function(*[_read(jobs) for _ in range(count)], *arguments))
    return SIZE.pack(len(result)) + result


def _read(jobs: BinaryIO) -> bytes:
    """Read one part of a job."""
    size = jobs.read(SIZE.size)
    if len(size) < SIZE.size:
        raise EOFError
    (length,) = SIZE.unpack(size)
    return jobs.read(length)


if __name__ == "__main__":
    main()
