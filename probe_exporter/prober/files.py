"""Read files that a module's settings name: secrets and bodies.

A probe reads them on the event loop, so that nothing here may wait without end:

* To open a pipe (FIFO) waits until another process writes to it. It is refused.
* A device such as /dev/zero has no end. What is read has a limit.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

MAX_SECRET_BYTES = 1 << 20
"""Of a password, a token or a header field."""


def open_file(path: str) -> BinaryIO:
    """Open a file for reading.

    Raises:
        OSError: it can't be read, or is a pipe; `strerror` says why.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe", path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: str, limit: int) -> bytes:
    """Return the content of a file.

    Args:
        limit: the most bytes that it may have.

    Raises:
        OSError: it can't be read, is a pipe, or has more bytes; `strerror` says why.
    """
    with open_file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", path)
    return data
