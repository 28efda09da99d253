"""Tests of ICMP messages, byte by byte: requests, replies and error messages."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.prober.failure import Reason
from probe_exporter.protocols.icmp import messages
from probe_exporter.protocols.icmp.messages import IcmpAnswer, IcmpError, checksum, parse, request, strip_ip


def slow_checksum(data: bytes) -> int:
    """Compute the checksum as RFC 1071 writes it: add word by word and fold each carry."""
    total = 0
    for index in range(0, len(data), 2):
        total += int.from_bytes(data[index : index + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ip4(
    content: bytes, *, destination: str = "192.0.2.9", protocol: int = 1, ttl: int = 57, options: bytes = b""
) -> bytes:
    """Return an IPv4 packet."""
    words = 5 + len(options) // 4
    addresses = ipaddress.IPv4Address("192.0.2.1").packed + ipaddress.IPv4Address(destination).packed
    length = 4 * words + len(content)
    return struct.pack("!BBHHHBBH", 0x40 + words, 0, length, 1, 0, ttl, protocol, 0) + addresses + options + content


def ip6(content: bytes, *, destination: str = "2001:db8::9", following: int = 58) -> bytes:
    """Return an IPv6 packet."""
    addresses = ipaddress.IPv6Address("2001:db8::1").packed + ipaddress.IPv6Address(destination).packed
    return struct.pack("!IHBB", 6 << 28, len(content), following, 64) + addresses + content


def error(kind: int, code: int, about: bytes, *, third: int = 0, fourth: int = 0) -> bytes:
    """Return an ICMP error message."""
    return struct.pack("!BBHHH", kind, code, 0xBEEF, third, fourth) + about


ECHO_4 = request(4, 0x1234, 7, b"abcd")
ECHO_6 = request(6, 0x1234, 7, b"abcd")

# --- what is sent ------------------------------------------------------------------------------------------


def test_request_ipv4_bytes() -> None:
    # 0800 + 0102 + 0003 + 6162 + 6300 = cd67, inverted 3298
    assert request(4, 0x0102, 3, b"abc") == bytes.fromhex("0800 3298 0102 0003 616263")


def test_request_ipv6_leaves_checksum_to_kernel() -> None:
    assert request(6, 0x0102, 3, b"abc") == bytes.fromhex("8000 0000 0102 0003 616263")


def test_checksum_example_of_rfc_1071() -> None:
    """In the example of section 3, the words sum to ddf2."""
    assert checksum(bytes.fromhex("0001 f203 f4f5 f6f7")) == 0xDDF2 ^ 0xFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", 0xFFFF), (b"\0\0", 0xFFFF), (b"\xff\xff", 0), (b"\xff\xfe\0\1", 0), (b"\xff", 0x00FF), (b"\1", 0xFEFF)],
)
def test_checksum_edge_cases(data: bytes, expected: int) -> None:
    assert checksum(data) == slow_checksum(data) == expected


@given(st.binary(max_size=300))
def test_checksum_equals_slow_sum(data: bytes) -> None:
    assert checksum(data) == slow_checksum(data)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=100))
def test_request_sums_to_zero(identifier: int, sequence: int, payload: bytes) -> None:
    """Receivers check the checksum this way."""
    assert slow_checksum(request(4, identifier, sequence, payload)) == 0


# --- replies -----------------------------------------------------------------------------------------------


@given(st.sampled_from([4, 6]), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=100))
def test_reply_parses_to_request_fields(version: int, identifier: int, sequence: int, payload: bytes) -> None:
    reply = bytes([messages.REPLIES[version]]) + request(version, identifier, sequence, payload)[1:]
    assert parse(version, reply) == IcmpAnswer(identifier, sequence, payload)


@pytest.mark.parametrize("version", [4, 6])
def test_parse_ignores_request(version: int) -> None:
    """On loopback, a raw socket may receive its own request."""
    assert parse(version, request(version, 1, 1, b"")) is None


def test_parse_ignores_reply_with_other_code() -> None:
    assert parse(4, bytes.fromhex("0001 0000 0001 0001")) is None
    assert parse(6, bytes.fromhex("8101 0000 0001 0001")) is None


def test_parse_ignores_reply_of_other_family() -> None:
    assert parse(6, bytes.fromhex("0000 0000 0001 0001")) is None
    assert parse(4, bytes.fromhex("8100 0000 0001 0001")) is None


@pytest.mark.parametrize("length", range(8))
def test_parse_ignores_short_message(length: int) -> None:
    assert parse(4, bytes(8)[:length]) is None


# --- error messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code", "reason", "words"),
    [
        (3, 0, Reason.ICMP_UNREACHABLE, "network unreachable"),
        (3, 1, Reason.ICMP_UNREACHABLE, "host unreachable"),
        (3, 13, Reason.ICMP_UNREACHABLE, "administratively prohibited"),
        (3, 99, Reason.ICMP_UNREACHABLE, "ICMP type 3, code 99"),
        (11, 0, Reason.ICMP_TIME_EXCEEDED, "time to live exceeded in transit"),
        (11, 1, Reason.ICMP_TIME_EXCEEDED, "time for reassembly exceeded"),
        (12, 0, Reason.ICMP_UNREACHABLE, "ICMP type 12, code 0"),
    ],
)
def test_parse_ipv4_errors(kind: int, code: int, reason: Reason, words: str) -> None:
    said = parse(4, error(kind, code, ip4(ECHO_4), third=5, fourth=6))
    assert said == IcmpError(4, kind, code, 0, "192.0.2.9", 0x1234, 7)
    assert (said.reason, str(said)) == (reason, words)


@pytest.mark.parametrize(
    ("kind", "code", "reason", "words"),
    [
        (1, 0, Reason.ICMP_UNREACHABLE, "no route to destination"),
        (1, 3, Reason.ICMP_UNREACHABLE, "address unreachable"),
        (3, 0, Reason.ICMP_TIME_EXCEEDED, "hop limit exceeded in transit"),
        (4, 1, Reason.ICMP_UNREACHABLE, "ICMP type 4, code 1"),
    ],
)
def test_parse_ipv6_errors(kind: int, code: int, reason: Reason, words: str) -> None:
    said = parse(6, error(kind, code, ip6(ECHO_6), third=5, fourth=6))
    assert said == IcmpError(6, kind, code, 0, "2001:db8::9", 0x1234, 7)
    assert (said.reason, str(said)) == (reason, words)


def test_packet_too_big_reports_mtu() -> None:
    """The MTU has 16 bits in IPv4 (RFC 1191, section 4) and 32 in IPv6 (RFC 4443, section 3.2)."""
    four = parse(4, error(3, 4, ip4(ECHO_4), fourth=1400))
    six = parse(6, error(2, 0, ip6(ECHO_6), third=1, fourth=2))
    assert isinstance(four, IcmpError)
    assert isinstance(six, IcmpError)
    assert (four.reason, str(four)) == (Reason.ICMP_PACKET_TOO_BIG, "packet too big (MTU 1400)")
    assert (six.reason, str(six)) == (Reason.ICMP_PACKET_TOO_BIG, "packet too big (MTU 65538)")


def test_parse_error_needs_eight_bytes_of_request() -> None:
    """RFC 792 guarantees no more."""
    assert isinstance(parse(4, error(3, 1, ip4(ECHO_4[:8]))), IcmpError)
    assert parse(4, error(3, 1, ip4(ECHO_4[:7]))) is None


def test_parse_error_with_ip_options() -> None:
    said = parse(4, error(11, 0, ip4(ECHO_4, options=bytes(40))))
    assert said == IcmpError(4, 11, 0, 0, "192.0.2.9", 0x1234, 7)


def test_parse_error_about_first_fragment() -> None:
    fragment = struct.pack("!BBHI", 58, 0, 1, 99)  # offset 0, more to come
    assert isinstance(parse(6, error(3, 1, ip6(fragment + ECHO_6, following=44))), IcmpError)


def test_parse_ignores_error_about_later_fragment() -> None:
    fragment = struct.pack("!BBHI", 58, 0, 185 << 3, 99)
    assert parse(6, error(3, 1, ip6(fragment + ECHO_6, following=44))) is None


@pytest.mark.parametrize(
    "about",
    [
        b"",
        ip4(ECHO_4)[:27],
        ip4(ECHO_4, protocol=17),
        ip4(b"\0" + ECHO_4[1:]),  # about a reply
        b"\x45" + bytes(10),
        b"\x4f" + ip4(ECHO_4)[1:],  # a header longer than the packet
        b"\x41" + ip4(ECHO_4)[1:],  # a header shorter than one can be
        ip6(ECHO_6),
    ],
)
def test_parse_ignores_ipv4_error_about_other_packets(about: bytes) -> None:
    assert parse(4, error(3, 1, about)) is None


@pytest.mark.parametrize("about", [b"", ip6(ECHO_6)[:47], ip6(ECHO_6, following=17), ip4(ECHO_4), ip6(ECHO_6[:7])])
def test_parse_ignores_ipv6_error_about_other_packets(about: bytes) -> None:
    assert parse(6, error(1, 3, about)) is None


@given(st.sampled_from([4, 6]), st.sampled_from([0, 1, 2, 3, 4, 11, 12, 129]), st.binary(max_size=120))
def test_parse_accepts_any_bytes(version: int, kind: int, rest: bytes) -> None:
    parse(version, bytes([kind]) + rest)


# --- the header that a raw socket shows --------------------------------------------------------------------


def test_strip_ip_returns_ttl_and_content() -> None:
    assert strip_ip(ip4(b"content", ttl=57)) == (57, b"content")
    assert strip_ip(ip4(b"content", ttl=1, options=bytes(8))) == (1, b"content")


@pytest.mark.parametrize("packet", [b"", bytes(19), ip6(b""), b"\x46" + ip4(b"")[1:]])
def test_strip_ip_drops_other_packets(packet: bytes) -> None:
    assert strip_ip(packet) is None
