"""The metrics of TLS handshakes, complete or not: version, cipher, expiry, errors of the verification."""

from __future__ import annotations

from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.tls.handshake import Handshake

EARLIEST_EXPIRY = Metric(
    "probe_ssl_earliest_cert_expiry",
    "Earliest expiry of the certificates that the peer sent, in Unix seconds.",
)
CHAIN_EXPIRY = Metric(
    "probe_ssl_last_chain_expiry_timestamp_seconds",
    "Earliest expiry of the verified chain, root included, in Unix seconds. Without verification year 1 or absent.",
)
CERTIFICATE_INFO = Metric(
    "probe_ssl_last_chain_info",
    "Fingerprint, names and serial number of the peer's own certificate; always 1.",
    ("fingerprint_sha256", "subject", "issuer", "subjectalternative", "serialnumber"),
)
VERSION_INFO = Metric("probe_tls_version_info", "TLS version of the connection; always 1.", ("version",))
CIPHER_INFO = Metric(
    "probe_tls_cipher_info", "Cipher suite of the connection, by its IANA name; always 1.", ("cipher",)
)
VERIFY_ERROR_INFO = Metric(
    "probe_ssl_verify_error_info",
    "Errors of the verification of the peer's certificate, one series each; always 1.",
    ("error",),
)

NO_CHAIN = -62135596800.0
"""The original's value if nothing was verified: Go's zero time, 1 January of year 1."""


def report_handshake(probe: Probe, handshake: Handshake) -> None:
    """Set the TLS metrics of a probe, also if the certificate did not verify."""
    probe.handshake = handshake
    plain, series = probe.samples.plain, probe.samples.series  # `set` would check what these are
    series[VERSION_INFO, (handshake.version,)] = 1
    if handshake.cipher:
        series[CIPHER_INFO, (handshake.cipher,)] = 1
    for error in handshake.verify_errors:
        probe.set(VERIFY_ERROR_INFO, 1, error)
    if not handshake.sent:
        return
    series[CERTIFICATE_INFO, tuple(handshake.sent[0].labels)] = 1
    plain[EARLIEST_EXPIRY] = int(min([certificate.expiry for certificate in handshake.sent]))
    if handshake.verified is not None:
        plain[CHAIN_EXPIRY] = int(min([certificate.expiry for certificate in handshake.verified]))


def report_no_chain(probe: Probe, handshake: Handshake) -> None:
    """Report an unverified chain's expiry as the original does; for its probers alone, since it triggers alerts."""
    if handshake.verified is None:
        probe.set(CHAIN_EXPIRY, NO_CHAIN)
