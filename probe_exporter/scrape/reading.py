"""Formats of pages of metrics: request them, recognise them, read a page without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple

from probe_exporter.prober.turns import Turn, continue_later
from probe_exporter.scrape import openmetrics, protobuf, text
from probe_exporter.scrape.page import Page

FormatName = Literal["protobuf", "openmetrics", "text"]

MAX_CONTENT_TYPE_CHARACTERS = 1024
"""Characters of a Content-Type that is examined."""


class Format(NamedTuple):
    """One format: its name, its part of an Accept header, its reader."""

    name: FormatName
    accept: str
    read: Callable[[bytes, Page], Iterator[None]]


_MESSAGES = "application/vnd.google.protobuf"
_FAMILY = "io.prometheus.client.MetricFamily"

FORMATS = MappingProxyType(
    {
        "protobuf": Format("protobuf", f"{_MESSAGES};proto={_FAMILY};encoding=delimited", protobuf.read),
        "openmetrics": Format("openmetrics", "application/openmetrics-text;version=1.0.0", openmetrics.read),
        "text": Format("text", "text/plain;version=0.0.4", text.read),
    }
)


def accept(names: Sequence[str]) -> str:
    """Return the Accept header for some formats, in order of preference."""
    asked = [f"{FORMATS[name].accept};q={1 - place / 10:g}" for place, name in enumerate(names)]
    return ",".join([*asked, "*/*;q=0.1"])


def announced(content_type: str) -> Format | None:
    """Return the format that a Content-Type header announces; None if it is unknown."""
    if len(content_type) > MAX_CONTENT_TYPE_CHARACTERS:
        return None
    media, *parameters = [part.strip() for part in content_type.split(";")]
    if media.lower() == "application/openmetrics-text":
        return FORMATS["openmetrics"]
    if media.lower() == "text/plain":
        return FORMATS["text"]
    if media.lower() == _MESSAGES and {f"proto={_FAMILY}", "encoding=delimited"} <= set(parameters):
        return FORMATS["protobuf"]
    return None


async def read(format: Format, body: bytes, page: Page) -> None:
    """Read a whole page, a few milliseconds at a time.

    A thread would not be better: readers are Python, and threads of Python take turns of the same length.

    Raises:
        Malformed, TooManySamples: the message says where and how.
    """
    turn = Turn()
    await turn.begin()
    for _ in format.read(body, page):
        await turn.give()


def free(page: Page) -> None:
    """Free the memory of a page in the next turns of the running loop: freeing 450,000 series takes 30 ms."""
    loop = asyncio.get_running_loop()
    continue_later(loop, partial(_free, loop, page.take_apart()))  # many probes may end in the same iteration


def _free(loop: asyncio.AbstractEventLoop, parts: Iterator[object]) -> None:
    turn = Turn()
    for _ in parts:
        if turn.is_over:
            continue_later(loop, partial(_free, loop, parts))
            return
