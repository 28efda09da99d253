"""HTTP/2's header blocks (HPACK, RFC 7541): fields to bytes and back, without I/O.

The tables and the Huffman code are python-hyper's. Its decoder is not used: it copies the rest of the block for each
field, so that a server could hold up all other probes for half a minute with two megabytes. This one takes time in
proportion, and decodes each frame as it comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable, table_entry_size

from probe_exporter.prober.failure import Reason
from probe_exporter.protocols.http.frames import Code, Violation

Field = tuple[bytes, bytes]

_ENTRIES = {field: index for index, field in reversed([*enumerate(HeaderTable.STATIC_TABLE, 1)])}
_NAMES = {name: index for index, (name, _) in reversed([*enumerate(HeaderTable.STATIC_TABLE, 1)])}

_INDEXED, _REMEMBERED, _RESIZED, _NEVER_INDEXED = 0x80, 0x40, 0x20, 0x10
_SHORT = 64
"""Bytes up to which a Huffman-coded string is remembered: dates and names of servers come from all sides."""

_decode_short = lru_cache(maxsize=1024)(decode_huffman)

_LONGEST_INTEGER = 5
"""Bytes of a number beyond its first: enough for 2^35, and no number that means anything is larger."""


def encode(fields: Iterable[Field]) -> bytes:
    """A header block that leaves no trace in the peer's table.

    What is not in the static table goes as a literal that nobody on the way may index (section 7.1.3): any header may
    hold a secret, and there is no second request that could gain.
    """
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
    """A number below the flags of `first` (section 5.1); QPACK has the same."""
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


class _Cut(Exception):  # no error: more is to come
    """A field goes on beyond what has arrived, at least up to `end`."""

    def __init__(self, end: int) -> None:
        self.end = end


class Decoder:
    """Reads the header blocks of one connection, each in as many pieces as it comes in."""

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: the size that all fields of all blocks may have, counted as in RFC 9113, section 6.5.2.
        """
        self._table = HeaderTable()
        self._left = limit
        self._fields: list[Field] = []
        self._pieces: list[bytes] = []  # the beginning of a field
        self._held = 0  # bytes in _pieces
        self._wanted = 0  # bytes without which the next field is not whole

    def feed(self, piece: bytes) -> None:
        """Take a piece of a block.

        Raises:
            Violation: it is not HPACK, or the fields are too large.
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
        except _Cut as cut:
            self._wanted = cut.end - at
        except HPACKError as error:
            raise _broken(str(error)) from None
        self._held = len(block) - at
        self._pieces = [block[at:]] if self._held else []

    def end(self) -> list[Field]:
        """The fields of the block that ends here.

        Raises:
            Violation: it ends within a field.
        """
        if self._held:
            raise _broken("a header block ends within a field")
        fields, self._fields = self._fields, []
        return fields

    def _field(self, block: bytes, at: int) -> int:
        """Read one field (section 6); the place after it."""
        first = block[at]
        if first & _INDEXED:
            index, at = _read_integer(block, at, 7)
            name, value = self._table.get_by_index(index)
        elif first & _REMEMBERED:
            name, value, at = self._literal(block, at, 6)
            self._table.add(name, value)
        elif first & _RESIZED:
            size, at = _read_integer(block, at, 5)
            if size > HeaderTable.DEFAULT_SIZE:
                raise _broken(f"its header table is to hold {size} bytes")
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
        if self._left < 0:
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
            raise _Cut(at + 1)
        huffman = block[at] & 0x80
        size, at = _read_integer(block, at, 7)
        if size > self._left:
            raise _too_large()
        end = at + size
        if end > len(block):
            raise _Cut(end)
        text = block[at:end]
        if huffman:
            text = _decode_short(text) if size <= _SHORT else decode_huffman(text)
        return text, end


def _read_integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """The number that begins in the low bits of a byte, and the place after it."""
    most = (1 << prefix) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 7 * _LONGEST_INTEGER, 7):
        if at >= len(block):
            raise _Cut(at + 1)
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _broken("a number in a header block does not end")


def _broken(what: str) -> Violation:
    return Violation(what, Code.COMPRESSION_ERROR)


def _too_large() -> Violation:
    return Violation("its headers are too large", Code.ENHANCE_YOUR_CALM, Reason.HTTP_HEADERS_TOO_LARGE)
