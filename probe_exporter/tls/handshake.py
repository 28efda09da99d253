"""A handshake, finished or not: what it showed, and what the metrics say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.tls.certificates import Certificate, earliest_expiry

EARLIEST_EXPIRY = Metric(
    "probe_ssl_earliest_cert_expiry",
    "When the first of the certificates that the peer sent ends, in Unix time.",
)
CHAIN_EXPIRY = Metric(
    "probe_ssl_last_chain_expiry_timestamp_seconds",
    "When the verified chain ends, root included, in Unix time. Of http, tcp and unix year 1 if verification is off.",
)
CERTIFICATE_INFO = Metric(
    "probe_ssl_last_chain_info",
    "The peer's own certificate.",
    ("fingerprint_sha256", "subject", "issuer", "subjectalternative", "serialnumber"),
)
VERSION_INFO = Metric("probe_tls_version_info", "The TLS version agreed on.", ("version",))
CIPHER_INFO = Metric("probe_tls_cipher_info", "The cipher suite agreed on, by its IANA name.", ("cipher",))
VERIFY_ERROR_INFO = Metric(
    "probe_ssl_verify_error_info", "What is wrong with the peer's certificate, one series each.", ("error",)
)

NO_CHAIN = -62135596800.0
"""The original's value where nothing was verified: midnight of 1 January of year 1, Go's zero time."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a handshake showed, finished or not."""

    version: str
    cipher: str
    sent: Sequence[Certificate]  # by the peer, its own first
    verified: Sequence[Certificate] | None  # from its own to the anchor; None if not verified
    verify_errors: tuple[str, ...] = ()
    protocol: str = ""  # agreed by ALPN


def report(probe: Probe, handshake: Handshake) -> None:
    """Fill the TLS metrics of a run from a handshake, also from one that failed at the certificate."""
    probe.set(VERSION_INFO, 1, handshake.version)
    if handshake.cipher:
        probe.set(CIPHER_INFO, 1, handshake.cipher)
    for error in handshake.verify_errors:
        probe.set(VERIFY_ERROR_INFO, 1, error)
    if not handshake.sent:
        return
    probe.set(CERTIFICATE_INFO, 1, *handshake.sent[0].labels)
    probe.set(EARLIEST_EXPIRY, earliest_expiry(handshake.sent))
    if handshake.verified is not None:
        probe.set(CHAIN_EXPIRY, earliest_expiry(handshake.verified))


def report_no_chain(probe: Probe, handshake: Handshake) -> None:
    """Where nobody verified a chain, report the end that the original gives it; elsewhere it would set off alerts."""
    if handshake.verified is None:
        probe.set(CHAIN_EXPIRY, NO_CHAIN)
