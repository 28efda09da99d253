"""TLS for QUIC, where another implementation shakes hands and OpenSSL judges the certificates that it was shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.tls import chain
from probe_exporter.tls.certificates import Certificate
from probe_exporter.tls.context import check_verifiable, make_context, remembered
from probe_exporter.tls.handshake import Handshake
from probe_exporter.tls.layer import Check, describe
from probe_exporter.tls.settings import TLSSettings
from probe_exporter.tls.suites import CIPHERS

_PIECE = 16384  # the most that one record holds


class QuicContext:
    """TLS settings made ready for QUIC, where another implementation shakes hands and OpenSSL judges what it was shown.

    Attributes:
        identity: what to show to a server that asks; None for nothing.
    """

    def __init__(self, settings: TLSSettings) -> None:
        """
        Raises:
            ProbeFailed: a file or a key can't be used.
        """
        self._verifies = not settings.insecure_skip_verify
        self._max_version = settings.max_version
        self._context, self.identity = make_context(settings, "TLS12", "TLS12")

    def check_usable(self, server_name: str) -> None:
        """
        Raises:
            ProbeFailed: there is no name to verify, or TLS 1.3 is not to be spoken.
        """
        if self._max_version < "TLS13":
            raise ProbeFailed(
                Reason.SETTINGS_UNUSABLE, f"tls_config: QUIC needs TLS 1.3, and max_version is {self._max_version}"
            )
        if self._verifies:
            check_verifiable(server_name)

    def verify(self, shown: Handshake, server_name: str) -> Handshake:
        """Judge what a server showed, as a `Layer` would, and return it with the verified chain.

        pyOpenSSL lets us verify a chain by itself too, but then it names the first error only and does not look at
        what a certificate may be used for. In a handshake it does, so the server's half of one is played to it, up to
        the certificates: in TLS 1.2, because there they come in clear.

        Raises:
            VerificationFailed: with all that is wrong.
            ProbeFailed: OpenSSL can't read the certificates.
        """
        if not self._verifies:
            return shown
        check = Check(server_name.rstrip("."))
        connection = SSL.Connection(self._context, None)
        connection.set_connect_state()
        connection.set_app_data(check)
        connection.bio_write(_hello_and_certificates(shown.sent))
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:  # any key but of an elliptic curve is wrong for the suite: an end after the verdict
            if not check.complete:
                raise ProbeFailed(Reason.TLS_HANDSHAKE, f"unreadable certificates: {describe(error)}") from None
        if check.errors:
            raise check.failure(replace(shown, verify_errors=tuple(check.errors)))
        return replace(shown, verified=chain.verified(connection))


def quic_context(settings: TLSSettings) -> QuicContext:
    """The context for some settings, made once as `client_context` makes its own."""
    return remembered(QuicContext, settings, lambda: QuicContext(settings))


def _hello_and_certificates(shown: Sequence[Certificate]) -> bytes:
    """A server's first two messages in TLS 1.2 (RFC 5246, 7.4), as records.

    The hello chooses a suite that every context of ours offers and answers the question about renegotiation, which
    OpenSSL insists on.
    """
    suite = CIPHERS["ECDHE-ECDSA-AES128-GCM-SHA256"][0].to_bytes(2, "big")
    hello = b"\x03\x03" + bytes(32) + b"\0" + suite + b"\0" + b"\0\x05\xff\x01\0\x01\0"
    listed = b"".join(_sized(certificate.x509.public_bytes(serialization.Encoding.DER)) for certificate in shown)
    messages = b"\x02" + _sized(hello) + b"\x0b" + _sized(_sized(listed))
    pieces = (messages[start : start + _PIECE] for start in range(0, len(messages), _PIECE))
    return b"".join(b"\x16\x03\x03" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + data
