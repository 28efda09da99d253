"""QUIC as a client (RFC 9000): aioquic keeps the state, `Datagrams` carries it, `tls.quic` verifies certificates.

The model:
* `dial` opens a socket and connects; the result is a `QuicClient`. Streams are numbers; `send` queues data on one.
* There is no task and no callback. `turn` sends what is queued, waits for a datagram or a timer, feeds aioquic, and
  returns the events of streams. So all work happens under the deadline of the probe that awaits it.
* aioquic does not limit everything that a peer can send. `_check_limits` fails the connection if the peer makes it
  buffer more than a valid peer would: data ahead of a gap, many gaps, TLS messages, a large handshake.
* Datagrams are cheap to send and expensive to process. One call of `turn` processes them for `MAX_TURN_SECONDS`, then
  other tasks run. Datagrams larger than `MAX_DATAGRAM_BYTES` are dropped.
* The first connection offers `USUAL_GROUPS` for the key exchange. If the server may want another one, a second
  connection offers all: `_NoCommonGroup`.
* aioquic closes a connection some time after its end is decided; `_close_event` shows the end at once.

This module is imported by the first probe that speaks QUIC, because aioquic takes long to load.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Sequence
from enum import IntEnum

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicProtocolVersion
from aioquic.tls import AlertDescription, CipherSuite, Group

from probe_exporter.addresses.host_names import to_ascii
from probe_exporter.network import opening
from probe_exporter.network.connection import MAX_HANDSHAKE_SECONDS
from probe_exporter.network.datagrams import Datagrams
from probe_exporter.network.quic_connection import ALL_GROUPS, USUAL_GROUPS, ClientConnection
from probe_exporter.prober.deadline import Deadline
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.prober.turns import pause
from probe_exporter.tls import certificates, evidence, handshake, metrics, suites
from probe_exporter.tls.handshake import MAX_QUICK_HANDSHAKE_BYTES, Handshake
from probe_exporter.tls.quic import QuicContext

KEEP_ALIVE = 10.0
"""Seconds of silence after which a PING is sent, so that the peer does not close the connection."""

IDLE_LIMIT = 600.0
"""Seconds of silence after which the connection is closed; a probe's deadline nearly always comes first."""

MAX_HANDSHAKE_BYTES = 256 * 1024
"""Bytes that a peer may send before the handshake is complete, and bytes of an incomplete TLS message."""

MAX_OUT_OF_ORDER_BYTES = 16 * 1024 * 1024
"""Bytes from a gap to the last byte received, on all streams; aioquic buffers any number."""

MAX_GAPS = 500
"""Gaps in the data of a stream, or in the numbers of received packets. aioquic searches them one by one."""

MAX_DATAGRAM_BYTES = 4096
"""Size of a datagram; larger ones are dropped. Each byte of one may be a frame of its own."""

MAX_TURN_SECONDS = 0.005
"""Seconds for which datagrams are processed before other tasks run."""

_PEER = "peer"  # the only address, by a name for aioquic
_CRYPTO_ERRORS = range(QuicErrorCode.CRYPTO_ERROR, QuicErrorCode.CRYPTO_ERROR + 0x100)  # each is an alert of TLS
_SUITES = [CipherSuite[name.removeprefix("TLS_")] for name in suites.TLS13_CIPHERS]
_OF_STREAMS = (StreamDataReceived, StreamReset, StopSendingReceived)


class ClosedByApplication(ProbeFailed):
    """The peer's application closed the connection with a `code` of its own protocol."""

    def __init__(self, code: int, phrase: str) -> None:
        super().__init__(Reason.CONNECT_RESET, f"the peer closed the connection (code {code:#x}) {phrase}".strip())
        self.code = code
        self.phrase = phrase


class _NoCommonGroup(ProbeFailed):
    """The handshake failed, perhaps because the server supports none of the groups that we offered."""


async def dial(
    probe: Probe, addresses: Sequence[str], port: int, context: QuicContext, server_name: str, protocol: str
) -> QuicClient:
    """Open a QUIC connection to the first of `addresses` that accepts it.

    Args:
        addresses: resolved addresses, tried in order; usually one.
        port: 1 to 65535.
        context: a module's ``tls_config``.
        server_name: the name to send and to verify.
        protocol: the application protocol, by its name in ALPN.

    Raises:
        ProbeFailed: with the reason of the last address tried, or of the handshake.
    """
    context.check_usable(server_name)
    configuration = _configuration(context, server_name, protocol)

    async def dial_one(address: str, groups: Sequence[Group] = USUAL_GROUPS) -> QuicClient:
        datagrams = await opening.dial_udp(probe, address, port)
        connection = ClientConnection(configuration, groups, requests_ocsp=probe.requests_ocsp)
        client = QuicClient(datagrams, connection, context, server_name)
        try:
            await client.connect(probe)
        except _NoCommonGroup:
            client.close(QuicErrorCode.NO_ERROR, QuicFrameType.PADDING)
            if groups is ALL_GROUPS:
                raise
            return await dial_one(address, ALL_GROUPS)
        except BaseException:
            client.close(QuicErrorCode.NO_ERROR, QuicFrameType.PADDING)
            raise
        return client

    return await opening.first_of(probe, addresses, dial_one)


