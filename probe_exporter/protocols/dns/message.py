"""Encode DNS queries and decode DNS responses, without I/O (RFC 1035, section 4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from probe_exporter.addresses.cache import remembered
from probe_exporter.protocols.dns import rdata
from probe_exporter.protocols.dns.codes import TYPES
from probe_exporter.protocols.dns.wire import Malformed, Wire, name_to_wire

MAX_KNOWN_BYTES = 2 << 20
"""Bytes of the cache of decoded messages: a server sends the same response again and again, but for its id."""

_RECORD_BYTES = 250  # a record, its numbers, and what its text takes beside the characters

RECURSION_DESIRED, TRUNCATED, RESPONSE = 0x0100, 0x0200, 0x8000
OPT = TYPES["OPT"]

_HEADER = struct.Struct(">6H")
_RECORD = struct.Struct(">HHIH")


@dataclass(frozen=True, slots=True)
class Query:
    """A query, encoded once but for its id."""

    after_id: bytes
    question: bytes

    @classmethod
    def make(cls, name: bytes, type_: int, class_: int, *, recursion_desired: bool) -> Query:
        """Encode a query.

        Args:
            name: as people write it, with or without the final dot.

        Raises:
            ValueError: it is not a name.
        """
        question = name_to_wire(name) + struct.pack(">HH", type_, class_)
        flags = RECURSION_DESIRED if recursion_desired else 0
        return cls(struct.pack(">5H", flags, 1, 0, 0, 0) + question, question)

    def message(self, number: int) -> bytes:
        """Return the query with the id `number`."""
        return number.to_bytes(2, "big") + self.after_id


class Record(NamedTuple):
    """One record of a response."""

    type: int
    ttl: int
    text: str
    """As the original prints it; regular expressions are matched against this."""

    @property
    def serial(self) -> int:
        """The serial number of a SOA record: the third of its fields, which is the fifth from the end."""
        fields = self.text.rsplit(" ", 5)
        return int(fields[1]) if len(fields) == 6 else 0


@dataclass(frozen=True, slots=True)
class Response:
    """A decoded response."""

    number: int
    flags: int
    question: bytes
    """As on the wire, in lower case; empty if the response has none."""

    answer: tuple[Record, ...]
    authority: tuple[Record, ...]
    additional: tuple[Record, ...]

    @property
    def rcode(self) -> int:
        """The response code, including the upper bits from an OPT record (RFC 6891, 6.1.3)."""
        upper = next((record.ttl >> 24 for record in reversed(self.additional) if record.type == OPT), 0)
        return upper << 4 | self.flags & 15

    @property
    def is_response(self) -> bool:
        """Whether the QR flag is set."""
        return bool(self.flags & RESPONSE)

    @property
    def is_truncated(self) -> bool:
        """Whether the TC flag is set: the server had more records than fitted."""
        return bool(self.flags & TRUNCATED)

    def answers(self, query: Query) -> bool:
        """Return whether the question is that of the query. Servers that refuse a query may leave it out."""
        return self.question in (b"", query.question.lower())


def number_of(message: bytes) -> int:
    """Return the id of a message.

    Raises:
        Malformed: it has no header.
    """
    return int.from_bytes(_header(message)[:2], "big")


def decode(message: bytes) -> Response:
    """Decode a message.

    If a section has fewer records than its count says, those that are there are returned, as the original does.

    Raises:
        Malformed: it is not DNS, or the data of a record does not fit its type.
    """
    number, flags, *counts = _HEADER.unpack(_header(message))
    wire = Wire(message, _HEADER.size)
    question = _read_questions(wire, counts[0])
    sections = [_read_section(wire, count) for count in counts[1:]]
    return Response(number, flags, question, *sections)


def _weight(after_id: bytes, response: Response) -> int:
    """Return about the bytes of a message and of its records."""
    records = [*response.answer, *response.authority, *response.additional]
    return 2 * len(after_id) + sum([_RECORD_BYTES + len(record.text) for record in records])


@remembered(MAX_KNOWN_BYTES, _weight)
def decode_after_id(after_id: bytes) -> Response:
    """Decode a message without the two bytes of its id; the response has the id 0.

    Use it for small messages on the event loop, since it is a cache.

    Raises:
        Malformed: as `decode`.
    """
    return decode(b"\0\0" + after_id)


def _header(message: bytes) -> bytes:
    if len(message) < _HEADER.size:
        raise Malformed(f"a DNS message has at least {_HEADER.size} bytes, not {len(message)}")
    return message[: _HEADER.size]


def _read_questions(wire: Wire, count: int) -> bytes:
    start = wire.at
    for _ in range(count):
        if wire.at == wire.end:
            break
        wire.name()
        wire.skip(4)
    return wire.data[start : wire.at].lower()


def _read_section(wire: Wire, count: int) -> tuple[Record, ...]:
    records = []
    for _ in range(count):
        if wire.at == wire.end:
            break
        records.append(_read_record(wire))
    return tuple(records)


def _read_record(wire: Wire) -> Record:
    owner = wire.name()
    type_, class_, ttl, size = _RECORD.unpack(wire.take(_RECORD.size))
    return Record(type_, ttl, rdata.record_text(owner, type_, class_, ttl, wire.part(size)))
