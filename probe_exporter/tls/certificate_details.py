"""Details of a chain as metrics (`certificate_details`): used lifetime, keys, signatures, transparency logs."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cryptography import x509

from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.tls.certificates import Certificate, extension_of

LIFETIME_USED = Metric(
    "probe_ssl_cert_lifetime_used_ratio",
    "Used part of the lifetime of the peer's own certificate: 0 when it is issued, 1 when it expires, more afterwards.",
)
SHORTEST_LIFETIME_USED = Metric(
    "probe_ssl_chain_lifetime_used_ratio",
    "Used part of the lifetime of the certificate in the chain whose lifetime is the shortest.",
)
LIFETIME = Metric("probe_ssl_cert_lifetime_seconds", "Lifetime of the peer's own certificate in seconds.")
KEY_INFO = Metric(
    "probe_ssl_cert_key_info",
    "Key (such as `RSA 2048` or `ECDSA secp256r1`) and hash of the signature of each certificate; always 1.",
    ("chain_pos", "key", "signature"),
    type="info",
    series=3,
)
HAS_ALTERNATIVE_NAMES = Metric(
    "probe_ssl_cert_has_subject_alt_name",
    "Whether the peer's own certificate has a subjectAltName, without which it is valid for no host.",
)
SCTS = Metric(
    "probe_ssl_cert_scts", "Number of signed certificate timestamps (RFC 6962) in the peer's own certificate."
)
SCT_INFO = Metric(
    "probe_ssl_cert_sct_info",
    "Id of each certificate transparency log that has the peer's own certificate, in base64; always 1.",
    ("log_id",),
    type="info",
    series=2,
)
METRICS = (LIFETIME_USED, SHORTEST_LIFETIME_USED, LIFETIME, KEY_INFO, HAS_ALTERNATIVE_NAMES, SCTS, SCT_INFO)

MAX_CERTIFICATES = 16
"""Certificates of a chain that are reported; a peer chooses how many it sends."""

MAX_LOGS = 16
"""Logs that are reported; a certificate chooses how many it names."""


def report(probe: Probe, chain: Sequence[Certificate], now: float) -> None:
    """Set the metrics of a chain, the peer's own certificate first.

    Args:
        now: in Unix seconds.
    """
    chain = chain[:MAX_CERTIFICATES]
    leaf = chain[0]
    probe.set(LIFETIME, lifetime_of(leaf))
    probe.set(LIFETIME_USED, used_ratio(leaf, now))
    probe.set(SHORTEST_LIFETIME_USED, used_ratio(min(chain, key=lifetime_of), now))
    for position, certificate in enumerate(chain):
        probe.set(KEY_INFO, 1, str(position), certificate.summary.key, certificate.summary.signature)
    probe.set(HAS_ALTERNATIVE_NAMES, 1 if leaf.has_alternative_names else 0)
    logs = logs_of(leaf.x509)
    probe.set(SCTS, len(logs))
    for log in dict.fromkeys(logs[:MAX_LOGS]):
        probe.set(SCT_INFO, 1, log)


def lifetime_of(certificate: Certificate) -> float:
    """Return the lifetime of a certificate in seconds."""
    return certificate.summary.not_after - certificate.summary.not_before


def used_ratio(certificate: Certificate, now: float) -> float:
    """Return the used part of a lifetime; 1 for a certificate without any."""
    lifetime = lifetime_of(certificate)
    return 1.0 if lifetime <= 0 else round((now - certificate.summary.not_before) / lifetime, 6)


def logs_of(certificate: x509.Certificate) -> list[str]:
    """Return the log of each timestamp in a certificate; none if the extension does not parse."""
    stamps = extension_of(certificate, x509.PrecertificateSignedCertificateTimestamps)
    return [base64.b64encode(stamp.log_id).decode() for stamp in stamps or ()]
