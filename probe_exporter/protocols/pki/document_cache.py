"""Keep documents of authorities until they expire, for all probes of the process, and share requests in progress.

How `DocumentCache` works:

* A document is kept until its next update, at most for a day. Kept documents are limited in number and in bytes; the
  one that was used least recently is dropped first. Failures are not kept.
* Probes that need a document at the same time share one request, if they have the same network policy and proxy: a
  document that one module may fetch may be forbidden for another. Each probe waits until its own deadline; the request
  is cancelled when no probe waits for it any more.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.prober.run import Network
from probe_exporter.prober.sharing import SharedTask
from probe_exporter.protocols.http.settings import HttpClientSettings

T = TypeVar("T")

MAX_KEPT_SECONDS = 86400.0
"""Seconds for which a document is kept at most. Authorities issue new ones before the next update is due."""

ENTRY_BYTES = 1024
"""What a kept document takes beside its own bytes and those of its key."""


@dataclass(frozen=True, slots=True)
class _CachedDocument(Generic[T]):
    document: T
    until: float  # Unix seconds
    bytes: int


class DocumentCache(Generic[T]):
    """The documents of one kind.

    Attributes:
        bytes: about what the kept documents take.
    """

    def __init__(self, max_number: int, max_bytes: int) -> None:
        self.bytes = 0
        self._max_number = max_number
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, _CachedDocument[T]] = OrderedDict()
        self._fetches: dict[Hashable, SharedTask[T]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def forget(self) -> None:
        """Drop every kept document."""
        self._kept.clear()
        self.bytes = 0

    def kept(self, key: Hashable) -> T | None:
        """Return a document that was fetched before and is not due yet."""
        known = self._kept.get(key)
        if known is None:
            return None
        if known.until <= time.time():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return known.document

    def keep(self, key: Hashable, document: T, next_update: float | None, size: int) -> None:
        """Keep a document until its next update. One that is due, or does not say, is fetched again each time.

        Args:
            next_update: in Unix seconds.
            size: bytes of the key and the document.
        """
        now, size = time.time(), size + ENTRY_BYTES
        until = min(now + MAX_KEPT_SECONDS, now if next_update is None else next_update)
        if until <= now or size > self._max_bytes:
            return
        self._drop(key)
        while self._kept and (self.bytes + size > self._max_bytes or len(self._kept) >= self._max_number):
            self._drop(next(iter(self._kept)))
        self._kept[key] = _CachedDocument(document, until, size)
        self.bytes += size

    async def share(
        self,
        what: Hashable,
        client: HttpClientSettings,
        network: Network | None,
        request: Callable[[], Coroutine[Any, Any, T]],
    ) -> T:
        """Make a request, or wait for the same one in progress, and return its result.

        Args:
            what: identifies the request among those by the same proxy and under the same network policy.

        Raises:
            ProbeFailed: the request raises it.
        """
        flight = (what, _proxy_of(client), None if network is None else network.identity)
        fetch = self._fetches.get(flight)
        if fetch is None:
            self._fetches[flight] = fetch = SharedTask(request())
        try:
            return await fetch.result()
        except ProbeFailed as failed:  # an exception of our own, because other probes raise this one too
            raise ProbeFailed(failed.reason, failed.message) from None
        finally:
            if self._fetches.get(flight) is fetch and fetch.is_over:
                del self._fetches[flight]

    def _drop(self, key: Hashable) -> None:
        known = self._kept.pop(key, None)
        if known is not None:
            self.bytes -= known.bytes


def _proxy_of(client: HttpClientSettings) -> Hashable:
    """Return what is the same for two clients with the same proxy."""
    headers = [(name, *[one.reveal() for one in values]) for name, values in client.proxy_connect_header.items()]
    return client.proxy_url, client.no_proxy, client.proxy_from_environment, tuple(headers)
