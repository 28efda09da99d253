"""Responses of the web server: a head and a body in one piece, as metrics, text, JSON, a page or a refusal."""

from __future__ import annotations

import re
import zlib
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.web import BaseRequest, StreamResponse

from probe_exporter.addresses.cache import remembered
from probe_exporter.web.parameters import wants_gzip

SERVER = "probe-exporter"
"""Without a Server field of ours, aiohttp tells everybody the versions of Python and itself."""

_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 section 5.5


class Answer(StreamResponse):
    """What a handler returns.

    Attributes:
        body: its bytes; a HEAD request gets their length only.
    """

    def __init__(self, body: bytes, fields: Mapping[str, str], status: int = 200) -> None:
        """
        Args:
            fields: header fields, but for those that go with any answer.

        Raises:
            ValueError: a field holds what none may.
        """
        super().__init__(status=status)
        self.body = body
        self._fields = fields
        self._head = _head((status, tuple(fields.items())))
        self._writer: AbstractStreamWriter | None = None

    def add_fields(self, fields: Mapping[str, str]) -> None:
        """Add header fields; those that the answer has stay as they are.

        Raises:
            ValueError: a field holds what none may.
        """
        self._fields = {**fields, **self._fields}
        self._head = _head((self._status, tuple(self._fields.items())))

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter:
        """Send all of it.

        Raises:
            ConnectionError: the client is gone.
        """
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has closed the connection")
        connection = _connection(request.version >= (1, 1), self._keep_alive)
        rest = f"Content-Length: {len(self.body)}\r\nDate: {rfc822_formatted_time()}\r\n{connection}\r\n".encode()
        transport.write(self._head + rest if request.method == "HEAD" else self._head + rest + self.body)
        self._writer = request.writer
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Wait until the client has taken enough of it."""
        if self._writer is not None:
            await self._writer.drain()


def _connection(modern: bool, keep_alive: bool) -> str:
    """What RFC 9112 section 9.3 wants said: that which is not the version's own way."""
    if keep_alive == modern:
        return ""
    return "Connection: keep-alive\r\n" if keep_alive else "Connection: close\r\n"


@remembered(256 << 10)
def _head(status_and_fields: tuple[int, tuple[tuple[str, str], ...]]) -> bytes:
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


Handler = Callable[[BaseRequest, str], Awaitable[Answer]]
"""What answers one path: it is given the request and its query, still encoded."""

_NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
"""In every response: what a target or a client made up must not become HTML in a browser."""

_PLAIN_HEADERS = {"Content-Type": "text/plain; charset=utf-8", **_NO_SNIFFING}
_JSON_HEADERS = {"Content-Type": "application/json", **_NO_SNIFFING}
_HTML_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    **_NO_SNIFFING,
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
}


class Refused(Exception):
    """The request can't be answered: a status, and one line for whoever sent it."""

    def __init__(self, status: int, line: str, **headers: str) -> None:
        super().__init__(line)
        self.status = status
        self.line = line
        self.headers = headers


def exposition(request: BaseRequest, body: bytes, content_type: str) -> Answer:
    """Metrics in the format that was negotiated, packed if the client takes that."""
    if not wants_gzip(request.headers.get("Accept-Encoding", "")):
        return Answer(body, {"Content-Type": content_type, **_NO_SNIFFING})
    # The lowest level: 8 µs for a probe's 2 kB against 10 at the default, and 1 % larger.
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = packer.compress(body) + packer.flush()
    return Answer(packed, {"Content-Type": content_type, "Content-Encoding": "gzip", **_NO_SNIFFING})


def plain(text: str) -> Answer:
    """Text for people and for `curl`."""
    return Answer(text.encode("utf-8", "replace"), _PLAIN_HEADERS)


def json_text(document: str, status: int = 200) -> Answer:
    """JSON for programs."""
    return Answer(document.encode("utf-8", "replace"), _JSON_HEADERS, status)


def page(html: str) -> Answer:
    """A page for a browser, which may load nothing and run nothing."""
    return Answer(html.encode("utf-8", "replace"), _HTML_HEADERS)


def refusal(refused: Refused) -> Answer:
    """The answer that a `Refused` stands for."""
    body = f"{refused.line}\n".encode("utf-8", "replace")
    response = Answer(body, _PLAIN_HEADERS | refused.headers, refused.status)
    if refused.status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.force_close()
    return response