def _configuration(context: QuicContext, server_name: str, protocol: str) -> QuicConfiguration:
    try:
        server_name = to_ascii(server_name.rstrip("."))
    except ValueError as error:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"tls_config: {error}") from None
    configuration = QuicConfiguration(
        alpn_protocols=[protocol],
        cipher_suites=_SUITES,
        idle_timeout=IDLE_LIMIT,
        server_name=server_name or None,
        supported_versions=[QuicProtocolVersion.VERSION_1],  # as Go's client; no server speaks version 2 alone
        verify_mode=ssl.CERT_NONE,  # `context` verifies, by the rules of all our handshakes
    )
    if context.identity is not None:
        configuration.certificate = context.identity.certificate
        configuration.certificate_chain = list(context.identity.chain)
        configuration.private_key = context.identity.key
    return configuration


class QuicClient:
    """One QUIC connection to a target. Made by `dial`.

    Attributes:
        connect_seconds: from the first datagram sent to the first one received.
        tls_seconds: from there to the end of the handshake.
        handshake: the result of TLS.
        sent: bytes of datagrams sent so far.
    """

    def __init__(
        self, datagrams: Datagrams, connection: ClientConnection, context: QuicContext, server_name: str
    ) -> None:
        self.connect_seconds = 0.0
        self.tls_seconds = 0.0
        self.handshake: Handshake | None = None
        self.sent = 0
        self._closed = False
        self._datagrams = datagrams
        self._quic = connection
        self._context = context
        self._server_name = server_name
        self._received = 0
        self._shown: Handshake | None = None  # not verified yet
        self._happened: list[QuicEvent] = []
        self._failure: ProbeFailed | None = None

    @property
    def arrived_at(self) -> float:
        """When the last datagram that was read arrived, by `time.perf_counter`."""
        return self._datagrams.arrived_at

    async def connect(self, probe: Probe) -> None:
        """Connect.

        Raises:
            ProbeFailed: no answer, no common parameters, or an invalid certificate, whose metrics are reported.
        """
        started = time.perf_counter()
        with probe.phase("connect"):
            self._quic.connect(_PEER, now=started)
            while not self._datagrams.first_at:
                await self._wait()
            self.connect_seconds = self._datagrams.first_at - started
        with probe.phase("tls") as phase:
            phase.about = self._server_name
            try:
                with Deadline(asyncio.get_running_loop().time() + MAX_HANDSHAKE_SECONDS):
                    while self._shown is None:
                        await self._wait()
                self.handshake = await self._verify(self._shown)
            except TimeoutError:
                raise ProbeFailed(Reason.TLS_TIMEOUT, f"no TLS handshake within {MAX_HANDSHAKE_SECONDS:g} s") from None
            except handshake.VerificationFailed as failed:
                metrics.report_handshake(probe, failed.handshake)
                evidence.keep(probe, failed.handshake, self._server_name, self._datagrams.address)
                self.close(QuicErrorCode.CRYPTO_ERROR + AlertDescription.bad_certificate, QuicFrameType.CRYPTO)
                raise
            self.tls_seconds = time.perf_counter() - self._datagrams.first_at
            evidence.keep(probe, self.handshake, self._server_name, self._datagrams.address)

    async def _verify(self, shown: Handshake) -> Handshake:
        """Verify the certificates; many or large ones in a thread."""
        if self._received <= MAX_QUICK_HANDSHAKE_BYTES:
            return self._context.verify(shown, self._server_name)
        return await asyncio.to_thread(self._context.verify, shown, self._server_name)

    async def turn(self) -> list[QuicEvent]:
        """Send queued data, wait for the peer or a timer, and return new events of streams, perhaps none.

        Raises:
            ProbeFailed: the connection has ended, or exceeds a limit.
        """
        if not self._happened:
            await self._wait()
        happened, self._happened = self._happened, []
        return happened

    def open_stream(self, *, unidirectional: bool = False) -> int:
        """Open a stream and return its number."""
        stream = self._quic.get_next_available_stream_id(is_unidirectional=unidirectional)
        self._quic.send_stream_data(stream, b"")
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Queue `data` for the next turns."""
        self._quic.send_stream_data(stream, data, end)

    def close(self, code: int, frame_type: int | None = None) -> None:
        """Send CONNECTION_CLOSE and close the socket, without waiting for the peer. Safe to call twice.

        Args:
            code: an error code of the application, or of QUIC if there is a `frame_type`.
            frame_type: the type of the frame that caused the error.
        """
        if self._closed:
            return
        self._closed = True
        self._quic.close(error_code=code, frame_type=frame_type)
        self._flush()
        self._datagrams.close()
        self._quic.discard()

    async def _wait(self) -> None:
        """Send queued data, wait for the peer or a timer, and feed the state machine."""
        if self._failure is not None:
            raise self._failure
        self._flush()
        now = time.perf_counter()
        timer = self._quic.get_timer() or math.inf
        until = min(timer, now + KEEP_ALIVE)
        if await self._datagrams.wait(until - now):
            started = time.perf_counter()
            self._receive(await self._datagrams.read())
            while self._datagrams.waiting:
                if time.perf_counter() - started > MAX_TURN_SECONDS:
                    await pause()
                    break
                self._receive(await self._datagrams.read())
        else:
            if until < timer:
                self._quic.send_ping(0)
            self._quic.handle_timer(now=max(until, time.perf_counter()))
        self._process_events()

    def _flush(self) -> None:
        for datagram, _ in self._quic.datagrams_to_send(now=time.perf_counter()):
            self.sent += len(datagram)
            self._datagrams.send(datagram)

    def _receive(self, datagram: bytes) -> None:
        self._received += len(datagram)
        if len(datagram) > MAX_DATAGRAM_BYTES:
            return
        self._quic.receive_datagram(datagram, _PEER, now=self._datagrams.arrived_at)

    def _process_events(self) -> None:
        """Collect the events of streams, notice the end of the connection, and check the limits."""
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, _OF_STREAMS):
                self._happened.append(event)
            elif isinstance(event, HandshakeCompleted):
                self._shown = self._observe(event.alpn_protocol or "")
        end = self._quic._close_event  # noqa: SLF001  # the event comes after a delay
        if end is not None and self._failure is None:
            self._failure = self._ended(end)
        self._check_limits()

    def _check_limits(self) -> None:
        """
        Raises:
            ProbeFailed: the peer makes aioquic buffer or search more than a valid peer would.
        """
        if self._shown is None and self._received > MAX_HANDSHAKE_BYTES:
            raise ProbeFailed(Reason.TLS_HANDSHAKE, f"the TLS handshake is larger than {MAX_HANDSHAKE_BYTES} bytes")
        quic = self._quic
        message = quic.tls._receive_buffer  # noqa: SLF001  # aioquic has no public access to any of these
        receivers = [stream.receiver for stream in quic._streams.values()]  # noqa: SLF001
        ahead = sum(one.highest_offset - one.starting_offset() for one in receivers)
        gaps = [one._ranges for one in receivers]  # noqa: SLF001
        gaps += [space.ack_queue for space in quic._spaces.values()]  # noqa: SLF001
        if (
            len(message) > MAX_HANDSHAKE_BYTES
            or ahead > MAX_OUT_OF_ORDER_BYTES
            or max(map(len, gaps), default=0) > MAX_GAPS
        ):
            raise ProbeFailed(Reason.CONNECT_FAILED, "the peer sent more data out of order than we buffer")

    def _observe(self, protocol: str) -> Handshake:
        state = self._quic.tls
        leaf, others = state._peer_certificate, state._peer_certificate_chain  # noqa: SLF001  # no public access
        assert leaf is not None
        assert state.key_schedule is not None
        suite = f"TLS_{state.key_schedule.cipher_suite.name}"
        return Handshake(
            version="TLS 1.3",
            cipher=suite,
            sent=[certificates.read(certificate) for certificate in (leaf, *others)],
            verified=None,
            protocol=protocol,
            stapled=self._quic.stapled,
        )

    def _ended(self, event: ConnectionTerminated) -> ProbeFailed:
        """Return the end of the connection as a failure, whichever side detected the error."""
        code, phrase = event.error_code, event.reason_phrase
        if event.frame_type is None:
            return ClosedByApplication(code, phrase)
        if code in _CRYPTO_ERRORS:
            alert = code - QuicErrorCode.CRYPTO_ERROR
            kind = _NoCommonGroup if alert == AlertDescription.handshake_failure else ProbeFailed
            what = _name(AlertDescription, alert)
            return kind(Reason.TLS_HANDSHAKE, f"the TLS handshake failed: {what} {phrase}".strip())
        reason = Reason.CONNECT_FAILED if self.handshake is None else Reason.CONNECT_RESET
        if code == QuicErrorCode.CONNECTION_REFUSED:
            reason = Reason.CONNECT_REFUSED
        return ProbeFailed(reason, f"the QUIC connection broke: {_name(QuicErrorCode, code)} {phrase}".strip())


def _name(codes: type[IntEnum], code: int) -> str:
    try:
        return codes(code).name.lower()
    except ValueError:
        return f"{code:#x}"
