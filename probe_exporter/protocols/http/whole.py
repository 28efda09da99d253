"""A whole page: asked for along the redirects, unpacked as its own head says, and never beyond a limit.

For probers that read what they fetch; the http prober judges an answer while it comes.
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
from probe_exporter.protocols.http.journey import Journey
from probe_exporter.protocols.http.oauth2 import TokenSource
from probe_exporter.protocols.http.request import Template
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.http.url import URL


@dataclass(frozen=True, slots=True)
class Asking:
    """How pages of one target are asked for.

    Attributes:
        client: authentication, proxies, TLS, redirects.
        addressing: which of a name's addresses.
        template: what requests have in common.
        tokens: where the tokens of ``oauth2`` come from; None without such a block.
    """

    client: HttpClientSettings
    addressing: AddressSettings
    template: Template
    tokens: TokenSource | None

    @classmethod
    def make(
        cls,
        client: HttpClientSettings,
        addressing: AddressSettings,
        headers: Mapping[str, str],
        tokens: TokenSource | None,
    ) -> Asking:
        """
        Args:
            headers: to send, beside those that the client's settings give.
            tokens: of the client's ``oauth2``; None if it has no such block.
        """
        return cls(client, addressing, Template.make("GET", headers, "", "", accept_encoding="gzip"), tokens)


class WholePage:
    """One page of a target: `open` gives the head of its last response, `read` the body. Close it with `with`."""

    def __init__(self, probe: Probe, asking: Asking, url: URL) -> None:
        self.journey = Journey(probe, asking.client, asking.addressing)
        self.transfer_seconds = 0.0
        self._probe = probe
        self._asking = asking
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.journey.end()

    async def open(self, addresses: list[str]) -> Exchange:
        """Ask.

        Args:
            addresses: where the URL's host is; none while unknown.

        Raises:
            ProbeFailed: there is no response.
        """
        template, tokens = self._asking.template, self._asking.tokens
        fetch = partial(self.journey.fetch, template, self._url, addresses, None)
        if tokens is None:
            return await fetch()
        agent = dict(template.headers).get("User-Agent", "")
        return await tokens.travel(self._probe, agent, fetch)

    async def read(self, limit: int = 0) -> bytes:
        """The body of the last response.

        Args:
            limit: bytes allowed once it is unpacked; 0 for `content.DEFAULT_MAX_BODY_BYTES`.

        Raises:
            ProbeFailed: it breaks off, is too large, or is not in its coding.
        """
        exchange = self.journey.last
        assert exchange is not None
        coding = (exchange.response.get("content-encoding") or "").strip().lower() if exchange.response.has_body else ""
        if coding not in CODINGS:
            raise ProbeFailed(Reason.HTTP_CONTENT_ENCODING, f"the body is in an unknown coding: {coding[:60]!r}")
        body = Body(coding, limit=limit, hold=True)
        try:
            await receive(exchange, body)
        finally:
            self.transfer_seconds = time.perf_counter() - exchange.first_byte_at
        return body.text
