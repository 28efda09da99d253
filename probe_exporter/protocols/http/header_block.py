"""Encode and decode HTTP/2 header blocks (HPACK, RFC 7541), without I/O.

The tables and the Huffman code are python-hyper's. Its decoder is not used: it copies the rest of the block for each
field, so a block of two megabytes would take half a minute. This one takes linear time, and decodes each frame as it
arrives. Bytes, fields and Huffman-coded bytes have limits, since one byte on the wire can be a field of 4 KiB.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable, table_entry_size

from probe_exporter.cache import remembered
from probe_exporter.prober.failure import Reason
from probe_exporter.protocols.http.frames import Code, Violation
from probe_exporter.protocols.http.http1 import MAX_FIELD_BYTES

Field = tuple[bytes, bytes]

_ENTRIES = {field: index for index, field in reversed([*enumerate(HeaderTable.STATIC_TABLE, 1)])}
_NAMES = {name: index for index, (name, _) in reversed([*enumerate(HeaderTable.STATIC_TABLE, 1)])}

_INDEXED, _REMEMBERED, _RESIZED, _NEVER_INDEXED = 0x80, 0x40, 0x20, 0x10
_MAX_CACHED_BYTES = 64
"""Size of a Huffman-coded string that is cached: dates and server names are the same in many responses."""

_decode_short = lru_cache(maxsize=1024)(decode_huffman)

_MAX_INTEGER_BYTES = 5
"""Bytes of a number after its first: enough for 2^35, more than any valid number needs."""

MAX_FIELDS = 10_000
"""Fields of all header blocks of a connection besides the status. The original has no such limit."""

MAX_HUFFMAN_BYTES = 64 * 1024
"""Bytes of one Huffman-coded string: decoding them takes about 8 ms."""

MAX_INDEXED_BYTES = 1024 * 1024
"""Size of all fields that are references to a table, so that few bytes can't become a large head."""


MAX_ENCODED_BLOCKS_BYTES = 1 << 20
"""Bytes of the cache of encoded blocks: a target gets the same request again and again."""


def encode(fields: Iterable[Field]) -> bytes:
    """Encode a header block that does not change the peer's table.

    Fields that are not in the static table are literals that intermediaries must not index (section 7.1.3): any
    header may hold a secret, and no second request would profit.
    """
    return _encode(tuple(fields))


@remembered(MAX_ENCODED_BLOCKS_BYTES)
def _encode(fields: tuple[Field, ...]) -> bytes:
    block = bytearray()
    for field in fields:
        index = _ENTRIES.get(field)
        if index is not None:
            block += integer(index, 7, _INDEXED)
            continue
        name, value = field
        index = _NAMES.get(name, 0)
        block += integer(index, 4, _NEVER_INDEXED)
        if not index:
            block += integer(len(name), 7) + name
        block += integer(len(value), 7) + value
    return bytes(block)


