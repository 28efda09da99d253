"""`RedirectFollower`: fetch a URL and follow redirects, one exchange after another, up to the last response.

A redirect to the same host keeps what the original loses: the chosen address, the name that the certificate must have,
and (see `request`) the credentials.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from probe_exporter.addresses import literals
from probe_exporter.network import address_choice, opening
from probe_exporter.network.connection import Connection, Secure
from probe_exporter.network.settings import AddressSettings
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.http import tunnel
from probe_exporter.protocols.http.cookies import Cookies
from probe_exporter.protocols.http.exchange import Exchange, Http1Exchange, Unprocessed
from probe_exporter.protocols.http.proxy import Proxy
from probe_exporter.protocols.http.request import REDIRECT_CODES, Request, RequestTemplate, first_request
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.http.url import URL, host_only
from probe_exporter.tls import loading

if TYPE_CHECKING:
    from probe_exporter.tls.context import ClientContext
    from probe_exporter.tls.quic import QuicContext

MAX_REDIRECTS = 10
"""Redirects that are followed; the next one is refused."""

MAX_LOGGED_CHARACTERS = 2000
"""Characters of a URL that a line of the probe's log keeps."""

ALPN = ("h2", "http/1.1")
"""Protocols offered by ALPN if ``enable_http2`` allows more than HTTP/1."""


class Hop(NamedTuple):
    """One request, the addresses to connect to (empty if not resolved yet), the name that the certificate must have."""

    request: Request
    addresses: list[str]
    server_name: str


