"""Heads of requests that were seen before, but for the request line: they need no parser.

The model:

* A Prometheus server sends the same header fields with each request, and so does every other client that keeps its
  connection. Only the request line differs, by the target.
* `UsualHeads.learn` keeps the fields of a head that aiohttp has parsed, by their bytes. `find` takes a head apart at
  the end of its first line. If its fields are known, and the line is plain, no byte is left to judge.
* Only heads that need nothing else are learned: a GET of HTTP/1.1 without a body, after which the connection stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aiohttp.http import HttpVersion11, RawRequestMessage

MAX_FIELDS_BYTES = 2048
"""Bytes of the fields of one head that is kept."""

MAX_HEADS = 64
"""Different fields that are kept; one more, and all are forgotten. In memory a head takes three times its bytes."""

MAX_LINE_BYTES = 2048
"""Bytes of a request line that is not parsed."""

_LINE = re.compile(rb"GET (/[!\"$-.0-~][!\"$-~]*|/) HTTP/1\.1")
"""Without ``#``, and without two slashes at the start: they have a meaning in URLs, which aiohttp makes of the path."""


class UsualHead:
    """A request like those that aiohttp parses: a GET whose connection stays open.

    Attributes:
        path: the path and the query, still encoded.
        headers: the header fields; their names are case-insensitive.
    """

    __slots__ = ("headers", "path")
    method = "GET"
    version = HttpVersion11
    should_close = False

    def __init__(self, path: str, headers: Mapping[str, str]) -> None:
        self.path = path
        self.headers = headers


class UsualHeads:
    """The header fields of earlier requests, by their bytes."""

    def __init__(self) -> None:
        self._fields: dict[bytes, Mapping[str, str]] = {}

    def find(self, data: bytes) -> UsualHead | None:
        """Return the request if `data` is exactly one whole head with fields that are known; otherwise None."""
        end = data.find(b"\r\n", 0, MAX_LINE_BYTES)
        headers = self._fields.get(data[end:])
        if headers is None or (line := _LINE.fullmatch(data, 0, end)) is None:
            return None
        return UsualHead(line[1].decode("ascii"), headers)

    def learn(self, data: bytes, message: RawRequestMessage) -> None:
        """Keep the fields of a head, if it is a usual one.

        Args:
            data: what the parser was given when it was between two requests, and what made it return `message` alone.
        """
        if message.should_close or message.upgrade or message.chunked or message.compression:
            return
        if data.find(b"\r\n\r\n") != len(data) - 4:
            return
        end = data.find(b"\r\n", 0, MAX_LINE_BYTES)
        if end > 0 and len(data) - end <= MAX_FIELDS_BYTES and _LINE.fullmatch(data, 0, end):
            if len(self._fields) >= MAX_HEADS:
                self._fields.clear()
            self._fields[data[end:]] = message.headers
