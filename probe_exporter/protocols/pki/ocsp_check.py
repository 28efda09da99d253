"""Ask by OCSP whether certificates are revoked: read the stapled response, and on demand ask responders.

A stapled response is about the peer's own certificate. On demand, the responder of each certificate of the chain is
asked, unless a usable response is stapled or an answer is kept from an earlier probe.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from probe_exporter.prober.deadline import Late
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.prober.metrics import Metric
from probe_exporter.protocols.pki import responders
from probe_exporter.protocols.pki.chain_check import ChainCheck
from probe_exporter.tls import ocsp
from probe_exporter.tls.certificates import UNREADABLE, Certificate

STAPLED = Metric("probe_ssl_ocsp_stapled", "Whether the server sent an OCSP response in the handshake.")
MUST_STAPLE = Metric(
    "probe_ssl_ocsp_must_staple", "Whether the certificate demands that the server sends an OCSP response (RFC 7633)."
)
STATUS = Metric(
    "probe_ssl_ocsp_status_info",
    "Status of the peer's certificate (good, revoked, unknown, unusable) by the stapled response or by a responder; "
    "always 1.",
    ("source", "status"),
    type="info",
)
THIS_UPDATE = Metric(
    "probe_ssl_ocsp_this_update_timestamp_seconds",
    "Time of the status, in Unix seconds; absent if the response can't be read.",
    ("source",),
)
NEXT_UPDATE = Metric(
    "probe_ssl_ocsp_next_update_timestamp_seconds",
    "When a newer status is due, in Unix seconds; absent if the response does not say.",
    ("source",),
)

LABELS = ("fingerprint_sha256", "subject", "issuer", "subjectalternative", "serialnumber", "chain_pos", "ocsp_url")

AVAILABLE = Metric(
    "probe_ssl_chain_ocsp_available",
    "Whether a usable OCSP response says that the certificate is good or revoked.",
    LABELS,
    series=3,
)
REVOKED = Metric(
    "probe_ssl_chain_ocsp_revoked",
    "Whether the certificate is revoked by OCSP; 0 without a usable response.",
    LABELS,
    series=3,
)
CHAIN_NEXT_UPDATE = Metric(
    "probe_ssl_chain_ocsp_next_update_timestamp_seconds",
    "When a newer OCSP response is due, in Unix seconds; absent without a usable response, or if it does not say.",
    LABELS,
    series=3,
)
FETCH_TIME = Metric(
    "probe_ssl_ocsp_fetch_time_seconds",
    "Seconds that asking OCSP responders took; 0 if all responses were stapled or kept from earlier probes.",
)

STAPLED_METRICS = (STAPLED, MUST_STAPLE, STATUS, THIS_UPDATE, NEXT_UPDATE)
METRICS = (*STAPLED_METRICS, AVAILABLE, REVOKED, CHAIN_NEXT_UPDATE, FETCH_TIME)


class OcspCheck(ChainCheck):
    """The check of one chain by OCSP."""

    async def run(self, chain: Sequence[Certificate], stapled: bytes | None, *, request: bool) -> list[Certificate]:
        """Set the metrics; return the certificates that are revoked, as valid responses say.

        Args:
            chain: the peer's own certificate first; the last one counts as its own issuer.
            stapled: the stapled response; empty without one, None if none was requested.
            request: ask the responders of the certificates, unless a usable response is stapled.
        """
        own = self._read_stapled(chain, stapled)
        if not request:
            return [chain[0]] if own is not None and own.status == "revoked" else []
        usable = None if own is None or own.problem else own

        async def examine(position: int, certificate: Certificate, issuer: Certificate) -> bool:
            return await self._examine(position, certificate, issuer, usable if position == 0 else None)

        revoked = await self._revoked(chain, examine)
        self._probe.set(FETCH_TIME, round(self._request_seconds, 9))
        return revoked

    def _read_stapled(self, chain: Sequence[Certificate], stapled: bytes | None) -> ocsp.Answer | None:
        """Set the metrics of the peer's own certificate; return what the stapled response says."""
        leaf, issuer = chain[0].x509, chain[min(1, len(chain) - 1)].x509
        self._probe.set(MUST_STAPLE, 1 if ocsp.must_staple(leaf) else 0)
        if stapled is not None:
            self._probe.set(STAPLED, 1 if stapled else 0)
        if not stapled:
            return None
        answer = ocsp.read_response(stapled, leaf, issuer)
        self._report("stapled", answer)
        return answer

    async def _examine(
        self, position: int, certificate: Certificate, issuer: Certificate, stapled: ocsp.Answer | None
    ) -> bool:
        """Set the metrics of one certificate; return whether it is revoked."""
        names, url, answer = certificate.labels, "", stapled
        if answer is None:
            url, answer = await self._find(certificate, issuer)
            if position == 0 and answer is not None:
                self._report("responder", answer)
        labels = (*names, str(position), url)
        revoked = answer is not None and answer.status == "revoked"
        self._probe.set(AVAILABLE, 1 if answer is not None and answer.is_known else 0, *labels)
        self._probe.set(REVOKED, 1 if revoked else 0, *labels)
        if answer is not None and answer.is_known and answer.next_update is not None:
            self._probe.set(CHAIN_NEXT_UPDATE, answer.next_update, *labels)
        return revoked

    async def _find(self, certificate: Certificate, issuer: Certificate) -> tuple[str, ocsp.Answer | None]:
        """Return the URL of the responder asked last, and its answer: the first usable one, or else the last one."""
        urls = ocsp.responders_of(certificate.x509)
        url, answer = "", None
        try:
            key = ocsp.identify(certificate.x509, issuer.x509) if urls else b""
            for url in urls:
                kept = responders.answers.kept((url, key))
                if kept is not None:
                    return url, kept
            for url in urls:
                answer = await self._ask(url, certificate, issuer) or answer
                if answer is not None and not answer.problem:
                    break
        except UNREADABLE:
            self._probe.log("The name or the key of an issuer can't be read", level=logging.WARNING)
        return url, answer

    async def _ask(self, url: str, certificate: Certificate, issuer: Certificate) -> ocsp.Answer | None:
        if not self._may_request("responders"):
            return None
        try:
            with self._request():
                answer = await responders.ask(url, certificate.x509, issuer.x509, self._client, self._probe.network)
        except (ProbeFailed, Late) as failed:
            self._probe.log("No answer by OCSP", level=logging.WARNING, url=url, err=str(failed))
            return None
        self._probe.log("Asked an OCSP responder", url=url, status=answer.status, err=answer.problem)
        return answer

    def _report(self, source: str, answer: ocsp.Answer) -> None:
        self._probe.set(STATUS, 1, source, answer.status)
        if answer.this_update is not None:
            self._probe.set(THIS_UPDATE, answer.this_update, source)
        if answer.next_update is not None:
            self._probe.set(NEXT_UPDATE, answer.next_update, source)
        if answer.problem:
            self._probe.log("Unusable OCSP response", level=logging.WARNING, source=source, err=answer.problem)
