"""Keep the peer's certificates of a TLS handshake with the probe, in a few kilobytes, for the report of the probe.

A certificate is summarised once and remembered with it, so a handshake with known certificates costs a few
microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from probe_exporter.prober.run import Probe
from probe_exporter.tls.handshake import Handshake

if TYPE_CHECKING:
    from probe_exporter.tls.certificates import Certificate, Summary

MAX_CERTIFICATES = 8
"""Certificates of a chain that are kept; a peer chooses how many it sends."""

MAX_HANDSHAKES = 12
"""Handshakes of one probe that are kept: its first request, 10 redirects, and one more."""

MAX_SERVER_NAME_CHARACTERS = 260

REVOKED_BY = {"crl": "revoked_by_crl", "ocsp": "revoked_by_ocsp"}
"""Faults of revoked certificates, by what says so."""

STALE_CRL = "stale_crl"
"""Fault of a certificate whose revocation list is past its next update."""


class TLSEvidence(NamedTuple):
    """One handshake, complete or not.

    Attributes:
        server_name: the name that the certificate must have.
        certificates: what the peer sent, its own first; `certificate_count` is the number of all.
        anchor: the trusted authority that verification ended at; None without verification, or if the peer sent it.
        verified: True or False; None if the module does not verify.
        errors: values of the label of `probe_ssl_verify_error_info`.
        faults: fingerprints of certificates, and what is wrong with each: what verification found, `REVOKED_BY`
            and `STALE_CRL`.
        address: what sent them; empty behind a proxy.
        run, attempt: if the probe made several runs, the address that this one probed (may be empty), and its number
            (0 if attempts are not numbered).
    """

    server_name: str
    version: str
    cipher: str
    protocol: str
    verified: bool | None
    certificates: tuple[Summary, ...]
    certificate_count: int
    anchor: Summary | None
    errors: tuple[str, ...]
    faults: tuple[tuple[str, str], ...]
    address: str = ""
    run: str = ""
    attempt: int = 0

    @property
    def bytes(self) -> int:
        """About the bytes that it takes in memory."""
        total = 600 + 300 * len(self.faults)
        for one in self.certificates:
            total += one.bytes
        return total if self.anchor is None else total + self.anchor.bytes

    def data(self, shown: Callable[[str], str]) -> dict[str, object]:
        """Return it as JSON data, with `shown` applied to texts."""
        return {
            "server_name": shown(self.server_name),
            "version": self.version,
            "cipher": self.cipher,
            "protocol": shown(self.protocol),
            "verified": self.verified,
            "errors": [*self.errors],
            "certificates": [self._certificate(one, shown) for one in self.certificates],
            "certificate_count": self.certificate_count,
            "anchor": None if self.anchor is None else self._certificate(self.anchor, shown),
            "address": self.address,
            "run": self.run,
            "attempt": self.attempt,
        }

    def _certificate(self, one: Summary, shown: Callable[[str], str]) -> dict[str, object]:
        plain = one._asdict()
        del plain["bytes"]
        for key in ("common_name", "subject", "issuer"):
            plain[key] = shown(plain[key])
        plain["names"] = [shown(name) for name in one.names]
        plain["errors"] = sorted({error for fingerprint, error in self.faults if fingerprint == one.fingerprint_sha256})
        return plain


def keep(probe: Probe, handshake: Handshake, server_name: str, address: str = "") -> None:
    """Keep a handshake with the probe, if the peer sent certificates.

    Args:
        address: of the peer; empty if the exporter does not know it.
    """
    sent = handshake.sent
    if not sent or len(probe.evidence) >= MAX_HANDSHAKES:
        return
    verified = True if handshake.verified is not None else False if handshake.verify_errors else None
    faults = handshake.faults
    if "wrong_name" in handshake.verify_errors:
        faults = (*faults, (sent[0].summary.fingerprint_sha256, "wrong_name"))
    probe.evidence.append(
        TLSEvidence(
            server_name=server_name[:MAX_SERVER_NAME_CHARACTERS],
            version=handshake.version,
            cipher=handshake.cipher,
            protocol=handshake.protocol,
            verified=verified,
            certificates=tuple([one.summary for one in sent[:MAX_CERTIFICATES]]),
            certificate_count=len(sent),
            anchor=_anchor(handshake),
            errors=handshake.verify_errors,
            faults=faults,
            address=address,
        )
    )


def mark(probe: Probe, leaf: Certificate, certificate: Certificate, fault: str) -> None:
    """Mark a certificate of the last handshake in which the peer sent `leaf`, if it is kept.

    Args:
        leaf: the peer's own certificate.
        fault: what is wrong with the other one, such as a value of `REVOKED_BY`.
    """
    for index, one in reversed([*enumerate(probe.evidence)]):
        if isinstance(one, TLSEvidence) and one.certificates[0] == leaf.summary:
            faults = (*one.faults, (certificate.summary.fingerprint_sha256, fault))
            probe.evidence[index] = one._replace(faults=faults)
            return


def _anchor(handshake: Handshake) -> Summary | None:
    """Return the trusted authority, unless the peer sent its certificate."""
    if not handshake.verified:
        return None
    anchor: Certificate = handshake.verified[-1]
    return None if anchor in handshake.sent else anchor.summary
