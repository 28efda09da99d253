"""`WholePage`: fetch one page with redirects, decompress it as its Content-Encoding says, up to a size limit.

For probers that need the whole body; the http prober checks a response while it arrives.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

from probe_exporter.network.settings import AddressSettings
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.http.content import CODINGS, Body, receive
from probe_exporter.protocols.http.exchange import Exchange
from probe_exporter.protocols.http.oauth2 import TokenSource
from probe_exporter.protocols.http.redirects import RedirectFollower
from probe_exporter.protocols.http.request import RequestTemplate
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.http.url import URL


@dataclass(frozen=True, slots=True)
class PageRequests:
    """The settings of requests for pages of one target.

    Attributes:
        client: authentication, proxies, TLS, redirects.
        addressing: which IP version.
        template: the common part of the requests.
        tokens: the source of tokens; None without an ``oauth2`` block.
    """

    client: HttpClientSettings
    addressing: AddressSettings
    template: RequestTemplate
    tokens: TokenSource | None

    @classmethod
    def make(
        cls,
        client: HttpClientSettings,
        addressing: AddressSettings,
        headers: Mapping[str, str],
        tokens: TokenSource | None,
    ) -> PageRequests:
        """Make one from settings.

        Args:
            headers: to send in addition to those of the client's settings.
            tokens: the source of tokens; None without an ``oauth2`` block.
        """
        return cls(client, addressing, RequestTemplate.make("GET", headers, "", "", accept_encoding="gzip"), tokens)


class WholePage:
    """One page: `open` returns the exchange of the last response, `read` its body. ``with`` closes the connection."""

    def __init__(self, probe: Probe, requests: PageRequests, url: URL) -> None:
        self.follower = RedirectFollower(probe, requests.client, requests.addressing)
        self.transfer_seconds = 0.0
        self._probe = probe
        self._requests = requests
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.follower.close()

    async def open(self, addresses: list[str]) -> Exchange:
        """Request the page, and return the exchange of the last response.

        Args:
            addresses: of the URL's host; empty if not resolved yet.

        Raises:
            ProbeFailed: there is no response.
        """
        template, tokens = self._requests.template, self._requests.tokens
        fetch = partial(self.follower.fetch, template, self._url, addresses, None)
        if tokens is None:
            return await fetch()
        agent = dict(template.headers).get("User-Agent", "")
        return await tokens.request_with_token(self._probe, agent, fetch)

    async def read(self, limit: int = 0) -> bytes:
        """Return the body of the last response.

        Args:
            limit: decompressed bytes allowed; 0 for `content.DEFAULT_MAX_BODY_BYTES`.

        Raises:
            ProbeFailed: it is incomplete, too large, or not in its coding.
        """
        exchange = self.follower.last
        assert exchange is not None
        coding = (exchange.response.get("content-encoding") or "").strip().lower() if exchange.response.has_body else ""
        if coding not in CODINGS:
            raise ProbeFailed(Reason.HTTP_CONTENT_ENCODING, f"the Content-Encoding is unknown: {coding[:60]!r}")
        body = Body(coding, limit=limit, hold=True)
        try:
            await receive(exchange, body)
        finally:
            self.transfer_seconds = time.perf_counter() - exchange.first_byte_at
        return await body.text()
