"""HTTP/1.0 and HTTP/1.1 as a client: serialise requests, parse responses, without I/O (RFC 9112).

The reader accepts and refuses what Go's client does, because a server that the original can probe must not fail here;
no library's parser can be configured so (docs/decisions.md).

How `Http1ResponseReader` works:

* `feed` gets bytes as they arrive and raises `ProbeFailed` for what is wrong with the head. The body comes out of
  `take_body`, which raises what is wrong with the body, so that a good head is not lost with it.
* A head that arrives in one piece is parsed at once. Of one that is larger than `HEAD_PART_BYTES`, each `feed` parses
  the header fields that are complete. So no call works on more than one read from the connection.
* Nearly all heads are short, arrive in one piece and have nothing unusual. `_read_usual_head` parses those with a fifth
  of the work, since most lines are remembered from earlier responses. It refuses all others, and `_read_headers` then
  accepts them or says what is wrong.
* Heads of informational responses (1xx) are parsed and dropped. They count towards all limits on heads.
* `feed` reads at most `MAX_CHUNK_STEPS` parts of chunks. `unread` tells that more is there; the caller lets the event
  loop run and calls `proceed`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from probe_exporter.cache import remembered
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http.response import Headers, Response
from probe_exporter.protocols.http.syntax import is_token

MAX_HEAD_BYTES = 10 * 1024 * 1024
"""Bytes of a response's status line and header fields, informational responses included: the original's limit."""

MAX_HEAD_LINES = 10_000
"""Lines of the same. The original has no such limit; a head of 10 MiB could have three million."""

MAX_FIELD_BYTES = 1024 * 1024
"""Bytes of one header field. The original has no such limit."""

MAX_INFORMATIONAL_RESPONSES = 500
"""Responses with a status of 1xx before the final one."""

HEAD_PART_BYTES = 64 * 1024
"""Bytes of an incomplete head from which on its complete fields are parsed."""

MAX_USUAL_HEAD_BYTES = 4096
"""Bytes of a head that `_read_usual_head` parses."""

MAX_USUAL_LINES = 64
"""Lines of such a head after the first, each of which may be one that was never seen before."""

MAX_CONTENT_LENGTH = 2**63 - 1
"""The largest Content-Length that the original accepts."""

MAX_STATUS_CACHE_BYTES = 64 * 1024
"""Of status lines, most of which are ``HTTP/1.1 200 OK``."""

MAX_FIELD_CACHE_BYTES = 1024 * 1024
"""Of header lines: about 1,000, in one of the two generations of a cache. All servers share most of them, and the Date
within one second."""

MAX_CHUNK_LINE_BYTES = 4096
"""Bytes of the line with a chunk's size and extensions, and of all trailers: the original's limit."""

MAX_CHUNK_STEPS = 3000
"""Parts of chunks (size, data, line end) that one call reads: a few milliseconds of work."""

_FIELD_BYTES = 450  # about a line in the cache, with its name and value, without their characters

_NOTHING = bytearray()
"""The buffer of a head that nothing is missing of. It is replaced, never changed."""

_STATUS_LINE = re.compile(rb"HTTP/(\d\.\d) +(\d{3}|\+\d\d|-00)(?: .*)?", re.DOTALL)
_HEAD_END = re.compile(rb"\n\r?\n")
_FIELD_END = re.compile(rb"\r?\n(?![ \t])")
# Spaces within a name are accepted, as in the original.
_FIELD = re.compile(r"^([!#$%&'*+\-.^_`|~0-9A-Za-z][!#$%&'*+\-.^_`|~0-9A-Za-z ]*+):[ \t]*+(.*)$", re.MULTILINE)
_FOLD = re.compile(r"(?<![ \t])[ \t]*+(?:\n[ \t]++)++")
_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})(?:;[^\r]*|[ \t]*)\r")

_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@lru_cache(maxsize=64)
def check_method(method: str) -> None:
    """Check that `method` is a token (RFC 9110, section 9.1).

    Raises:
        ProbeFailed: it is not.
    """
    if not is_token(method):
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"{method!r} is not an HTTP method")


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Check that names and values can stand in a header (RFC 9110, section 5).

    Raises:
        ProbeFailed: one can't. The message does not quote values, because they may be secrets.
    """
    for name, value in headers:
        if not is_token(name):
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"{name!r} is not a header name")
        if _BAD_VALUE.search(value):
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"the value of header {name} contains a control character")


