"""Fetch revocation lists, and keep them for all probes of the process.

How `Lists` works:

* A list is kept until its next update, at most for a day, by its URL and the key of its issuer. Kept lists take at most
  `MAX_KEPT_BYTES`; the one that was used least recently is dropped first.
* Probes that need a list at the same time share one request, if they have the same network policy and proxy: a list
  that one module may fetch may be forbidden for another. Each probe waits until its own deadline; the request is
  cancelled when no probe waits for it any more.
* A list above `MAX_INLINE_BYTES` is parsed in a helper process, because parsing holds the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Network
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.pki.fetching import fetch
from probe_exporter.tls.crl import RevocationList, read_list
from probe_exporter.values import pool

MAX_LIST_BYTES = 10 << 20
"""Bytes of a list that are read: the original's limit."""

MAX_INLINE_BYTES = 16 << 10
"""Bytes of a list that are parsed on the event loop: 450 entries, in less than a millisecond."""

MAX_KEPT_BYTES = 64 << 20
MAX_KEPT_LISTS = 1024

MAX_KEPT_SECONDS = 86400.0
"""Seconds for which a list is kept at most. Authorities issue lists before the next update is due."""

_ENTRY_BYTES = 1024
"""What a kept list takes beside its digests and its URL."""

Key = tuple[str, bytes]
Flight = tuple[str, bytes, object, int | None]


@dataclass(slots=True)
class _Fetch:
    """A request in progress, and the number of probes that wait for it."""

    task: asyncio.Task[RevocationList]
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class _Kept:
    found: RevocationList
    until: float  # Unix seconds
    bytes: int


class Lists:
    """The revocation lists of a process.

    Attributes:
        bytes: about what the kept lists take.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._fetches: dict[Flight, _Fetch] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def forget(self) -> None:
        """Drop every kept list."""
        self._kept.clear()
        self.bytes = 0

    def kept(self, url: str, public_key: bytes) -> RevocationList | None:
        """Return a list that was fetched before and is not due yet."""
        key = (url, public_key)
        known = self._kept.get(key)
        if known is None:
            return None
        if known.until <= time.time():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return known.found

    async def fetch(
        self, url: str, public_key: bytes, client: HttpClientSettings, network: Network | None
    ) -> RevocationList:
        """Fetch a list, or wait for the request in progress.

        Args:
            public_key: of the issuer, as `crl.public_key_of` returns it.

        Raises:
            ProbeFailed: it can't be fetched, is not signed by the issuer, or is not valid yet.
        """
        flight = (url, public_key, _proxy_of(client), None if network is None else network.identity)
        fetch = self._fetches.get(flight)
        if fetch is None:
            task = asyncio.create_task(self._request(url, public_key, client, network))
            self._fetches[flight] = fetch = _Fetch(task)
        fetch.waiting += 1
        try:
            return await asyncio.shield(fetch.task)
        except ProbeFailed as failed:  # an exception of our own, because other probes raise this one too
            raise ProbeFailed(failed.reason, failed.message) from None
        finally:
            fetch.waiting -= 1
            if not fetch.waiting:
                fetch.task.cancel()
            if self._fetches.get(flight) is fetch and (fetch.task.done() or not fetch.waiting):
                del self._fetches[flight]

    async def _request(
        self, url: str, public_key: bytes, client: HttpClientSettings, network: Network | None
    ) -> RevocationList:
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
        self._keep((url, public_key), found)
        return found

    def _keep(self, key: Key, found: RevocationList) -> None:
        now = time.time()
        until = min(now + MAX_KEPT_SECONDS, now if found.next_update is None else found.next_update)
        size = _ENTRY_BYTES + len(key[0]) + len(key[1]) + len(found.digests)
        if until <= now:  # stale, or without a next update: it is fetched again each time
            return
        self._drop(key)
        while self._kept and (self.bytes + size > MAX_KEPT_BYTES or len(self._kept) >= MAX_KEPT_LISTS):
            self._drop(next(iter(self._kept)))
        self._kept[key] = _Kept(found, until, size)
        self.bytes += size

    def _drop(self, key: Key) -> None:
        known = self._kept.pop(key, None)
        if known is not None:
            self.bytes -= known.bytes


def _proxy_of(client: HttpClientSettings) -> object:
    """Return what is the same for two clients with the same proxy."""
    headers = [(name, *[one.reveal() for one in values]) for name, values in client.proxy_connect_header.items()]
    return client.proxy_url, client.no_proxy, client.proxy_from_environment, tuple(headers)


lists = Lists()
"""The lists of this process."""
