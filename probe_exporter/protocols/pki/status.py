"""Ask by OCSP whether the peer's certificate is revoked: the stapled response, or on demand its responder."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from probe_exporter.prober.deadline import Late, within
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.pki.fetching import fetch
from probe_exporter.tls import ocsp
from probe_exporter.tls.certificates import Certificate

STAPLED = Metric(
    "probe_ssl_ocsp_stapled",
    "Whether the server sent an OCSP response in the handshake; absent over QUIC, where none can be requested.",
)
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
METRICS = (STAPLED, MUST_STAPLE, STATUS, THIS_UPDATE, NEXT_UPDATE)

MAX_RESPONSE_BYTES = 64 << 10
"""Bytes of a response that are read; usual ones have 500 to 3,000."""

SHARE = 0.5
"""The part of the remaining time that one responder gets."""

_MEDIA_TYPE = "application/ocsp-request"


class StatusCheck:
    """The check of one certificate."""

    def __init__(self, probe: Probe, client: HttpClientSettings, until: float) -> None:
        """
        Args:
            client: asks the responders.
            until: the end of the examination, on the event loop's clock.
        """
        self._probe = probe
        self._client = client
        self._until = until

    async def run(self, chain: Sequence[Certificate], stapled: bytes | None, *, request: bool) -> bool:
        """Set the metrics; return whether a valid response says that the peer's certificate is revoked.

        Args:
            chain: the peer's own certificate first.
            stapled: the stapled response; empty without one, None if none was requested.
            request: ask the responder if no usable response is stapled.
        """
        leaf, issuer = chain[0].x509, chain[min(1, len(chain) - 1)].x509
        self._probe.set(MUST_STAPLE, 1 if ocsp.must_staple(leaf) else 0)
        if stapled is not None:
            self._probe.set(STAPLED, 1 if stapled else 0)
        answer = ocsp.read_response(stapled, leaf, issuer) if stapled else None
        if answer is not None:
            self._report("stapled", answer)
        if request and (answer is None or answer.problem):
            answer = await self._ask(leaf, issuer) or answer
        return answer is not None and answer.status == "revoked"

    async def _ask(self, leaf: x509.Certificate, issuer: x509.Certificate) -> ocsp.Answer | None:
        """Return the first usable answer of a responder, or else the last one; None without any."""
        answer = None
        try:
            wanted = ocsp.request_for(leaf, issuer)
        except (ValueError, UnsupportedAlgorithm):
            self._probe.log("The key of the issuer is of an unknown kind", level=logging.WARNING)
            return None
        for url in ocsp.responders_of(leaf):
            try:
                with within(max(0.0, (self._until - asyncio.get_running_loop().time()) * SHARE)):
                    post = (_MEDIA_TYPE, wanted)
                    data, _ = await fetch(url, self._client, self._probe.network, MAX_RESPONSE_BYTES, post)
            except (ProbeFailed, Late) as failed:
                self._probe.log("No answer by OCSP", level=logging.WARNING, url=url, err=str(failed))
                continue
            answer = ocsp.read_response(data, leaf, issuer)
            if not answer.problem:
                break
        if answer is not None:
            self._report("responder", answer)
        return answer

    def _report(self, source: str, answer: ocsp.Answer) -> None:
        self._probe.set(STATUS, 1, source, answer.status)
        if answer.this_update is not None:
            self._probe.set(THIS_UPDATE, answer.this_update, source)
        if answer.next_update is not None:
            self._probe.set(NEXT_UPDATE, answer.next_update, source)
        if answer.problem:
            self._probe.log("Unusable OCSP response", level=logging.WARNING, source=source, err=answer.problem)