def request_head(method: str, path: str, lines: str) -> bytes:
    """Return the request line and the headers, with the empty line that ends them.

    Args:
        method: a token.
        path: origin form (``/a?b``) or absolute form, percent-encoded.
        lines: the headers, by `header_lines`.
    """
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("utf-8", "surrogateescape")


def header_lines(headers: Iterable[tuple[str, str]]) -> str:
    """Return headers that are checked already as text, in the order of sending."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers])


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk of the chunked coding; empty data give the last chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _not_http(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.HTTP_PROTOCOL_ERROR, f"the response is not HTTP/1: {what}")


def _too_large(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.HTTP_HEADERS_TOO_LARGE, f"the response's headers are too large: {what}")


class Http1ResponseReader(Response):
    """Parses one response: feed it bytes, take the body out piece by piece.

    Attributes:
        head_complete, complete: how much of the response has arrived.
    """

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self._buffer = _NOTHING  # bytes of the head that are not parsed yet
        self._scanned = 0  # bytes of the buffer that do not contain the end of the head
        self._parse_from = HEAD_PART_BYTES  # bytes in the buffer from which on its complete fields are parsed
        self._head_bytes = 0  # parsed
        self._head_lines = 0  # parsed
        self._informational = 0
        self._begun: tuple[str, int] | None = None  # version and status of a head that is parsed in parts
        self._fields: Headers = []  # of that head
        self._announced = -1  # the valid Content-Length; -1 without one, 0 if there can't be a body
        self._left = -1  # bytes of the body to come; negative if the end of the connection ends the body
        self._chunks: _Chunks | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection; ``b""`` means that the peer has closed it.

        Raises:
            ProbeFailed: the head is not HTTP, too large, or incomplete at the end of the connection.
        """
        if self.complete or self._failure is not None:
            return
        if not data:
            self._end()
        elif self.head_complete:
            self._feed_body(data)
        else:
            self._feed_head(data)

    @property
    def unread(self) -> bool:
        """Whether `proceed` has something to do."""
        return self._chunks is not None and self._chunks.unread and self._failure is None

    def proceed(self) -> None:
        """Go on with the bytes that the last call has left unread."""
        self._feed_body(b"")

    def _feed_head(self, data: bytes) -> None:
        rest: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            rest = self._buffer
        start = 0 if self._buffer or self._head_bytes else self._read_usual_head(data)
        while start < len(rest) and not self.head_complete:
            if self._begun is None and not rest.startswith(b"HTTP/"[: len(rest) - start], start):
                raise _not_http("it does not begin with HTTP/")
            end = _HEAD_END.search(rest, max(start, self._scanned - 2))
            if self._head_bytes + (end.end() if end else len(rest)) - start > MAX_HEAD_BYTES:
                raise _too_large(f"more than {MAX_HEAD_BYTES} bytes")
            if end is None:
                break
            self._head_bytes += end.end() - start
            self._scanned = 0
            self._read_head(bytes(rest[start : end.start()]))
            start = end.end()
        if not self.head_complete:
            self._wait_for_more(rest[start:] if start else rest)
            return
        self._buffer = _NOTHING
        if start < len(rest) and not self.complete:
            self._feed_body(bytes(rest[start:]))

    def _read_usual_head(self, data: bytes) -> int:
        """Parse a head if it is a usual one, and return the place of its end; 0 if it is not."""
        end = data.find(b"\r\n\r\n")
        if not 0 < end < MAX_USUAL_HEAD_BYTES:
            return 0
        lines = data[:end].split(b"\r\n", MAX_USUAL_LINES)
        first = lines.pop(0)
        version, status = _usual_status(first)
        fields = dict(map(_usual_field, lines))
        if "" in fields or not fields:
            return 0
        if not version:
            if not first.startswith(b"HTTP/") or b"\n" in first:
                return 0
            version, status = _read_status(first)
        self._take_lines(lines, fields if len(fields) == len(lines) else map(_usual_field, lines))
        self._head_bytes = end + len(b"\r\n\r\n")
        self._accept_head(version, status)
        return self._head_bytes

    def _wait_for_more(self, rest: bytes | bytearray) -> None:
        """Keep an incomplete head, and parse those of its fields that are complete if it is large."""
        if self._begun is None and not self._scanned and b"\n" in rest:
            # Another protocol shows in the first line. Its server may wait for us, so don't wait for the server.
            _read_status(bytes(rest[: rest.index(b"\n")]))
        self._buffer = rest if isinstance(rest, bytearray) else bytearray(rest)
        if len(rest) > self._parse_from:
            self._read_complete_fields()
            self._parse_from = len(self._buffer) + HEAD_PART_BYTES
        self._scanned = len(self._buffer)

    def _read_complete_fields(self) -> None:
        """Parse the fields that are complete: those before the last line that is not a continuation."""
        buffer = self._buffer
        self._check_lines(buffer.count(b"\n"))
        end = buffer.rfind(b"\n", 0, -1)
        while end >= 0 and buffer[end + 1] in b" \t\r\n":
            end = buffer.rfind(b"\n", 0, end)
        if end >= 0:
            self._read_lines(bytes(buffer[:end]))
            del buffer[: end + 1]
            self._head_bytes += end + 1
        if len(buffer) > MAX_FIELD_BYTES + len("\r\n\r"):  # a line end may be at its end
            raise _too_large(f"a field has more than {MAX_FIELD_BYTES} bytes")

    def _read_lines(self, lines: bytes) -> None:
        """Parse a part of a head that ends with a complete field."""
        if self._begun is None:
            first, _, lines = lines.partition(b"\n")
            self._begun = _read_status(first)
        more = lines.count(b"\n") + 1
        self._check_lines(more)
        if len(lines) > MAX_FIELD_BYTES:
            _check_field_sizes(lines)
        self._head_lines += more
        self._fields += _read_headers(lines)

    def _check_lines(self, more: int) -> None:
        if self._head_lines + more > MAX_HEAD_LINES:
            raise _too_large(f"more than {MAX_HEAD_LINES} lines")

    def _read_head(self, rest: bytes) -> None:
        """Parse what is left of a head that has arrived completely, and act on its fields."""
        if self._begun is None and len(rest) < MAX_HEAD_LINES:  # bytes: too few for too many lines
            first, _, block = rest.partition(b"\n")
            version, status = _read_status(first)
            self.headers = _read_headers(block)
        else:
            self._read_lines(rest)
            assert self._begun is not None
            (version, status), self._begun = self._begun, None
            self.headers, self._fields = self._fields, []
        self._accept_head(version, status)

    def _accept_head(self, version: str, status: int) -> None:
        """Act on the fields of a head, which may be that of an informational response."""
        chunked = self.get("transfer-encoding") is not None and self._take_coding(version)
        length = _read_length(self.get_all("content-length"))
        if 100 <= status < 200 and status != 101:
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL_RESPONSES:
                raise _too_large(f"more than {MAX_INFORMATIONAL_RESPONSES} informational responses")
            return
        self.status = status
        self.version = version
        self._frame(chunked, length)
        self.head_complete = True

    def _take_coding(self, version: str) -> bool:
        """Return whether the body is chunked, and remove its header, which concerns this connection only."""
        codings = self.get_all("transfer-encoding")
        self._drop("transfer-encoding")
        if version < "1.1":  # HTTP/1.0 has no transfer codings
            return False
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise _not_http(f"its transfer coding {', '.join(codings)[:60]} is unknown")
        return True

    def _frame(self, chunked: bool, length: int) -> None:
        """Determine where the body ends (RFC 9112, section 6.3)."""
        has_body = self.has_body
        self._announced = length if has_body or self._to_head else 0
        if self.status == 101 and self._switches():
            self._left = -1  # another protocol follows, without an end
        elif not has_body:
            self.complete = True
        elif chunked:
            self._chunks = _Chunks()
            self._drop("content-length")  # the coding overrides it
            self._announced = -1
        else:
            self._left = length
            self.complete = length == 0

    @property
    def content_length(self) -> int:
        return self._announced

    def _switches(self) -> bool:
        return bool(self.get("upgrade")) and any(map(_names_upgrade, self.get_all("connection")))

    def _drop(self, unwanted: str) -> None:
        self.headers = [(name, value) for name, value in self.headers if name.lower() != unwanted]

    def _feed_body(self, data: bytes) -> None:
        if self._chunks is not None:
            try:
                self.complete = self._chunks.feed(data, self._pieces)
            except ProbeFailed as failed:
                self._failure = failed
        elif self._left < 0:
            self._pieces.append(data)
        elif len(data) < self._left:
            self._pieces.append(data)
            self._left -= len(data)
        else:
            self._pieces.append(data[: self._left])
            self._left = 0
            self.complete = True

    def _end(self) -> None:
        if not self.head_complete:
            if self._head_bytes or self._buffer:
                raise _not_http("the connection ended within its headers")
            raise ProbeFailed(Reason.CONNECT_CLOSED, "the connection ended before any response")
        while self.unread:
            self.proceed()
        if self.complete or self._failure is not None:
            return
        if self._chunks is not None or self._left > 0:
            self._failure = ProbeFailed(Reason.HTTP_BODY_TRUNCATED, "the connection ended before the body did")
        else:
            self.complete = True


