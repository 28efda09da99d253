"""Encode DNS queries and decode DNS responses, without I/O (RFC 1035, section 4)."""

from __future__ import annotations

import struct
import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from probe_exporter.cache import remembered
from probe_exporter.protocols.dns import rdata
from probe_exporter.protocols.dns.codes import TYPES
from probe_exporter.protocols.dns.wire import Malformed, Wire, name_to_wire
from probe_exporter.settings.fields import encode

MAX_KNOWN_BYTES = 2 << 20
"""Bytes of the cache of decoded messages: a server sends the same response again and again, but for its id."""

_RECORD_BYTES = 300  # a record, its numbers, and what its text takes beside the characters, as text and as bytes
_SECTION_BYTES = 600  # the objects of one section beside its records

RECURSION_DESIRED, TRUNCATED, RESPONSE = 0x0100, 0x0200, 0x8000
OPT = TYPES["OPT"]

_HEADER = struct.Struct(">6H")
_RECORD = struct.Struct(">HHIH")


@dataclass(frozen=True, slots=True)
class Query:
    """A query, encoded once but for its id."""

    after_id: bytes
    question: bytes  # in lower case

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
        return cls(struct.pack(">5H", flags, 1, 0, 0, 0) + question, question.lower())

    def message(self, id: bytes) -> bytes:
        """Return the query with an id, which has two bytes."""
        return id + self.after_id


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


class Section(tuple[Record, ...]):  # noqa: SLOT001  # it keeps what is computed once
    """The records of one section of a response.

    Attributes:
        passed: the check of the caller's choice that the records passed last; None before the first. A known response
            is not checked again. The reference is weak: checks have regular expressions, which take memory that the
            cache of responses does not count.
    """

    passed: weakref.ref[Any] | None = None

    @cached_property
    def texts(self) -> list[str]:
        """The records as the original prints them."""
        return [record.text for record in self]

    @cached_property
    def lines(self) -> list[bytes]:
        """The records as bytes, which regular expressions are tried on."""
        return [encode(text) for text in self.texts]


@dataclass(frozen=True)
class Response:
    """A decoded response. Its properties are computed once, since the same response comes again and again."""

    number: int
    flags: int
    question: bytes
    """As on the wire, in lower case; empty if the response has none."""

    answer: Section
    authority: Section
    additional: Section

    @cached_property
    def rcode(self) -> int:
        """The response code, including the upper bits from an OPT record (RFC 6891, 6.1.3)."""
        upper = next((record.ttl >> 24 for record in reversed(self.additional) if record.type == OPT), 0)
        return upper << 4 | self.flags & 15

    @cached_property
    def is_response(self) -> bool:
        """Whether the QR flag is set."""
        return bool(self.flags & RESPONSE)

    @cached_property
    def is_truncated(self) -> bool:
        """Whether the TC flag is set: the server had more records than fitted."""
        return bool(self.flags & TRUNCATED)

    def answers(self, query: Query) -> bool:
        """Return whether the question is that of the query. Servers that refuse a query may leave it out."""
        return self.question == query.question or not self.question


def has_id(message: bytes, id: bytes) -> bool:
    """Return whether a message has this id of two bytes.

    Raises:
        Malformed: it has no header.
    """
    if len(message) < _HEADER.size:
        _header(message)  # raises the error
    return message.startswith(id)


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
    return 2 * len(after_id) + 3 * _SECTION_BYTES + sum([_RECORD_BYTES + 2 * len(record.text) for record in records])


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


def _read_section(wire: Wire, count: int) -> Section:
    records = []
    for _ in range(count):
        if wire.at == wire.end:
            break
        records.append(_read_record(wire))
    return Section(records)


def _read_record(wire: Wire) -> Record:
    owner = wire.name()
    type_, class_, ttl, size = _RECORD.unpack(wire.take(_RECORD.size))
    return Record(type_, ttl, rdata.record_text(owner, type_, class_, ttl, wire.part(size)))
