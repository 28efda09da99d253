"""HTTP/1 servers whose heads are the attack, against everything that reads a head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.hostile.cases import SHORT_SECONDS, SUCCESS, TIMED_OUT, Case, Clients, Flood, Hear, Part, against, ends
from tests.hostile.peers import tcp

_REQUEST_END = b"\r\n\r\n"
_OK = b"HTTP/1.1 200 OK\r\n"
MEGABYTES = 9_000_000

_REFUSED = ends("http_protocol_error", "http_headers_too_large")
_COMMON = {"ends": _REFUSED | {SUCCESS}}

CLIENTS: Clients = {
    "http": {"target": "http://127.0.0.1:{port}/", **_COMMON},
    "http through a proxy": {
        "target": "https://target.test/",
        "settings": {"proxy_url": "http://127.0.0.1:{port}", "skip_resolve_phase_with_proxy": True},
        "ends": ends("proxy_protocol_error", "proxy_refused", "proxy_connect", "tls_handshake"),
    },
    "http with a token": {
        "target": "http://127.0.0.1:{port}/",
        "settings": {"oauth2": {"client_id": "a", "client_secret": "b", "token_url": "http://127.0.0.1:{port}/token"}},
        "ends": ends("oauth2_token", "oauth2_connect"),
    },
    "exporter": {
        "target": "http://127.0.0.1:{port}/metrics",
        "ends": _REFUSED | {SUCCESS, "exporter_content_type", "exporter_malformed"},
    },
    "websocket": {
        "target": "ws://127.0.0.1:{port}/",
        "ends": _REFUSED | {"websocket_upgrade_refused", "websocket_handshake_invalid"},
    },
}
"""What reads the head of a response: of a page, a proxy, a token endpoint, an upgrade."""


def head(*parts: Part, first: bytes = _OK) -> Callable[[], Sequence[Part]]:
    """Return what makes a response of a status line, parts of a head, and an empty body."""
    return lambda: [Hear(_REQUEST_END), first, *parts, b"Content-Length: 0\r\n\r\n"]


def _fill(line: bytes) -> int:
    """Return how often a line fits into a head of 9 MB."""
    return MEGABYTES // len(line)


def _lines(line: bytes) -> dict[str, Any]:
    return {"start": tcp(head(Flood(line, _fill(line))))}


def _cookies(attributes: bytes, times: int = 0, status: bytes = _OK) -> dict[str, Any]:
    def make() -> Sequence[Part]:
        number = times or MEGABYTES // (len(attributes) + 24)
        lines = b"".join(b"Set-Cookie: c%d=1%b\r\n" % (number, attributes) for number in range(number))
        return [Hear(_REQUEST_END), status, lines, b"Content-Length: 0\r\n\r\n"]

    return {"start": tcp(make)}


def _value(name: bytes, unit: bytes, *, first: bytes = _OK, end: bytes = b"") -> dict[str, Any]:
    """Return a peer that sends one header of 9 MB."""
    return {"start": tcp(head(name + b": ", Flood(unit, _fill(unit)), end, b"\r\n", first=first))}


_REDIRECT = _REFUSED | {"http_redirect", "http_status"}
_FOUND = b"HTTP/1.1 302 Found\r\n"
_ENDLESS: dict[str, Any] = {
    "timeout": SHORT_SECONDS,
    "ends": _REFUSED | TIMED_OUT | {"proxy_protocol_error", "oauth2_token"},
}

PEERS: dict[str, dict[str, Any]] = {
    "9 MB of `a:` lines": _lines(b"a:\r\n"),
    "9 MB of different names": {
        "start": tcp(lambda: [Hear(_REQUEST_END), _OK, b"".join(b"a%d:\r\n" % n for n in range(900_000)), b"\r\n"])
    },
    "400,000 Set-Cookie": _cookies(b"", 400_000),
    "300,000 Transfer-Encoding": _lines(b"Transfer-Encoding: chunked\r\n"),
    "450,000 Content-Length": _lines(b"Content-Length: 0\r\n"),
    "9 MB of Connection options": _value(b"Connection", b"a,"),
    "9 MB of digits as Content-Length": {"start": tcp(head(b"Content-Length: ", Flood(b"0", MEGABYTES), b"\r\n"))},
    "folded head of 6 MB": {"start": tcp(head(b"a: b\r\n", Flood(b" x\r\n", 1_500_000)))},
    "folded head of blanks": {"start": tcp(head(b"a: b\r\n", Flood(b" \r\n", 2_000_000), b" x\r\n"))},
    "blanks before a fold": {"start": tcp(head(b"a: b", Flood(b" " * 50 + b"\t", 170_000), b"\r\n c\r\n"))},
    "9 MB of blanks in a value": _value(b"a", b" ", end=b"x"),
    "a value of 9 MB": _value(b"a", b"x"),
    "a name of 9 MB": {"start": tcp(head(Flood(b"x", MEGABYTES), b": y\r\n"))},
    "a name of 9 MB without a colon": {"start": tcp(head(Flood(b"x", MEGABYTES), b"\r\n"))},
    "a reason of 9 MB": {"start": tcp(lambda: [Hear(_REQUEST_END), b"HTTP/1.1 200 ", b"x" * MEGABYTES, b"\r\n\r\n"])},
    "a head of 11 MB": {"start": tcp(head(Flood(b"a: b\r\n", 2_000_000)))},
    "a head byte by byte": {
        "start": tcp(head(Flood(b"a: b\r\n", 30_000)), piece=1),
        "timeout": 2 * SHORT_SECONDS,
        "ends": _ENDLESS["ends"]
        | {
            SUCCESS,
            "oauth2_token",
            "websocket_upgrade_refused",
            "exporter_content_type",
            "proxy_protocol_error",
            "exporter_malformed",
            "proxy_refused",
            "tls_handshake",
            "proxy_connect",
        },
    },
    "endless 100 Continue": {
        "start": tcp(lambda: [Hear(_REQUEST_END), Flood(b"HTTP/1.1 100 Continue\r\n\r\n")]),
        **_ENDLESS,
    },
    "endless 103 with a header": {
        "start": tcp(lambda: [Hear(_REQUEST_END), Flood(b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n")]),
        **_ENDLESS,
    },
    "endless head": {"start": tcp(lambda: [Hear(_REQUEST_END), _OK, Flood(b"a: b\r\n")]), **_ENDLESS},
    "endless garbage": {
        "start": tcp(lambda: [Flood(bytes(range(256)))]),
        **_ENDLESS,
        "ends": _ENDLESS["ends"] | {"oauth2_connect", "proxy_connect", "connect_reset"},
    },
    "9 MB of control characters": _value(b"a", b"\x01"),
    "9 MB of invalid UTF-8": _value(b"a", b"\xff\xfe"),
}

PAGES: dict[str, dict[str, Any]] = {
    "a Content-Type of 9 MB": _value(b"Content-Type", b"text/plain;a=b;"),
    "a Content-Encoding of 9 MB": _value(b"Content-Encoding", b"gzip,"),
    "an Expires of 9 MB": _value(b"Expires", b"1"),
    "a Last-Modified of 9 MB": _value(b"Last-Modified", b"Mon, "),
    "a Location of 9 MB of `a/../`": {**_value(b"Location", b"a/../", first=_FOUND), "ends": _REDIRECT},
    "a Location of 9 MB of `%41`": {**_value(b"Location", b"%41", first=_FOUND), "ends": _REDIRECT},
    "a Location of 9 MB of letters": {**_value(b"Location", b"x", first=_FOUND), "ends": _REDIRECT},
    "a Location with a host of 9 MB": {
        "start": tcp(head(b"Location: http://", Flood(b"a.", MEGABYTES // 2), b"\r\n", first=_FOUND)),
        "ends": _REDIRECT | {"dns_name_not_found", "dns_resolution"},
    },
    "400,000 Set-Cookie and redirects": {
        "start": tcp(
            lambda: [
                Hear(_REQUEST_END), _FOUND, b"Location: /a/\r\n",
                b"".join(b"Set-Cookie: c%d=1\r\n" % number for number in range(400_000)),
                b"Content-Length: 0\r\n\r\n",
            ]
        ),
        "ends": _REDIRECT,
    },
    "endless redirects": {"start": tcp(head(b"Location: /a\r\n", first=_FOUND)), "ends": _REDIRECT},
    "cookies with domains": _cookies(b"; Domain=a.b.c.d.e.f.g.example.co.uk; Path=/"),
    "a cookie with a Max-Age of 9 MB": _value(b"Set-Cookie", b"1", end=b""),
    "a cookie with 4,000,000 attributes": _value(b"Set-Cookie: a=b", b"; "),
    "a cookie with an Expires of 9 MB": _value(b"Set-Cookie: a=b; Expires=", b"1-"),
    "a cookie with a Domain of 9 MB": _value(b"Set-Cookie: a=b; Domain=", b"a."),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from against(CLIENTS, PEERS)
    pages = {name: client for name, client in CLIENTS.items() if name in ("http", "exporter")}
    yield from against(pages, PAGES)