def _check_field_sizes(lines: bytes) -> None:
    start = 0
    for end in _FIELD_END.finditer(lines):
        if end.start() - start > MAX_FIELD_BYTES:
            break
        start = end.end()
    else:
        if len(lines.removesuffix(b"\r")) - start <= MAX_FIELD_BYTES:
            return
    raise _too_large(f"a field has more than {MAX_FIELD_BYTES} bytes")


def _names_upgrade(connection: str) -> bool:
    """Return whether a Connection header has the option ``upgrade``."""
    return len(connection) <= HEAD_PART_BYTES and "upgrade" in [part.strip() for part in connection.lower().split(",")]


@remembered(MAX_STATUS_CACHE_BYTES)
def _usual_status(line: bytes) -> tuple[str, int]:
    """Return the version and the code of a status line; an empty version if it is not a usual one.

    A line end within it is unusual: LF alone ends a line, too.
    """
    match = None if b"\n" in line else _STATUS_LINE.fullmatch(line)
    return (match[1].decode("ascii"), int(match[2])) if match else ("", 0)


def _read_status(line: bytes) -> tuple[str, int]:
    """Return the version and the code of a status line."""
    status = _usual_status(line.removesuffix(b"\r"))
    if not status[0]:
        raise _not_http(f"its status line is {line[:60]!r}")
    return status


