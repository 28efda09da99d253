"""Peers that are slow or say nothing, against every prober: many probes at once, all of which must end in time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.hostile.cases import MEBIBYTE, SHORT_SECONDS, TIMED_OUT, Case, Clients, Drip, Hold, against, ends, playing
from tests.hostile.peers import tcp, udp

_SECURE: dict[str, Any] = {"tls_config": {"insecure_skip_verify": True}}
_MANY = 100


def _client(target: str = "127.0.0.1:{port}", **settings: Any) -> dict[str, Any]:
    return {
        "target": target,
        "settings": settings,
        "timeout": 2 * SHORT_SECONDS,
        "ends": TIMED_OUT | ends("dns_query_timeout", "ntp_no_answer", "udp_no_answer"),
        "probes": _MANY,
    }


STREAMS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "http": (b"HTTP/1.1 200 OK\r\n", _client("http://127.0.0.1:{port}/")),
    "http over TLS": (b"\x16\x03\x03\x10\0\2", _client("https://127.0.0.1:{port}/", **_SECURE)),
    "exporter": (b"HTTP/1.1 200 OK\r\n", _client("http://127.0.0.1:{port}/")),
    "websocket": (b"HTTP/1.1 101 Switching\r\n", _client("ws://127.0.0.1:{port}/")),
    "grpc": (b"\0\0\x06\4\0\0\0\0\0", _client()),
    "tcp": (b"y", _client(query_response=[{"expect": "z"}])),
    "tcp over TLS": (b"\x16\x03\x03\x10\0\2", _client(tls=True, **_SECURE)),
    "dns": (b"\x10\0", _client(query_name="example.test", transport_protocol="tcp")),
    "ldap": (b"\x30\x84\0\1\0\0", _client()),
    "memcached": (b"VERSION ", _client()),
    "mqtt": (b"\x20\x80\1", _client()),
    "mysql": (b"\x50\0\0\0\x0a8.0", _client()),
    "postgres": (b"N\0\0\1\0S", _client()),
    "redis": (b"+PONG", _client()),
    "ssh": (b"SSH-2.0-x", _client()),
}
"""What each prober expects first: the peer sends a byte of it a second, and starts again."""


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    for client, (begin, details) in STREAMS.items():
        drip = {f"a byte a second, {_MANY} probes": {"start": tcp(playing(Drip(begin, 1.0)))}}
        yield from against({client: details}, drip)
    datagrams: Clients = {
        "dns over UDP": _client(query_name="example.test"),
        "ntp": _client(),
        "udp": _client(query_response=[{"send": "a"}, {"expect": "b"}]),
    }
    yield from against(datagrams, {f"silence, {_MANY} probes": {"start": udp(list)}})
    hanging: Clients = {name: STREAMS[name][1] for name in ("http", "tcp", "redis", "grpc")}
    many = {
        "silence, 4,000 probes": {
            "start": tcp(lambda: [Hold()]), "probes": 4_000, "timeout": 4.0, "memory": 400 * MEBIBYTE,
        }
    }  # fmt: skip
    yield from against(hanging, many)
