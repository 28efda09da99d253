"""Read and write the wire format of DNS within bounds: numbers, strings, names (RFC 1035).

A name may end in a pointer to an earlier name, which may end in a pointer too (RFC 1035, 4.1.4). A server could put
thousands of pointers to long chains into one message, so `Names` remembers the text of every place that a pointer has
led to: each byte of a message is read once, however many names refer to it. The text of all names of a message has a
limit, so that two bytes on the wire can't become a kilobyte of text without end.
"""

from __future__ import annotations

import re

MAX_NAME_BYTES = 255
"""Length of a name on the wire (RFC 1035, 2.3.4)."""

MAX_POINTERS = 126
"""Compression pointers in one name: one for each label that fits into it. A name with more of them is a loop."""

MAX_NAMES_CHARACTERS = 1 << 20
"""Characters of all names in one message that end in a pointer."""

_MAX_STEPS = 127 + MAX_POINTERS
"""Labels and pointers on the way from any place to the end of its name."""


class Malformed(ValueError):
    """The bytes are not DNS, or not what their record type requires."""


# The text of a byte in a name, and in a string between quotation marks.
_OF_BYTE = {byte: chr(byte) if 32 <= byte < 127 else f"\\{byte:03d}" for byte in range(256)}
NAME_ESCAPES = _OF_BYTE | {byte: f"\\{byte:c}" for byte in b".'@;()\" \\"}
STRING_ESCAPES = _OF_BYTE | {byte: f"\\{byte:c}" for byte in b'"\\'}


def escaped(data: bytes, escapes: dict[int, str]) -> str:
    """Return `data` as text, each byte replaced by its entry in `escapes`."""
    return data.decode("latin-1").translate(escapes)


_Suffix = tuple[str, int, int]
"""The rest of a name from some place on: its text with the final dot (empty for the root), its size in bytes if it were
not compressed, and the pointers on the way to its end."""

_ROOT: _Suffix = ("", 1, 0)


class Names:
    """The names of one message that pointers lead to, by their offset."""

    __slots__ = ("_left", "_suffixes")

    def __init__(self) -> None:
        self._suffixes: dict[int, _Suffix] = {}
        self._left = MAX_NAMES_CHARACTERS

    def at(self, data: bytes, at: int) -> _Suffix:
        """Return the name at an offset.

        Raises:
            Malformed: it is not a name, it points to itself, or the names of this message are too long together.
        """
        found = self._suffixes.get(at) or self._read(data, at)
        self._left -= len(found[0])
        if self._left < 0:
            raise Malformed("its names are too long together")
        return found

    def _read(self, data: bytes, at: int) -> _Suffix:
        """Read a name up to a place that is known, and remember all places on the way."""
        path: list[tuple[int, str, int]] = []  # offset, label with its dot, and its bytes; a pointer has none
        while (known := self._suffixes.get(at)) is None:
            if len(path) > _MAX_STEPS:
                raise Malformed("a name points to itself")
            if at >= len(data):
                raise Malformed("a name ends too early")
            length = data[at]
            if not length:
                known = _ROOT
                break
            if length < 64:
                label = data[at + 1 : at + 1 + length]
                text = label.decode() if label.isalnum() else escaped(label, NAME_ESCAPES)
                path.append((at, text + ".", length + 1))
                at += 1 + length
            elif length < 192 or at + 1 >= len(data):
                raise Malformed("a name has a label of an unknown kind")
            else:
                path.append((at, "", 0))
                at = (length & 63) << 8 | data[at + 1]
        text, size, pointers = known
        for place, label_text, label_size in reversed(path):
            text = label_text + text
            size += label_size
            pointers += not label_size
            self._left -= len(text)
            self._suffixes[place] = known = (text, size, pointers)
        _check(size, pointers)
        return known


def _check(size: int, pointers: int) -> None:
    if size > MAX_NAME_BYTES:
        raise Malformed("a name is too long")
    if pointers > MAX_POINTERS:
        raise Malformed("a name points to itself")


class Wire:
    """A reader at a place in a message. It reads nothing beyond `end`."""

    __slots__ = ("at", "data", "end", "names")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None, names: Names | None = None) -> None:
        """
        Args:
            names: of the same message, if another reader has them already.
        """
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end
        self.names = names or Names()

    def part(self, size: int) -> Wire:
        """Return a reader of the next `size` bytes, which are skipped here.

        Raises:
            Malformed: there are fewer bytes.
        """
        start = self.at
        self.skip(size)
        return Wire(self.data, start, self.at, self.names)

    def skip(self, size: int) -> None:
        """Skip `size` bytes.

        Raises:
            Malformed: there are fewer bytes.
        """
        after = self.at + size
        if after > self.end:
            raise Malformed("it ends too early")
        self.at = after

    def take(self, size: int) -> bytes:
        """Read `size` bytes.

        Raises:
            Malformed: there are fewer bytes. All methods below raise it too.
        """
        after = self.at + size
        if after > self.end:
            raise Malformed("it ends too early")
        data = self.data[self.at : after]
        self.at = after
        return data

    def rest(self) -> bytes:
        """Read all bytes up to the end; there may be none."""
        return self.take(self.end - self.at)

    def number(self, size: int) -> int:
        """Read an unsigned number of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def string(self) -> bytes:
        """Read a string, which has its length before it."""
        return self.take(self.number(1))

    def name(self) -> str:
        """Read a domain name, and return it escaped, with its final dot. Compression is followed (RFC 1035, 4.1.4)."""
        data, at, end = self.data, self.at, self.end
        text, size = "", 0
        while True:
            if at >= end:
                raise Malformed("a name ends too early")
            length = data[at]
            at += 1
            if not length:
                break
            if length < 64:
                if at + length > end or size + length + 1 >= MAX_NAME_BYTES:
                    raise Malformed("a name is too long")
                label = data[at : at + length]
                text += label.decode() if label.isalnum() else escaped(label, NAME_ESCAPES)
                text += "."
                at += length
                size += length + 1
            elif length < 192 or at >= end:
                raise Malformed("a name has a label of an unknown kind")
            else:
                rest = self.names.at(data, (length & 63) << 8 | data[at])
                _check(size + rest[1], rest[2] + 1)
                text += rest[0]
                at += 1
                break
        self.at = at
        return text or "."


_WRITTEN = re.compile(rb"\\([0-9]{3})|\\(.)|(\.)|([^.\\])", re.DOTALL)


def name_to_wire(written: bytes) -> bytes:
    r"""Encode a name as people write it: ``\.`` and ``\032`` stand for one byte, and the final dot may be missing.

    Raises:
        ValueError: a label is empty or longer than 63 bytes, or the name is longer than 255.
    """
    labels = [bytearray()]
    at = 0
    while at < len(written):
        found = _WRITTEN.match(written, at)
        if found is None or (found[1] and int(found[1]) > 255):
            raise ValueError("a backslash must stand before a character, or before three digits up to 255")
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
        raise ValueError("each label between the dots must have 1 to 63 bytes")
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(wire) > MAX_NAME_BYTES:
        raise ValueError(f"the name is longer than {MAX_NAME_BYTES} bytes")
    return wire