_UNUSUAL = "", ""


@remembered(MAX_FIELD_CACHE_BYTES, lambda line, _: _FIELD_BYTES + 2 * len(line))
def _usual_field(line: bytes) -> tuple[str, str]:
    """Return a header's name in lower case and its value, if its line is a usual one: printable ASCII with a name.

    For any other line both are empty.
    """
    if not line.isascii():
        return _UNUSUAL
    text = line.decode("ascii")
    name, colon, value = text.partition(":")
    if not colon or not text.isprintable() or not is_token(name):
        return _UNUSUAL
    return name.lower(), value.strip(" ")


def _read_headers(block: bytes) -> Headers:
    """Parse header lines. A folded line is joined to the one before by a space (RFC 9112, section 5.2)."""
    text = block.decode("utf-8", "surrogateescape").replace("\r\n", "\n").removesuffix("\r")
    if "\r" in text or len(block.translate(None, _CONTROLS)) != len(block):
        raise _not_http("a header contains a control character")
    if text.startswith((" ", "\t")):
        raise _not_http("its first header line is a continuation")
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    fields = _FIELD.findall(text)
    if text and len(fields) != text.count("\n") + 1:
        stray = next(line for line in text.split("\n") if not _FIELD.fullmatch(line))
        raise _not_http(f"{stray[:60]!r} is not a header")
    return [(name, value.rstrip(" \t")) for name, value in fields]


