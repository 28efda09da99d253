"""Create anew what aiohttp and its libraries keep after a burst of requests: see `telemetry.compaction`."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import HttpVersion11
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL, _url

from probe_exporter.telemetry.compaction import refill

MESSAGES = 250
HEADERS = 64
ACCEPTS = 8
"""Objects that each of them keeps for reuse, at most."""


async def renew() -> object:
    """Empty yarl's caches, and replace the objects that aiohttp, multidict and uvloop keep. Return the old objects."""
    for function in vars(_url).values():  # yarl has no public function that empties these caches
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    _renew_accepts()
    headers: CIMultiDict[str] = CIMultiDict()
    url = URL("/")
    return [
        await refill(
            lambda: RawRequestMessage(
                "GET", "/", HttpVersion11, CIMultiDictProxy(headers), (), False, None, False, False, url
            ),
            MESSAGES,
        ),
        await refill(CIMultiDict, HEADERS),
        await refill(lambda: CIMultiDictProxy(headers), HEADERS),
    ]


def _renew_accepts() -> None:
    """Replace the frames that uvloop keeps for `connect_accepted_socket`, which is closed before it starts."""
    loop = asyncio.get_running_loop()
    with socket.socket() as unused:
        accepts = [loop.connect_accepted_socket(asyncio.Protocol, unused) for _ in range(2 * ACCEPTS)]
        while accepts:
            accepts.pop().close()  # uvloop keeps the frames of the last ones, which are new
