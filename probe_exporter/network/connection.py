"""One byte stream to a target: `Connection`, plain or TLS, as probers read and write it. `opening` opens them.

Every error of the system or of TLS leaves here as a `ProbeFailed` with its reason; times are taken at the socket's own
events, not when a coroutine gets round to looking.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

from probe_exporter.prober.deadline import Deadline
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.tls import handshake
from probe_exporter.tls.context import ClientContext
from probe_exporter.tls.layer import Layer, VerificationFailed

HIGH_WATER = 256 * 1024
"""Bytes received and not yet read at which the peer is made to wait."""

TURN_BYTES = 16 * 1024
"""Bytes that `exactly` and `until` return in one turn of the event loop; then other tasks get a turn."""

READ_COST_BYTES = 256
"""Bytes that one such read counts beside its own, so that many small messages share the loop too."""

LINGER = 1.0
"""Seconds for which a closed connection waits for its peer to take the rest."""

MAX_HANDSHAKE_BYTES = 1024 * 1024
"""Bytes of a TLS handshake, with what a server sends right behind it. Most servers send less than 6 KB."""

MAX_QUICK_HANDSHAKE_BYTES = 16 * 1024
"""Bytes of a TLS handshake up to which OpenSSL runs on the event loop; more may hold a hundred certificates to verify,
which takes a tenth of a second, so that goes to a thread."""

HANDSHAKE_LIMIT = 10.0
"""Seconds that a TLS handshake may take, whatever the deadline: the original's limit."""


@dataclass(frozen=True, slots=True)
class Secure:
    """How to make a connection secure: the context, and the name to ask for and to verify."""

    context: ClientContext
    server_name: str


