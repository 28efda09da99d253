"""DNS's wire format (RFC 1035): numbers, strings and names, read within bounds; names become text."""

from __future__ import annotations

import re

LONGEST_NAME = 255
"""Bytes that a name may take on the wire (RFC 1035, 2.3.4)."""

MOST_POINTERS = 126
"""Compression pointers in one name: one for each label that fits into it; more of them are a loop."""


class Malformed(ValueError):
    """The bytes are not what they should be."""


# What stands for a byte in a name, and in a string between quotation marks.
_OF_BYTE = {byte: chr(byte) if 32 <= byte < 127 else f"\\{byte:03d}" for byte in range(256)}
NAME_ESCAPES = _OF_BYTE | {byte: f"\\{byte:c}" for byte in b".'@;()\" \\"}
STRING_ESCAPES = _OF_BYTE | {byte: f"\\{byte:c}" for byte in b'"\\'}


def escaped(data: bytes, escapes: dict[int, str]) -> str:
    """`data` as text, each byte by what `escapes` has for it."""
    return data.decode("latin-1").translate(escapes)


class Wire:
    """A place in a message, from which what comes next is read; nothing is read beyond `end`."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end

    def take(self, size: int) -> bytes:
        """So many bytes.

        Raises:
            Malformed: there are fewer; so do all that follow.
        """
        after = self.at + size
        if after > self.end:
            raise Malformed("it ends too early")
        data = self.data[self.at : after]
        self.at = after
        return data

    def rest(self) -> bytes:
        """All that is left, which may be nothing."""
        return self.take(self.end - self.at)

    def number(self, size: int) -> int:
        """An unsigned number of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def string(self) -> bytes:
        """A string with its length before it."""
        return self.take(self.number(1))

    def name(self) -> str:
        """A domain name with its final dot, escaped; compression is followed (RFC 1035, 4.1.4)."""
        data, at, end = self.data, self.at, self.end
        labels: list[str] = []
        size, pointers, after = 1, 0, 0
        while True:
            if at >= end:
                raise Malformed("a name ends too early")
            length = data[at]
            at += 1
            if not length:
                break
            if length < 64:
                label = data[at : at + length]
                at += length
                size += length + 1
                if at > end or size > LONGEST_NAME:
                    raise Malformed("a name is too long")
                labels.append(label.decode() if label.isalnum() else escaped(label, NAME_ESCAPES))
            elif length < 192 or at >= end:
                raise Malformed("a name has a label of an unknown kind")
            else:
                pointers += 1
                if pointers > MOST_POINTERS:
                    raise Malformed("a name points to itself")
                after = after or at + 1
                at, end = (length & 63) << 8 | data[at], len(data)
        self.at = after or at
        return ".".join(labels) + "."


_WRITTEN = re.compile(rb"\\([0-9]{3})|\\(.)|(\.)|([^.\\])", re.DOTALL)


def name_to_wire(written: bytes) -> bytes:
    r"""A name as people write it (``\.`` and ``\032`` for a byte that is meant as such), as the wire has it.

    The final dot may be missing.

    Raises:
        ValueError: it is no name: a label is empty or longer than 63, or the whole longer than 255.
    """
    labels = [bytearray()]
    at = 0
    while at < len(written):
        found = _WRITTEN.match(written, at)
        if found is None or (found[1] and int(found[1]) > 255):
            raise ValueError("a backslash with nothing that it could stand before")
        at = found.end()
        if found[3]:
            labels.append(bytearray())
        else:
            labels[-1] += bytes([int(found[1])]) if found[1] else found[2] or found[4]
    if not labels[-1]:
        labels.pop()
    if not all(0 < len(label) < 64 for label in labels):
        if written == b".":
            return b"\0"
        raise ValueError("a label of 1 to 63 bytes is expected between the dots")
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(wire) > LONGEST_NAME:
        raise ValueError(f"a name takes {LONGEST_NAME} bytes at most")
    return wire
