"""`WebRequest`: a request to the exporter's own server, as its endpoints see it."""

from __future__ import annotations

from collections.abc import Mapping


class WebRequest:
    """The head of a request. No endpoint reads a body.

    Attributes:
        method: such as ``GET``.
        raw_path: the path and the query, still encoded.
        headers: the header fields; their names are case-insensitive.
        tls: whether the request came over TLS.
    """

    __slots__ = ("headers", "method", "raw_path", "tls")

    def __init__(self, method: str, raw_path: str, headers: Mapping[str, str], tls: bool = False) -> None:
        self.method = method
        self.raw_path = raw_path
        self.headers = headers
        self.tls = tls
