"""Renew what aiohttp and its libraries keep after a burst of requests: see `telemetry.compaction`."""

from __future__ import annotations

import asyncio, socket
from aiohttp import HttpVersion11
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL, _url

from probe_exporter.telemetry.compaction import refill

MESSAGES = 250
HEADERS = 64


async def renew() -> object:
    """Empty yarl's caches, and replace the objects that aiohttp and multidict keep for reuse."""
    for function in vars(_url).values():  # there is no public way, and a change of it costs 3 MiB after a burst
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    headers = CIMultiDict()
    url = URL("/")
    renew_accepts()
    return [await refill(
        lambda: RawRequestMessage("GET", "/", HttpVersion11, headers, (), False, None, False, False, url),
        MESSAGES,
    ),
    await refill(lambda: CIMultiDict(), HEADERS),
    await refill(lambda: CIMultiDictProxy(headers), HEADERS),
    ]


def renew_accepts():
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    accepts = [loop.connect_accepted_socket(asyncio.Protocol, sock) for _ in range(16)]
    while accepts:
        accepts.pop().close()
    sock.close()
