"""From a URL to the last response: one exchange after another, along the redirects.

What the original loses on the way, a redirect to the same host keeps here: the address that was chosen for it, the
name its certificate must bear, and (see `request`) the credentials.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import BinaryIO

from probe_exporter import net
from probe_exporter.addressing import AddressSettings
from probe_exporter.http.cookies import Cookies
from probe_exporter.http.exchange import Exchange, Http1Exchange
from probe_exporter.http.request import REDIRECT_CODES, Request
from probe_exporter.http.settings import HttpClientSettings
from probe_exporter.http.url import URL, host_only
from probe_exporter.net import Secure
from probe_exporter.prober import Probe, ProbeFailed, Reason
from probe_exporter.tls import ClientContext, client_context, quic_context

MOST_REDIRECTS = 10
"""Redirects that are followed; the next one is refused."""

ALPN = ("http/1.1",)
"""What is offered where ``enable_http2`` allows more than HTTP/1."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One request on the way, the addresses it may go to and the name its server must prove."""

    request: Request
    addresses: list[str]
    server_name: str


class Journey:
    """One probe's way along the redirects.

    Attributes:
        last: the exchange of the last response; None while there was no response.
        redirects: how many came.
        refused: the last response is a redirect that was not followed.
        resolve_seconds, connect_seconds, tls_seconds, processing_seconds: summed over the hops that got so far.
    """

    def __init__(
        self, probe: Probe, client: HttpClientSettings, addressing: AddressSettings, *, http3: bool = False
    ) -> None:
        self.last: Exchange | None = None
        self.redirects = 0
        self.refused = False
        self.resolve_seconds = 0.0
        self.connect_seconds = 0.0
        self.tls_seconds = 0.0
        self.processing_seconds = 0.0
        self._probe = probe
        self._client = client
        self._addressing = addressing
        self._http3 = http3
        self._cookies: Cookies | None = None
        self._open: Exchange | None = None

    async def resolve(self, url: URL) -> str:
        """Choose the address of the first hop.

        Raises:
            ProbeFailed: there is none; the time it took to find out counts.
        """
        addressing, started = self._addressing, time.perf_counter()
        try:
            return await net.resolve(
                self._probe,
                url.host,
                preferred=addressing.preferred_ip_protocol,
                fallback=addressing.ip_protocol_fallback,
            )
        finally:
            self.resolve_seconds = time.perf_counter() - started

    def tls(self) -> ClientContext:
        """The TLS to use wherever a hop needs it.

        Raises:
            ProbeFailed: the settings can't be used.
        """
        return client_context(self._client.tls_config, ALPN if self._client.enable_http2 else ())

    def prepare_tls(self) -> None:
        """Make ready now what a later hop would.

        Raises:
            ProbeFailed: the settings can't be used.
        """
        if self._http3:
            quic_context(self._client.tls_config)
        else:
            self.tls()

    async def travel(self, hop: Hop, upload: BinaryIO | None) -> Exchange:
        """Send the first request and those that redirects ask for; the exchange of the last response.

        Args:
            upload: the file that the first request's ``body_file`` names.

        Raises:
            ProbeFailed: the way ended before a last response; `last` is then the one before.
        """
        first = hop.request.url
        while True:
            exchange = await self._exchange(hop, upload)
            location = self._leads_on(exchange, hop.request)
            if location is None:
                return exchange
            hop = await self._next(hop, exchange, location, first)

    def end(self) -> None:
        """Close what is open."""
        if self._open is not None:
            self._open.close()

    async def _exchange(self, hop: Hop, upload: BinaryIO | None) -> Exchange:
        probe, request, url = self._probe, hop.request, hop.request.url
        self.end()
        self._open = exchange = await (self._over_quic if self._http3 else self._over_tcp)(hop, upload)
        probe.log("Making HTTP request", method=request.method, url=str(url), host=request.host)
        with probe.phase("processing"):
            try:
                response = await exchange.head()
            finally:
                self.processing_seconds += exchange.processing_seconds
        probe.log("Received HTTP response", status_code=response.status)
        self.last = exchange
        return exchange

    async def _over_tcp(self, hop: Hop, upload: BinaryIO | None) -> Exchange:
        url = hop.request.url
        secure = Secure(self.tls(), hop.server_name) if url.secure else None
        connection = await net.dial(self._probe, hop.addresses, url.port, secure=secure)
        self.connect_seconds += connection.connect_seconds
        self.tls_seconds += connection.tls_seconds
        return Http1Exchange(connection, hop.request, upload)

    async def _over_quic(self, hop: Hop, upload: BinaryIO | None) -> Exchange:
        from probe_exporter import quic  # noqa: PLC0415  # few modules need it, and it takes a while to load
        from probe_exporter.http.http3 import ALPN, Http3Exchange  # noqa: PLC0415

        context, url = quic_context(self._client.tls_config), hop.request.url
        client = await quic.dial(self._probe, hop.addresses, url.port, context, hop.server_name, ALPN)
        self.connect_seconds += client.connect_seconds
        self.tls_seconds += client.tls_seconds
        return Http3Exchange(client, hop.request, upload)

    def _leads_on(self, exchange: Exchange, request: Request) -> str | None:
        """Where a response sends us on to, if it does and we go."""
        response = exchange.response
        location = response.get("location")
        if response.status not in REDIRECT_CODES or not location:
            return None
        if request.body_file and response.status in (307, 308):
            return None  # the file has been sent; it is not sent twice
        self.redirects += 1
        self.refused = not self._client.follow_redirects or self.redirects > MOST_REDIRECTS
        self._probe.log("Redirected", level=logging.INFO, location=location, followed=not self.refused)
        return None if self.refused else location

    async def _next(self, hop: Hop, exchange: Exchange, location: str, first: URL) -> Hop:
        previous = hop.request.url
        try:
            request = hop.request.redirected(exchange.response.status, location, first)
        except ValueError as error:
            raise ProbeFailed(Reason.HTTP_REDIRECT, f"the redirect leads nowhere: {error}") from None
        request = self._with_cookies(request, hop.request, exchange.response.get_all("set-cookie"))
        if request.url.host.lower() == previous.host.lower():
            return Hop(request, hop.addresses, hop.server_name)
        started = time.perf_counter()
        addresses = await net.resolve_all(
            self._probe, request.url.host, preferred=self._addressing.preferred_ip_protocol
        )
        self.resolve_seconds += time.perf_counter() - started
        return Hop(request, addresses, request.url.host)

    def _with_cookies(self, request: Request, previous: Request, received: list[str]) -> Request:
        if self._cookies is None:
            if not received:
                return request
            self._cookies = Cookies()
        self._cookies.store(previous.url, received, host_only(previous.host))
        return replace(request, cookies=self._cookies.header(request.url, host_only(request.host)))
