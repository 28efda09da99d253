"""Decode a response's body as it arrives, count it, keep it if a check needs it, and enforce its size limit.

Content codings are those of RFC 9110, section 8.4. Decoding goes in small steps with other tasks between them, so a
decompression bomb does not block the event loop, and ends at the limit and not after it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import brotli  # type: ignore[import-untyped]  # it has neither stubs nor annotations

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.turns import pause
from probe_exporter.protocols.http.pieces import Pieces

STEP_BYTES = 256 * 1024
"""Bytes that one step of decoding yields at most, and after which other tasks run."""

MIN_STEP_COST_BYTES = 1024
"""Bytes that a step counts as at least: one without output takes time too."""

DEFAULT_MAX_BODY_BYTES = 64 * 1024 * 1024
"""The limit without ``body_size_limit``, for a body that is decoded or kept; one that is only counted has no limit."""

DEFAULT_MAX_JSON_BYTES = 8 * 1024 * 1024
"""The default limit of a body that is parsed as JSON: its values take about thirty times its size in memory."""

MAX_GZIP_NAME_BYTES = 511
"""Bytes of the file name and of the comment in a gzip header: the original's limit."""

MAX_SMALL_BYTES = 16 * 1024
"""Bytes of a gzip body that is decoded in one go if it arrives whole."""

_GZIP = 16 + zlib.MAX_WBITS
_MIN_PORTION_BYTES = 1024
_MAX_PORTION_BYTES = 64 * 1024


