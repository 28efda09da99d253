"""aioquic's QUIC connection, for one short exchange of a client: it sends fewer packets and takes less Python.

Most of the CPU time of a probe over HTTP/3 is aioquic's Python. What is left out, or made in another way:

* Key shares. One of P-384 or X448 costs more than all else in the first packet, and servers nearly always choose one of
  `USUAL_GROUPS`. The caller offers `ALL_GROUPS` when a server may want another.
* Connection IDs. They serve clients whose address changes; ours stays the same.
* The last Initial packet, and acknowledgements that can travel with data.
* Encoding. The ClientHello and the transport parameters are the same bytes as aioquic's, without its layers.
* Log lines. A peer's error is the result of a probe, not an event of the exporter.

aioquic has no settings for these, hence its private names here. The tests compare the bytes with aioquic's own.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from aioquic import tls
from aioquic.quic import connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import (
    AlertBadCertificate,
    AlertDecodeError,
    Certificate,
    ClientHello,
    Epoch,
    ExtensionType,
    Group,
    HandshakeType,
    NameType,
)

from probe_exporter.tls import certificates
from probe_exporter.tls.quic import OCSP_REQUEST, stapled_in

if TYPE_CHECKING:
    from aioquic._buffer import Buffer

USUAL_GROUPS = (Group.X25519, Group.SECP256R1)
ALL_GROUPS = (*USUAL_GROUPS, Group.SECP384R1, Group.SECP521R1)
"""The groups that TLS over TCP offers: `tls.suites.GROUPS`."""

_LEAST_CONNECTION_IDS = 2  # that a server must be allowed to send (RFC 9000, section 18.2)
_TLS_1_2 = 0x0303  # the version that every ClientHello has (RFC 8446, section 4.1.2)

_parameters: dict[float, tuple[bytes, bytes]] = {}
"""Encoded transport parameters before and after the connection ID, by the idle timeout, which is a constant."""


class ClientConnection(QuicConnection):
    """A client's connection.

    Attributes:
        stapled: the OCSP response that came with the certificate; empty if none came, None if it was not requested.
    """

    def __init__(
        self, configuration: QuicConfiguration, groups: Sequence[Group], *, requests_ocsp: bool = False
    ) -> None:
        """
        Args:
            groups: the groups to offer, each with a key share.
            requests_ocsp: request a stapled OCSP response, which aioquic does not, and keep it.
        """
        self._groups = groups
        self.stapled: bytes | None = b"" if requests_ocsp else None
        super().__init__(configuration=configuration)
        self._local_active_connection_id_limit = _LEAST_CONNECTION_IDS

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """Queue data; acknowledge with it what has arrived, rather than in a packet of its own after a millisecond."""
        super().send_stream_data(stream_id, data, end_stream)
        space = self._spaces[Epoch.ONE_RTT]
        if space.ack_at is not None:
            space.ack_at = 0.0

    def discard(self) -> None:
        """Free the memory. The connection can't be used afterwards.

        Its parts refer to each other: without this, only the garbage collector would find them.
        """
        if tls_state := vars(self).get("tls"):
            vars(tls_state).clear()
        vars(self).clear()

    def _initialize(self, peer_cid: bytes) -> None:
        """Prepare TLS, before the ClientHello is sent; once more after a Retry or a negotiation of the version."""
        super()._initialize(peer_cid)
        self.tls._supported_groups = list(self._groups)  # noqa: SLF001  # see above
        if self.stapled is not None:
            self.tls.handshake_extensions.append((ExtensionType.STATUS_REQUEST, OCSP_REQUEST))
        read = self.tls._set_peer_certificate  # noqa: SLF001  # see above

        def read_and_keep(certificate: Certificate) -> None:
            if self.stapled is not None:
                self.stapled = stapled_in(certificate.certificates[0][1])
            try:
                read(certificate)
            except certificates.UNREADABLE:  # aioquic expects ValueError alone
                raise AlertBadCertificate("Certificate could not be parsed") from None

        self.tls._set_peer_certificate = read_and_keep  # type: ignore[method-assign]  # noqa: SLF001  # see above

    def _serialize_transport_parameters(self) -> bytes:
        """Encode the parameters; from one connection to another, only the connection ID differs."""
        own = self._local_initial_source_connection_id
        timeout = self._configuration.idle_timeout
        if timeout not in _parameters:
            before, _, after = super()._serialize_transport_parameters().partition(own)
            _parameters[timeout] = before, after
        before, after = _parameters[timeout]
        return before + own + after

    def _write_handshake(self, builder: QuicPacketBuilder, epoch: Epoch, now: float) -> None:
        """Leave out the last Initial packet, an acknowledgement with a thousand bytes of padding.

        The Handshake packet beside it makes the server discard the keys for Initial packets (RFC 9001, section 4.9.1).
        """
        if epoch is not Epoch.INITIAL or not self._handshake_complete:
            super()._write_handshake(builder, epoch, now)

    def _replenish_connection_ids(self) -> None:
        """Send no further connection IDs to the server."""


def push_client_hello(buf: Buffer, hello: ClientHello) -> None:
    """Encode a ClientHello (RFC 8446, section 4.1.2) without a session to resume, which we never have."""
    shares = b"".join([struct.pack("!HH", group, len(key)) + key for group, key in hello.key_share or ()])
    extensions = [
        (ExtensionType.KEY_SHARE, _sized(shares, 2)),
        (ExtensionType.SUPPORTED_VERSIONS, _sized(_shorts(hello.supported_versions or ()), 1)),
        (ExtensionType.SIGNATURE_ALGORITHMS, _sized(_shorts(hello.signature_algorithms or ()), 2)),
        (ExtensionType.SUPPORTED_GROUPS, _sized(_shorts(hello.supported_groups or ()), 2)),
    ]
    if hello.server_name is not None:
        name = bytes((NameType.HOST_NAME,)) + _sized(hello.server_name.encode("ascii"), 2)
        extensions.append((ExtensionType.SERVER_NAME, _sized(name, 2)))
    if hello.alpn_protocols is not None:
        names = b"".join([_sized(name.encode("ascii"), 1) for name in hello.alpn_protocols])
        extensions.append((ExtensionType.ALPN, _sized(names, 2)))
    encoded = [struct.pack("!HH", kind, len(value)) + value for kind, value in (*extensions, *hello.other_extensions)]
    body = (
        struct.pack("!H", _TLS_1_2)
        + hello.random
        + _sized(hello.legacy_session_id, 1)
        + _sized(_shorts(hello.cipher_suites), 2)
        + _sized(bytes(hello.legacy_compression_methods), 1)
        + _sized(b"".join(encoded), 2)
    )
    buf.push_bytes(bytes((HandshakeType.CLIENT_HELLO,)) + _sized(body, 3))


def _sized(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size, "big") + data


def _shorts(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"!{len(numbers)}H", *numbers)


class PullBlock:
    """Read a block with its length before it; the context manager's value is the length.

    aioquic's is a generator, and a handshake reads two dozen blocks.
    """

    __slots__ = ("_buffer", "_end", "_length")

    def __init__(self, buf: Buffer, capacity: int) -> None:
        self._buffer = buf
        self._length = int.from_bytes(buf.pull_bytes(capacity), "big")
        self._end = buf.tell() + self._length

    def __enter__(self) -> int:
        return self._length

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._buffer.tell() != self._end:
            raise AlertDecodeError("extra bytes at the end of a block")


class _Silent:
    """In place of a connection's logger."""

    def __init__(self, logger: object, extra: object) -> None:
        pass

    def debug(self, *_: object) -> None:
        """Write nothing."""

    info = warning = error = debug


def _replace_functions() -> None:
    """Let aioquic call ours. It has no other way in: its functions call each other by name."""
    tls.push_client_hello = push_client_hello
    tls.pull_block = PullBlock  # type: ignore[assignment]  # a class in place of a function
    connection.EPOCHS = functools.cache(connection.EPOCHS)  # called 34 times for each connection, with the same words
    connection.QuicConnectionAdapter = _Silent  # type: ignore[assignment,misc]  # it has the methods that are called


_replace_functions()
