"""HTTP/1.0 and 1.1 as a client, without I/O: a request to bytes, bytes to a response (RFC 9112).

Parsing is llhttp's, set to tolerate what Go's client tolerates, so that a server the original can probe is not refused
here; everything it reads is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import httptools

from probe_exporter.http.response import Headers, Response
from probe_exporter.prober import ProbeFailed, Reason

HEAD_LIMIT = 10 * 1024 * 1024
"""Bytes that a response's status line and headers may take: the original's limit."""

LARGEST_LENGTH = 2**63 - 1
"""The largest Content-Length that the original reads."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def check_method(method: str) -> None:
    """
    Raises:
        ProbeFailed: `method` is not a token (RFC 9110, section 9.1).
    """
    if not _TOKEN.fullmatch(method):
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"{method!r} is not an HTTP method")


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """
    Raises:
        ProbeFailed: a name or a value can't stand in a header (RFC 9110, section 5). Values are not quoted: secrets.
    """
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"{name!r} is not a header name")
        if _BAD_VALUE.search(value):
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"the value of header {name} holds a control character")


def request_head(method: str, path: str, headers: Headers) -> bytes:
    """The request line and the headers, with the empty line that ends them.

    Args:
        method: a token.
        path: origin form (``/a?b``) or absolute form, percent-encoded.
        headers: in the order of sending; checked before.
    """
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append("\r\n")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of the chunked coding; empty data as the last one (RFC 9112, section 7.1)."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _not_http(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.HTTP_PROTOCOL_ERROR, f"the response is not HTTP/1: {what}")


class ResponseReader(Response):
    """Reads one response: feed it bytes, take the body out piece by piece. Interim responses are skipped.

    Attributes:
        head_complete, complete: how far the response has come.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.head_complete = False
        self.complete = False
        self._head_bytes = 0
        self._pieces: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_chunked_length=True,
            lenient_transfer_encoding=True,
            lenient_version=True,
            lenient_data_after_close=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection; ``b""`` says that there are no more.

        Raises:
            ProbeFailed: they are not HTTP, a limit is passed, or the response ends too early.
        """
        if self.complete:
            return
        if not data:
            self._end()
            return
        if not self.head_complete:
            if not self._head_bytes and not data.startswith(b"H"):
                raise _not_http("it begins otherwise")  # llhttp would pass over empty lines
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT:
                raise ProbeFailed(
                    Reason.HTTP_HEADERS_TOO_LARGE,
                    f"the response's headers are larger than {HEAD_LIMIT} bytes",
                )
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.complete = True
        except httptools.HttpParserError as error:
            if not self.complete:
                if isinstance(error.__context__, ProbeFailed):  # one of ours, from within the parser
                    raise error.__context__ from None
                raise _not_http(str(error.args[0])) from error.__context__

    def take_body(self) -> bytes:
        """What of the body has been read since the last call."""
        if not self._pieces:
            return b""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        return data

    def _end(self) -> None:
        if not self.head_complete:
            if self._head_bytes:
                raise _not_http("the connection ended within its headers")
            raise ProbeFailed(Reason.CONNECT_CLOSED, "the connection ended before any response")
        chunked = self.get("transfer-encoding") is not None
        if chunked or self.content_length >= 0:
            raise ProbeFailed(Reason.HTTP_BODY_TRUNCATED, "the connection ended before the body did")
        self.complete = True

    # What the parser calls.

    def on_message_begin(self) -> None:
        if not self.complete:  # what follows a complete response is not ours
            self.headers, self._by_name = [], None

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            self.headers.append((name.decode("latin-1"), value.rstrip(b" \t").decode("utf-8", "surrogateescape")))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        self._check_head()
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return
        self.status = status
        self.version = self._parser.get_http_version()
        self.head_complete = True
        if not self.has_body:
            self.complete = True

    def _check_head(self) -> None:
        """Refuse what llhttp's tolerance lets through and Go's client does not."""
        for name, value in self.headers:
            if _BAD_VALUE.search(value):
                raise _not_http(f"the value of header {name} holds a control character")
        codings = self.get_all("transfer-encoding")
        if codings and self._parser.get_http_version() >= "1.1" and [c.lower() for c in codings] != ["chunked"]:
            raise _not_http(f"the transfer coding {', '.join(codings)} is unknown")
        if self.content_length > LARGEST_LENGTH:
            raise _not_http("its Content-Length is beyond all bounds")

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self.head_complete:
            self.complete = True
