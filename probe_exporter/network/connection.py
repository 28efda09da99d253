"""`Connection`: a byte stream to a target, plain or TLS, which probers read and write. `opening` opens connections.

How it works:

* A `StreamSocket` calls methods like those of `asyncio.Protocol`. They keep what arrived, and wake the one reader.
* TLS is a list of layers, the outermost first: a proxy's TLS may have the target's inside. Received data goes through
  them from the first to the last, sent data the other way.
* A layer decrypts a limited number of records in one turn of the loop. If some are left, `_behind` is true, reading is
  paused, and `_catch_up` goes on in the next turn. `read` reports the end or an error only after that.
* At `MAX_UNREAD_BYTES` the socket stops reading, so that the peer has to wait until `read` is called.
* Errors of the system and of TLS become `ProbeFailed`. Times are taken when the event loop reports an event.
"""

from __future__ import annotations

import asyncio
import errno
import time
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from probe_exporter.network.socket_events import socket_events
from probe_exporter.prober.deadline import Deadline
from probe_exporter.prober.failure import ProbeFailed, Reason, check_files
from probe_exporter.prober.run import Probe
from probe_exporter.tls import evidence, handshake, metrics
from probe_exporter.tls.handshake import MAX_QUICK_HANDSHAKE_BYTES, VerificationFailed

if TYPE_CHECKING:
    from probe_exporter.network.stream_socket import StreamSocket
    from probe_exporter.tls.context import ClientContext
    from probe_exporter.tls.layer import Layer

MAX_UNREAD_BYTES = 256 * 1024
"""Bytes received and not yet read at which the connection stops reading from the peer."""

TURN_BYTES = 16 * 1024
"""Bytes that `exactly` and `until` return and `write` sends in one turn of the event loop; then other tasks run."""

CALL_COST_BYTES = 256
"""Bytes that one such call counts beside its own, so that many small messages share the loop too."""

LINGER_SECONDS = 1.0
"""Seconds after which a closed connection is aborted if the peer has not taken what was still to be sent."""

MAX_HANDSHAKE_BYTES = 1024 * 1024
"""Bytes of a TLS handshake, with what a server sends right behind it. Most servers send less than 6 KB."""

MAX_HANDSHAKE_SECONDS = 10.0
"""Seconds that a TLS handshake may take, even if the deadline is later: the original's limit."""


class Secure(NamedTuple):
    """How to start TLS: the context, and the server name to send (SNI) and to verify."""

    context: ClientContext
    server_name: str


