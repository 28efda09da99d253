"""HTTP/1.0 and 1.1 as a client, without I/O: a request to bytes, bytes to a response (RFC 9112).

The reader takes what Go's client takes and refuses what that refuses, since a server that the original can probe must
not fail here; no parser at hand can be set so (docs/decisions.md). Everything it reads is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http.response import Headers, IncomingResponse

HEAD_LIMIT = 10 * 1024 * 1024
"""Bytes that a response's status line and headers may take: the original's limit."""

LARGEST_LENGTH = 2**63 - 1
"""The largest Content-Length that the original reads."""

CHUNK_LINE_LIMIT = 4096
"""Bytes that the line with a chunk's size and extensions may take, and all trailers: the original's limit."""

_STATUS_LINE = re.compile(rb"HTTP/(\d\.\d) +(\d{3}|\+\d\d|-00)(?: .*)?", re.DOTALL)
_HEAD_END = re.compile(rb"\n\r?\n")
# A blank within a name is tolerated, as the original tolerates it.
_FIELD = re.compile(r"^([!#$%&'*+\-.^_`|~0-9A-Za-z][!#$%&'*+\-.^_`|~0-9A-Za-z ]*):[ \t]*(.*)$", re.MULTILINE)
_FOLD = re.compile(r"(?<![ \t])[ \t]*(?:\n[ \t]+)+")
_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})(?:;[^\r]*|[ \t]*)\r")

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


class ResponseReader(IncomingResponse):
    """Reads one response: feed it bytes, take the body out piece by piece. Interim responses are skipped.

    Attributes:
        head_complete, complete: how much of the response has arrived.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self._buffer = bytearray()  # a head or a chunk that is not whole yet
        self._scanned = 0  # of the buffer, without finding the end of the head
        self._head_bytes = 0
        self._left = -1  # bytes of the body to come; negative for as many as there are
        self._chunks: _Chunks | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection; ``b""`` says that there are no more.

        Raises:
            ProbeFailed: the head is not HTTP's, too large, or ends too early. What is wrong with the body `take_body`
                tells, so that a good head is not lost with it.
        """
        if self.complete or self._failure is not None:
            return
        if not data:
            self._end()
        elif self.head_complete:
            self._feed_body(data)
        else:
            self._feed_head(data)

    def _feed_head(self, data: bytes) -> None:
        if self._buffer:
            self._buffer += data
        rest: bytes | bytearray = self._buffer or data
        while rest:
            if not rest.startswith(b"HTTP/"[: len(rest)]):
                raise _not_http("it does not begin as a response does")
            end = _HEAD_END.search(rest, max(0, self._scanned - 2))
            if self._head_bytes + (end.end() if end else len(rest)) > HEAD_LIMIT:
                raise ProbeFailed(
                    Reason.HTTP_HEADERS_TOO_LARGE, f"the response's headers are larger than {HEAD_LIMIT} bytes"
                )
            if end is None:
                break
            self._head_bytes += end.end()
            self._scanned = 0
            self._read_head(bytes(rest[: end.start()]))
            rest = rest[end.end() :]
            if self.head_complete:
                self._buffer = bytearray()
                if rest and not self.complete:
                    self._feed_body(bytes(rest))
                return
        self._wait_for_more(rest)

    def _wait_for_more(self, rest: bytes | bytearray) -> None:
        """Keep the beginning of a head. Another protocol shows in the first line, and must not be waited for."""
        if not self._scanned and b"\n" in rest:
            _read_status(bytes(rest[: rest.index(b"\n")]))
        self._scanned = len(rest)
        self._buffer = rest if isinstance(rest, bytearray) else bytearray(rest)

    def _read_head(self, head: bytes) -> None:
        first, _, block = head.partition(b"\n")
        version, status = _read_status(first)
        self.headers, self._by_name = _read_headers(block), None
        chunked = self._take_coding(version)
        length = _read_length(self.get_all("content-length"))
        if 100 <= status < 200 and status != 101:
            return
        self.status = status
        self.version = version
        self._frame(chunked, length)
        self.head_complete = True

    def _take_coding(self, version: str) -> bool:
        """Whether the body is chunked. The header is about this connection only, and goes no further."""
        codings = self.get_all("transfer-encoding")
        if codings:
            self._drop("transfer-encoding")
        if not codings or version < "1.1":  # where it means nothing
            return False
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise _not_http(f"its transfer coding {', '.join(codings)} is unknown")
        return True

    def _frame(self, chunked: bool, length: int) -> None:
        """Find out where the body ends (RFC 9112, section 6.3)."""
        if self.status == 101 and self._switches():
            self._left = -1  # another protocol, for as long as it likes
        elif not self.has_body:
            self.complete = True
        elif chunked:
            self._chunks = _Chunks()
            self._drop("content-length")  # the coding overrides it
        else:
            self._left = length
            self.complete = length == 0

    def _switches(self) -> bool:
        if not self.get("upgrade"):
            return False
        options = ",".join(self.get_all("connection")).lower().split(",")
        return "upgrade" in (option.strip() for option in options)

    def _drop(self, unwanted: str) -> None:
        self.headers = [(name, value) for name, value in self.headers if name.lower() != unwanted]
        self._by_name = None

    def _feed_body(self, data: bytes) -> None:
        if self._chunks is not None:
            try:
                self.complete = self._chunks.feed(data, self._pieces)
            except ProbeFailed as failed:
                self._failure = failed
        elif self._left < 0:
            self._pieces.append(data)
        else:
            self._pieces.append(data[: self._left])
            self._left -= min(len(data), self._left)
            self.complete = self._left == 0

    def _end(self) -> None:
        if not self.head_complete:
            if self._head_bytes or self._buffer:
                raise _not_http("the connection ended within its headers")
            raise ProbeFailed(Reason.CONNECT_CLOSED, "the connection ended before any response")
        if self._chunks is not None or self._left > 0:
            self._failure = ProbeFailed(Reason.HTTP_BODY_TRUNCATED, "the connection ended before the body did")
        else:
            self.complete = True


def _read_status(line: bytes) -> tuple[str, int]:
    """The version and the code of a status line."""
    match = _STATUS_LINE.fullmatch(line.removesuffix(b"\r"))
    if match is None:
        raise _not_http(f"its status line is {line[:60]!r}")
    return match[1].decode("ascii"), int(match[2])


def _read_headers(block: bytes) -> Headers:
    """The header lines of a head. A folded line is joined to the one before by a blank (RFC 9112, section 5.2)."""
    text = block.decode("utf-8", "surrogateescape").replace("\r\n", "\n").removesuffix("\r")
    if "\r" in text or len(block.translate(None, _CONTROLS)) != len(block):
        raise _not_http("a header holds a control character")
    if text.startswith((" ", "\t")):
        raise _not_http("its first header line continues no other")
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    fields = _FIELD.findall(text)
    if text and len(fields) != text.count("\n") + 1:
        stray = next(line for line in text.split("\n") if not _FIELD.fullmatch(line))
        raise _not_http(f"{stray[:60]!r} is not a header")
    return [(name, value.rstrip(" \t")) for name, value in fields]


def _read_length(values: list[str]) -> int:
    """Content-Length's value, which may be repeated but not contradicted; -1 for none."""
    if not values:
        return -1
    length = values[0]
    if any(value != length for value in values) or not (length.isascii() and (length.isdigit() or not length)):
        raise _not_http(f"its Content-Length is {', '.join(values)[:60]!r}")
    digits = length.lstrip("0") or length[:1]
    if len(digits) > len(str(LARGEST_LENGTH)) or int(digits or 0) > LARGEST_LENGTH:
        raise _not_http("its Content-Length is beyond all bounds")
    return int(digits) if digits else -1


