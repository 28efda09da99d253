"""Verify certificates for QUIC, and read OCSP responses stapled to them: aioquic makes the handshake, OpenSSL verifies.

pyOpenSSL can verify a chain without a connection, but reports the first error only and ignores key usage. So
`QuicContext.verify` plays the server's half of a TLS 1.2 handshake to an OpenSSL client in memory, up to the
certificates, which TLS 1.2 sends unencrypted. The client's verification callback then sees every error.

That takes a tenth of a probe's CPU time, so a success is remembered (`verifications`).
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.tls import chain
from probe_exporter.tls.certificates import Certificate
from probe_exporter.tls.context import check_verifiable, make_context, remembered
from probe_exporter.tls.handshake import Handshake
from probe_exporter.tls.layer import Check, describe
from probe_exporter.tls.session import Session
from probe_exporter.tls.settings import TLSSettings
from probe_exporter.tls.suites import CIPHERS
from probe_exporter.tls.verifications import Verifications

OCSP_REQUEST = b"\x01\0\0\0\0"
"""The extension status_request of a ClientHello (RFC 6066, 8): by OCSP, for any responder, without extensions."""

_PIECE = 16384  # bytes that one record holds at most
_STATUS_REQUEST = b"\0\x05"
_OCSP = b"\x01"


class QuicContext:
    """TLS settings for QUIC connections.

    Attributes:
        identity: the client certificate for servers that request one; None without one.
    """

    def __init__(self, settings: TLSSettings) -> None:
        """
        Raises:
            ProbeFailed: a file or a key can't be used.
        """
        self._verifications = None if settings.insecure_skip_verify else Verifications()
        self._max_version = settings.max_version
        self._context, self.identity = make_context(settings, "TLS12", "TLS12")

    def check_usable(self, server_name: str) -> None:
        """
        Raises:
            ProbeFailed: there is no name to verify, or the settings forbid TLS 1.3.
        """
        if self._max_version < "TLS13":
            raise ProbeFailed(
                Reason.SETTINGS_UNUSABLE, f"tls_config: QUIC needs TLS 1.3, and max_version is {self._max_version}"
            )
        if self._verifications is not None:
            check_verifiable(server_name)

    def verify(self, shown: Handshake, server_name: str) -> Handshake:
        """Verify a server's certificates as a `Layer` does; return the handshake with the verified chain.

        Raises:
            VerificationFailed: with all errors.
            ProbeFailed: OpenSSL can't parse the certificates.
        """
        _ = shown.sent[0].labels  # a cached property: of a large certificate this takes long, and we may be in a thread
        if self._verifications is None:
            return shown
        name = server_name.rstrip(".")
        found = self._verifications.find(shown.sent)
        if found is not None and shown.sent[0].is_for(name):
            return shown._replace(verified=found.chain(shown.sent))
        verified = self._verify(shown, name)
        self._verifications.add(shown.sent, verified)
        return shown._replace(verified=verified)

    def _verify(self, shown: Handshake, name: str) -> tuple[Certificate, ...]:
        """Return the verified chain; raise as `verify` does."""
        check = Check(name)
        session = Session(self._context, check.judge)
        session.give(_hello_and_certificates(shown.sent))
        try:
            session.shake()
        except (
            SSL.Error
        ) as error:  # keys other than elliptic curves don't fit the suite; that error comes after verification
            if not check.complete:
                raise ProbeFailed(Reason.TLS_HANDSHAKE, f"unreadable certificates: {describe(error)}") from None
        if check.errors:
            raise check.failure(shown._replace(verify_errors=tuple(check.errors), faults=tuple(check.faults))) from None
        return chain.verified(session)


def stapled_in(extensions: bytes) -> bytes:
    """Return the OCSP response among the extensions of a certificate's entry (RFC 8446, 4.4.2.1); empty without one."""
    at = 0
    while at < len(extensions):
        begin, size = at + 4, int.from_bytes(extensions[at + 2 : at + 4], "big")
        if extensions[at : at + 2] == _STATUS_REQUEST and extensions[begin : begin + 1] == _OCSP:
            content = extensions[begin : begin + size]
            return content[4 : 4 + int.from_bytes(content[1:4], "big")]
        at = begin + size
    return b""


def quic_context(settings: TLSSettings) -> Coroutine[Any, Any, QuicContext]:
    """Return the context for some settings, made once, as `loading.client_context` does."""
    return remembered(QuicContext, settings, lambda: QuicContext(settings))


def _hello_and_certificates(shown: Sequence[Certificate]) -> bytes:
    """Encode a server's first two messages in TLS 1.2 as records (RFC 5246, 7.4).

    The hello selects a suite that all our contexts offer. Its renegotiation extension is required by OpenSSL.
    """
    suite = CIPHERS["ECDHE-ECDSA-AES128-GCM-SHA256"][0].to_bytes(2, "big")
    hello = b"\x03\x03" + bytes(32) + b"\0" + suite + b"\0" + b"\0\x05\xff\x01\0\x01\0"
    listed = b"".join(_sized(certificate.x509.public_bytes(serialization.Encoding.DER)) for certificate in shown)
    messages = b"\x02" + _sized(hello) + b"\x0b" + _sized(_sized(listed))
    pieces = (messages[start : start + _PIECE] for start in range(0, len(messages), _PIECE))
    return b"".join(b"\x16\x03\x03" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + data
