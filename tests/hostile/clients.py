"""Clients of the exporter's own web server that send what costs most: headers, queries, connections, requests.

They run in threads beside the server. So only the CPU time of the server's thread is judged, and its memory loosely.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import quote

MAX_CLIENTS = 5_000
SECONDS = 30.0
"""For which a client waits for anything."""

Attack = Callable[[int], None]
"""What clients do, given the port."""


@contextlib.contextmanager
def _connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connected:
        yield connected


def _said(port: int, data: bytes) -> bytes:
    """Send data, and read until the server closes or is silent for a moment."""
    heard = b""
    with _connected(port) as connected, contextlib.suppress(OSError):
        connected.sendall(data)
        connected.shutdown(socket.SHUT_WR)
        while more := connected.recv(65536):
            heard += more
    return heard


def _request(path: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a", "Connection: close", *headers]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def request(path: str, *headers: str, method: str = "GET", times: int = 1) -> Attack:
    """Return an attack of one request, sent several times."""

    def attack(port: int) -> None:
        for _ in range(times):
            _said(port, _request(path, *headers, method=method))

    return attack


def _probe(target: str, module: str = "tcp_connect", **more: str) -> str:
    rest = "".join(f"&{key}={value}" for key, value in more.items())
    return f"/probe?module={module}&target={target}{rest}"


def _timeout(value: str) -> Attack:
    return request(_probe("127.0.0.1:1"), f"X-Prometheus-Scrape-Timeout-Seconds: {value}")


def number_of_clients() -> int:
    """Return how many connections this process can have to itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(MAX_CLIENTS, hard // 2 - 500)


def _hold(begin: bytes, number: int = 0) -> Attack:
    """Return an attack of many connections that begin a request, and stay until the end."""

    def attack(port: int) -> None:
        with contextlib.ExitStack() as held:
            for _ in range(number or number_of_clients()):
                connected = held.enter_context(_connected(port))
                if begin:
                    connected.sendall(begin)
            assert b"200" in _said(port, _request("/-/healthy"))

    return attack


def _spoken(data: bytes) -> Attack:
    def attack(port: int) -> None:
        for _ in range(10):
            with contextlib.suppress(OSError):
                _said(port, data)

    return attack


def _byte_by_byte(port: int) -> None:
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(_connected(port)) for _ in range(200)]
        for place in range(40):
            for client in clients:
                client.sendall(_request("/-/healthy")[place : place + 1])


def _different_queries(port: int) -> None:
    names = "&".join(f"n{number}=1" for number in range(8_000))
    for number in range(100):
        _said(port, _request(f"/probe?module=x{number}&target=a&{names}"))


def _pipelined(port: int) -> None:
    with _connected(port) as connected, contextlib.suppress(OSError):
        connected.settimeout(0.5)
        connected.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n" * 5_000)


def _upload(head: bytes, piece: bytes, times: int) -> Attack:
    def attack(port: int) -> None:
        with _connected(port) as connected, contextlib.suppress(OSError):
            connected.settimeout(2.0)
            connected.sendall(b"POST /-/healthy HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n")
            for _ in range(times):
                connected.sendall(piece)

    return attack


def _large_heads(port: int) -> None:
    begin = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: %b\r\n" % (b"a" * _LONG) * 100
    with contextlib.ExitStack() as held:
        for _ in range(40):
            connected = held.enter_context(_connected(port))
            with contextlib.suppress(OSError):
                connected.sendall(begin)
        assert b"200" in _said(port, _request("/-/healthy"))


def _compressed_body(port: int) -> None:
    packer = zlib.compressobj(wbits=31)
    zeros = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    _upload(b"Content-Encoding: gzip\r\nContent-Length: %d\r\n" % (32 * len(zeros)), zeros, 32)(port)


_LONG = 60_000

ATTACKS: dict[str, Attack] = {
    "a timeout of 32,000 digits": _timeout("1" * 32_000 + "x"),
    "a timeout of 32,000 hexadecimal digits": _timeout("0x" + "f" * 32_000 + "x"),
    "a timeout of 32,000 underscores": _timeout("1" + "_1" * 16_000),
    "a timeout with an exponent of 32,000 digits": _timeout("1e" + "1" * 32_000),
    "a query of 30,000 parameters": request("/probe?" + "a&" * 30_000),
    "a query of escapes": request("/probe?target=" + "%41" * 20_000),
    "a query of bad escapes": request("/probe?target=" + "%zz" * 20_000),
    "100 different queries of 8,000 names": _different_queries,
    "30,000 modules": request("/probe?target=a&module=" + "," * 30_000),
    "the same module 5,000 times": request("/probe?target=127.0.0.1:1&module=" + "tcp_connect," * 4_500),
    "a target of 60,000 letters": request(_probe("a" * _LONG)),
    "a target of 30,000 labels": request(_probe("a." * (_LONG // 2) + "test:1")),
    "a target of 60,000 digits": request(_probe("1" * _LONG)),
    "a target of 60,000 colons": request(_probe("[" + ":" * _LONG + "]:1")),
    "a target of 60,000 dots": request(_probe("." * _LONG + ":1")),
    "a URL of 60,000 bytes to escape": request(_probe("http://127.0.0.1:1/" + "<" * _LONG, "http_2xx")),
    "a URL of 20,000 segments": request(_probe("http://127.0.0.1:1/" + "a/../" * 12_000, "http_2xx")),
    "a URL with a user of 60,000 bytes": request(_probe("http://" + "a" * _LONG + "@127.0.0.1:1/", "http_2xx")),
    "a host name of 60,000 bytes": request(_probe("127.0.0.1:1", "http_2xx", hostname="a." * 30_000)),
    "a target of 20,000 Unicode letters": request(_probe(quote("é") * 10_000 + ":1")),
    "an unknown module of 60,000 bytes": request(_probe("a", "x" * _LONG)),
    "an Accept of 60,000 commas": request("/metrics", "Accept: " + "," * _LONG),
    "an Accept of 10,000 types": request("/metrics", "Accept: " + "text/plain;q=0.5," * 3_500),
    "an Accept-Encoding of 10,000 codings": request("/metrics", "Accept-Encoding: " + "gzip;q=0," * 6_500),
    "a path of 60,000 bytes": request("/" + "a" * _LONG),
    "a method of 60,000 bytes": request("/", method="A" * _LONG),
    "64 KB of headers": request("/-/healthy", *["a: b"] * 10_000),
    "a history of 60,000 bytes": request("/history?module=" + "a" * _LONG + "&limit=" + "9" * 1000),
    "logs with an id of 5,000 digits": request("/logs?id=" + "9" * 5_000),
    "garbage": _spoken(bytes(range(256)) * 4_000),
    "a TLS hello": _spoken(b"\x16\x03\x01\2\0" + bytes(512)),
    "5,000 requests at once on a connection": _pipelined,
    "an upload of 100 MB": _upload(b"Content-Length: 104857600\r\n", bytes(1 << 20), 100),
    "chunks of a byte": _upload(b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n" * 10_000, 50),
    "an upload of 100 MB that is announced": _upload(
        b"Expect: 100-continue\r\nContent-Length: 104857600\r\n", bytes(1 << 20), 100
    ),
    "a body of 2 GiB compressed": _compressed_body,
    "40 half heads of 6 MB": _large_heads,
    "5,000 idle connections": _hold(b""),
    "5,000 half requests": _hold(b"GET / HTTP/1.1\r\nHost: a\r\n"),
    "200 clients byte by byte": _byte_by_byte,
}  # fmt: skip
