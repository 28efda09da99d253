"""HTTP/1 bodies: chunks, content codings, and documents that are searched."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import brotli  # type: ignore[import-untyped]  # it has neither stubs nor annotations

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
    Part,
    against,
    ends,
)
from tests.hostile.peers import tcp

_HEAD = b"HTTP/1.1 200 OK\r\n"
_BROKEN = ends("http_protocol_error", "http_body_too_large", "http_content_encoding", "http_body_truncated")
_PAGE_MEMORY = 200 * MEBIBYTE
"""A body that is searched is kept, 64 MiB of it, and joined once."""


def body(*parts: Part, headers: bytes = b"") -> Make:
    """Return what makes a response whose body ends with the connection."""
    typed = headers if b"Content-Type" in headers else headers + b"Content-Type: text/plain\r\n"
    return lambda: [Hear(b"\r\n\r\n"), _HEAD, typed, b"\r\n", *parts]


CLIENTS: Clients = {
    "http": {"target": "http://127.0.0.1:{port}/", "ends": _BROKEN | {SUCCESS}},
    "exporter": {
        "target": "http://127.0.0.1:{port}/metrics",
        "ends": _BROKEN | {"exporter_malformed"},
    },
    "http with a token": {
        "target": "http://127.0.0.1:{port}/",
        "settings": {"oauth2": {"client_id": "a", "client_secret": "b", "token_url": "http://127.0.0.1:{port}/token"}},
        "ends": ends("oauth2_token", "oauth2_connect"),
    },
}

_CHUNKED = b"Transfer-Encoding: chunked\r\n"


def _chunks(*parts: Part) -> dict[str, Any]:
    return {"start": tcp(body(*parts, headers=_CHUNKED))}


def _ends_late(prober_ends: frozenset[str] = _BROKEN) -> dict[str, Any]:
    return {"timeout": SHORT_SECONDS, "ends": prober_ends | TIMED_OUT | {SUCCESS, "oauth2_token", "exporter_malformed"}}


FRAMED: dict[str, dict[str, Any]] = {
    "one-byte chunks": _chunks(Flood(b"1\r\nx\r\n", 400_000), b"0\r\n\r\n"),
    "one-byte chunks without end": {**_chunks(Flood(b"1\r\nx\r\n")), **_ends_late()},
    "chunks with long extensions": _chunks(Flood(b"1;" + b"e" * 4000 + b"\r\nx\r\n", 5_000), b"0\r\n\r\n"),
    "an endless chunk size": _chunks(Flood(b"0", 10_000_000)),
    "an endless trailer": _chunks(b"1\r\nx\r\n0\r\n", Flood(b"a: b\r\n", 2_000_000)),
    "chunks byte by byte": {
        "start": tcp(body(Flood(b"1\r\nx\r\n", 30_000), b"0\r\n\r\n", headers=_CHUNKED), piece=1), **_ends_late()
    },
    "an endless body": {
        "start": tcp(body(Flood(b"x" * 65536))), **_ends_late(), "memory": 80 * MEBIBYTE  # 64 are the limit of a body
    },
}  # fmt: skip

_EMPTY_MEMBER = gzip.compress(b"")
_BYTE_MEMBER = gzip.compress(b"x")


def _packed(parts: Make, coding: bytes, name: str) -> dict[str, Any]:
    return {
        "start": tcp(lambda: [*body(headers=b"Content-Encoding: " + coding + b"\r\n")(), *parts()]),
        "settings": {"compression": name, "headers": {"Accept-Encoding": name}},
    }


def _brotli_bomb() -> Sequence[Part]:
    packer = brotli.Compressor(quality=1)
    packed = b"".join([packer.process(bytes(MEBIBYTE)) for _ in range(80)])
    return [packed + packer.finish()]


PACKED: dict[str, dict[str, Any]] = {
    "empty gzip members": _packed(lambda: [Flood(_EMPTY_MEMBER, 50_000)], b"gzip", "gzip"),
    "endless empty gzip members": {
        **_packed(lambda: [Flood(_EMPTY_MEMBER)], b"gzip", "gzip"), **_ends_late(_BROKEN)
    },
    "gzip members of a byte": _packed(lambda: [Flood(_BYTE_MEMBER, 50_000)], b"gzip", "gzip"),
    "a gzip member with a name of 9 MB": _packed(
        lambda: [b"\x1f\x8b\x08\x08\0\0\0\0\0\xff", Flood(b"x", 9_000_000), b"\0"], b"gzip", "gzip"
    ),
    "a gzip bomb": _packed(lambda: [gzip.compress(bytes(80 * MEBIBYTE), 1)], b"gzip", "gzip"),
    "a deflate bomb": _packed(lambda: [zlib.compress(bytes(80 * MEBIBYTE), 1)[2:-4]], b"deflate", "deflate"),
    "a Brotli bomb": _packed(_brotli_bomb, b"br", "br"),
    "rubbish after raw deflate": _packed(
        lambda: [zlib.compress(b"x")[2:-4], Flood(b"y" * 1000, 10_000)], b"deflate", "deflate"
    ),
    "empty stored deflate blocks": {
        **_packed(lambda: [Flood(b"\0\0\0\xff\xff" * 1000)], b"deflate", "deflate"), **_ends_late()
    },
}  # fmt: skip

_CEL = {"fail_if_body_json_not_matches_cel": "body.a == 1"}
_VALUES = {"metrics": [{"name": "a", "help": "A.", "from": {"json": "$..a"}}]}
_LOOKED_AT: Clients = {
    "http with CEL": {
        "target": "http://127.0.0.1:{port}/",
        "settings": _CEL,
        "ends": _BROKEN | {"http_body_mismatch", SUCCESS},
    },
    "http with JSONPath": {
        "target": "http://127.0.0.1:{port}/",
        "settings": _VALUES,
        "ends": _BROKEN | {SUCCESS, "value_missing"},
    },
    "http with a token": CLIENTS["http with a token"],
}

_SIZE = 4_000_000


def _json(*parts: Part) -> dict[str, Any]:
    return {"start": tcp(body(*parts, headers=b"Content-Type: application/json\r\n")), "memory": 6 * _PAGE_MEMORY}


DOCUMENTS: dict[str, dict[str, Any]] = {
    "4 MB of empty lists": _json(b"[", Flood(b"[],", _SIZE // 3), b"[]]"),
    "250,000 objects": _json(b"[", Flood(b'{"a":"b","c":1},', 250_000), b"{}]"),
    "4 MB of open brackets": _json(Flood(b"[", _SIZE)),
    "4 MB of nested lists": _json(Flood(b"[", _SIZE // 2), Flood(b"]", _SIZE // 2)),
    "4 MB of nested objects": _json(Flood(b'{"a":', _SIZE // 6), b"1", Flood(b"}", _SIZE // 6)),
    "400 lists in each other, 5,000 times": _json(b"[", Flood(b"[" * 400 + b"]" * 400 + b",", 4_500), b"1]"),
    "a number of 4 MB": _json(b'{"a":', Flood(b"1", _SIZE), b"}"),
    "a fraction of 4 MB": _json(b'{"a":0.', Flood(b"1", _SIZE), b"}"),
    "a string of 4 MB of escapes": _json(b'{"a":"', Flood(b"\\u0041", _SIZE // 6), b'"}'),
    "350,000 keys": _json(b"{", b",".join(b'"%d":1' % number for number in range(350_000)), b"}"),
    "the same key 600,000 times": _json(b"{", Flood(b'"a":1,', 600_000), b'"a":1}'),
    "4 MB of blanks": _json(Flood(b" ", _SIZE), b"1"),
    "small numbers": _json(b"[", Flood(b"1,", _SIZE // 2), b"1]"),
    "floats": _json(b"[", Flood(b"1.5e300,", _SIZE // 8), b"1]"),
}

_SEARCHED: Clients = {
    "http with a regexp": {
        "target": "http://127.0.0.1:{port}/",
        "settings": {"fail_if_body_matches_regexp": ["(x+x+)+y"]},
        "ends": _BROKEN | {SUCCESS, "http_body_mismatch"},
        "memory": _PAGE_MEMORY,
    },
    "http with values": {
        "target": "http://127.0.0.1:{port}/",
        "settings": {"metrics": [{"name": "a", "help": "A.", "from": {"regexp": "x(x)"}}]},
        "ends": _BROKEN | {SUCCESS, "http_body_mismatch", "value_missing"},
        "memory": _PAGE_MEMORY,
    },
}
SEARCHED: dict[str, dict[str, Any]] = {
    "64 MiB of the same letter": {"start": tcp(body(Flood(b"x" * 65536, 1024)))},
    "64 MiB of invalid UTF-8": {
        "start": tcp(body(Flood(b"\xff" * 65536, 1024))),
        "memory": 384 * MEBIBYTE,  # U+FFFD has three bytes
    },
    "4 MiB in small chunks": _chunks(Flood(b"10\r\nxxxxxxxxxxxxxxxx\r\n", MEBIBYTE // 4), b"0\r\n\r\n"),
}


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from against(CLIENTS, FRAMED)
    at_once = {"one-byte chunks without end, 10 probes": {**FRAMED["one-byte chunks without end"], "probes": 10}}
    yield from against({"http": CLIENTS["http"]}, at_once)
    yield from against({"http": CLIENTS["http"]}, PACKED)
    yield from against(_LOOKED_AT, DOCUMENTS)
    yield from against(_SEARCHED, SEARCHED)
