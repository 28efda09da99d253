"""`ChainCheck`: what the checks of a chain by revocation lists and by OCSP share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from probe_exporter.prober.deadline import within
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.prober.run import Probe
from probe_exporter.prober.turns import Turn
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.tls.certificates import Certificate

MAX_CERTIFICATES = 16
"""Certificates of a chain that are examined; a peer chooses how many it sends."""

MAX_REQUESTS = 16
"""Requests of one check. An unverified chain may name any URLs, and a revocation list may have 10 MiB."""

SHARE = 0.5
"""The part of the remaining time that one request gets, so that a slow server leaves time for the next."""


class ChainCheck:
    """The check of one chain, for one probe."""

    def __init__(self, probe: Probe, client: HttpClientSettings, until: float) -> None:
        """
        Args:
            client: sends the requests to authorities.
            until: the end of the examination, on the event loop's clock.
        """
        self._probe = probe
        self._client = client
        self._until = until
        self._turn = Turn()
        self._requests = 0
        self._request_seconds = 0.0

    async def _revoked(
        self, chain: Sequence[Certificate], examine: Callable[[int, Certificate, Certificate], Awaitable[bool]]
    ) -> list[Certificate]:
        """Examine each certificate of a chain; return the revoked ones.

        Args:
            chain: the peer's own certificate first; the last one counts as its own issuer.
            examine: gets the position of a certificate, the certificate and its issuer; returns whether it is revoked.
        """
        revoked = []
        for position, certificate in enumerate(chain[:MAX_CERTIFICATES]):
            await self._turn.give()
            issuer = chain[min(position + 1, len(chain) - 1)]
            try:
                if await examine(position, certificate, issuer):
                    revoked.append(certificate)
            except ProbeFailed as failed:  # a certificate of the chain whose names can't be read
                self._probe.log("Skipping a certificate", level=logging.WARNING, err=failed.message)
        return revoked

    def _may_request(self, what: str) -> bool:
        """Count a request; return whether it is one of the first `MAX_REQUESTS`.

        Args:
            what: the requested things, for the log.
        """
        self._requests += 1
        if self._requests == MAX_REQUESTS + 1:
            self._probe.log(f"The chain names too many {what}", level=logging.WARNING, requested=MAX_REQUESTS)
        return self._requests <= MAX_REQUESTS

    @contextmanager
    def _request(self) -> Iterator[None]:
        """Limit one request to its share of the remaining time, and count its seconds.

        Raises:
            Late: it took longer.
        """
        started = time.perf_counter()
        try:
            with within(max(0.0, (self._until - asyncio.get_running_loop().time()) * SHARE)):
                yield
        finally:
            self._request_seconds += time.perf_counter() - started
