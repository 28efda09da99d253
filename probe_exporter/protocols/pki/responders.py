"""Ask OCSP responders. Their answers are kept by issuer and serial number; `document_cache` has the rules."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

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


class Answered(NamedTuple):
    """What a responder says about a certificate, and its URL."""

    url: str
    answer: ocsp.Answer


answers = DocumentCache[Answered](MAX_KEPT_ANSWERS, MAX_KEPT_BYTES)
"""The usable answers of this process, by `ocsp.identify`."""


async def ask(
    url: str,
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    client: HttpClientSettings,
    network: Network | None,
) -> Answered:
    """Ask a responder, or wait for the request in progress. An answer ``good`` or ``revoked`` is kept.

    Raises:
        ProbeFailed: the responder does not answer.
        UNREADABLE: the name of the issuer can't be read, or its key is of no known kind.
    """
    key, wanted = ocsp.identify(certificate, issuer), ocsp.request_for(certificate, issuer)

    async def request() -> Answered:
        data, _ = await fetch(url, client, network, MAX_RESPONSE_BYTES, (_MEDIA_TYPE, wanted))
        found = Answered(url, ocsp.read_response(data, certificate, issuer))
        if found.answer.is_known:
            answers.keep(key, found, found.answer.next_update, len(url))
        return found

    what: Hashable = (url, key)
    return await answers.share(what, client, network, request)
