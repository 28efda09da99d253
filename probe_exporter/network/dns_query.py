"""Ask for the addresses of a name: encode a DNS query, read the addresses in the response (RFC 1035). No I/O.

`protocols/dns` shows whole messages to people; a lookup needs addresses only, and this reads nothing else.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field

TYPES = {4: 1, 6: 28}
"""A and AAAA, by IP version."""

MAX_RESPONSE_RECORDS = 1000
"""Records of an answer section that are read; a round robin of addresses has a few dozen."""

_IN, _OPT = 1, 41
_MAPPED = bytes(10) + b"\xff\xff"  # the prefix ::ffff:0:0/96
_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHIH")  # type, class, TTL, length
_RESPONSE, _AUTHORITATIVE, _TRUNCATED, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x400, 0x200, 0x100, 0x80

UDP_PAYLOAD_BYTES = 1232
"""Bytes of the largest datagram that we offer to receive: the original's value, which no link fragments."""

NOERROR, FORMERR, NXDOMAIN = 0, 1, 3
_CODES = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}


@dataclass(frozen=True, slots=True)
class Question:
    """A name in ASCII, valid and rooted or not, and the IP version of the addresses wanted: 4 or 6."""

    name: str
    version: int

    def encode(self) -> bytes:
        """Return the question section of a message."""
        return encode_question(self.name, TYPES[self.version])


def encode_question(name: str, type: int) -> bytes:
    """Return the question section for a record type; the name is as that of a `Question`."""
    labels = name.rstrip(".").encode("ascii").split(b".")
    encoded = b"".join(bytes((len(label),)) + label for label in labels if label) + b"\0"
    return encoded + struct.pack(">HH", type, _IN)


def encode_query(number: int, question: bytes, *, edns: bool = True) -> bytes:
    """Return a query that asks a name server to recurse.

    Args:
        number: the message id.
        question: an encoded `Question`.
        edns: with an OPT record (RFC 6891), as the original; some old servers answer FORMERR to one.
    """
    header = _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, int(edns))
    return header + question + (b"\0" + _RECORD.pack(_OPT, UDP_PAYLOAD_BYTES, 0, 0) if edns else b"")


@dataclass(frozen=True, slots=True)
class Response:
    """What a name server answered.

    Attributes:
        code: the response code (RCODE).
        addresses: the addresses of the requested type, in the order of the answer, of the name or any alias.
        truncated: the response is incomplete; TCP returns all of it.
        failure: why to ask another server; empty for a result, which may be that there is no address.
        message: the whole message of a result, for callers that want other records.
    """

    code: int
    addresses: tuple[str, ...] = ()
    truncated: bool = False
    failure: str = ""
    message: bytes = field(default=b"", repr=False, compare=False)


def read_response(data: bytes, number: int, question: bytes) -> Response | None:
    """Read the response to a query; None if `data` is no response to this one, but forged or to another."""
    if len(data) < _HEADER.size + len(question):
        return None
    found, flags, questions, answers, _, additional = _HEADER.unpack_from(data)
    end = _HEADER.size + len(question)
    asked = data[_HEADER.size : end]
    if found != number or not flags & _RESPONSE or questions != 1:
        return None
    if asked[:-4].lower() != question[:-4].lower() or asked[-4:] != question[-4:]:
        return None
    code = flags & 15
    if code not in (NOERROR, NXDOMAIN):
        return Response(code, failure=f"answered {_CODES.get(code, f'with code {code}')}")
    if flags & _TRUNCATED:
        return Response(code, truncated=True)
    if code == NOERROR and not (answers or additional or flags & (_AUTHORITATIVE | _RECURSION_AVAILABLE)):
        return Response(code, failure="does not look up names for us")  # a referral to nowhere
    try:
        return Response(code, _addresses(data, end, answers, question[-4:]), message=data)
    except (IndexError, struct.error, ValueError):
        return Response(code, failure="sent a malformed answer")


def _addresses(data: bytes, at: int, count: int, kind: bytes) -> tuple[str, ...]:
    """Read the addresses of an answer section; there are none if the question is for other records.

    Raises:
        IndexError, struct.error, ValueError: the section does not have so many records.
    """
    wanted = struct.unpack(">HH", kind)
    if wanted[0] not in TYPES.values():
        return ()
    family, size = (socket.AF_INET, 4) if wanted[0] == TYPES[4] else (socket.AF_INET6, 16)
    found = []
    for _ in range(min(count, MAX_RESPONSE_RECORDS)):
        at = _skip_name(data, at)
        type_, class_, _, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if (type_, class_) == wanted:
            if length != size:
                raise ValueError("an address of another length")
            address = data[at : at + size]
            if address.startswith(_MAPPED):  # an IPv4 address, as in the original and where a target is one
                found.append(socket.inet_ntop(socket.AF_INET, address[-4:]))
            else:
                found.append(socket.inet_ntop(family, address))
        at += length
    return tuple(found)


def _skip_name(data: bytes, at: int) -> int:
    """Return where the name at `at` ends. Pointers are not followed: whose record it is does not matter."""
    while length := data[at]:
        if length >= 0xC0:
            return at + 2
        at += 1 + length
    return at + 1
