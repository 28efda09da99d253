"""Encode and decode ICMP echo messages without I/O: requests, replies, and errors (RFC 792, RFC 4443)."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from probe_exporter.prober.failure import Reason

_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number; in errors the last is the MTU

REQUESTS = {4: 8, 6: 128}
REPLIES = {4: 0, 6: 129}

ERRORS = {
    (4, 3): Reason.ICMP_UNREACHABLE,
    (4, 11): Reason.ICMP_TIME_EXCEEDED,
    (4, 12): Reason.ICMP_UNREACHABLE,
    (6, 1): Reason.ICMP_UNREACHABLE,
    (6, 2): Reason.ICMP_PACKET_TOO_BIG,
    (6, 3): Reason.ICMP_TIME_EXCEEDED,
    (6, 4): Reason.ICMP_UNREACHABLE,
}
"""Reasons of failure by IP version and type of the error message."""

_FRAGMENTATION_NEEDED = (4, 3, 4)  # the one code with another reason than its type

_WORDS = {
    (4, 3, 0): "network unreachable",
    (4, 3, 1): "host unreachable",
    (4, 3, 2): "protocol unreachable",
    (4, 3, 3): "port unreachable",
    _FRAGMENTATION_NEEDED: "packet too big",
    (4, 3, 9): "network administratively prohibited",
    (4, 3, 10): "host administratively prohibited",
    (4, 3, 13): "administratively prohibited",
    (4, 11, 0): "time to live exceeded in transit",
    (4, 11, 1): "time for reassembly exceeded",
    (6, 1, 0): "no route to destination",
    (6, 1, 1): "administratively prohibited",
    (6, 1, 3): "address unreachable",
    (6, 1, 4): "port unreachable",
    (6, 1, 5): "source address failed policy",
    (6, 1, 6): "route to destination rejected",
    (6, 2, 0): "packet too big",
    (6, 3, 0): "hop limit exceeded in transit",
    (6, 3, 1): "time for reassembly exceeded",
}


class IcmpAnswer(NamedTuple):
    """The fields of an echo reply."""

    identifier: int
    sequence: int
    payload: bytes


class IcmpError(NamedTuple):
    """The fields of an error message about an echo request."""

    version: int
    type: int
    code: int
    mtu: int  # of the link that was too small; 0 if the message does not say
    destination: str  # of the request
    identifier: int
    sequence: int

    @property
    def reason(self) -> Reason:
        """Why the probe fails."""
        key = (self.version, self.type, self.code)
        return Reason.ICMP_PACKET_TOO_BIG if key == _FRAGMENTATION_NEEDED else ERRORS[key[:2]]

    def __str__(self) -> str:
        words = _WORDS.get((self.version, self.type, self.code), f"ICMP type {self.type}, code {self.code}")
        return f"{words} (MTU {self.mtu})" if self.mtu else words


_new = tuple.__new__  # in place of the classes, whose functions in Python take twice as long


def checksum(data: bytes) -> int:
    """Return the Internet checksum: the inverted one's complement sum of all 16-bit words (RFC 1071).

    It is 0 for a message that has its own checksum in it. 2 ** 16 is 1 modulo 0xFFFF, so the data as one number has
    the same remainder as the sum of its words.
    """
    number = int.from_bytes(data if len(data) % 2 == 0 else data + b"\0", "big")
    return 0xFFFF - ((number % 0xFFFF or 0xFFFF) if number else 0)


def request(version: int, identifier: int, sequence: int, payload: bytes) -> bytes:
    """Encode an echo request. For IPv6 the kernel fills in the checksum, which covers the addresses too."""
    if version == 6:
        return _HEADER.pack(REQUESTS[6], 0, 0, identifier, sequence) + payload
    words = int.from_bytes(payload if len(payload) % 2 == 0 else payload + b"\0", "big")  # as in `checksum`
    remainder = ((REQUESTS[4] << 8) + identifier + sequence + words) % 0xFFFF or 0xFFFF
    return _HEADER.pack(REQUESTS[4], 0, 0xFFFF - remainder, identifier, sequence) + payload


def parse(version: int, message: bytes) -> IcmpAnswer | IcmpError | None:
    """Decode an echo reply or an error about an echo request; return None for any other or truncated message."""
    if len(message) < _HEADER.size:
        return None
    kind, code, _, third, fourth = _HEADER.unpack_from(message)
    if kind == REPLIES[version]:
        return _new(IcmpAnswer, (third, fourth, message[_HEADER.size :])) if code == 0 else None
    if (version, kind) not in ERRORS:
        return None
    offending = (_embedded_4 if version == 4 else _embedded_6)(message[_HEADER.size :])
    if offending is None:
        return None
    # The MTU has 16 bits in IPv4 (RFC 1191) and 32 in IPv6 (RFC 4443, 3.2); other messages use the field otherwise.
    mtu = fourth if (version, kind, code) == _FRAGMENTATION_NEEDED else 0
    return icmp_error(version, kind, code, (third << 16) + fourth if (version, kind) == (6, 2) else mtu, *offending)


def icmp_error(version: int, kind: int, code: int, mtu: int, destination: str, echo: bytes) -> IcmpError | None:
    """Return the error about the ICMP message `echo`; None if that is not an echo request."""
    if len(echo) < _HEADER.size or echo[0] != REQUESTS[version]:
        return None
    _, _, _, identifier, sequence = _HEADER.unpack_from(echo)
    return IcmpError(version, kind, code, mtu, destination, identifier, sequence)


def strip_ip(packet: bytes) -> tuple[int, bytes] | None:
    """Return the TTL of an IPv4 packet, and its payload after header and options; None if it is truncated."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    length = (packet[0] & 15) * 4
    return (packet[8], packet[length:]) if 20 <= length <= len(packet) else None


def _embedded_4(packet: bytes) -> tuple[str, bytes] | None:
    """Return destination and payload of the ICMP packet quoted in an IPv4 error message."""
    stripped = strip_ip(packet)
    if stripped is None or packet[9] != socket.IPPROTO_ICMP:
        return None
    return socket.inet_ntop(socket.AF_INET, packet[16:20]), stripped[1]


def _embedded_6(packet: bytes) -> tuple[str, bytes] | None:
    """Return destination and payload of the ICMPv6 packet quoted in an error message.

    A fragment header is the only extension that our requests can have; only a first fragment has the ICMP header.
    """
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return None
    destination, following, rest = socket.inet_ntop(socket.AF_INET6, packet[24:40]), packet[6], packet[40:]
    if following == socket.IPPROTO_FRAGMENT and len(rest) >= 8 and int.from_bytes(rest[2:4], "big") >> 3 == 0:
        following, rest = rest[0], rest[8:]
    return (destination, rest) if following == socket.IPPROTO_ICMPV6 else None
