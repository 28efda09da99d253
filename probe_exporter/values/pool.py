"""Run work on large documents in helper processes, so that it blocks neither the event loop nor other probes.

A thread would not do: the JSON parser, the CEL library and the garbage collector hold the interpreter's lock for
seconds where a hostile document of 8 MiB makes them work (docs/decisions.md).

* `run` calls a function in a helper process: ``await run(search, [body], pattern)``. Bodies travel as they are, the
  function, the other arguments and the result pickled, over a pair of sockets.
* Helpers are started when there is work, at most `MAX_HELPERS` of them, and exit after `IDLE_SECONDS` without work.
  A helper also exits when the exporter does: its socket closes.
* If the caller is cancelled, as it is at a probe's deadline, its helper is killed at once.
* A helper raises its own oom_score_adj: if memory runs out, the kernel kills it and not the exporter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

T = TypeVar("T")

MAX_HELPERS = min(4, os.cpu_count() or 1)
"""Helper processes of one exporter process."""

IDLE_SECONDS = 60.0
"""Seconds without work after which a helper exits."""

SIZE = struct.Struct("!Q")
"""The size of a part of a message, which precedes the part."""


class HelperFailed(Exception):
    """A helper process can't be started, or died while it worked."""


async def run(function: Callable[..., T], bodies: Sequence[bytes], *arguments: object) -> T:
    """Return what ``function(*bodies, *arguments)`` returns in a helper process.

    Args:
        function: a function of a module; it must not raise.
        arguments: anything that pickles.

    Raises:
        HelperFailed: a helper can't be started, or died.
    """
    job = pickle.dumps((function, arguments))
    async with _slots():
        while _idle:
            try:
                return cast("T", await _call(_idle.pop(), job, bodies))
            except HelperFailed:
                pass  # it was killed while it had no work
        return cast("T", await _call(_start(), job, bodies))


async def _call(helper: _Helper, job: bytes, bodies: Sequence[bytes]) -> Any:
    """Return the result of one job; the helper is idle again, or dead."""
    try:
        result = await helper.call([SIZE.pack(len(bodies)), job, *bodies])
    except BaseException:
        helper.kill()
        raise
    helper.rest()
    _idle.append(helper)
    return result


_idle: list[_Helper] = []
"""Helpers without work. They don't belong to an event loop."""

_semaphore: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None


def _slots() -> asyncio.Semaphore:
    """Return the semaphore of the running loop. A process has one loop; a test may make another."""
    global _semaphore  # noqa: PLW0603  # one value for the process
    loop = asyncio.get_running_loop()
    if _semaphore is None or _semaphore[0] is not loop:
        _semaphore = loop, asyncio.Semaphore(MAX_HELPERS)
    return _semaphore[1]


class _Helper:
    """A helper process, and our end of its socket."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._process = process
        self._connection = connection
        self._expiry: asyncio.TimerHandle | None = None

    async def call(self, parts: Sequence[bytes]) -> Any:
        """Send a job, and return its result.

        Raises:
            HelperFailed: the helper died.
        """
        if self._expiry is not None:
            self._expiry.cancel()
        loop = asyncio.get_running_loop()
        try:
            for part in parts:
                await loop.sock_sendall(self._connection, SIZE.pack(len(part)))
                await loop.sock_sendall(self._connection, part)
            (size,) = SIZE.unpack(await self._receive(SIZE.size))
            return pickle.loads(await self._receive(size))
        except OSError as error:
            raise HelperFailed(f"the helper process died: {error}") from None

    async def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = await asyncio.get_running_loop().sock_recv(self._connection, min(size - len(data), 1 << 18))
            if not piece:
                raise HelperFailed("the helper process died: it may have run out of memory")
            data += piece
        return bytes(data)

    def rest(self) -> None:
        """Wait for more work, for `IDLE_SECONDS`."""
        self._expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._expire)

    def _expire(self) -> None:
        if self in _idle:
            _idle.remove(self)
        self.kill()

    def kill(self) -> None:
        self._connection.close()
        self._process.kill()


def _start() -> _Helper:
    """Start a helper process.

    Raises:
        HelperFailed: the system refuses.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with contextlib.ExitStack() as undo:
        try:
            ours, theirs = socket.socketpair()
            undo.enter_context(ours)
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-m", "probe_exporter.values.helper"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,  # Ctrl-C in a terminal is for the exporter
                )
        except OSError as error:
            raise HelperFailed(f"can't start a helper process: {error.strerror}") from None
        undo.pop_all()
    ours.setblocking(False)
    # The thread reaps the process when it exits, so that no zombie remains.
    threading.Thread(target=process.wait, name="helper-process", daemon=True).start()
    return _Helper(process, ours)
