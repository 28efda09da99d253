"""Ask OCSP responders. Their answers are kept by URL, issuer and serial number; `document_cache` has the rules.

The URL counts although the signature of an answer decides: the certificate of a hostile target could name the issuer
and the serial number of another one, and a responder that sends an old answer about it.
"""

from __future__ import annotations

from cryptography import x509

from probe_exporter.prober.run import Network
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.pki.document_cache import DocumentCache
from probe_exporter.protocols.pki.fetching import fetch
from probe_exporter.tls import ocsp

MAX_RESPONSE_BYTES = 64 << 10
"""Bytes of a response that are read; usual ones have 500 to 3,000."""

MAX_KEPT_BYTES = 8 << 20
MAX_KEPT_ANSWERS = 4096

_MEDIA_TYPE = "application/ocsp-request"


answers = DocumentCache[ocsp.Answer](MAX_KEPT_ANSWERS, MAX_KEPT_BYTES)
"""The answers ``good`` and ``revoked`` of this process, by URL and `ocsp.identify`."""


async def ask(
    url: str,
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    client: HttpClientSettings,
    network: Network | None,
) -> ocsp.Answer:
    """Ask a responder, or wait for the request in progress. An answer ``good`` or ``revoked`` is kept.

    Raises:
        ProbeFailed: the responder does not answer.
        UNREADABLE: the name of the issuer can't be read, or its key is of no known kind.
    """
    key = url, ocsp.identify(certificate, issuer)
    question = ocsp.request_for(certificate, issuer)

    async def request() -> ocsp.Answer:
        data, _ = await fetch(url, client, network, MAX_RESPONSE_BYTES, (_MEDIA_TYPE, question))
        answer = ocsp.read_response(data, certificate, issuer)
        if answer.is_known:
            answers.keep(key, answer, answer.next_update, len(url))
        return answer

    return await answers.share(key, client, network, request)