def integer(value: int, prefix: int, first: int = 0) -> bytes:
    """Encode a number below the flags of `first` (section 5.1), as QPACK does too."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((first | value,))
    encoded = bytearray((first | most,))
    value -= most
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class _Incomplete(Exception):  # not an error: more data will arrive
    """A field needs more data than has arrived, at least up to `end`."""

    def __init__(self, end: int) -> None:
        self.end = end


class Decoder:
    """Decodes the header blocks of one connection, each in any number of pieces."""

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: the size of all fields of all blocks, counted as in RFC 9113, section 6.5.2.
        """
        self._table = HeaderTable()
        self._left = limit
        self._fields_left = MAX_FIELDS + 1
        self._indexed_left = MAX_INDEXED_BYTES
        self._fields: list[Field] = []
        self._pieces: list[bytes] = []  # of an incomplete field
        self._held = 0  # bytes in _pieces
        self._wanted = 0  # bytes that the incomplete field needs at least

    def copy(self) -> Decoder:
        """Return a decoder that goes on from here. Call it between two blocks."""
        other = Decoder(self._left)
        other._fields_left = self._fields_left
        other._indexed_left = self._indexed_left
        table, copied = self._table, other._table
        if table.maxsize != copied.maxsize:
            copied.maxsize = table.maxsize
        copied.dynamic_entries.extend(table.dynamic_entries)
        copied._current_size = table._current_size  # noqa: SLF001  # to add the entries one by one takes much longer
        return other

    def feed(self, piece: bytes) -> None:
        """Decode a piece of a block.

        Raises:
            Violation: it is not HPACK, or exceeds a limit.
        """
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held < self._wanted:
            return
        block = piece if len(self._pieces) == 1 else b"".join(self._pieces)
        at = self._wanted = 0
        try:
            while at < len(block):
                at = self._field(block, at)
        except _Incomplete as incomplete:
            self._wanted = incomplete.end - at
        except HPACKError as error:
            raise _broken(str(error)) from None
        self._held = len(block) - at
        self._pieces = [block[at:]] if self._held else []

    def take(self) -> list[Field]:
        """Return the fields that were decoded since the last call."""
        fields, self._fields = self._fields, []
        return fields

    def end(self) -> None:
        """End the block.

        Raises:
            Violation: the last field is incomplete.
        """
        if self._held:
            raise _broken("a header block ends within a field")

    def _field(self, block: bytes, at: int) -> int:
        """Decode one field (section 6); return the offset after it."""
        first = block[at]
        if first & _INDEXED:
            index, at = _read_integer(block, at, 7)
            name, value = self._table.get_by_index(index)
            self._indexed_left -= len(name) + len(value)
            if self._indexed_left < 0:
                raise _too_large()
        elif first & _REMEMBERED:
            name, value, at = self._literal(block, at, 6)
            self._table.add(name, value)
        elif first & _RESIZED:
            size, at = _read_integer(block, at, 5)
            if size > HeaderTable.DEFAULT_SIZE:
                raise _broken(f"it sets the header table to {size} bytes, more than allowed")
            self._table.maxsize = size
            self._spend(b"", b"")
            return at
        else:
            name, value, at = self._literal(block, at, 4)
        self._spend(name, value)
        self._fields.append((name, value))
        return at

    def _spend(self, name: bytes, value: bytes) -> None:
        self._left -= table_entry_size(name, value)
        self._fields_left -= 1
        if self._left < 0 or self._fields_left < 0:
            raise _too_large()

    def _literal(self, block: bytes, at: int, prefix: int) -> tuple[bytes, bytes, int]:
        index, at = _read_integer(block, at, prefix)
        if index:
            name = self._table.get_by_index(index)[0]
        else:
            name, at = self._string(block, at)
        value, at = self._string(block, at)
        return name, value, at

    def _string(self, block: bytes, at: int) -> tuple[bytes, int]:
        if at >= len(block):
            raise _Incomplete(at + 1)
        huffman = block[at] & 0x80
        size, at = _read_integer(block, at, 7)
        if size > min(self._left, MAX_HUFFMAN_BYTES if huffman else MAX_FIELD_BYTES):
            raise _too_large()
        end = at + size
        if end > len(block):
            raise _Incomplete(end)
        text = block[at:end]
        if huffman:
            text = _decode_short(text) if size <= _MAX_CACHED_BYTES else decode_huffman(text)
        return text, end


def _read_integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """Decode the number in the low bits of a byte and after it; return the offset after it too."""
    most = (1 << prefix) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        if at >= len(block):
            raise _Incomplete(at + 1)
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _broken("a number in a header block is too long")


def _broken(what: str) -> Violation:
    return Violation(what, Code.COMPRESSION_ERROR)


def _too_large() -> Violation:
    return Violation("its headers are too large or too many", Code.ENHANCE_YOUR_CALM, Reason.HTTP_HEADERS_TOO_LARGE)
