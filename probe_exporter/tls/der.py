"""DER (X.690), as far as certificates need it: take elements apart, put them together.

The data comes from certificates that cryptography has parsed, so lengths are valid.
"""

from __future__ import annotations

from collections.abc import Iterator

SEQUENCE = 0x30


def content(data: bytes) -> bytes:
    """Return the content of the element at the start, without tag and length."""
    start, size = _header(data, 0)
    return data[start : start + size]


def elements(data: bytes) -> Iterator[bytes]:
    """Yield the elements that follow one another, each with tag and length."""
    at = 0
    while at < len(data):
        end = at + sum(_header(data, at))
        yield data[at:end]
        at = end


def element(tag: int, data: bytes) -> bytes:
    """Return an element with this content."""
    size = len(data)
    if size < 0x80:
        return bytes([tag, size]) + data
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + data


def object_identifier(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER, from a text such as ``2.5.29.17``."""
    first, second, *others = map(int, dotted.split("."))
    encoded = bytearray()
    for number in (first * 40 + second, *others):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        encoded += bytes(reversed(groups))
    return element(0x06, bytes(encoded))


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Return the sizes of the header and of the content of the element at a place."""
    first = data[at + 1]
    if first < 0x80:
        return 2, first
    count = first & 0x7F
    return 2 + count, int.from_bytes(data[at + 2 : at + 2 + count], "big")
