"""Accept clients' connections: a few in each turn of the loop, and with a 503 if no file descriptor is left.

An event loop's own server accepts a whole backlog of thousands in one turn. Without a file descriptor it accepts
nothing, so that clients wait for their timeout. Here one descriptor is kept in reserve: it is closed to accept a
client and send the 503, and opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
"""Seconds for a handshake, which takes two round trips."""

SHUTDOWN_SECONDS = 5.0
"""Seconds to wait for a client's close_notify after ours."""

MAX_ACCEPTED_IN_A_TURN = 32
"""Connections: accepting one takes some 30 µs, with TLS 300."""

PAUSE_SECONDS = 0.1
"""Seconds until the next try if not even the reserve helps."""

LOG_SECONDS = 60.0
"""Seconds between two log lines about the same shortage."""

NO_FILES = "The exporter has no file descriptor left: raise its limit of open files"

_BODY = f"{NO_FILES}\n".encode()
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\n"
    b"X-Content-Type-Options: nosniff\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
_MAX_REQUEST_BYTES = 64 * 1024


class Acceptor:
    """Accepts the connections of one listening socket, from `start` to `close`."""

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None = None
    ) -> None:
        """
        Args:
            listener: it stays open after `close`.
            protocol: makes the protocol of a connection.
            tls: the context, where clients speak TLS.
        """
        self._listener = listener
        self._protocol = protocol
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._reserve: int | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._logged = -LOG_SECONDS

    def start(self) -> None:
        """Accept connections from now on."""
        self._listener.setblocking(False)
        self._keep_reserve()
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more connections. Safe to call twice."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._use_reserve()
        for task in self._beginning:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTED_IN_A_TURN):
            try:
                connected, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._log(error)
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._refuse():
                    self._wait()
                    return
            else:
                self._begin(connected)

    def _begin(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        task = self._loop.create_task(self._serve(connected))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _serve(self, connected: socket.socket) -> None:
        """Give a connection to its protocol."""
        times = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": SHUTDOWN_SECONDS}
        with contextlib.suppress(OSError, ssl.SSLError):  # the client has gone, or its handshake failed
            await self._loop.connect_accepted_socket(
                self._protocol, connected, ssl=self._tls, **(times if self._tls is not None else {})
            )

    def _refuse(self) -> bool:
        """Answer the next client with 503; return False if there is no reserve for that."""
        if not self._use_reserve():
            return False
        try:
            connected, _ = self._listener.accept()
        except OSError:
            return False
        else:
            with connected, contextlib.suppress(OSError):
                connected.setblocking(False)
                if self._tls is None:
                    connected.send(_REFUSAL)
                    connected.shutdown(socket.SHUT_WR)
                    connected.recv(_MAX_REQUEST_BYTES)  # unread data would make the kernel drop the answer
            return True
        finally:
            self._keep_reserve()

    def _use_reserve(self) -> bool:
        reserve, self._reserve = self._reserve, None
        if reserve is not None:
            os.close(reserve)
        return reserve is not None

    def _keep_reserve(self) -> None:
        with contextlib.suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _wait(self) -> None:
        """Try again after a pause: the listening socket stays readable, and would be tried in each turn."""
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(PAUSE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        if self._reserve is None:
            self._keep_reserve()
        self._loop.add_reader(self._listener, self._accept)

    def _log(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            log.error("A client could not be accepted", extra={"fields": {"err": error.strerror}})