def _read_length(values: list[str]) -> int:
    """Return the value of Content-Length, -1 without one; repeated values must be equal."""
    if not values:
        return -1
    length = values[0]
    if len(values) == 1 and len(length) < 19 and length.isascii() and length.isdigit():  # 2**63 has 19 digits
        return int(length)
    if any(value != length for value in values) or not (length.isascii() and (length.isdigit() or not length)):
        raise _not_http(f"its Content-Length is {', '.join(values)[:60]!r}")
    digits = length.lstrip("0") or length[:1]
    if len(digits) > len(str(MAX_CONTENT_LENGTH)) or int(digits or 0) > MAX_CONTENT_LENGTH:
        raise _not_http(f"its Content-Length is larger than {MAX_CONTENT_LENGTH}")
    return int(digits) if digits else -1


class _Chunks:
    """Parses the chunked coding (RFC 9112, section 7.1).

    Attributes:
        unread: the last call has stopped at `MAX_CHUNK_STEPS`, and there are more bytes.
    """

    def __init__(self) -> None:
        self.unread = False
        self._buffer = bytearray()  # bytes that are not parsed yet
        self._left = 0  # bytes to come of the current chunk
        self._read: Callable[[list[bytes]], bool] = self._size

    def feed(self, data: bytes, pieces: list[bytes]) -> bool:
        """Take bytes and append the body's bytes among them to `pieces`; return whether the body has ended.

        Raises:
            ProbeFailed: they are not chunks; what was valid before is in `pieces`.
        """
        self._buffer += data
        self.unread = False
        for _ in range(MAX_CHUNK_STEPS):
            if not self._buffer or not self._read(pieces):
                return False
            if self._read == self._done:
                return True
        self.unread = bool(self._buffer)
        return False

    # Each of these methods parses one part, sets the method for the next part, and returns False if the part is
    # incomplete.

    def _size(self, pieces: list[bytes]) -> bool:
        line = self._line()
        if line is None:
            return False
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise _not_http(f"{bytes(line[:20])!r} is not a chunk size")
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
        """Parse and drop the trailers: an empty line, or fields and an empty line."""
        end = 0 if self._buffer.startswith(b"\r\n") else self._buffer.find(b"\r\n\r\n", 0, MAX_CHUNK_LINE_BYTES + 4)
        if end < 0 and len(self._buffer) >= MAX_CHUNK_LINE_BYTES + len("\r\n\r\n"):
            raise _not_http(f"its trailers have more than {MAX_CHUNK_LINE_BYTES} bytes")
        if end < 0:
            return False
        _read_headers(bytes(self._buffer[:end]))
        self._read = self._done
        return True

    def _done(self, pieces: list[bytes]) -> bool:
        return False

    def _line(self) -> bytes | None:
        """Return the next line without its LF; None if it is incomplete."""
        end = self._buffer.find(b"\n")
        if end < 0 and len(self._buffer) > MAX_CHUNK_LINE_BYTES:
            raise _not_http(f"a line of its chunks has more than {MAX_CHUNK_LINE_BYTES} bytes")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line
