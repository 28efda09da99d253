"""What aiohttp and its libraries keep after a burst of requests is created anew."""

from __future__ import annotations

import gc
import warnings

from aiohttp.http import RawRequestMessage
from yarl import URL, _url

from probe_exporter.web.leftovers import ACCEPTS, MESSAGES, renew


async def test_caches_of_urls_are_empty_after_a_renewal() -> None:
    for number in range(10):
        URL(f"http://localhost/{number}")
    full = _url.encode_url.cache_info().currsize
    await renew()
    assert full >= 10
    assert _url.encode_url.cache_info().currsize <= 1  # the URL of the renewal itself


async def test_renewal_returns_the_messages_that_aiohttp_had_kept() -> None:
    old = await renew()
    assert isinstance(old, list)
    messages = old[0]
    assert len(messages) == MESSAGES
    assert {type(message) for message in messages} == {RawRequestMessage}


async def test_renewal_leaves_no_coroutine_that_was_never_awaited() -> None:
    assert ACCEPTS > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await renew()
        gc.collect()
