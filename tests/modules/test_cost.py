"""Test that no prober of the module library works long in one turn of the event loop, for any data from its peer."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from probe_exporter.prober.failure import Reason
from tests.cost import short_turns
from tests.modules.library import expect_failure, probe_scripted, shipped
from tests.outcomes import why
from tests.targets import Pki, Repeat
from tests.targets.scripted_server import Hear, Script, Turn, talk

MEBIBYTE = 1024 * 1024
LOGIN = {"user": "probe", "password": "secret"}


def postgres(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def mysql(number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([number % 256]) + body


def ber(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    return bytes([tag, 0x84]) + struct.pack("!I", len(value)) + value


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


READY = postgres(b"Z", b"I")
WELCOME = postgres(b"R", bytes(4)) + READY
SASL = postgres(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0")
CHALLENGE = postgres(b"R", struct.pack("!I", 11) + b"r=" + b"," * (MEBIBYTE - 100))
STARTUP, SELECT_1, RECOVERY = Hear(bytes=len("probe") + 86), Hear(bytes=14), Hear(bytes=32)

NONCE = b"20 letters, as it is"
GREETING = mysql(
    0, b"\x0a8.4.2\0" + bytes(4) + NONCE[:8] + b"\0\0\x82" + bytes(3) + b"\x08\0\x15" + bytes(10) + NONCE[8:] + bytes(2)
)
OK = b"\0\0\0\2\0\0\0"
END = b"\xfe\0\0\2\0"
IN = (GREETING, Hear(bytes=60), mysql(2, OK), Hear(bytes=13))
STATE = (*IN, mysql(1, OK), Hear(bytes=43))
COLUMN = b"\x03def\0\0\0\x01a\0\x0c" + bytes(12)

BOUND = ber(0x30, b"\x02\x01\x01", ber(0x61, b"\x0a\x01\0\x04\0\x04\0"))
ENTRY = ber(0x30, b"\x02\x01\x02", ber(0x64, b"\x04\0\x30\0"))
DONE = ber(0x30, b"\x02\x01\x02", ber(0x65, b"\x0a\x01\0\x04\0\x04\0"))
BIND, SEARCH = Hear(bytes=14), Hear(bytes=60)


def entry(attributes: bytes) -> bytes:
    return ber(0x30, b"\x02\x01\x02", ber(0x64, b"\x04\0", ber(0x30, attributes)))


PING, INFO = (Hear(bytes=14), b"+PONG\r\n", Hear(bytes=26)), Hear(bytes=32)
REPLICA = b"role:master\r\nslave0:" + b"a=," * (MEBIBYTE // 3 - 10)
LOST = b"\0\0\0\x0c\x0a\x02" + bytes(10)

PEERS: dict[str, tuple[str, dict[str, Any], tuple[Turn, ...]]] = {
    "redis: lines of INFO": ("redis", {}, (*PING, bulk(b":\r\n" * 300_000), INFO, bulk(b":\r\n" * 300_000))),
    "redis: fields of a replica": ("redis", {}, (*PING, bulk(b""), INFO, bulk(REPLICA))),
    "redis: invalid UTF-8": ("redis", {}, (*PING, bulk(b"\xff" * MEBIBYTE))),
    "memcached: statistics": ("memcached", {}, (Hear(), b"VERSION 1\r\n", Hear(), b"STAT uptime 1\r\n" * 100_000)),
    "postgres: fields of an error": ("postgres", {}, (Hear(bytes=8), postgres(b"E", b"x\0" * (MEBIBYTE // 2 - 4)))),
    "postgres: notices": ("postgres", {}, (Hear(bytes=8), Repeat(postgres(b"N") * 10_000, 10))),
    "postgres: parameters": (
        "postgres", LOGIN, (STARTUP, Repeat(postgres(b"S", b"server_version\0" + bytes(9)), 20_000))
    ),
    "postgres: challenge": ("postgres", LOGIN, (STARTUP, SASL, Hear(bytes=55), CHALLENGE)),
    "postgres: rows": ("postgres", LOGIN, (STARTUP, WELCOME, SELECT_1, Repeat(postgres(b"D", bytes(2)) * 10_000, 30))),
    "postgres: columns": (
        "postgres", LOGIN | {"role": "primary"},
        (STARTUP, WELCOME, SELECT_1, READY, RECOVERY, postgres(b"D", b"\xff\xff" + b"\xff" * 4 * 65535) + READY),
    ),
    "mysql: values of a row": (
        "mysql", LOGIN, (*STATE, mysql(1, b"\1") + mysql(2, COLUMN) + mysql(3, END) + mysql(4, b"\xfb" * MEBIBYTE))
    ),
    "mysql: rows": (
        "mysql", LOGIN,
        (*STATE, mysql(1, b"\1") + mysql(2, COLUMN) + mysql(3, END), Repeat(mysql(4, b"\xfb") * 10_000, 30)),
    ),
    "mysql: columns": ("mysql", LOGIN, (*IN, mysql(1, b"\xfc\0\x10"), Repeat(mysql(2, COLUMN), 4096))),
    "mysql: version": ("mysql", {}, (mysql(0, b"\x0a" + b"\xff" * (MEBIBYTE - 1)),)),
    "ldap: elements of a message": ("ldap", {}, (BIND, ber(0x30, b"\4\0" * 130_000))),
    "ldap: attributes": ("ldap", {}, (BIND, BOUND, SEARCH, entry(b"\x30\4\4\0\x31\0" * 43_000))),
    "ldap: values": ("ldap", {}, (BIND, BOUND, SEARCH, entry(ber(0x30, b"\4\0", ber(0x31, b"\4\0" * 120_000))) + DONE)),
    "ldap: entries": ("ldap", {"max_entries": 10_000}, (BIND, BOUND, SEARCH, ENTRY * 20_000)),
    "mqtt: messages": (
        "mqtt", {"topic": "a", "qos": 1},
        (Hear(bytes=2), b"\x20\2\0\0", Hear(bytes=20), b"\x90\3\0\1\1" + b"\x32\5\0\1a\0\1" * 2000),
    ),
    "ssh: lines": ("ssh", {}, (b"x\n" * 100_000,)),
    "ssh: packets": ("ssh", {}, (b"SSH-2.0-x\r\n", LOST * 10_000)),
    "ssh: names": (
        "ssh", {},
        (b"SSH-2.0-x\r\n", struct.pack("!IBB", 34_998, 4, 20) + bytes(16) + struct.pack("!I", 34_900) + b"a," * 17_490),
    ),
}  # fmt: skip
"""Module, settings, and what a peer sends that costs as much as it can."""


@pytest.mark.parametrize(("name", "settings", "turns"), PEERS.values(), ids=PEERS)
async def test_hostile_peer_gets_short_turns(
    pki: Pki, name: str, settings: dict[str, Any], turns: tuple[Turn, ...]
) -> None:
    with short_turns():
        result, _ = await probe_scripted(shipped(name, **settings), talk(*turns), pki)
    assert result.failure is None or result.failure.reason is not Reason.INTERNAL_ERROR
    assert result.failure is None or result.failure.reason is not Reason.TIMEOUT_PROBE


BYTE_BY_BYTE: dict[str, bytes] = {
    "redis": b"$1048576\r\n", "memcached": b"VERSION x", "postgres": postgres(b"N", bytes(90)), "mysql": GREETING[:-1],
    "ldap": BOUND[:-1], "mqtt": b"\x20\2\0", "ssh": b"x\n",
}  # fmt: skip


@pytest.mark.parametrize("name", BYTE_BY_BYTE)
async def test_slow_peer_is_ended_by_the_deadline(pki: Pki, name: str) -> None:
    """A peer that sends byte after byte, and never all of its reply, does not outlast the probe."""
    script = Script(tuple(bytes([byte]) for byte in BYTE_BY_BYTE[name]), talk().end.HOLD)
    result = await expect_failure(shipped(name), script, pki)
    assert why(result) is not None
    assert result.failure is not None
    assert result.failure.reason is Reason.TIMEOUT_PROBE
