"""Fetch a small document from an authority over HTTP, under the network policy of the probe that needs it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from probe_exporter.network.settings import AddressSettings
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Network, Probe
from probe_exporter.protocols.http.exchange import Exchange
from probe_exporter.protocols.http.request import RequestTemplate
from probe_exporter.protocols.http.settings import HttpClientSettings, ProxySettings
from probe_exporter.protocols.http.url import parse
from probe_exporter.protocols.http.whole_page import PageRequests, WholePage

DIRECT = HttpClientSettings()
"""The client of a module without proxy."""


def client_of(settings: object) -> HttpClientSettings:
    """Return the HTTP client for a module's documents: its proxy, and nothing else of its settings.

    Args:
        settings: the block of a prober, which may have the keys of a proxy, itself or in ``http_config``.
    """
    for block in (settings, getattr(settings, "http_config", None)):
        if isinstance(block, ProxySettings) and (block.proxy_url or block.proxy_from_environment):
            proxy: dict[str, Any] = {key: getattr(block, key) for key in ProxySettings.model_fields}
            return HttpClientSettings().model_copy(update=proxy)
    return DIRECT


async def fetch(
    url: str, client: HttpClientSettings, network: Network | None, limit: int, post: tuple[str, bytes] | None = None
) -> tuple[bytes, Exchange]:
    """Return the body at a URL, which a response with status 200 has, and its exchange. Redirects are followed.

    Args:
        network: of the probe; its policy applies to every connection.
        limit: bytes of the body, decompressed.
        post: media type and content to send by POST; None to GET.

    Raises:
        ProbeFailed: there is no such response.
    """
    try:
        there = parse(url)
    except ValueError as error:
        raise ProbeFailed(Reason.HTTP_PROTOCOL_ERROR, f"not a URL: {error}") from None
    own = None if network is None else network.for_another_run()
    probe = Probe(url, math.inf, network=own)  # its measurements are not about the target
    headers = {"Content-Type": post[0]} if post else {}
    template = RequestTemplate.make("POST" if post else "GET", headers, "", "", accept_encoding="gzip")
    if post:
        template = replace(template, body=post[1])
    with WholePage(probe, PageRequests(client, AddressSettings(), template, None), there) as page:
        exchange = await page.open([])
        if exchange.response.status != 200:
            raise ProbeFailed(Reason.HTTP_STATUS, f"the status is {exchange.response.status}")
        return await page.read(limit), exchange
