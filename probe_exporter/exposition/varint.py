"""Encode and decode the varints of protocol buffers: 7 bits a byte, lowest first; the top bit marks more bytes."""

from __future__ import annotations

MAX_VARINT_BYTES = 10
"""Bytes of the largest varint, for 64 bits."""


def encode(number: int) -> bytes:
    """Encode a number that is not negative."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def decode(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at the offset `at`, and the offset after it.

    Raises:
        ValueError: the number has more than 64 bits, or is incomplete.
    """
    value = 0
    for place, byte in enumerate(data[at : at + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + place + 1
    raise ValueError("a number is too long, or does not end")
