"""HTTP/2 servers: floods of frames, over TLS against the http prober and in clear against the grpc prober."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.hostile.cases import (
    MEBIBYTE,
    SHORT_SECONDS,
    SUCCESS,
    TIMED_OUT,
    Case,
    Clients,
    Flood,
    Handshake,
    Hear,
    Make,
    Part,
    against,
    ends,
)
from tests.hostile.peers import tcp
from tests.targets import http2
from tests.targets.answers import Header

_SECURE = {"tls_config": {"insecure_skip_verify": True}}
_HTTP = ends(
    "http_protocol_error",
    "http_headers_too_large",
    "http_body_truncated",
    "http_body_too_large",
    "connect_closed",
    "connect_reset",
)
_GRPC = ends(
    "grpc_protocol_error", "grpc_not_grpc", "grpc_truncated", "grpc_going_away", "grpc_stream_reset", "grpc_status",
    "grpc_not_http2", "grpc_not_serving", "grpc_service_unknown", "connect_reset", SUCCESS,
)  # fmt: skip

_OPENING = http2.OPENING + http2.SETTINGS_ACK


def _made(make: Make) -> dict[str, Any]:
    return {"make": make}


def frames(*parts: Part) -> Make:
    """Return what makes a server that opens, waits for a request, and sends frames."""
    return lambda: [_OPENING, Hear(b"\0\0\0\x04\x01"), *parts]


_HEAD = http2.head(200, ("content-type", "application/grpc"))
_FIELD = ("a" * 20, "b" * 20)
_ENDLESS: dict[str, Any] = {"timeout": SHORT_SECONDS}


def later(make: Callable[[], bytes]) -> Make:
    """Return the same with frames of many megabytes, which are made when the server starts."""

    def parts() -> Sequence[Part]:
        return frames(make())()

    return parts


def _block(fragment: bytes) -> bytes:
    return http2.raw_headers(fragment, end=True)


def _table_bomb() -> bytes:
    """Return a header block that adds an entry of 4 KB to the table, and refers to it."""
    name, value = b"a", b"b" * 4000
    insert = b"\x40" + http2.integer(len(name), 7) + name + http2.integer(len(value), 7) + value
    return b"\x88" + insert + b"\xbe" * 300_000


PEERS: dict[str, Make] = {
    "300 KB of indexed fields": frames(_block(b"\x88" + b"\x90" * 300_000)),
    "300,000 references to an entry of 4 KB": frames(_block(_table_bomb())),
    "indexed fields that fit": frames(_block(b"\x88" + b"\x90" * 8_000)),
    "9 MB of small fields": later(lambda: _block(b"\x88" + http2.block(*[("a", "")] * 1_800_000))),
    "a field of 9 MB": later(lambda: _block(b"\x88" + http2.block(("a", "x" * 9_000_000)))),
    "Huffman coding of 9 MB": later(
        lambda: _block(b"\x88\0\x01a" + http2.integer(9_000_000, 7, 0x80) + b"\x18" * 9_000_000)
    ),
    "table size changes": frames(_block(b"\x20\x3f\xe1\x1f" * 70_000 + b"\x88")),
    "entries that push each other out": frames(_block(b"\x88" + b"\x40\x01a\x01b" * 100_000)),
    "endless CONTINUATION": frames(
        http2.frame(http2.HEADERS, b"\x88", 0, 1), Flood(http2.frame(http2.CONTINUATION, b"", 0, 1))
    ),
    "CONTINUATION of a byte": frames(
        http2.frame(http2.HEADERS, b"\x88", 0, 1), Flood(http2.frame(http2.CONTINUATION, b"\x90", 0, 1))
    ),
    "endless 103": frames(Flood(http2.head(103))),
    "rapid reset": frames(Flood(http2.reset(stream=1) + http2.reset(stream=3))),
    "resets of other streams": frames(Flood(http2.reset(stream=3))),
    "a flood of PING": frames(Flood(http2.ping())),
    "a flood of PING answers": frames(Flood(http2.ping(flags=http2.ACK))),
    "a flood of SETTINGS": frames(Flood(http2.settings((http2.INITIAL_WINDOW_SIZE, 65535)))),
    "SETTINGS with 2,700 entries": frames(Flood(http2.settings(*[(http2.INITIAL_WINDOW_SIZE, 65535)] * 2_700))),
    "a flood of SETTINGS answers": frames(Flood(http2.SETTINGS_ACK)),
    "a flood of WINDOW_UPDATE": frames(Flood(http2.window_update(1))),
    "a flood of WINDOW_UPDATE of the stream": frames(Flood(http2.window_update(1, 1))),
    "a flood of PRIORITY": frames(Flood(http2.frame(http2.PRIORITY, bytes(5), 0, 3))),
    "a flood of unknown frames": frames(Flood(http2.frame(0xFE, b"x" * 100))),
    "a flood of empty unknown frames": frames(Flood(http2.frame(0xFE))),
    "a flood of GOAWAY": frames(Flood(http2.goaway(1, 0, b"x" * 1000))),
    "a flood of PUSH_PROMISE": frames(Flood(http2.frame(http2.PUSH_PROMISE, b"\0\0\0\x02\x82", 4, 1))),
    "empty DATA": frames(_HEAD, Flood(http2.data(end=False))),
    "DATA of a byte": frames(_HEAD, Flood(http2.data(b"x", end=False))),
    "DATA of padding": frames(_HEAD, Flood(http2.padded(b"", 255, end=False))),
    "DATA of other streams": frames(_HEAD, Flood(http2.data(b"x" * 1000, end=False, stream=3))),
    "DATA without end": frames(_HEAD, Flood(http2.data(b"x" * 16384, end=False))),
    "frames of 16 MB": frames(Flood(http2.frame(http2.DATA, b"x" * 16384, 0, 1, length=(1 << 24) - 1))),
    "garbage": frames(Flood(secrets.token_bytes(65536))),
    "zeros": frames(Flood(bytes(65536))),
    "no settings": lambda: [Hear(b"\0\0\0\x04\x01"), Flood(http2.ping())],
    "frames byte by byte": frames(Flood(http2.ping(), 20_000)),
}  # fmt: skip


def _failed(*fields: Header) -> bytes:
    return http2.head(200, ("content-type", "application/grpc"), *fields, end=True)


def _answered(message: bytes) -> bytes:
    """Return a head and a whole message of gRPC."""
    return _HEAD + http2.data(b"\0" + len(message).to_bytes(4, "big") + message, end=False)


_OK = http2.headers(("grpc-status", "0"), end=True)
_LARGE = http2.data(b"x" * 16384, end=False)

GRPC: dict[str, Make] = {
    "trailers of 9 MB": later(
        lambda: _answered(b"\x08\1") + http2.headers(("grpc-status", "0"), ("a", "x" * 9_000_000), end=True)
    ),
    "a grpc-message of 9 MB": later(lambda: _failed(("grpc-status", "2"), ("grpc-message", "%41" * 3_000_000))),
    "a grpc-message of 900 KB": frames(_failed(("grpc-status", "2"), ("grpc-message", "%41" * 300_000))),
    "a grpc-status of 900 KB": frames(_failed(("grpc-status", "2" * 900_000))),
    "a content-type of 900 KB": frames(http2.head(200, ("content-type", "application/grpc;" + "a=b;" * 220_000))),
    "a message of 2 GB": frames(_HEAD, http2.data(b"\0\x7f\xff\xff\xff", end=False), Flood(_LARGE)),
    "a million empty messages": frames(_HEAD, Flood(http2.data(bytes(5) * 3000, end=False), 350)),
    "a million unknown fields": later(lambda: _answered(b"\x78\x01" * 2_000_000) + _OK),
    "a status of long varints": later(lambda: _answered(b"\xff" * 4_000_000) + _OK),
}

CLIENTS: Clients = {
    "http": {
        "target": "https://127.0.0.1:{port}/",
        "settings": _SECURE,
        "ends": _HTTP | TIMED_OUT | {SUCCESS},
        "timeout": 2 * SHORT_SECONDS,
        "memory": 64 * MEBIBYTE,
    },
    "grpc": {
        "settings": {},
        "ends": _GRPC | TIMED_OUT,
        "timeout": 2 * SHORT_SECONDS,
    },
}


def _over_tls(make: Make) -> Make:
    return lambda: [Handshake(alpn=("h2",)), *make()]


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    for peer, make in PEERS.items():
        piece = 1 if "byte by byte" in peer else 0
        yield from against({"http": CLIENTS["http"]}, {peer: {"start": tcp(_over_tls(make), piece=piece)}})
        yield from against({"grpc": CLIENTS["grpc"]}, {peer: {"start": tcp(make, piece=piece)}})
    yield from against({"grpc": CLIENTS["grpc"]}, {peer: {"start": tcp(make)} for peer, make in GRPC.items()})
