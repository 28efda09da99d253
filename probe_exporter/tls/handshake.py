"""The result of a TLS handshake, complete or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from probe_exporter.prober.failure import ProbeFailed, Reason

if TYPE_CHECKING:
    from probe_exporter.tls.certificates import Certificate

MAX_QUICK_HANDSHAKE_BYTES = 6 * 1024
"""Bytes of a TLS handshake up to which OpenSSL runs on the event loop, with certificates whose keys are not too slow
(`layer.MAX_QUICK_MILLISECONDS`). A larger handshake goes to a thread."""


class Handshake(NamedTuple):
    """The result of a handshake, as far as it went."""

    version: str
    cipher: str
    sent: Sequence[Certificate]  # by the peer, its own first
    verified: Sequence[Certificate] | None  # from its own to the anchor; None if not verified
    verify_errors: tuple[str, ...] = ()
    protocol: str = ""  # agreed by ALPN
    faults: tuple[tuple[str, str], ...] = ()  # SHA-256 fingerprints of certificates, and the verification's errors
    stapled: bytes | None = None  # the OCSP response; empty if the peer sent none, None if it was not requested


class VerificationFailed(ProbeFailed):
    """The peer's certificate does not verify; `handshake` is the handshake as far as it went."""

    def __init__(self, reason: Reason, message: str, handshake: Handshake) -> None:
        super().__init__(reason, message)
        self.handshake = handshake
