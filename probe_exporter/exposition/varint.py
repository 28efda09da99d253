"""Whole numbers as protocol buffers carry them: seven bits a byte, the lowest first; the top bit says: more follow."""

from __future__ import annotations

MAX_VARINT_BYTES = 10
"""Bytes of the largest number, which has 64 bits."""


def encode(number: int) -> bytes:
    """A number from 0 up as bytes."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def decode(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and the place after it.

    Raises:
        ValueError: it has more than 64 bits, or does not end.
    """
    value = 0
    for place, byte in enumerate(data[at : at + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + place + 1
    raise ValueError("a number is too long, or does not end")
