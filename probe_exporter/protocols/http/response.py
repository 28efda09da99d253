"""`Response`: status and headers of a response, for all versions of HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from probe_exporter.prober.failure import ProbeFailed

Headers = list[tuple[str, str]]

MAX_LENGTH_DIGITS = 20
"""Digits of a Content-Length; 2^63, more than which the original ignores, has 19."""


class Response:
    """A server's response while it is received: the base of the readers of all versions.

    Attributes:
        status: the code; 0 before there is one.
        version: ``1.0``, ``1.1``, ``2.0``, ``3.0``.
        head_complete, complete: how much of the response has arrived.
    """

    def __init__(self, method: str) -> None:
        """
        Args:
            method: of the request; a response to HEAD has no body, even if its headers announce one.
        """
        self.status = 0
        self.version = ""
        self.head_complete = False
        self.complete = False
        self._headers: Headers = []
        self._lines: Sequence[bytes] = ()  # of the headers, until `headers` splits them
        self._to_head = method == "HEAD"
        self._only: dict[str, str] | None = None  # the value of each header by its lower-case name, if no name repeats
        self._by_name: dict[str, list[str]] | None = None
        self._pieces: list[bytes] = []
        self._failure: ProbeFailed | None = None  # of the body; raised when what came before it has been taken

    @property
    def headers(self) -> Headers:
        """Names as received and their values, in order."""
        if self._lines:
            parts = [line.decode("ascii").partition(":") for line in self._lines]
            self._headers, self._lines = [(name, value.strip(" ")) for name, _, value in parts], ()
        return self._headers

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._headers, self._lines, self._only, self._by_name = headers, (), None, None

    def _take_lines(self, lines: Sequence[bytes], fields: dict[str, str] | Iterable[tuple[str, str]]) -> None:
        """Take the headers of HTTP/1 in their usual form.

        Args:
            lines: names and values, of ASCII; spaces may surround the values.
            fields: names in lower case and values; a dictionary if no name is repeated.
        """
        self._lines = lines
        if isinstance(fields, dict):
            self._only = fields
            return
        self._by_name = {}
        for name, value in fields:
            self._by_name.setdefault(name, []).append(value)

    def _take_lowercase(self, headers: Headers) -> None:
        """Take the headers of HTTP/2 or 3, whose names are in lower case."""
        self.headers = headers
        values = dict(headers)
        if len(values) == len(headers):  # no name is repeated
            self._only = values

    def get(self, name: str) -> str | None:
        """Return the first value of a header, by its lower-case name. Call it when the head is complete."""
        if self._only is not None:
            return self._only.get(name)
        values = self.get_all(name)
        return values[0] if values else None

    def get_all(self, name: str) -> list[str]:
        """Return all values of a header, by its lower-case name. Call it when the head is complete."""
        if self._only is not None:
            return [self._only[name]] if name in self._only else []
        if self._by_name is None:
            self._by_name = {}
            for key, value in self.headers:
                self._by_name.setdefault(key.lower(), []).append(value)
        return self._by_name.get(name, [])

    @property
    def has_body(self) -> bool:
        """Whether a body may follow the head (RFC 9110, section 6.4.1)."""
        status = self.status
        return not (self._to_head or 100 <= status < 200 or status == 204 or status == 304)

    @property
    def content_length(self) -> int:
        """The announced length of the body; -1 if unknown, 0 if there can't be a body. For HEAD the header's value."""
        if not (self.has_body or self._to_head):
            return 0
        value = self.get("content-length")
        if value is None:
            return -1
        if len(value) < MAX_LENGTH_DIGITS and value.isascii() and value.isdigit():
            return int(value)
        value = value.strip()
        digits = value.lstrip("0") or value[-1:]
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < MAX_LENGTH_DIGITS else -1

    def take_whole_body(self) -> bytes | None:
        """Return the rest of the body if all of it has arrived; None if something is missing or wrong."""
        return self.take_body() if self.complete and self._failure is None else None

    def take_body(self) -> bytes:
        """Return what has been read of the body since the last call.

        Raises:
            ProbeFailed: the body breaks off or breaks the protocol, and everything before that has been taken.
        """
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            return data
        if self._failure is not None:
            raise self._failure
        return b""
