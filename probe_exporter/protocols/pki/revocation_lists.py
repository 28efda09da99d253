"""Fetch revocation lists. They are kept by URL and key of the issuer; `document_cache` has the rules.

A list above `MAX_INLINE_BYTES` is parsed in a helper process, because parsing holds the interpreter's lock.
"""

from __future__ import annotations

import time

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Network
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.pki.document_cache import DocumentCache
from probe_exporter.protocols.pki.fetching import fetch
from probe_exporter.tls.crl import RevocationList, read_list
from probe_exporter.values import pool

MAX_LIST_BYTES = 10 << 20
"""Bytes of a list that are read: the original's limit."""

MAX_INLINE_BYTES = 16 << 10
"""Bytes of a list that are parsed on the event loop: 450 entries, in less than a millisecond."""

MAX_KEPT_BYTES = 64 << 20
MAX_KEPT_LISTS = 1024

lists = DocumentCache[RevocationList](MAX_KEPT_LISTS, MAX_KEPT_BYTES)
"""The lists of this process, by their URL and the key of their issuer."""


async def fetch_list(
    url: str, public_key: bytes, client: HttpClientSettings, network: Network | None
) -> RevocationList:
    """Fetch a list, or wait for the request in progress, and keep it.

    Args:
        public_key: of the issuer, as `crl.public_key_of` returns it.

    Raises:
        ProbeFailed: it can't be fetched, is not signed by the issuer, or is not valid yet.
    """
    return await lists.share((url, public_key), client, network, lambda: _request(url, public_key, client, network))


async def _request(url: str, public_key: bytes, client: HttpClientSettings, network: Network | None) -> RevocationList:
    data, _ = await fetch(url, client, network, MAX_LIST_BYTES)
    if len(data) <= MAX_INLINE_BYTES:
        found = read_list(data, public_key)
    else:
        try:
            found = await pool.run(read_list, [data], public_key)
        except pool.HelperFailed as failed:
            raise ProbeFailed(Reason.CERTIFICATE_INVALID, f"the list can't be parsed: {failed}") from None
    if isinstance(found, str):
        raise ProbeFailed(Reason.CERTIFICATE_INVALID, found)
    if found.this_update > time.time():
        raise ProbeFailed(Reason.CERTIFICATE_INVALID, "the list is not valid yet")
    size = len(url) + len(public_key) + len(found.digests) + sum(map(len, found.points))
    lists.keep((url, public_key), found, found.next_update, size)
    return found
