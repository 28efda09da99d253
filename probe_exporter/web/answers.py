"""Responses of the web server, each sent as one block: metrics, text, JSON, HTML and errors."""

from __future__ import annotations

import re
import zlib
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp.helpers import rfc822_formatted_time
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from probe_exporter.cache import remembered
from probe_exporter.history.details import to_json
from probe_exporter.web.parameters import wants_gzip
from probe_exporter.web.request import WebRequest

SERVER = "probe-exporter"
"""The Server header field. Without one, aiohttp sends its own version and Python's."""

MIN_WINDOW_BITS = 10
"""The smallest window of a compressed body: 1 KiB, as a power of two."""

_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 section 5.5


Fields = tuple[tuple[str, str], ...]
"""Header fields, in the order in which they are sent."""


class Answer:
    """The response that a handler returns.

    Attributes:
        body: the bytes of the body; the response to a HEAD request, and one with status 304, has only their length.
        status: the status code.
        closes: whether the connection is closed after this response, even if the client would keep it open.
    """

    __slots__ = ("_fields", "_head", "body", "closes", "status")

    def __init__(self, body: bytes, fields: Mapping[str, str] | Fields, status: int = 200) -> None:
        """
        Args:
            fields: header fields beside those that every response has, as pairs if they are so already.

        Raises:
            ValueError: a field has a character that RFC 9110 forbids.
        """
        self.body = body
        self.status = status
        self.closes = False
        self._fields = fields if isinstance(fields, tuple) else tuple(fields.items())
        self._head = _head((status, self._fields))

    def add_fields(self, fields: Mapping[str, str]) -> None:
        """Add header fields; those that the answer has stay as they are.

        Raises:
            ValueError: a field holds what none may.
        """
        self._fields = tuple({**fields, **dict(self._fields)}.items())
        self._head = _head((self.status, self._fields))

    def encoded(self, method: str, http_1_1: bool, keep_alive: bool) -> bytes:
        """Return the whole response.

        Args:
            method: the request's.
            http_1_1: whether the request's version is 1.1.
            keep_alive: whether the connection stays open afterwards.
        """
        connection = b"" if keep_alive == http_1_1 else _CONNECTION[keep_alive]
        date = rfc822_formatted_time().encode()
        body = b"" if method == "HEAD" or self.status == 304 else self.body
        return b"%bContent-Length: %d\r\nDate: %b\r\n%b\r\n%b" % (self._head, len(self.body), date, connection, body)


_CONNECTION = {True: b"Connection: keep-alive\r\n", False: b"Connection: close\r\n"}
"""The Connection header field (RFC 9112 section 9.3), by whether the connection stays open. It is needed only if that
isn't the default of the request's version."""


@remembered(256 << 10)
def _head(status_and_fields: tuple[int, Fields]) -> bytes:
    """Return the status line and the header fields that many responses share.

    Raises:
        ValueError: a field would end the line, or the head.
    """
    status, fields = status_and_fields
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n", f"Server: {SERVER}\r\n"]
    for name, value in fields:
        if _UNFIT.search(name) or _UNFIT.search(value):
            raise ValueError(f"the header field {name} can't hold {value!r}")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


Handler = Callable[[WebRequest, str], Awaitable[Answer]]
"""The handler of one path; its arguments are the request and the query string, still encoded."""

_NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
"""Header fields of every response, so that a browser doesn't run text from a target or a client as HTML."""

_PLAIN_HEADERS = {"Content-Type": "text/plain; charset=utf-8", **_NO_SNIFFING}
_JSON_HEADERS = {"Content-Type": "application/json", **_NO_SNIFFING}
_HTML_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    **_NO_SNIFFING,
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Vary": "Accept, Accept-Encoding",
}


class Refused(Exception):
    """The request can't be served; has a status code and a line of text for the client."""

    def __init__(self, status: int, line: str, **headers: str) -> None:
        super().__init__(line)
        self.status = status
        self.line = line
        self.headers = headers


@remembered(16 << 10)
def _metrics_fields(content_type: str) -> Fields:
    return ("Content-Type", content_type), *_NO_SNIFFING.items()


@remembered(16 << 10)
def _packed_metrics_fields(content_type: str) -> Fields:
    return ("Content-Type", content_type), ("Content-Encoding", "gzip"), *_NO_SNIFFING.items()


def exposition(request: WebRequest, body: bytes, content_type: str) -> Answer:
    """Return a response with metrics in the negotiated format, compressed if the client accepts gzip."""
    if not wants_gzip(request.headers.get("Accept-Encoding", "")):
        return Answer(body, _metrics_fields(content_type))
    packed = _packed(body)
    return Answer(packed, _packed_metrics_fields(content_type))


def _packed(body: bytes) -> bytes:
    """Compress a body with gzip, at the lowest level: for 2 kB the default level takes a quarter longer and saves 5 %.

    The window is as large as the body, since zlib clears and frees 256 KiB for the usual one of 32 KiB. The memory
    level that goes with a window gives the tables of hashes the same number of entries.
    """
    window = min(max(len(body).bit_length(), MIN_WINDOW_BITS), zlib.MAX_WBITS)
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + window, window - 7)  # 16: with the header of gzip
    return packer.compress(body) + packer.flush()


def plain(text: str) -> Answer:
    """Return a plain text response."""
    return Answer(text.encode("utf-8", "replace"), _PLAIN_HEADERS)


def json_text(document: str | bytes, status: int = 200) -> Answer:
    """Return a JSON response; bytes are the encoded document."""
    body = document if isinstance(document, bytes) else document.encode("utf-8", "replace")
    return Answer(body, _JSON_HEADERS, status)


def json_model(model: BaseModel, status: int = 200) -> Answer:
    """Return a model as JSON; bytes of the configuration that are not UTF-8 become ``\\udc80``, as in the history."""
    try:
        return json_text(model.model_dump_json(), status)
    except PydanticSerializationError:  # of a surrogate escape; otherwise pydantic is much faster
        return json_text(to_json(model.model_dump()), status)


def page(html: bytes, status: int = 200, *, packed: bool = False) -> Answer:
    """Return an HTML page; its Content-Security-Policy permits only the exporter's own styles and scripts.

    Args:
        packed: whether `html` is compressed with gzip.
    """
    return Answer(html, {**_HTML_HEADERS, "Content-Encoding": "gzip"} if packed else _HTML_HEADERS, status)


def refusal(refused: Refused) -> Answer:
    """Return the error response for a `Refused`."""
    body = f"{refused.line}\n".encode("utf-8", "replace")
    response = Answer(body, _PLAIN_HEADERS | refused.headers, refused.status)
    if refused.status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.closes = True
    return response
