"""Verify certificates for QUIC, and read OCSP responses stapled to them: aioquic makes the handshake, OpenSSL verifies.

pyOpenSSL can verify a chain without a connection, but reports the first error only and ignores key usage. So
`QuicContext.verify` plays the server's half of a TLS 1.2 handshake to an OpenSSL client in memory, up to the
certificates, which TLS 1.2 sends unencrypted. The client's verification callback then sees every error.

That takes a tenth of a probe's CPU time. So a success is remembered, for at most an hour: the same certificates verify
for the same name with the same authorities while none of them expires. A failure is not remembered.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from probe_exporter.addresses.cache import Cache
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.tls import certificates, chain
from probe_exporter.tls.certificates import Certificate
from probe_exporter.tls.context import check_verifiable, make_context, remembered
from probe_exporter.tls.handshake import Handshake
from probe_exporter.tls.layer import Check, describe
from probe_exporter.tls.settings import TLSSettings
from probe_exporter.tls.suites import CIPHERS

MAX_VERIFIED_BYTES = 16 << 20
"""The estimated bytes of remembered verifications with one context; they keep their certificates in memory."""

_REMEMBERED_SECONDS = 3600

OCSP_REQUEST = b"\x01\0\0\0\0"
"""The extension status_request of a ClientHello (RFC 6066, 8): by OCSP, for any responder, without extensions."""

_PIECE = 16384  # bytes that one record holds at most
_STATUS_REQUEST = b"\0\x05"
_OCSP = b"\x01"


class _Shown(NamedTuple):
    """What a server showed, as far as its verification depends on it."""

    server_name: str
    sent: tuple[Certificate, ...]
    hour: int  # so that what is remembered is not found for longer


class _Verified(NamedTuple):
    """A chain that verified, and the time during which it is valid, in Unix seconds."""

    chain: tuple[Certificate, ...]
    since: float
    until: float


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
        self._verifies = not settings.insecure_skip_verify
        self._max_version = settings.max_version
        self._context, self.identity = make_context(settings, "TLS12", "TLS12")
        self._remembered = Cache(self._verify, MAX_VERIFIED_BYTES, _weigh)

    def check_usable(self, server_name: str) -> None:
        """
        Raises:
            ProbeFailed: there is no name to verify, or the settings forbid TLS 1.3.
        """
        if self._max_version < "TLS13":
            raise ProbeFailed(
                Reason.SETTINGS_UNUSABLE, f"tls_config: QUIC needs TLS 1.3, and max_version is {self._max_version}"
            )
        if self._verifies:
            check_verifiable(server_name)

    def verify(self, shown: Handshake, server_name: str) -> Handshake:
        """Verify a server's certificates as a `Layer` does; return the handshake with the verified chain.

        Raises:
            VerificationFailed: with all errors.
            ProbeFailed: OpenSSL can't parse the certificates.
        """
        _ = shown.sent[0].labels  # a cached property: of a large certificate this takes long, and we may be in a thread
        if not self._verifies:
            return shown
        now = time.time()
        key = _Shown(server_name.rstrip("."), tuple(shown.sent), int(now // _REMEMBERED_SECONDS))
        try:
            verified = self._remembered[key]
            if not verified.since <= now < verified.until:
                verified = self._verify(key)
        except _Refused as refused:
            check = refused.check
            raise check.failure(shown._replace(verify_errors=tuple(check.errors), faults=tuple(check.faults))) from None
        return shown._replace(verified=verified.chain)

    def _verify(self, shown: _Shown) -> _Verified:
        check = Check(shown.server_name)
        connection = SSL.Connection(self._context, None)
        connection.set_connect_state()
        connection.set_app_data(check)
        connection.bio_write(_hello_and_certificates(shown.sent))
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            pass
        except (
            SSL.Error
        ) as error:  # keys other than elliptic curves don't fit the suite; that error comes after verification
            if not check.complete:
                raise ProbeFailed(Reason.TLS_HANDSHAKE, f"unreadable certificates: {describe(error)}") from None
        if check.errors:
            raise _Refused(check)
        verified = chain.verified(connection)
        since = max((one.x509.not_valid_before_utc.timestamp() for one in verified), default=0.0)
        return _Verified(verified, since, min((one.expiry for one in verified), default=0.0))


class _Refused(Exception):
    """The verification found errors."""

    def __init__(self, check: Check) -> None:
        super().__init__()
        self.check = check


def _weigh(shown: _Shown, verified: _Verified) -> int:
    """Estimate the bytes of a verification. Authorities are few, and shared by many."""
    own, *others = shown.sent
    listed = [own, *(one for one in others if one not in verified.chain)]
    return len(shown.server_name) + sum(certificates.size_in_memory(one.x509) for one in listed)


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


def quic_context(settings: TLSSettings) -> QuicContext:
    """Return the context for some settings, made once, as `client_context` does."""
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