class Connection(asyncio.Protocol):
    """One byte stream to a target: plain, TLS, or TLS within TLS. Made by `connect`, `dial` or `dial_unix`.

    ``with await connect(…) as connection:`` closes it at the end of the block.

    Attributes:
        connect_seconds, tls_seconds: how long the TCP and the TLS handshake took.
        opened_at, first_byte_at, last_byte_at: moments of `time.perf_counter`, 0.0 while they have not come;
            the first byte is the first of the application's.
        handshake: what the last TLS handshake showed; None on a plain connection.
    """

    def __init__(self) -> None:
        self.connect_seconds = 0.0
        self.tls_seconds = 0.0
        self.opened_at = 0.0
        self.first_byte_at = 0.0
        self.last_byte_at = 0.0
        self.handshake: handshake.Handshake | None = None
        self._transport: asyncio.Transport | None = None
        self._layers: list[Layer] = []  # the first is the outermost: its records are what is on the wire
        self._arrived: list[bytes] = []
        self._held = 0  # bytes in _arrived
        self._ahead = bytearray()  # read and not wanted yet, before _arrived; to cut off its front moves nothing
        self._in_turn = 0  # bytes and costs of reads since the last turn of the event loop
        self._paused = False  # until `read` takes what arrived
        self._behind = False  # received data is decrypted in the next turn; reading is paused
        self._ended = False
        self._error: ProbeFailed | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.opened_at = time.perf_counter()
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._layers:
            for depth in range(len(self._layers)):
                data = self._decrypt(depth, data)
            if any(layer.behind for layer in self._layers):
                self._go_on_next_turn()
        self._deliver(data)

    def _go_on_next_turn(self) -> None:
        """Decrypt the rest in the next turn of the event loop, and read nothing more before."""
        if not self._behind:
            self._behind = True
            asyncio.get_running_loop().call_soon(self._catch_up)
            if self._transport is not None and not self._transport.is_closing() and not self._paused:
                self._transport.pause_reading()

    def _catch_up(self) -> None:
        self._behind = False
        self.data_received(b"")
        if not (self._behind or self._paused) and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _deliver(self, data: bytes) -> None:
        """Keep what arrived for `read`, and make the peer wait once there is too much of it."""
        if data:
            self.last_byte_at = time.perf_counter()
            if not self.first_byte_at:
                self.first_byte_at = self.last_byte_at
            self._arrived.append(data)
            self._held += len(data)
            if self._held >= HIGH_WATER and not self._paused and self._transport is not None:
                self._paused = True
                if not self._behind:
                    self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self.last_byte_at = time.perf_counter()
        self._ended = True
        self._wake()
        return True  # our half stays open: a peer may still want to read what we send

    def connection_lost(self, error: Exception | None) -> None:
        transport, self._transport = self._transport, None
        if error is not None and not self._ended:
            if transport is not None and (rest := _unread(transport)):
                self.data_received(rest)
            self._error = self._error or _lost(error)
        self._ended = True
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writer = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)

    # What probers call.

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
        """What has arrived, at least one byte; ``b""`` at the end of the stream.

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
        if self._paused and self._transport is not None:
            self._paused = False
            if not self._behind:
                self._transport.resume_reading()
        return data

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes, however they come.

        Raises:
            ProbeFailed: the stream ends before.
        """
        while len(self._ahead) < size:
            await self._read_ahead()
        if self._turn_is_over(size):
            await asyncio.sleep(0)
        return self._cut(size)

    async def until(self, end: bytes, *, limit: int) -> bytes:
        """What comes up to `end`, which is taken and not returned.

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

    async def _read_ahead(self) -> None:
        ahead, self._ahead = self._ahead, bytearray()  # which `read` would give out first
        data = await self.read()
        if not data:
            raise ProbeFailed(Reason.CONNECT_CLOSED, "the peer closed the connection where more was expected")
        ahead += data
        self._ahead = ahead

    def _turn_is_over(self, size: int) -> bool:
        """Return whether the reads since the last turn add up, so that others get one: a flood must not delay them."""
        self._in_turn += size + READ_COST_BYTES
        if self._in_turn < TURN_BYTES:
            return False
        self._in_turn = 0
        return True

    def _cut(self, size: int) -> bytes:
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        return data

    def put_back(self, data: bytes) -> None:
        """Have what was read and is not wanted yet come first at the next `read`."""
        self._ahead[:0] = data

    def send(self, data: bytes) -> None:
        """Begin to send `data` and do not wait, for what is small or has an answer that may come first."""
        self._send(data, len(self._layers))

    async def write(self, data: bytes) -> None:
        """Send `data`; returns when the peer has taken enough of it for more to follow.

        Raises:
            ProbeFailed: the connection is gone.
        """
        self.send(data)
        if self._writer is not None:
            await self._writer
        else:
            await asyncio.sleep(0)  # a fast peer is no reason to keep all others waiting, nor one that has gone
        if self._transport is None:
            raise self._error or ProbeFailed(Reason.CONNECT_CLOSED, "the connection is closed")

    async def start_tls(self, probe: Probe, secure: Secure) -> None:
        """Make this connection a TLS client's, at once after `dial` or in the middle (STARTTLS).

        Raises:
            ProbeFailed: no agreement, a certificate that does not verify (its metrics are reported all the same).
        """
        with probe.phase("tls"):
            started = time.perf_counter()
            try:
                await self.wrap(secure)
            except VerificationFailed as failed:
                handshake.report(probe, failed.handshake)
                raise
            self.tls_seconds = time.perf_counter() - started

    async def wrap(self, secure: Secure) -> None:
        """Put a layer of TLS around all that follows, inside of those already there; nothing is reported.

        Raises:
            ProbeFailed: no agreement, or a certificate that does not verify.
        """
        layer = secure.context.layer(secure.server_name)
        try:
            with Deadline(asyncio.get_running_loop().time() + HANDSHAKE_LIMIT):
                await self._shake_hands(layer)
        except TimeoutError:
            raise ProbeFailed(Reason.TLS_TIMEOUT, f"no TLS handshake within {HANDSHAKE_LIMIT:g} s") from None
        self.handshake = layer.handshake
        self._layers.append(layer)
        self.restart(self._decrypt(len(self._layers) - 1, b""))  # what came along with the handshake's last message
        if layer.behind:
            self._go_on_next_turn()

    def restart(self, received: bytes = b"") -> None:
        """Begin anew: what has been read was not the application's, but for `received`, which `read` gives out next."""
        self.first_byte_at = 0.0
        self._deliver(received)

    async def _shake_hands(self, layer: Layer) -> None:
        """Carry handshake messages to and fro until both sides agree or one gives up."""
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
        """End the connection in good order; what was sent, and `last`, goes out first. Safe to call twice."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            unsent = transport.get_write_buffer_size()
            if not self._ended:  # a peer that has said goodbye waits for no answer
                for layer in reversed(self._layers):
                    last = layer.encrypt(last)
                    layer.close()
                    last += layer.outgoing()
                if last:
                    transport.write(last)
            transport.close()
            if unsent:  # the peer may never take it
                asyncio.get_running_loop().call_later(LINGER, transport.abort)

    def abort(self) -> None:
        """Drop the connection without ceremony, and whatever was still to be sent."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self, data: bytes, depth: int) -> None:
        """Send `data` through the layers outside of `depth`."""
        if data and self._transport is not None:
            for layer in reversed(self._layers[:depth]):
                data = layer.encrypt(data)
            self._transport.write(data)

    def _decrypt(self, depth: int, data: bytes) -> bytes:
        """What the layer at `depth` makes of `data`, and what it has to answer."""
        layer = self._layers[depth]
        plain = layer.decrypt(data)
        self._error = self._error or layer.failure
        self._send(layer.outgoing(), depth)
        self._ended = self._ended or layer.ended
        return plain

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)


def _unread(transport: asyncio.Transport) -> bytes:
    """What had arrived when writing failed: a loop drops it then, and it may say why the peer takes no more.

    Linux keeps what came before a reset. The socket is still open, and is so for the last time.
    """
    rest = b""
    with contextlib.suppress(OSError):
        while len(rest) < HIGH_WATER and (data := os.read(transport.get_extra_info("socket").fileno(), HIGH_WATER)):
            rest += data
    return rest


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
    """What the system says of a connection that could not be made, or of a datagram that came back."""
    reason = _CONNECT_REASONS.get(error.errno or 0, Reason.CONNECT_FAILED)
    what = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        what = "the exporter has no file descriptor left; raise its limit of open files"
    return ProbeFailed(reason, f"connecting to {target} failed: {what}")
