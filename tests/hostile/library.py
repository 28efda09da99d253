"""Servers of the library's protocols: floods and messages that announce more than they hold, and strangers to all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.hostile.cases import (
    MEBIBYTE,
    SHORT_SECONDS,
    SUCCESS,
    TIMED_OUT,
    Case,
    Clients,
    Flood,
    Hear,
    Make,
    against,
    ends,
)
from tests.hostile.peers import tcp

_ENDS = TIMED_OUT | ends(
    "protocol_error", "target_error", "authentication", "target_not_ready", "target_full", "connect_closed",
    "dialogue_closed", "expectation", "tls_required", "dialogue_line_too_long",
)  # fmt: skip


def _client(**settings: Any) -> dict[str, Any]:
    return {"settings": settings, "ends": _ENDS, "timeout": 2 * SHORT_SECONDS, "memory": 32 * MEBIBYTE}


_OPTIONAL = _client() | {"ends": _ENDS | ends(SUCCESS)}
"""For probers whose later questions (INFO, stats) are optional: a hostile answer to them fails no probe."""

PROBERS: Clients = {
    "ldap": _client(),
    "memcached": _OPTIONAL,
    "mqtt": _client(),
    "mysql": _client(),
    "postgres": _client(),
    "redis": _OPTIONAL,
    "ssh": _client(),
}

STRANGERS: dict[str, Make] = {
    "zeros": lambda: [Flood(bytes(65536))],
    "ones": lambda: [Flood(b"\xff" * 65536)],
    "every byte": lambda: [Flood(bytes(range(256)))],
    "empty lines": lambda: [Flood(b"\r\n")],
    "newlines": lambda: [Flood(b"\n")],
    "a line without end": lambda: [Flood(b"x" * 65536)],
}


def _postgres(kind: bytes, content: bytes) -> bytes:
    return kind + (len(content) + 4).to_bytes(4, "big") + content


def _mysql(content: bytes, number: int = 0) -> bytes:
    return len(content).to_bytes(3, "little") + bytes([number]) + content


_PONG = b"+PONG\r\n"
_BOUND = bytes.fromhex("300c02010161070a010004000400")
_ENTRY = bytes.fromhex("301602010264110400300d300b04016131060401620401 63".replace(" ", ""))

OWN: dict[str, dict[str, Make]] = {
    "redis": {
        "an INFO of 1 MB of lines": lambda: [
            Hear(b"PING"), _PONG, Hear(b"INFO"), b"$1048576\r\n", Flood(b"a:b\r\n", 209_715), b"x\r\n", Hear(b"INFO"),
            b"$1048576\r\n", Flood(b"slave0:\r", 131_072), b"\r\n",
        ],
        "an INFO of 1 MB of a number": lambda: [
            Hear(b"PING"), _PONG, Hear(b"INFO"), b"$0\r\n\r\n", Hear(b"INFO"), b"$1000000\r\nconnected_slaves:",
            Flood(b"1", 1_000_000 - 17), b"\r\n",
        ],
        "a string of 1 GB": lambda: [Hear(b"PING"), b"$999999999\r\n", Flood(bytes(65536))],
        "a length of 60 KB": lambda: [Hear(b"PING"), b"$", Flood(b"0", 60_000), b"\r\n"],
        "an error of 60 KB": lambda: [Hear(b"PING"), b"-", Flood(b"E", 60_000), b"\r\n"],
    },
    "memcached": {
        "endless statistics": lambda: [Hear(b"version"), b"VERSION 1\r\n", Hear(b"stats"), Flood(b"STAT a 1\r\n")],
        "a number of 2,000 digits": lambda: [
            Hear(b"version"), b"VERSION 1\r\n", Hear(b"stats"), b"STAT uptime " + b"9" * 2000 + b"\r\nEND\r\n"
        ],
    },
    "postgres": {
        "a flood of notices": lambda: [Flood(_postgres(b"N", b"SNOTICE\0Mx\0\0"))],
        "a flood of parameters": lambda: [Flood(_postgres(b"S", b"a\0b\0"))],
        "notices of 30 KB of fields": lambda: [Flood(_postgres(b"N", b"a\0" * 15_000 + b"\0"))],
        "SSL refused, then notices": lambda: [Hear(b"\0"), b"N", Flood(_postgres(b"N", b"SNOTICE\0Mx\0\0"))],
        "a message of 2 GB": lambda: [Hear(b"\0"), b"R\x7f\xff\xff\xff", Flood(bytes(65536))],
    },
    "mysql": {
        "packets of 16 MB": lambda: [Flood(b"\xff\xff\xff\0" + b"\x0a" + b"8" * 65536)],
        "a version of 60 KB": lambda: [_mysql(b"\x0a" + b"8" * 60_000 + b"\0" + bytes(100))],
        "empty packets": lambda: [Flood(_mysql(b""))],
    },
    "ldap": {
        "endless entries": lambda: [Hear(b"\x60"), _BOUND, Hear(b"\x63"), Flood(_ENTRY)],
        "a message of 4 GB": lambda: [Hear(b"\x60"), b"\x30\x84\xff\xff\xff\xff", Flood(bytes(65536))],
        "250 KB of empty elements": lambda: [Hear(b"\x60"), b"\x30\x83\x03\xd0\x90", Flood(b"\x04\0", 125_000)],
        "an entry with 40,000 attributes": lambda: [
            Hear(b"\x60"), _BOUND, Hear(b"\x63"),
            b"\x30\x83\x03\x0d\x4a\x02\x01\x02\x64\x83\x03\x0d\x42\x04\0\x30\x83\x03\x0d\x3b",
            Flood(b"\x30\x03\x04\x01a", 40_000),
        ],
    },
    "mqtt": {
        "a packet of 256 MB": lambda: [Hear(b"MQTT"), b"\x20\xff\xff\xff\x7f", Flood(bytes(65536))],
        "packets of nothing": lambda: [Hear(b"MQTT"), Flood(b"\xd0\0")],
        "properties": lambda: [Hear(b"MQTT"), b"\x20\x83\x01\0\0\x80\x01" + b"\x26\0\0\0\0" * 25],
    },
    "ssh": {
        "lines before the banner": lambda: [Flood(b"x\r\n")],
        "a banner of 250 bytes without end": lambda: [b"SSH-2.0-" + b"x" * 240, Flood(b"y", 10)],
        "a packet of 4 GB": lambda: [b"SSH-2.0-x\r\n", b"\xff\xff\xff\xff", Flood(bytes(65536))],
        "a flood of IGNORE": lambda: [b"SSH-2.0-x\r\n", Flood(b"\0\0\0\x0c\6\2\0\0\0\0" + bytes(6))],
        "KEXINIT with 30 KB of names": lambda: [
            b"SSH-2.0-x\r\n", b"\0\0\x79\x1c\4\x14" + bytes(16) + b"\0\0\x79\0" + b"a," * 15_488 + bytes(100)
        ],
    },
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from against(PROBERS, {peer: {"start": tcp(make)} for peer, make in STRANGERS.items()})
    for prober, peers in OWN.items():
        own = {peer: {"start": tcp(make), "ends": _ENDS | {SUCCESS}} for peer, make in peers.items()}
        yield from against({prober: PROBERS[prober]}, own)
