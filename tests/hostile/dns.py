"""DNS servers: messages that cost more than their bytes, against the dns prober."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.hostile.cases import SHORT_SECONDS, SUCCESS, TIMED_OUT, Answer, Case, Flood, Hear, ends, playing
from tests.hostile.peers import tcp, udp

_ENDS = ends(
    "dns_response_malformed",
    "dns_response_wrong_question",
    "dns_response_wrong_id",
    "dns_answer_mismatch",
    "dns_rcode",
    "connect_closed",
)
_QUESTION = b"\7example\4test\0\0\xff\0\1"
_NAMES = struct.pack(">H", 0xC00C)  # a pointer to the question's name
_CHECKED = {"validate_answer_rrs": {"fail_if_matches_regexp": ["(a+a+)+z"]}}
_UNKNOWN = 65280
_MOST = 65535


def message(records: bytes, count: int) -> bytes:
    """Return a response whose id is filled in when it is sent."""
    return b"@@" + struct.pack(">5H", 0x8180, 1, count, 0, 0) + _QUESTION + records


def _record(type_: int, data: bytes, owner: bytes = _NAMES) -> bytes:
    return owner + struct.pack(">HHIH", type_, 1, 60, len(data)) + data


def _many(record: bytes) -> bytes:
    """Return a message of 64 KiB with as many records as fit."""
    number = (_MOST - 12 - len(_QUESTION)) // len(record)
    return message(record * number, number)


def _chain(type_: int, make: bytes = b"") -> bytes:
    """Return a message whose records are names that point to a chain of 120 pointers, each after a label."""
    start = 12 + len(_QUESTION)
    labels = b"".join(
        b"\1a" + struct.pack(">H", 0xC000 | (start + 11 + 4 * number - 4 if number else 12)) for number in range(120)
    )
    first = _record(_UNKNOWN, labels, b"\0")
    last = struct.pack(">H", 0xC000 | (start + 11 + 4 * 119))
    record = _record(type_, make + last, last)
    number = (_MOST - start - len(first)) // len(record)
    return message(first + record * number, number + 1)


def _pointers() -> bytes:
    """Return a message whose records' owners each follow 126 pointers to pointers."""
    start = 12 + len(_QUESTION)
    data = b"".join(
        struct.pack(">H", 0xC000 | (start + 11 + 2 * number - 2 if number else 12)) for number in range(125)
    )
    first = _record(_UNKNOWN, data, b"\0")
    last = struct.pack(">H", 0xC000 | (start + 11 + 2 * 124))
    record = _record(2, last, last)
    number = (_MOST - start - len(first)) // len(record)
    return message(first + record * number, number + 1)


MESSAGES: dict[str, bytes] = {
    "chains of labels and pointers (NS)": _chain(2),
    "chains of labels and pointers (SRV)": _chain(33, bytes(6)),
    "chains of labels and pointers (MX)": _chain(15, bytes(2)),
    "chains of pointers": _pointers(),
    "a pointer to itself": message(_record(2, b"\xc0\x20", b"\xc0\x1e") * 4000, 4000),
    "5,400 records without data": _many(_record(10, b"")),
    "root records of an unknown type": _many(_record(65280, b"", b"\0")),
    "4,000 addresses": _many(_record(1, b"\x7f\0\0\1")),
    "TXT of empty strings": _many(_record(16, bytes(60_000))),
    "TXT of 60,000 bytes to escape": _many(_record(16, (b"\xff" + bytes(255)) * 234)),
    "names to escape": _many(_record(2, (b"\x3f" + bytes(63)) * 3 + b"\x3d" + bytes(61) + b"\0")),
    "NSEC with full bitmaps": _many(_record(47, b"\0" + b"".join(bytes([w, 32]) + b"\xff" * 32 for w in range(256)))),
    "NSEC with one bitmap after another": _many(_record(47, b"\0" + b"\0\1\x40" * 20_000)),
    "SVCB with 15,000 parameters": _many(
        _record(64, b"\0\1\0" + b"".join(struct.pack(">HH", key, 0) for key in range(1, 15_000)))
    ),
    "SVCB with addresses": _many(_record(64, b"\0\1\0" + struct.pack(">HH", 4, 60_000) + bytes(60_000))),
    "SVCB with protocols": _many(_record(64, b"\0\1\0" + struct.pack(">HH", 1, 60_000) + b"\1a" * 30_000)),
    "OPT with 15,000 options": _many(_record(41, b"\0\1\0\0" * 15_000, b"\0")),
    "LOC": _many(_record(29, b"\0" + b"\x99" * 3 + b"\xff" * 12)),
    "APL": _many(_record(42, b"\0\1\x20\4\x7f\0\0\1" * 7_500)),
    "keys of 60,000 bytes": _many(_record(48, b"\1\1\3\x08" + bytes(60_000))),
    "RRSIG": _many(_record(46, struct.pack(">HBBIIIH", 1, 8, 2, 60, 1, 1, 1) + b"\0" + bytes(200))),
    "NAPTR": _many(_record(35, bytes(4) + b"\1u\1E\xff" + b"!" * 255 + b"\0")),
    "HIP and its servers": _many(_record(55, b"\4\2\0\4abcdefgh" + b"\1a\0" * 15_000)),
    "a count of 65,535 records": message(b"", 65535),
    "65,535 questions": b"@@" + struct.pack(">5H", 0x8180, 65535, 0, 0, 0) + b"\0\0\1\0\1" * 13_000,
    "rubbish": b"@@" + bytes(range(256)) * 250,
}


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    settings = {"query_name": "example.test", "query_type": "ANY", **_CHECKED}
    for peer, wire in MESSAGES.items():
        yield Case(
            peer=f"{peer}, over TCP",
            client="dns",
            start=tcp(playing(Answer(wire))),
            settings={**settings, "transport_protocol": "tcp"},
            ends=_ENDS | {SUCCESS},
        )
    for peer in ("chains of labels and pointers (NS)", "4,000 addresses", "rubbish"):
        wire = MESSAGES[peer][:60_000]
        yield Case(
            peer=f"{peer}, over UDP", client="dns", start=udp(playing(wire)), settings=settings,
            ends=_ENDS | {SUCCESS},
        )  # fmt: skip
    floods = {
        "a flood of answers to other queries": b"xx" + _record(1, b"\x7f\0\0\1") * 30,
        "a flood of empty datagrams": b"",
        "a flood of datagrams of 60,000 bytes": b"x" * 60_000,
    }
    for peer, datagram in floods.items():
        yield Case(
            peer=peer, client="dns", start=udp(playing(Flood(datagram))), settings=settings,
            ends=_ENDS | TIMED_OUT, timeout=SHORT_SECONDS,
        )  # fmt: skip
    for peer, part in {
        "an endless message": Flood(b"\xff" * 65536),
        "a message byte by byte": Flood(b"\xff\xff" * 20_000),
    }.items():
        yield Case(
            peer=peer, client="dns", start=tcp(playing(Hear(b"test"), part), piece=1 if "byte" in peer else 0),
            settings={**settings, "transport_protocol": "tcp"}, ends=_ENDS | TIMED_OUT, timeout=2 * SHORT_SECONDS,
        )  # fmt: skip
