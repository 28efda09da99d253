"""QUIC as a client (RFC 9000): aioquic keeps the state, `datagrams` carries them, `tls` judges the certificates.

There is no task and no callback here: everything happens while somebody waits in `turn`, and so under the deadline of
the probe that waits. Imported by the first probe that speaks QUIC, since aioquic takes a while to load.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from collections.abc import Sequence
from enum import IntEnum

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicProtocolVersion
from aioquic.tls import AlertDescription, CipherSuite

from probe_exporter.addresses import literals
from probe_exporter.network import opening
from probe_exporter.network.connection import MAX_HANDSHAKE_SECONDS
from probe_exporter.network.datagrams import Datagrams
from probe_exporter.prober.deadline import Deadline
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.tls import certificates, handshake, layer, suites
from probe_exporter.tls.handshake import Handshake
from probe_exporter.tls.quic import QuicContext

KEEP_ALIVE = 10.0
"""Seconds of silence after which the peer is asked for a sign of life, so that it does not give us up."""

IDLE_LIMIT = 600.0
"""Seconds without a sign of life after which the peer is given up; a probe's deadline nearly always comes first."""

HANDSHAKE_BYTES = 256 * 1024
"""The most that a peer may send before the handshake is complete."""

OUT_OF_ORDER = 16 * 1024 * 1024
"""How far a peer may send ahead of a gap on a stream: aioquic would keep any amount."""

_PEER = "peer"  # the name of the only address there is, for aioquic
_CRYPTO_ERRORS = range(QuicErrorCode.CRYPTO_ERROR, QuicErrorCode.CRYPTO_ERROR + 0x100)  # an alert of TLS each
_SUITES = [CipherSuite[name.removeprefix("TLS_")] for name in suites.TLS13_CIPHERS]
_OF_STREAMS = (StreamDataReceived, StreamReset, StopSendingReceived)

logging.getLogger("quic").setLevel(logging.CRITICAL)  # what a peer does wrong is the probe's result, no event of ours


class ClosedByApplication(ProbeFailed):
    """The peer's application closed the connection with a `code` of its own protocol."""

    def __init__(self, code: int, phrase: str) -> None:
        super().__init__(Reason.CONNECT_RESET, f"the peer closed the connection (code {code:#x}) {phrase}".strip())
        self.code = code
        self.phrase = phrase


async def dial(
    probe: Probe, addresses: Sequence[str], port: int, context: QuicContext, server_name: str, protocol: str
) -> QuicClient:
    """Open a QUIC connection to the first of `addresses` that takes it.

    Args:
        addresses: resolved addresses, tried in order; usually one.
        port: 1 to 65535.
        context: a module's ``tls_config``.
        server_name: the name to ask for and to verify.
        protocol: what to speak over it, by its name in ALPN.

    Raises:
        ProbeFailed: with the reason of the last address tried, or of the handshake.
    """
    context.check_usable(server_name)
    configuration = _configuration(context, server_name, protocol)

    async def dial_one(address: str) -> QuicClient:
        datagrams = await opening.dial_udp(probe, address, port)
        client = QuicClient(datagrams, configuration, context, server_name)
        try:
            await client.shake_hands(probe)
        except BaseException:
            client.close(QuicErrorCode.NO_ERROR, QuicFrameType.PADDING)
            raise
        return client

    return await opening.first_of(probe, addresses, dial_one)