class _Deflate:
    """Decodes raw DEFLATE (RFC 1951).

    zlib copies the input that follows the end of a stream. So it gets small portions first, and larger ones as the
    stream goes on; otherwise a body of many tiny streams would be copied for each of them.
    """

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._portion_bytes = _MIN_PORTION_BYTES

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` decode to, at most `STEP_BYTES` at a time; bytes after the stream's end are ignored."""
        view, place = memoryview(data), 0
        while place < len(view) and not self._stream.eof:
            portion = view[place : place + self._portion_bytes]
            yield from self._inflate(portion)
            place += len(portion) - len(self._stream.unused_data)

    def _inflate(self, portion: memoryview) -> Iterator[bytes]:
        rest: memoryview | bytes = portion
        full = False  # after a full step the stream may have more output, even if it has used all input
        while (rest or full) and not self._stream.eof:
            piece = self._stream.decompress(rest, STEP_BYTES)
            yield piece
            rest = self._stream.unconsumed_tail
            full = len(piece) == STEP_BYTES
        self._portion_bytes = min(2 * self._portion_bytes, _MAX_PORTION_BYTES)

    def end(self) -> None:
        """Check that the stream is complete.

        Raises:
            zlib.error: it is not.
        """
        if not self._stream.eof:
            raise zlib.error("the stream ends too early")


class _Gzip(_Deflate):
    """Decodes gzip (RFC 1952), any number of members.

    Headers and trailers are parsed here and not by zlib, which loses the last output before a wrong checksum. The
    original counts that output.
    """

    _TRAILER = struct.Struct("<LL")

    def __init__(self) -> None:  # no stream yet: each member has its own
        self._pending = b""  # an incomplete header or trailer
        self._in_header = True
        self._members = 0
        self._checksum = 0
        self._size = 0

    def decode(self, data: bytes) -> Iterator[bytes]:
        if not self._members and not self._pending:
            whole = _small_gzip(data)
            if whole is not None:
                self._members = 1
                yield whole
                return
        view, place = memoryview(data), 0
        while place < len(view):
            if self._in_header:
                place += self._read_header(view[place:])
                yield b""
            elif self._stream.eof:
                place += self._read_trailer(view[place:])
            else:
                portion = view[place : place + self._portion_bytes]
                for piece in self._inflate(portion):
                    self._checksum = zlib.crc32(piece, self._checksum)
                    self._size += len(piece)
                    yield piece
                place += len(portion) - len(self._stream.unused_data)

    def _read_header(self, data: memoryview) -> int:
        """Begin a member once its header is complete; return how many bytes of `data` belong to the header."""
        known, header = len(self._pending), b""
        for wanted in (64, len(data)):  # nearly all headers are short
            header = self._pending + data[:wanted]
            size = _gzip_header_size(header)
            if size is not None:
                self._pending, self._in_header = b"", False
                self._members += 1
                self._checksum = self._size = 0
                self._restart()
                return size - known
        self._pending = header
        return len(data)

    def _read_trailer(self, data: memoryview) -> int:
        missing = self._TRAILER.size - len(self._pending)
        self._pending += data[:missing]
        if len(self._pending) == self._TRAILER.size:
            if self._TRAILER.unpack(self._pending) != (self._checksum, self._size & 0xFFFFFFFF):
                raise zlib.error("the checksum or the size in a gzip trailer is wrong")
            self._pending, self._in_header = b"", True
        return min(missing, len(data))

    def end(self) -> None:
        if not self._members or not self._in_header or self._pending:
            raise zlib.error("the stream ends too early")


def _small_gzip(data: bytes) -> bytes | None:
    """Return what a small body of one complete member decodes to; None for anything else, which takes the long way.

    Nearly all small bodies are like that, and the long way costs twice as much.
    """
    if len(data) > MAX_SMALL_BYTES or not data.startswith(_PLAIN_HEADER):
        return None
    stream = zlib.decompressobj(_GZIP)
    try:
        decoded = stream.decompress(data, STEP_BYTES)
    except zlib.error:
        return None
    return decoded if stream.eof and not stream.unused_data else None


_MAGIC = b"\x1f\x8b\x08"  # the last byte is the method, deflate
_PLAIN_HEADER = _MAGIC + b"\0"  # no name, comment or checksum, which zlib and the original judge differently
_HAS_CHECKSUM, _HAS_EXTRA, _HAS_NAME, _HAS_COMMENT = 2, 4, 8, 16


def _gzip_header_size(data: bytes) -> int | None:
    """Return the size of the gzip header at the beginning of `data`; None if it is incomplete (RFC 1952, 2.3).

    Raises:
        zlib.error: it is not a header that the original accepts.
    """
    if not data.startswith(_MAGIC[: len(data)]):
        raise zlib.error("incorrect header check")
    flags, size = data[3] if len(data) > 3 else 0, 10
    if flags & _HAS_EXTRA:
        size += 2 + int.from_bytes(data[size : size + 2], "little")
    for flag in (_HAS_NAME, _HAS_COMMENT):
        if flags & flag and size <= len(data):
            end = data.find(b"\0", size, size + MAX_GZIP_NAME_BYTES + 1)
            if end < 0 and len(data) > size + MAX_GZIP_NAME_BYTES:
                raise zlib.error(f"the name or the comment in a gzip header has more than {MAX_GZIP_NAME_BYTES} bytes")
            size = end + 1 if end >= 0 else len(data) + 1
    if flags & _HAS_CHECKSUM:
        size += 2
        if size <= len(data) and zlib.crc32(data[: size - 2]) & 0xFFFF != int.from_bytes(
            data[size - 2 : size], "little"
        ):
            raise zlib.error("the checksum of a gzip header is wrong")
    return size if size <= len(data) else None


class _Brotli:
    """Decodes Brotli (RFC 7932)."""

    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def decode(self, data: bytes) -> Iterator[bytes]:
        piece = self._stream.process(data, output_buffer_limit=STEP_BYTES)
        yield piece
        # After a full step the decoder may have more output, or at least learn that the stream has ended.
        while not self._stream.is_finished() and (len(piece) >= STEP_BYTES or not self._stream.can_accept_more_data()):
            piece = self._stream.process(b"", output_buffer_limit=STEP_BYTES)
            yield piece

    def end(self) -> None:
        if not self._stream.is_finished():
            raise brotli.error("the stream ends too early")


CODINGS: dict[str, Callable[[], _Deflate | _Brotli] | None] = {
    "": None,
    "identity": None,
    "gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
}
"""The decoder of each coding; None if there is nothing to decode."""


class Body:
    """The body of one response.

    Attributes:
        length: decoded bytes so far, never more than the limit.
        is_plain: the body has no coding, so that `take` does without steps.
        whole: the bytes kept, if they came in one piece, as most bodies do; otherwise None.
    """

    def __init__(self, coding: str = "", *, limit: int = 0, hold: bool = False) -> None:
        """
        Args:
            coding: a key of `CODINGS`.
            limit: decoded bytes allowed; 0 for `DEFAULT_MAX_BODY_BYTES`, or no limit if the body is only counted.
            hold: keep the bytes for `text`.
        """
        self.length = 0
        make_coder = CODINGS[coding]
        self._coder = None if make_coder is None else make_coder()
        self.is_plain = make_coder is None
        self._limit = limit or (0 if make_coder is None and not hold else DEFAULT_MAX_BODY_BYTES)
        self._hold = hold
        self.whole: bytes | None = b"" if hold else None
        self._pieces: Pieces | None = None  # of a body that is kept, from the second piece on

    def feed(self, data: bytes) -> Iterator[None]:
        """Take bytes that have arrived; yield where other tasks may run.

        Raises:
            ProbeFailed: the body is larger than the limit, or not in its coding.
        """
        if self._coder is None:
            self.take(data)
            return
        work = 0
        try:
            for piece in self._coder.decode(data):
                self.take(piece)
                work += max(len(piece), MIN_STEP_COST_BYTES)
                if work >= STEP_BYTES:
                    yield
                    work = 0
        except (zlib.error, brotli.error) as error:
            raise ProbeFailed(Reason.HTTP_CONTENT_ENCODING, f"the body can't be decompressed: {error}") from None

    def end(self) -> None:
        """Take the end of the body.

        Raises:
            ProbeFailed: its coding is incomplete.
        """
        if self._coder is None:
            return
        try:
            self._coder.end()
        except (zlib.error, brotli.error) as error:
            raise ProbeFailed(Reason.HTTP_CONTENT_ENCODING, f"the body can't be decompressed: {error}") from None

    async def text(self) -> bytes:
        """Return the bytes kept."""
        return await self._pieces.joined() if self._pieces is not None else self.whole or b""

    def take(self, piece: bytes) -> None:
        """Take decoded bytes.

        Raises:
            ProbeFailed: the body is larger than the limit.
        """
        limit, size = self._limit, len(piece)
        room = limit - self.length if limit else size
        if self._hold and room > 0:
            self._keep(piece[:room])
        if size <= room:
            self.length += size
        else:
            self.length += room
            raise ProbeFailed(Reason.HTTP_BODY_TOO_LARGE, f"the body is larger than the limit of {self._limit} bytes")

    def _keep(self, piece: bytes) -> None:
        if not self.whole and self._pieces is None:
            self.whole = piece
            return
        if self._pieces is None:
            self._pieces = Pieces()
            self._pieces.add(self.whole or b"")
            self.whole = None
        self._pieces.add(piece)


class Source(Protocol):
    """The source of a body: an `Exchange`."""

    async def body(self) -> bytes:
        """Return the next piece of the body; ``b""`` after the last."""


async def receive(source: Source, body: Body) -> None:
    """Feed a response's body to `body`, up to its end.

    Raises:
        ProbeFailed: the body breaks off, is larger than its limit, or not in its coding.
    """
    while piece := await source.body():
        if body.is_plain:
            body.take(piece)
            continue
        for _ in body.feed(piece):
            await pause()
    body.end()


def accepts(header: str, coding: str) -> bool:
    """Return whether an Accept-Encoding header allows a coding, by the original's rules.

    Of the parts that name the coding (in exactly this spelling) or ``*``, the one with the highest quality decides. A
    quality that is not a number counts as 0. Parts are split at their last ``;`` only.
    """
    offers = [_offer(part) for part in header.split(",")]
    for name, quality in sorted(offers, key=lambda offer: -offer[1]):
        if name in (coding, "*"):
            return quality > 0
    return False


def _offer(part: str) -> tuple[str, float]:
    """Return a coding and its quality, rounded to three decimals."""
    name, separator, parameter = part.rpartition(";")
    if not separator:
        return part.strip(), 1.0
    return name.strip(), round(_number(parameter.strip().removeprefix("q=")), 3)


def _number(text: str) -> float:
    """Return a number as Go parses it; 0 if it is none."""
    try:
        return float.fromhex(text) if "p" in text.lower() else float(text) if text == text.strip() else 0.0
    except (ValueError, OverflowError):
        return 0.0