class Connection:
    """One byte stream to a target: plain, TLS, or TLS within TLS. Made by `connect`, `dial` or `dial_unix`.

    ``with await connect(…) as connection:`` closes it at the end of the block.

    Attributes:
        connect_seconds, tls_seconds: how long the TCP and the TLS handshake took.
        opened_at, first_byte_at, last_byte_at: times of `time.perf_counter`, 0.0 before the event; the first byte is
            the application's first.
        address: what it is connected to: an address or the path of a Unix socket; empty behind a proxy.
        handshake: the last TLS handshake; None on a plain connection.
    """

    def __init__(self) -> None:
        self.connect_seconds = 0.0
        self.tls_seconds = 0.0
        self.opened_at = 0.0
        self.first_byte_at = 0.0
        self.last_byte_at = 0.0
        self.address = ""
        self.handshake: handshake.Handshake | None = None
        self._socket: StreamSocket | None = None
        self._layers: list[Layer] = []  # the first is the outermost: its records are what is on the wire
        self._arrived: list[bytes] = []
        self._held = 0  # bytes in _arrived
        self._ahead = bytearray()  # read and not wanted yet, before _arrived; to cut off its front moves nothing
        self._in_turn = 0  # bytes and costs of calls since the last turn of the event loop
        self._paused = False  # until `read` takes what arrived
        self._behind = False  # received data is decrypted in the next turn; reading is paused
        self._ended = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # Called by the socket.

    def connection_made(self, stream: StreamSocket) -> None:
        self.opened_at = time.perf_counter()
        self._socket = stream

    def data_received(self, data: bytes) -> None:
        if self._layers:
            try:
                for depth in range(len(self._layers)):
                    data = self._decrypt(depth, data)
            except Exception as error:  # a bug, which the prober shall raise: other probes go on
                self._error = self._error or error
                self.abort()
                self._wake()
                return
            if any(layer.behind for layer in self._layers):
                self._go_on_next_turn()
        self._deliver(data)

    def _go_on_next_turn(self) -> None:
        """Decrypt the rest in the next turn of the event loop, and read nothing more before."""
        if not self._behind:
            self._behind = True
            socket_events(asyncio.get_running_loop()).go_on(self._catch_up)
            if self._socket is not None and not self._paused:
                self._socket.pause_reading()

    def _catch_up(self) -> None:
        self._behind = False
        self.data_received(b"")
        if not (self._behind or self._paused) and self._socket is not None:
            self._socket.resume_reading()

    def _deliver(self, data: bytes) -> None:
        """Keep data for `read`; stop reading from the peer once there is too much of it."""
        if data:
            self.last_byte_at = time.perf_counter()
            if not self.first_byte_at:
                self.first_byte_at = self.last_byte_at
            self._arrived.append(data)
            self._held += len(data)
            if self._held >= MAX_UNREAD_BYTES and not self._paused and self._socket is not None:
                self._paused = True
                self._socket.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self.last_byte_at = time.perf_counter()
        self._ended = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._socket = None
        if error is not None and not self._ended:
            self._error = self._error or _lost(error)
        self._ended = True
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writer = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            wake(writer)

    # Called by probers.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def waiting(self) -> bool:
        """Whether `read` has something to return at once."""
        return bool(self._arrived or self._ahead)

    async def read(self) -> bytes:
        """Return what has arrived, at least one byte; ``b""`` at the end of the stream.

        Raises:
            ProbeFailed: the peer reset the connection, or TLS broke.
        """
        if self._ahead:
            self._arrived.insert(0, bytes(self._ahead))
            self._ahead.clear()
        while not self._arrived:
            if self._error is not None and not self._behind:
                raise self._error
            if self._ended and not self._behind:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        data = self._arrived[0] if len(self._arrived) == 1 else b"".join(self._arrived)
        self._arrived.clear()
        self._held = 0
        if self._paused and self._socket is not None:
            self._paused = False
            if not self._behind:
                self._socket.resume_reading()
        return data

    async def exactly(self, size: int) -> bytes:
        """Return the next `size` bytes.

        Raises:
            ProbeFailed: the stream ends before.
        """
        while len(self._ahead) < size:
            await self._read_ahead()
        if self._turn_is_over(size):
            await asyncio.sleep(0)
        return self._cut(size)

    async def until(self, end: bytes, *, limit: int) -> bytes:
        """Return the bytes before `end`, and drop `end`.

        Args:
            limit: the most bytes before `end`.

        Raises:
            ProbeFailed: the stream ends before, or `limit` bytes came without `end`.
        """
        searched, most = 0, limit + len(end)
        while (found := self._ahead.find(end, searched, most)) < 0:
            if len(self._ahead) >= most:
                raise ProbeFailed(
                    Reason.PROTOCOL_ERROR, f"the peer sent {limit} bytes without an end where one belongs"
                )
            searched = max(len(self._ahead) - len(end) + 1, 0)
            await self._read_ahead()
        if self._turn_is_over(found):
            await asyncio.sleep(0)
        data = self._cut(found)
        del self._ahead[: len(end)]
        return data

    async def to_end(self, *, limit: int) -> bytes:
        """Return all bytes up to the end of the stream.

        Args:
            limit: the most bytes.

        Raises:
            ProbeFailed: more than `limit` bytes came, or the peer reset the connection.
        """
        data = bytearray()
        while more := await self.read():
            data += more
            if len(data) > limit:
                raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the peer sent more than {limit} bytes")
        return bytes(data)

    async def _read_ahead(self) -> None:
        ahead, self._ahead = self._ahead, bytearray()  # otherwise `read` would return these bytes again
        data = await self.read()
        if not data:
            raise ProbeFailed(Reason.CONNECT_CLOSED, "the peer closed the connection where more was expected")
        ahead += data
        self._ahead = ahead

    def _turn_is_over(self, size: int) -> bool:
        """Return whether the calls since the last turn of the event loop exceed the limit, so that other tasks run."""
        self._in_turn += size + CALL_COST_BYTES
        if self._in_turn < TURN_BYTES:
            return False
        self._in_turn = 0
        return True

    def _cut(self, size: int) -> bytes:
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        return data

    def put_back(self, data: bytes) -> None:
        """Return bytes to the front of the stream, for the next `read`."""
        self._ahead[:0] = data

    def send(self, data: bytes) -> None:
        """Send `data` without waiting: for small messages, and where the peer may answer before it has read all."""
        if self._layers:
            self._send(data, len(self._layers))
        elif data and self._socket is not None:
            self._socket.write(data)

    async def write(self, data: bytes) -> None:
        """Send `data`, and wait until the send buffer has room again.

        Raises:
            ProbeFailed: the connection is gone.
        """
        self.send(data)
        stream = self._socket
        if self._writer is not None:
            await self._writer
        elif stream is None or stream.closing or self._turn_is_over(len(data)):
            # Let other tasks run even if the peer reads as fast as we write. If sending failed, learn why.
            await asyncio.sleep(0)
        if self._socket is None:
            raise self._error or ProbeFailed(Reason.CONNECT_CLOSED, "the connection is closed")

    async def start_tls(self, probe: Probe, secure: Secure) -> None:
        """Start TLS, as a phase of its own of the probe.

        Raises:
            ProbeFailed: as `start_tls_in_phase`.
        """
        with probe.phase("tls") as phase:
            phase.about = secure.server_name
            await self.start_tls_in_phase(probe, secure)

    async def start_tls_in_phase(self, probe: Probe, secure: Secure) -> None:
        """Start TLS, after `dial` or in the middle of a dialogue (STARTTLS), in the current phase of the probe.

        Raises:
            ProbeFailed: the handshake failed, or the certificate does not verify (its metrics are reported even so).
        """
        started = time.perf_counter()
        try:
            await self.wrap(secure, requests_ocsp=probe.requests_ocsp)
        except VerificationFailed as failed:
            metrics.report_handshake(probe, failed.handshake)
            evidence.keep(probe, failed.handshake, secure.server_name, self.address)
            raise
        if self.handshake is not None:
            evidence.keep(probe, self.handshake, secure.server_name, self.address)
        self.tls_seconds = time.perf_counter() - started

    async def wrap(self, secure: Secure, *, requests_ocsp: bool = False) -> None:
        """Add a TLS layer inside of those already there; report no metrics.

        Args:
            requests_ocsp: ask for a stapled OCSP response.

        Raises:
            ProbeFailed: the handshake failed, or the certificate does not verify.
        """
        layer = secure.context.layer(secure.server_name)
        if requests_ocsp:
            layer.request_ocsp()
        try:
            with Deadline(asyncio.get_running_loop().time() + MAX_HANDSHAKE_SECONDS):
                await self._do_handshake(layer)
        except TimeoutError:
            raise ProbeFailed(Reason.TLS_TIMEOUT, f"no TLS handshake within {MAX_HANDSHAKE_SECONDS:g} s") from None
        self.handshake = layer.handshake
        self._layers.append(layer)
        self.first_byte_at = 0.0  # what came before was not the application's
        if layer.has_more():  # data came along with the handshake's last message
            self._deliver(self._decrypt(len(self._layers) - 1, b""))
            if layer.behind:
                self._go_on_next_turn()

    def restart(self, received: bytes = b"") -> None:
        """Forget when the first byte came, since it was not the application's; `read` returns `received` next."""
        self.first_byte_at = 0.0
        if received:
            self._deliver(received)

    async def _do_handshake(self, layer: Layer) -> None:
        """Exchange handshake messages until the handshake is complete.

        Raises:
            ProbeFailed: it failed, or the peer sent too much or closed the connection.
        """
        received, size = b"", 0
        while True:
            size += len(received)
            if size > MAX_HANDSHAKE_BYTES:
                raise ProbeFailed(
                    Reason.TLS_HANDSHAKE,
                    f"the peer sent more than {MAX_HANDSHAKE_BYTES} bytes during the TLS handshake",
                )
            try:
                if size <= MAX_QUICK_HANDSHAKE_BYTES:
                    finished = layer.advance(received)
                else:
                    finished = await asyncio.get_running_loop().run_in_executor(None, layer.advance, received)
            except ProbeFailed:
                self._send(layer.outgoing(), len(self._layers))  # the alert
                raise
            self._send(layer.outgoing(), len(self._layers))
            if finished:
                return
            received = await self.read()
            if not received:
                raise ProbeFailed(Reason.TLS_HANDSHAKE, "the peer closed the connection during the TLS handshake")

    def close(self, last: bytes = b"") -> None:
        """Send unsent data and `last`, then close TLS and the socket. Safe to call twice."""
        stream = self._socket
        if stream is not None and not stream.closing:
            if not self._ended:  # after the peer's close_notify no answer is needed
                for layer in reversed(self._layers):
                    last = layer.encrypt(last) if last else b""
                    layer.close()
                    last += layer.outgoing()
                if last:
                    stream.write(last)
            stream.close()
            if self._socket is not None:  # something is unsent, and the peer may never read it
                asyncio.get_running_loop().call_later(LINGER_SECONDS, stream.abort)

    def abort(self) -> None:
        """Close the socket at once and drop unsent data."""
        if self._socket is not None:
            self._socket.abort()

    def _send(self, data: bytes, depth: int) -> None:
        """Encrypt `data` with the layers outside of `depth`, the inner ones first, and send it."""
        if data and self._socket is not None:
            while depth:
                depth -= 1
                data = self._layers[depth].encrypt(data)
            self._socket.write(data)

    def _decrypt(self, depth: int, data: bytes) -> bytes:
        """Return `data` decrypted by the layer at `depth`; send what the layer has to answer."""
        layer = self._layers[depth]
        plain = layer.decrypt(data)
        self._error = self._error or layer.failure
        self._send(layer.outgoing(), depth)
        self._ended = self._ended or layer.ended
        return plain

    def _wake(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            wake(reader)


def wake(waiter: asyncio.Future[None] | None) -> None:
    """Let a task continue that waits for a future, if one does."""
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _lost(error: Exception) -> ProbeFailed:
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return ProbeFailed(Reason.CONNECT_RESET, "the peer reset the connection")
    return ProbeFailed(Reason.CONNECT_FAILED, f"the connection broke: {error}")


_CONNECT_REASONS = {
    errno.ECONNREFUSED: Reason.CONNECT_REFUSED,
    errno.ENOENT: Reason.CONNECT_REFUSED,  # of a Unix socket
    errno.ETIMEDOUT: Reason.CONNECT_TIMEOUT,
    errno.EHOSTUNREACH: Reason.CONNECT_UNREACHABLE,
    errno.ENETUNREACH: Reason.CONNECT_UNREACHABLE,
    errno.EHOSTDOWN: Reason.CONNECT_UNREACHABLE,
    errno.ECONNRESET: Reason.CONNECT_RESET,
}


def connecting_failed(error: OSError, target: str) -> ProbeFailed:
    """Make a failure of the system's error about a connection or a datagram.

    Raises:
        OutOfFiles: the exporter has no file descriptor left.
    """
    check_files(error, f"connecting to {target}")
    reason = _CONNECT_REASONS.get(error.errno or 0, Reason.CONNECT_FAILED)
    return ProbeFailed(reason, f"connecting to {target} failed: {error.strerror or error}")