def _configuration(context: QuicContext, server_name: str, protocol: str) -> QuicConfiguration:
    try:
        server_name = literals.to_ascii(server_name.rstrip("."))
    except ValueError as error:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"tls_config: {error}") from None
    configuration = QuicConfiguration(
        alpn_protocols=[protocol],
        cipher_suites=_SUITES,
        idle_timeout=IDLE_LIMIT,
        server_name=server_name or None,
        supported_versions=[QuicProtocolVersion.VERSION_1],  # as Go's; nobody speaks version 2 alone
        verify_mode=ssl.CERT_NONE,  # `context` does it, by the rules of all our handshakes
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
        handshake: what TLS showed.
        sent: bytes of datagrams sent so far.
    """

    def __init__(
        self, datagrams: Datagrams, configuration: QuicConfiguration, context: QuicContext, server_name: str
    ) -> None:
        self.connect_seconds = 0.0
        self.tls_seconds = 0.0
        self.handshake: Handshake | None = None
        self.sent = 0
        self._datagrams = datagrams
        self._quic = QuicConnection(configuration=configuration)
        self._context = context
        self._server_name = server_name
        self._received = 0
        self._shown: Handshake | None = None  # before anybody has judged it
        self._happened: list[QuicEvent] = []
        self._failure: ProbeFailed | None = None

    @property
    def arrived_at(self) -> float:
        """When the datagram arrived that was read last, on `time.perf_counter`."""
        return self._datagrams.arrived_at

    async def shake_hands(self, probe: Probe) -> None:
        """
        Raises:
            ProbeFailed: nobody answers, no agreement, or a certificate that does not verify (its metrics are
                reported all the same).
        """
        started = time.perf_counter()
        with probe.phase("connect"):
            self._quic.connect(_PEER, now=started)
            while not self._datagrams.first_at:
                await self._wait()
            self.connect_seconds = self._datagrams.first_at - started
        with probe.phase("tls"):
            try:
                with Deadline(asyncio.get_running_loop().time() + MAX_HANDSHAKE_SECONDS):
                    while self._shown is None:
                        await self._wait()
                self.handshake = self._context.verify(self._shown, self._server_name)
            except TimeoutError:
                raise ProbeFailed(Reason.TLS_TIMEOUT, f"no TLS handshake within {MAX_HANDSHAKE_SECONDS:g} s") from None
            except layer.VerificationFailed as failed:
                handshake.report(probe, failed.handshake)
                self.close(QuicErrorCode.CRYPTO_ERROR + AlertDescription.bad_certificate, QuicFrameType.CRYPTO)
                raise
            self.tls_seconds = time.perf_counter() - self._datagrams.first_at

    async def turn(self) -> list[QuicEvent]:
        """Send what waits to be sent, and return what has happened on streams next; perhaps nothing has.

        Raises:
            ProbeFailed: the connection is over.
        """
        if not self._happened:
            await self._wait()
        happened, self._happened = self._happened, []
        return happened

    def open_stream(self, *, unidirectional: bool = False) -> int:
        """The number of a new stream."""
        stream = self._quic.get_next_available_stream_id(is_unidirectional=unidirectional)
        self._quic.send_stream_data(stream, b"")
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Have `data` sent by the next turns."""
        self._quic.send_stream_data(stream, data, end)

    def close(self, code: int, frame_type: int | None = None) -> None:
        """End the connection: one datagram says so, and nobody waits for the peer. Safe to call twice.

        Args:
            code: the application's, or QUIC's own if there is a `frame_type`.
            frame_type: of the frame that is to blame.
        """
        self._quic.close(error_code=code, frame_type=frame_type)
        self._flush()
        self._datagrams.close()

    async def _wait(self) -> None:
        """Send what is due, wait for the peer or for a timer, and let the state machine know."""
        if self._failure is not None:
            raise self._failure
        self._flush()
        now = time.perf_counter()
        timer = self._quic.get_timer() or math.inf
        until = min(timer, now + KEEP_ALIVE)
        try:
            async with asyncio.timeout(until - now):
                datagram = await self._datagrams.read()
        except TimeoutError:
            if until < timer:
                self._quic.send_ping(0)
            self._quic.handle_timer(now=max(until, time.perf_counter()))
        else:
            self._receive(datagram)
            while self._datagrams.waiting:
                self._receive(await self._datagrams.read())
        self._take_stock()

    def _flush(self) -> None:
        for datagram, _ in self._quic.datagrams_to_send(now=time.perf_counter()):
            self.sent += len(datagram)
            self._datagrams.send(datagram)

    def _receive(self, datagram: bytes) -> None:
        self._received += len(datagram)
        self._quic.receive_datagram(datagram, _PEER, now=self._datagrams.arrived_at)

    def _take_stock(self) -> None:
        """What of all that happened is for us; and whether it is too much."""
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, _OF_STREAMS):
                self._happened.append(event)
            elif isinstance(event, HandshakeCompleted):
                self._shown = self._observe(event.alpn_protocol or "")
        end = self._quic._close_event  # noqa: SLF001  # told as an event only after a period of grace
        if end is not None and self._failure is None:
            self._failure = self._ended(end)
        if self._shown is None and self._received > HANDSHAKE_BYTES:
            raise ProbeFailed(Reason.TLS_HANDSHAKE, f"the TLS handshake is larger than {HANDSHAKE_BYTES} bytes")
        if self._hoards():
            raise ProbeFailed(Reason.CONNECT_FAILED, "the peer makes us keep more than a connection needs")

    def _hoards(self) -> bool:
        """Whether the peer makes aioquic keep, without a bound of its own, what no good peer would."""
        message = self._quic.tls._receive_buffer  # noqa: SLF001  # shown nowhere else
        streams = self._quic._streams.values()  # noqa: SLF001  # shown nowhere else
        ahead = (one.receiver.highest_offset - one.receiver.starting_offset() for one in streams)
        return len(message) > HANDSHAKE_BYTES or max(ahead, default=0) > OUT_OF_ORDER

    def _observe(self, protocol: str) -> Handshake:
        state = self._quic.tls
        leaf, others = state._peer_certificate, state._peer_certificate_chain  # noqa: SLF001  # no public way to them
        assert leaf is not None
        assert state.key_schedule is not None
        suite = f"TLS_{state.key_schedule.cipher_suite.name}"
        return Handshake(
            version="TLS 1.3",
            cipher=suite,
            sent=[certificates.read(certificate) for certificate in (leaf, *others)],
            verified=None,
            protocol=protocol,
        )

    def _ended(self, event: ConnectionTerminated) -> ProbeFailed:
        """The end of the connection in our terms, whichever side saw the error."""
        code, phrase = event.error_code, event.reason_phrase
        if event.frame_type is None:
            return ClosedByApplication(code, phrase)
        if code in _CRYPTO_ERRORS:
            what = _name(AlertDescription, code - QuicErrorCode.CRYPTO_ERROR)
            return ProbeFailed(Reason.TLS_HANDSHAKE, f"the TLS handshake failed: {what} {phrase}".strip())
        reason = Reason.CONNECT_FAILED if self.handshake is None else Reason.CONNECT_RESET
        if code == QuicErrorCode.CONNECTION_REFUSED:
            reason = Reason.CONNECT_REFUSED
        return ProbeFailed(reason, f"the QUIC connection broke: {_name(QuicErrorCode, code)} {phrase}".strip())


def _name(codes: type[IntEnum], code: int) -> str:
    try:
        return codes(code).name.lower()
    except ValueError:
        return f"{code:#x}"