class RedirectFollower:
    """The requests of one probe along its redirects.

    Attributes:
        last: the exchange of the last response; None without a response.
        redirects: number of redirects received.
        refused: whether the last response is a redirect that was not followed.
        hops: number of requests begun.
        connect_seconds, tls_seconds, processing_seconds: sums over all hops that got so far.
    """

    def __init__(
        self, probe: Probe, client: HttpClientSettings, addressing: AddressSettings, *, http3: bool = False
    ) -> None:
        self.last: Exchange | None = None
        self.redirects = 0
        self.refused = False
        self.hops = 0
        self.connect_seconds = 0.0
        self.tls_seconds = 0.0
        self.processing_seconds = 0.0
        self._probe = probe
        self._client = client
        self._addressing = addressing
        self._http3 = http3
        self._resolves = False  # whether `resolve` was called
        self._later_resolve_seconds = 0.0  # of all hops but the first
        self._cookies: Cookies | None = None
        self._open: Exchange | None = None
        self._contexts: dict[tuple[str, ...], ClientContext] = {}  # by the protocols that they offer
        self._for_quic: QuicContext | None = None

    def resolve(self, url: URL) -> Coroutine[Any, Any, str]:
        """Choose the address of the first hop.

        Raises:
            ProbeFailed: there is none; its time counts all the same.
        """
        self._resolves = True
        wanted = self._addressing
        return address_choice.resolve(
            self._probe, url.host, preferred=wanted.preferred_ip_protocol, fallback=wanted.ip_protocol_fallback
        )

    @property
    def resolve_seconds(self) -> float:
        """Seconds of all lookups so far."""
        first = self._probe.samples.plain.get(address_choice.LOOKUP_TIME, 0.0) if self._resolves else 0.0
        return first + self._later_resolve_seconds

    async def _context(self, alpn: tuple[str, ...] = ALPN) -> ClientContext:
        """Return the TLS context for hops by https.

        Args:
            alpn: the protocols to offer, if the settings allow more than HTTP/1.

        Raises:
            ProbeFailed: the settings can't be used.
        """
        context = self._contexts.get(alpn)
        if context is None:
            context = await loading.client_context(self._client.tls_config, alpn if self._client.enable_http2 else ())
            self._contexts[alpn] = context
        return context

    async def _quic_context(self) -> QuicContext:
        """Return the TLS context for hops by QUIC.

        Raises:
            ProbeFailed: the settings can't be used.
        """
        if self._for_quic is None:
            await loading.load()
            from probe_exporter.tls import quic  # noqa: PLC0415  # few modules need it

            self._for_quic = await quic.quic_context(self._client.tls_config)
        return self._for_quic

    async def prepare_tls(self) -> None:
        """Load the TLS context now, before anything is sent.

        Raises:
            ProbeFailed: the settings can't be used.
        """
        if self._http3:
            await self._quic_context()
        else:
            await self._context()

    def fetch(
        self,
        template: RequestTemplate,
        url: URL,
        addresses: list[str],
        upload: BinaryIO | None,
        authorization: str = "",
    ) -> Coroutine[Any, Any, Exchange]:
        """Request a URL and follow redirects; return the exchange of the last response.

        Can be called again, to start over; the seconds add up.

        Args:
            template: the request without URL and credentials.
            addresses: of the URL's host; empty if not resolved yet.
            upload: the file that the template's ``body_file`` names; read from its beginning.
            authorization: an Authorization header that replaces any other; empty for none.

        Raises:
            ProbeFailed: the request can't be sent, or there is no last response.
        """
        if upload is not None:
            upload.seek(0)  # a previous call may have read it
        request = first_request(template, self._client, url, authorization)
        server_name = self._client.tls_config.server_name or (template.host and host_only(template.host)) or url.host
        return self.follow(Hop(request, addresses, server_name), upload)

    async def follow(self, hop: Hop, upload: BinaryIO | None) -> Exchange:
        """Send the first request and those that redirects ask for; return the exchange of the last response.

        Can be called again, to start over; the seconds add up.

        Args:
            upload: the file that the first request's ``body_file`` names.

        Raises:
            ProbeFailed: a request failed; `last` is then the exchange before it.
        """
        first = hop.request.url
        self.hops = self.redirects = 0
        self.refused = False
        self._cookies = None
        while True:
            self.hops += 1
            try:
                exchange = await self._exchange(hop, upload)
            except Unprocessed as refused:
                exchange = await self._repeat(hop, upload, refused)
            location = self._leads_on(exchange, hop.request)
            if location is None:
                return exchange
            hop = await self._next(hop, exchange, location, first)

    def close(self) -> None:
        """Close the open connection."""
        if self._open is not None:
            self._open.close()

    async def _repeat(self, hop: Hop, upload: BinaryIO | None, refused: Unprocessed) -> Exchange:
        """Repeat a request that the server says it did not process, as a server does that is being restarted.

        It is repeated once. The original repeats it until its time is over.
        """
        self._probe.log("The server did not process the request: repeating it", err=refused.message)
        self._probe.current_phase = ""
        if upload is not None:
            upload.seek(0)
        return await self._exchange(hop, upload)

    async def _exchange(self, hop: Hop, upload: BinaryIO | None) -> Exchange:
        probe, request, url = self._probe, hop.request, hop.request.url
        self.close()
        self._open = exchange = await (self._over_quic(hop, upload) if self._http3 else self._over_tcp(hop, upload))
        shown = str(url)[:MAX_LOGGED_CHARACTERS]
        probe.log("Making HTTP request", method=request.method, url=shown, host=request.host)
        with probe.phase("processing") as phase:
            phase.about = shown
            try:
                response = await exchange.head()
            finally:
                self.processing_seconds += exchange.processing_seconds
        probe.log("Received HTTP response", status_code=response.status)
        self.last = exchange
        return exchange

    async def _over_tcp(self, hop: Hop, upload: BinaryIO | None) -> Exchange:
        request, url = hop.request, hop.request.url
        secure = None
        if url.secure:
            secure = Secure(await self._context(() if request.upgrades else ALPN), hop.server_name)
        proxy = self._client.proxies.choose(url, hop.addresses)
        if proxy is None:
            addresses = hop.addresses or await self._addresses(hop)
            connection = await opening.dial(self._probe, addresses, url.port, secure=secure)
        else:
            connection = await self._through(proxy, hop, secure)
            if proxy.forwards(url):
                request = request.forwarded(tunnel.authorization(proxy))
        self.connect_seconds += connection.connect_seconds
        self.tls_seconds += connection.tls_seconds
        if connection.handshake is None or connection.handshake.protocol != "h2":
            return Http1Exchange(connection, request, upload)
        # The files and not names from them: that takes a quarter of the time, here and below.
        from probe_exporter.protocols.http import http2, http2_exchange  # noqa: PLC0415  # not every server speaks it

        file = upload if request.body_file else None
        return http2_exchange.Http2Exchange(
            connection, request.method, http2.request_fields(request), request.body, file
        )

    async def _through(self, proxy: Proxy, hop: Hop, secure: Secure | None) -> Connection:
        """Connect through a proxy. It gets the host's name, or with plain ``socks5`` the address if one was chosen."""
        url = hop.request.url
        addresses = await self._look_up(proxy.host, tunnel.addresses(self._probe, proxy))
        own = await tunnel.own_tls(proxy, self._client.tls_config)
        destination = tunnel.destination(proxy, url, hop.addresses)
        forwarded = proxy.forwards(url)
        return await tunnel.dial(self._probe, proxy, addresses, own, destination, secure, forwarded=forwarded)

    async def _addresses(self, hop: Hop) -> list[str]:
        """Return the addresses of a hop that needs no proxy and has none yet."""
        host, preferred = hop.request.url.host, self._addressing.preferred_ip_protocol
        return await self._look_up(host, address_choice.resolve_all(self._probe, host, preferred=preferred))

    async def _look_up(self, host: str, lookup: Awaitable[list[str]]) -> list[str]:
        """Return the result of a lookup; its time counts from the second hop on (the first: see `resolve`)."""
        started = time.perf_counter()
        try:
            return await lookup
        finally:
            if self.hops > 1 and literals.literal(host) is None:
                self._later_resolve_seconds += time.perf_counter() - started

    async def _over_quic(self, hop: Hop, upload: BinaryIO | None) -> Exchange:
        from probe_exporter.network import quic  # noqa: PLC0415  # few modules need it, and it takes a while to load
        from probe_exporter.protocols.http import http3, http3_exchange  # noqa: PLC0415  # the same

        context, url = await self._quic_context(), hop.request.url
        addresses = hop.addresses or await self._addresses(hop)
        client = await quic.dial(self._probe, addresses, url.port, context, hop.server_name, http3.ALPN)
        self.connect_seconds += client.connect_seconds
        self.tls_seconds += client.tls_seconds
        return http3_exchange.Http3Exchange(client, hop.request, upload)

    def _leads_on(self, exchange: Exchange, request: Request) -> str | None:
        """Return the Location of a response that is a redirect and is followed; otherwise None."""
        response = exchange.response
        if response.status not in REDIRECT_CODES:
            return None
        location = response.get("location")
        if not location:
            return None
        if request.body_file and response.status in (307, 308):
            return None  # the file is not sent twice
        self.redirects += 1
        self.refused = not self._client.follow_redirects or self.redirects > MAX_REDIRECTS
        self._probe.log(
            "Redirected", level=logging.INFO, location=location[:MAX_LOGGED_CHARACTERS], followed=not self.refused
        )
        return None if self.refused else location

    async def _next(self, hop: Hop, exchange: Exchange, location: str, first: URL) -> Hop:
        previous = hop.request.url
        try:
            request = hop.request.redirected(exchange.response.status, location, first)
        except ValueError as error:
            raise ProbeFailed(Reason.HTTP_REDIRECT, f"the redirect can't be followed: {error}") from None
        if self._http3 and not request.url.secure:
            raise ProbeFailed(Reason.HTTP_REDIRECT, "the redirect leads to http, but HTTP/3 needs https")
        request = await self._with_cookies(request, hop.request, exchange.response.get_all("set-cookie"))
        if request.url.host.lower() == previous.host.lower():
            return Hop(request, hop.addresses, hop.server_name)
        return Hop(request, [], request.url.host)

    async def _with_cookies(self, request: Request, previous: Request, received: list[str]) -> Request:
        if self._cookies is None:
            if not received:
                return request
            self._cookies = Cookies()
        await self._cookies.store(previous.url, received, host_only(previous.host))
        return request._replace(cookies=self._cookies.header(request.url, host_only(request.host)))