class _Chunks:
    """The chunked coding, taken apart (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self._buffer = bytearray()  # a line that is not whole yet
        self._left = 0  # bytes to come of the chunk at hand
        self._read: Callable[[list[bytes]], bool] = self._size

    def feed(self, data: bytes, pieces: list[bytes]) -> bool:
        """Take bytes, append what is body among them to `pieces`; whether the last chunk has ended.

        Raises:
            ProbeFailed: they are not chunks; the good ones before are in `pieces`.
        """
        self._buffer += data
        while self._buffer:
            if not self._read(pieces):
                return False
            if self._read == self._done:
                return True
        return False

    # Each of these reads one thing, sets what is read next, and tells whether it could.

    def _size(self, pieces: list[bytes]) -> bool:
        line = self._line()
        if line is None:
            return False
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise _not_http(f"{bytes(line[:20])!r} is not a chunk's size")
        self._left = int(size[1], 16)
        self._read = self._data if self._left else self._trailer
        return True

    def _data(self, pieces: list[bytes]) -> bool:
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: len(piece)]
        pieces.append(piece)
        self._left -= len(piece)
        if not self._left:
            self._read = self._after_data
        return True

    def _after_data(self, pieces: list[bytes]) -> bool:
        if len(self._buffer) < 2 and self._buffer == b"\r":
            return False
        if self._buffer[:2] != b"\r\n":
            raise _not_http("a chunk is longer than its size")
        del self._buffer[:2]
        self._read = self._size
        return True

    def _trailer(self, pieces: list[bytes]) -> bool:
        """What follows the last chunk: an empty line, or headers and one. They are read and dropped."""
        end = 0 if self._buffer.startswith(b"\r\n") else self._buffer.find(b"\r\n\r\n")
        if (len(self._buffer) if end < 0 else end) > CHUNK_LINE_LIMIT:
            raise _not_http("its trailers are too long")
        if end < 0:
            return False
        _read_headers(bytes(self._buffer[:end]))
        self._read = self._done
        return True

    def _done(self, pieces: list[bytes]) -> bool:
        return False

    def _line(self) -> bytes | None:
        """The next line without its LF; None while it is not whole."""
        end = self._buffer.find(b"\n")
        if end < 0 and len(self._buffer) > CHUNK_LINE_LIMIT:
            raise _not_http("a line of its chunks is too long")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line
