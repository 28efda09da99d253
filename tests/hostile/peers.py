"""Peers over sockets: each connection of a TCP peer plays the same parts, in a thread of its own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.hostile.cases import Answer, Drip, Flood, Handshake, Hear, Hold, Make, Open, Part, Upgrade

_READ_BYTES = 65536
_WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def tcp(make: Make, *, unix: bool = False, piece: int = 0) -> Open:
    """Return a peer that plays the parts to every client, and then closes.

    Args:
        make: makes the parts.
        unix: listen on a Unix socket, the word ``{path}``.
        piece: send so many bytes in one segment at most; 0 for no limit.
    """

    @contextlib.contextmanager
    def start(pki: Path) -> Iterator[Mapping[str, str]]:
        parts = make()
        ended = threading.Event()
        with _listener(pki if unix else None) as listener:
            listener.listen(4096)
            held: list[socket.socket] = []
            accept = _keep if [*parts] == [Hold()] else _accept
            accepting = threading.Thread(target=accept, args=(listener, parts, pki, piece, ended, held), daemon=True)
            accepting.start()
            name = listener.getsockname()
            try:
                yield {"path": name} if unix else {"port": str(name[1])}
            finally:
                ended.set()
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                accepting.join()
                for connected in held:
                    connected.close()
        if unix:
            Path(name).unlink()

    return start


def _listener(directory: Path | None) -> socket.socket:
    if directory is None:
        return socket.create_server(("127.0.0.1", 0))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "hostile.sock"))
    return listener


def _keep(listener: socket.socket, *rest: object) -> None:
    """Hold every connection, without a thread for each."""
    held: list[socket.socket] = rest[-1]  # type: ignore[assignment]  # see `tcp`
    with contextlib.suppress(OSError):
        while True:
            held.append(listener.accept()[0])


def _accept(
    listener: socket.socket, parts: Sequence[Part], pki: Path, piece: int, ended: threading.Event, _: object
) -> None:
    with contextlib.suppress(OSError):
        while True:
            connected, _ = listener.accept()
            player = _Player(connected, pki, piece, ended)
            threading.Thread(target=player.serve, args=(parts,), daemon=True).start()


class _Player:
    """Plays the parts of a peer on one connection."""

    def __init__(self, connected: socket.socket, pki: Path, piece: int, ended: threading.Event) -> None:
        if piece and connected.family == socket.AF_INET:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connected = connected
        self._pki = pki
        self._piece = piece
        self._ended = ended

    def serve(self, parts: Sequence[Part]) -> None:
        """Play all parts, and then read until the client closes."""
        with contextlib.suppress(OSError):
            for part in parts:
                self._play(part)
            with contextlib.suppress(OSError):
                self._connected.shutdown(socket.SHUT_WR)
            self._read()
        self._connected.close()

    def _play(self, part: Part) -> None:
        match part:
            case bytes():
                self._send(part)
            case Flood(data, times):
                self._flood(data, times)
            case Drip(data, seconds):
                self._drip(data, seconds)
            case Hear(until):
                self._hear(until)
            case Hold():
                self._read()
            case Handshake():
                self._connected = _context(part, self._pki).wrap_socket(self._connected, server_side=True)
            case Upgrade():
                self._send(_upgraded(self._hear(b"\r\n\r\n")))
            case Answer(message):
                reply = _with_id(message, self._connected.recv(_READ_BYTES)[2:])
                self._send(len(reply).to_bytes(2, "big") + reply)

    def _send(self, data: bytes) -> None:
        if not self._piece:
            self._connected.sendall(data)
            return
        for start in range(0, len(data), self._piece):
            self._connected.sendall(data[start : start + self._piece])

    def _flood(self, data: bytes, times: int) -> None:
        """Send the data many times: short data in blocks, so that Python is not the bottleneck."""
        block = max(1, min(times, _READ_BYTES // len(data))) if not self._piece else 1
        joined = data * block
        for _ in range(times // block):
            if self._ended.is_set():
                return
            self._send(joined)
        self._send(data * (times % block))

    def _drip(self, data: bytes, seconds: float) -> None:
        for place in itertools.cycle(range(len(data))):
            if self._ended.wait(seconds):
                return
            self._connected.sendall(data[place : place + 1])

    def _hear(self, until: bytes) -> bytes:
        heard = b""
        while until not in heard and (more := self._connected.recv(_READ_BYTES)):
            heard += more
        return heard

    def _read(self) -> None:
        while self._connected.recv(_READ_BYTES):
            pass


def _upgraded(request: bytes) -> bytes:
    """Return the head that agrees to a request for WebSocket."""
    key = re.search(rb"(?i)Sec-WebSocket-Key: *(\S+)", request)
    accept = base64.b64encode(hashlib.sha1((key[1] if key else b"") + _WEBSOCKET).digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"


def _with_id(message: bytes, query: bytes) -> bytes:
    return query[:2] + message[2:] if message.startswith(b"@@") else message


def _context(how: Handshake, pki: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / (how.chain or "leaf.pem"), pki / (how.key or "leaf.key"))
    if how.alpn:
        context.set_alpn_protocols(how.alpn)
    return context


def udp(make: Make, *, again: bool = True) -> Open:
    """Return a peer that plays the parts in datagrams to the sender of each datagram that it receives.

    Args:
        make: makes the parts: `bytes` is one datagram, `Flood` many. ``@@`` at the start of one means the first two
            bytes of what was received.
        again: whether it answers more than the first datagram.
    """

    @contextlib.contextmanager
    def start(pki: Path) -> Iterator[Mapping[str, str]]:
        parts = make()
        ended = threading.Event()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            thread = threading.Thread(target=_datagrams, args=(sock, parts, again, ended), daemon=True)
            thread.start()
            yield {"port": str(sock.getsockname()[1])}
            ended.set()
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    return start


def _datagrams(sock: socket.socket, parts: Sequence[Part], again: bool, ended: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while not ended.is_set():
            received, sender = sock.recvfrom(_READ_BYTES)
            for data in _all_datagrams(parts, ended):
                with contextlib.suppress(ConnectionRefusedError):
                    sock.sendto(_with_id(data, received), sender)
            if not again:
                return


def _all_datagrams(parts: Sequence[Part], ended: threading.Event) -> Iterator[bytes]:
    for part in parts:
        times = part.times if isinstance(part, Flood) else 1
        data = part.data if isinstance(part, Flood) else part
        assert isinstance(data, bytes), "a datagram, or a flood of them"
        for _ in range(times):
            if ended.is_set():
                return
            yield data
