"""Look the certificates of a chain up in the revocation lists that they name, as the original does."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography.exceptions import UnsupportedAlgorithm

from probe_exporter.prober.deadline import Late
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.pki.chain_check import ChainCheck
from probe_exporter.protocols.pki.revocation_lists import fetch_list, lists
from probe_exporter.tls import crl
from probe_exporter.tls.certificates import Certificate

LABELS = ("fingerprint_sha256", "subject", "issuer", "subjectalternative", "serialnumber", "chain_pos", "crl_url")

AVAILABLE = Metric(
    "probe_ssl_crl_available",
    "Whether the certificate names a revocation list that was fetched, is signed by its issuer and is valid already.",
    LABELS,
    series=3,
)
REVOKED = Metric(
    "probe_ssl_crl_revoked", "Whether the revocation list has the certificate; 0 without a list.", LABELS, series=3
)
STALE = Metric(
    "probe_ssl_crl_stale", "Whether the revocation list is past its next update; 0 without a list.", LABELS, series=3
)
NEXT_UPDATE = Metric(
    "probe_ssl_crl_next_update_timestamp_seconds",
    "When the next revocation list is due, in Unix seconds; absent without a list, or if the list does not say.",
    LABELS,
    series=3,
)
FETCH_TIME = Metric(
    "probe_ssl_crl_fetch_time_seconds",
    "Seconds that fetching revocation lists took; 0 if all were kept from earlier probes.",
)

METRICS = (AVAILABLE, REVOKED, STALE, NEXT_UPDATE, FETCH_TIME)


class CrlCheck(ChainCheck):
    """The check of one chain by revocation lists.

    Attributes:
        stale: certificates whose list is past its next update, once `run` has returned.
    """

    def __init__(self, probe: Probe, client: HttpClientSettings, until: float) -> None:
        super().__init__(probe, client, until)
        self.stale: list[Certificate] = []

    async def run(self, chain: Sequence[Certificate]) -> list[Certificate]:
        """Set the metrics of a chain; return its revoked certificates.

        Args:
            chain: the peer's own certificate first; the last one counts as its own issuer.
        """
        revoked = await self._revoked(chain, self._examine)
        self._probe.set(FETCH_TIME, round(self._request_seconds, 9))
        return revoked

    async def _examine(self, position: int, certificate: Certificate, issuer: Certificate) -> bool:
        """Set the metrics of one certificate; return whether it is revoked."""
        url, found = await self._find(certificate, issuer)
        labels = (*certificate.labels, str(position), url)
        revoked = found is not None and found.has(certificate.x509.serial_number)
        stale = found is not None and self._is_stale(certificate, url, found)
        self._probe.set(AVAILABLE, 0 if found is None else 1, *labels)
        self._probe.set(REVOKED, 1 if revoked else 0, *labels)
        self._probe.set(STALE, 1 if stale else 0, *labels)
        if found is not None and found.next_update is not None:
            self._probe.set(NEXT_UPDATE, found.next_update, *labels)
        return revoked

    def _is_stale(self, certificate: Certificate, url: str, found: crl.RevocationList) -> bool:
        """Return whether a certificate's list is past its next update; if so, log it and remember the certificate."""
        if found.next_update is None or not found.is_stale(time.time()):
            return False
        due = f"{datetime.fromtimestamp(found.next_update, UTC):%Y-%m-%dT%H:%M:%SZ}"
        subject = _name(certificate)
        self._probe.log(
            "The revocation list is past its next update",
            level=logging.WARNING,
            url=url,
            next_update=due,
            subject=subject,
        )
        self.stale.append(certificate)
        return True

    async def _find(self, certificate: Certificate, issuer: Certificate) -> tuple[str, crl.RevocationList | None]:
        """Return the URL of the list used, or else of the last one tried, and the list."""
        points, url = crl.points_of(certificate.x509), ""
        for scheme in points.skipped:
            self._probe.log("Skipping a distribution point that is not http", scheme=scheme, subject=_name(certificate))
        try:
            key = crl.public_key_of(issuer.x509) if points.urls else b""
        except (ValueError, UnsupportedAlgorithm):
            self._probe.log("The key of an issuer is of an unknown kind", level=logging.WARNING, issuer=_name(issuer))
            return "", None
        for url in points.urls:
            found = lists.kept((url, key)) or await self._fetch(url, key)
            if found is not None and found.is_for(points):
                return url, found
            if found is not None:
                self._probe.log("Skipping a list for other distribution points", level=logging.WARNING, url=url)
        return url, None

    async def _fetch(self, url: str, key: bytes) -> crl.RevocationList | None:
        if not self._may_request("lists"):
            return None
        try:
            with self._request():
                found = await fetch_list(url, key, self._client, self._probe.network)
        except (ProbeFailed, Late) as failed:
            self._probe.log("No usable revocation list", level=logging.WARNING, url=url, err=str(failed))
            return None
        self._probe.log("Fetched a revocation list", url=url, entries=len(found.digests) // 16)
        return found


def revoked_failure(revoked: Sequence[Certificate]) -> ProbeFailed:
    """Return the failure of a chain with revoked certificates."""
    named = ", ".join(f"{_name(one)} (serial number {one.labels.serialnumber})" for one in revoked[:4])
    return ProbeFailed(Reason.CERTIFICATE_REVOKED, f"its authority has revoked {named}")


def _name(certificate: Certificate) -> str:
    return certificate.summary.subject or certificate.summary.common_name or "a certificate without a name"
