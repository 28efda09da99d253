"""DNS messages without I/O: a question becomes bytes once, and bytes become sections of records (RFC 1035, 4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from probe_exporter.protocols.dns import rdata
from probe_exporter.protocols.dns.codes import TYPES
from probe_exporter.protocols.dns.wire import Malformed, Wire, name_to_wire

RECURSION_DESIRED, RESPONSE = 0x0100, 0x8000
OPT = TYPES["OPT"]

_HEADER = struct.Struct(">6H")
_RECORD = struct.Struct(">HHIH")


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, made once; only the id is new each time."""

    after_id: bytes
    question: bytes

    @classmethod
    def make(cls, name: bytes, type_: int, class_: int, *, recursion_desired: bool) -> Query:
        """
        Args:
            name: as people write it, final dot or not.

        Raises:
            ValueError: it is no name.
        """
        question = name_to_wire(name) + struct.pack(">HH", type_, class_)
        flags = RECURSION_DESIRED if recursion_desired else 0
        return cls(struct.pack(">5H", flags, 1, 0, 0, 0) + question, question)

    def message(self, number: int) -> bytes:
        """The query with an id."""
        return number.to_bytes(2, "big") + self.after_id


class Record(NamedTuple):
    """One record of a response."""

    type: int
    ttl: int
    text: str
    """As the original prints it: what regular expressions are tried on."""

    @property
    def serial(self) -> int:
        """Of a SOA record: the third of its fields, or the fifth from the end."""
        fields = self.text.rsplit(" ", 5)
        return int(fields[1]) if len(fields) == 6 else 0


@dataclass(frozen=True, slots=True)
class Response:
    """A response, decoded."""

    number: int
    flags: int
    question: bytes
    """As on the wire, in lower case; empty if there is none."""

    answer: tuple[Record, ...]
    authority: tuple[Record, ...]
    additional: tuple[Record, ...]

    @property
    def rcode(self) -> int:
        """The response code, with the upper bits that an OPT record has (RFC 6891, 6.1.3)."""
        upper = next((record.ttl >> 24 for record in reversed(self.additional) if record.type == OPT), 0)
        return upper << 4 | self.flags & 15

    @property
    def is_response(self) -> bool:
        """Whether it says of itself that it is one."""
        return bool(self.flags & RESPONSE)

    def answers(self, query: Query) -> bool:
        """Whether the question is that of the query. Servers that refuse may leave it out."""
        return self.question in (b"", query.question.lower())


def number_of(message: bytes) -> int:
    """The id of a message.

    Raises:
        Malformed: it has no header.
    """
    return int.from_bytes(_header(message)[:2], "big")


def decode(message: bytes) -> Response:
    """Read a message.

    A count that promises more records than there are is taken for what is there, as the original takes it.

    Raises:
        Malformed: it is not DNS, or a record in it is not of its type's form.
    """
    number, flags, *counts = _HEADER.unpack(_header(message))
    wire = Wire(message, _HEADER.size)
    question = b"".join([_read_question(wire) for _ in range(counts[0])])
    sections = [_read_section(wire, count) for count in counts[1:]]
    return Response(number, flags, question, *sections)


def _header(message: bytes) -> bytes:
    if len(message) < _HEADER.size:
        raise Malformed(f"{len(message)} bytes are no DNS message")
    return message[: _HEADER.size]


def _read_question(wire: Wire) -> bytes:
    if wire.at == wire.end:
        return b""
    start = wire.at
    wire.name()
    wire.take(4)
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
    data = Wire(wire.data, wire.at, wire.at + size)
    wire.take(size)
    return Record(type_, ttl, rdata.record_text(owner, type_, class_, ttl, data))
