"""A response's body as it arrives: decoded, counted, held where somebody will look at it, and never beyond a limit.

Content codings are those of RFC 9110, section 8.4; decoding goes in small steps, so that a decompression bomb ends at
the limit and not after it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import brotli  # type: ignore[import-untyped]  # it has neither stubs nor annotations

from probe_exporter.prober.failure import ProbeFailed, Reason

STEP = 256 * 1024
"""Bytes that one step of decoding yields at most."""

DEFAULT_LIMIT = 64 * 1024 * 1024
"""The limit where ``body_size_limit`` sets none, for a body that is decoded or held; one only counted has none."""

JSON_LIMIT = 8 * 1024 * 1024
"""The same for a body that is read as JSON: its values take some thirty times its size in memory."""

Decode = Callable[[bytes], Iterator[bytes]]


class _Inflate:
    """gzip (RFC 1952, any number of members) and raw DEFLATE (RFC 1951)."""

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._stream = zlib.decompressobj(window_bits)

    def decode(self, data: bytes) -> Iterator[bytes]:
        full = False  # a full step may leave output waiting, also where it has used up its input
        while data or full:
            if self._stream.eof:
                if self._window_bits < 0 or not data:
                    return  # what follows raw DEFLATE belongs to nobody
                self._stream = zlib.decompressobj(self._window_bits)
            piece = self._stream.decompress(data, STEP)
            yield piece
            data = self._stream.unconsumed_tail or self._stream.unused_data
            full = len(piece) == STEP

    def end(self) -> None:
        if not self._stream.eof:
            raise zlib.error("the stream ends too early")


class _Brotli:
    """Brotli (RFC 7932)."""

    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def decode(self, data: bytes) -> Iterator[bytes]:
        piece = self._stream.process(data, output_buffer_limit=STEP)
        yield piece
        # After a full step the decoder may have more to say, be it only that this was all.
        while not self._stream.is_finished() and (len(piece) >= STEP or not self._stream.can_accept_more_data()):
            piece = self._stream.process(b"", output_buffer_limit=STEP)
            yield piece

    def end(self) -> None:
        if not self._stream.is_finished():
            raise brotli.error("the stream ends too early")


class _Identity:
    def decode(self, data: bytes) -> Iterator[bytes]:
        yield data

    def end(self) -> None:
        pass


CODINGS: dict[str, Callable[[], _Inflate | _Brotli | _Identity]] = {
    "": _Identity,
    "identity": _Identity,
    "gzip": lambda: _Inflate(31),
    "deflate": lambda: _Inflate(-15),
    "br": _Brotli,
}


class Body:
    """The body of one response.

    Attributes:
        length: decoded bytes so far, never more than the limit.
    """

    def __init__(self, coding: str = "", *, limit: int = 0, hold: bool = False) -> None:
        """
        Args:
            coding: a key of `CODINGS`.
            limit: decoded bytes allowed; 0 for `DEFAULT_LIMIT`, or none if the body is only counted.
            hold: keep the bytes for `text`.
        """
        self.length = 0
        self._coder = CODINGS[coding]()
        self._plain = isinstance(self._coder, _Identity)
        self._limit = limit or (0 if self._plain and not hold else DEFAULT_LIMIT)
        self._held: list[bytes] | None = [] if hold else None

    def feed(self, data: bytes) -> None:
        """Take what arrived.

        Raises:
            ProbeFailed: the body is larger than the limit, or not in its coding.
        """
        if self._plain:
            self._take(data)
            return
        try:
            for piece in self._coder.decode(data):
                self._take(piece)
        except (zlib.error, brotli.error) as error:
            raise ProbeFailed(Reason.HTTP_CONTENT_ENCODING, f"the body can't be decompressed: {error}") from None

    def end(self) -> None:
        """Say that nothing more comes.

        Raises:
            ProbeFailed: the coding expects more.
        """
        try:
            self._coder.end()
        except (zlib.error, brotli.error) as error:
            raise ProbeFailed(Reason.HTTP_CONTENT_ENCODING, f"the body can't be decompressed: {error}") from None

    @property
    def text(self) -> bytes:
        """The bytes held."""
        held = self._held or []
        if len(held) > 1:
            self._held = held = [b"".join(held)]
        return held[0] if held else b""

    def _take(self, piece: bytes) -> None:
        room = self._limit - self.length if self._limit else len(piece)
        if self._held is not None and room > 0:
            self._held.append(piece[:room])
        self.length += min(len(piece), room)
        if len(piece) > room:
            raise ProbeFailed(Reason.HTTP_BODY_TOO_LARGE, f"the body is larger than the limit of {self._limit} bytes")


def accepts(header: str, coding: str) -> bool:
    """Whether `header` allows `coding`, decided by the original's rules.

    The part of the highest quality that names the coding (in exactly this spelling) or ``*`` decides; a
    quality that can't be read counts as 0. Parts are split at their last ``;`` only.
    """
    offers = [_offer(part) for part in header.split(",")]
    for name, quality in sorted(offers, key=lambda offer: -offer[1]):
        if name in (coding, "*"):
            return quality > 0
    return False


def _offer(part: str) -> tuple[str, float]:
    """A coding and its quality, to three decimals."""
    name, separator, parameter = part.rpartition(";")
    if not separator:
        return part.strip(), 1.0
    return name.strip(), round(_number(parameter.strip().removeprefix("q=")), 3)


def _number(text: str) -> float:
    """A number as Go reads it, or 0."""
    try:
        return float.fromhex(text) if "p" in text.lower() else float(text) if text == text.strip() else 0.0
    except (ValueError, OverflowError):
        return 0.0
