"""The http cases over HTTP/2: requests, responses, and each way a server can violate the protocol.

Cases state no expectation: the comparison and the golden files do. All use TLS and a server that selects ``h2`` by
ALPN.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.peers.cases import AMPLE, SHORT, Case, Settings
from tests.peers.http_cases import ARRIVED as PLAINLY_ARRIVED
from tests.peers.http_cases import (
    BROTLI,
    DEFLATED,
    IP4,
    LOCALHOST_TLS,
    MODIFIED,
    OVER_TLS,
    TRUST,
    ZIPPED,
    at,
    matcher,
)
from tests.targets import Answer, End, Pause, Tls, http2, reply
from tests.targets.answers import WaitFor, raw
from tests.targets.http2 import (
    SETTINGS_ACK,
    data,
    frame,
    goaway,
    head,
    headers,
    integer,
    ping,
    raw_headers,
    redirect,
    reset,
    said,
    settings,
    window_update,
)

BOTH = Tls(alpn=("h2", "http/1.1"))
OK = http2.reply(200, b"ok")
ARRIVED = http2.reply(200, b"arrived")
SWITCHED = raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nrest")


def over(
    name: str,
    asked: Settings | None = None,
    answer: Answer | Mapping[str, Answer] = OK,
    *,
    target: str = OVER_TLS,
    tls: Tls = BOTH,
    timeout: str = AMPLE,
) -> Case:
    """Return a case over HTTP/2."""
    pages = answer if isinstance(answer, Mapping) else at(answer)
    return Case(f"http2 {name}", {**TRUST, **(asked or {})}, target, pages, tls, timeout=timeout)


def opened(name: str, opening: bytes, answer: Answer = OK, *, timeout: str = AMPLE) -> Case:
    """Return a case of a server whose connection preface is wrong."""
    return over(name, answer=answer, tls=Tls(alpn=("h2",), opening=opening), timeout=timeout)


def malformed(name: str, *parts: bytes, timeout: str = SHORT) -> Case:
    """Return a case of a server that sends some frames and then waits."""
    return over(name, answer=said(*parts), timeout=timeout)


def ten_megabytes(more: int) -> list[tuple[str, str]]:
    """Return fields of 10,485,760 bytes and some more, counted as in RFC 9113, section 6.5.2."""
    fields = [(":status", "200"), *((f"x-{number}", large(1_000_000)) for number in range(10))]
    size = sum(len(name) + len(value) + 32 for name, value in fields)
    return [*fields, ("x-a", large(10_485_760 + more - size - 32 - 3))]


def large(size: int) -> str:
    return "a" * size


ALL_READ = ping(b"together"), WaitFor(b"together")
"""Wait until the client has read what came before. Go reads frames and the body in two goroutines: which of them is
first is certain only after that."""

OFFER = (
    over("plain 200"),
    over("not enabled", {"enable_http2": False}, reply(200, b"ok")),
    over("not agreed on", answer=reply(200, b"ok"), tls=Tls(alpn=("http/1.1",))),
    over("offered to a server without ALPN", answer=reply(200, b"ok"), tls=Tls()),
    over("offered to a server of other protocols", answer=reply(200, b"ok"), tls=Tls(alpn=("spdy/3",))),
    Case("http2 never on a plain connection", {"enable_http2": True}),
    *(
        over(f"with valid versions {', '.join(versions)}", {"valid_http_versions": list(versions)})
        for versions in (("HTTP/2.0",), ("HTTP/2",), ("HTTP/1.1",), ("HTTP/1.1", "HTTP/2.0"))
    ),
    over("with only HTTP/2 valid and not agreed on", {"valid_http_versions": ["HTTP/2.0"]}, reply(200, b"ok"),
         tls=Tls(alpn=("http/1.1",))),
    over("fail_if_ssl", {"fail_if_ssl": True}),
    over("of a stranger", tls=Tls("unknown_root", alpn=("h2",))),
    over("over TLS 1.2", {"tls_config": {"ca_file": "pki/root.pem", "max_version": "TLS12"}}),
)  # fmt: skip

REQUEST = (
    *(over(f"method {method}", {"method": method}) for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get")),
    over("method HEAD", {"method": "HEAD"}, said(head(200, ("content-length", "12"), end=True))),
    over("method HEAD without length", {"method": "HEAD"}, said(head(200, end=True))),
    over("method HEAD answered with a body", {"method": "HEAD"}, said(head(200), data(b"ok"))),
    over("method CONNECT", {"method": "CONNECT"}, {"": OK}),
    over("method HEAD answered without an end", {"method": "HEAD"}, said(head(200)), timeout=SHORT),
    over("body with POST", {"method": "POST", "body": "hello"}),
    over("body with GET", {"body": "hello"}),
    over("body of 70 kB", {"method": "POST", "body": "0123456789" * 7_000}),
    over("body file", {"method": "POST", "body_file": "files/body"}),
    over("body file empty", {"method": "POST", "body_file": "files/empty"}),
    over("headers", {"headers": {"X-Two": "2", "Accept": "*/*", "x-lower": "a", "X-MIXED-case": "c"}}),
    over("headers of UTF-8", {"headers": {"X-A": "grün"}}),
    over("headers trimmed", {"headers": {"X-A": "  a\tb  ", "X-Empty": ""}}),
    over("header Host", {"headers": {"Host": "www.example.test"}}),
    over("header Host with port", {"headers": {"Host": "www.example.test:8443"},
         "tls_config": {"insecure_skip_verify": True}}),
    over("header User-Agent", {"headers": {"User-Agent": "somebody/1"}}),
    over("header User-Agent empty", {"headers": {"User-Agent": ""}}),
    over("header Accept-Encoding", {"headers": {"Accept-Encoding": "gzip"}}),
    *(
        over(f"header {name} {value}", {"headers": {name: value}})
        for name, value in (
            ("Connection", "keep-alive"), ("Connection", "close"), ("Connection", "x-y"), ("Keep-Alive", "5"),
            ("Proxy-Connection", "keep-alive"), ("Transfer-Encoding", "chunked"), ("Te", "trailers"), ("Te", "gzip"),
            ("Te", "trailers, gzip"), ("Content-Length", "99"), ("Trailer", "X-T"),
            ("Cookie", "a=b; c=d"), ("Expect", "100-continue"), ("Http2-Settings", "x"),
        )
    ),
    *(
        over(f"header {' '.join(asked.values())}", {"headers": asked, "valid_status_codes": [101]}, SWITCHED)
        for asked in ({"Upgrade": "websocket"}, {"Connection": "Upgrade", "Upgrade": "websocket"},
                      {"Connection": "keep-alive, upgrade", "Upgrade": "WebSocket"})
    ),
    over("header Connection Upgrade of another protocol",
         {"headers": {"Connection": "Upgrade", "Upgrade": "irc"}, "valid_status_codes": [101]}, SWITCHED),
    over("http_headers", {"http_headers": {
        "X-A": {"values": ["1", "2"], "secrets": ["3"], "files": ["files/token"]},
        "Cookie": {"values": ["a=b", "c=d; e=f"]}}}),
    over("header of 20 kB", {"headers": {"X-A": large(20_000)}}),
    over("basic_auth", {"basic_auth": {"username": "alice", "password": "wonder:land"}}),
    over("authorization", {"authorization": {"credentials": "secret"}}),
    over("user info", target="https://alice:pw@127.0.0.1:{tls_port}/"),
    *(
        over(f"target {name}", target="https://127.0.0.1:{tls_port}" + path, answer={
            "/": OK, "/a%20b": OK, "/%C3%A9": OK, "//a/../b": OK, "/a+b": OK})
        for name, path in {
            "without path": "", "with a query alone": "?q=1", "with an empty query": "/a+b?", "with a blank": "/a b",
            "with UTF-8": "/é", "with UTF-8 in the query": "/?q=é", "with dot segments": "//a/../b",
        }.items()
    ),
    over("target by name", IP4, target=LOCALHOST_TLS),
    over("target of IPv6", target="https://[::1]:{tls_port}/"),
)  # fmt: skip

STATUS = (
    *(
        over(f"status {code}", answer=http2.reply(code, b"body"))
        for code in (201, 206, 300, 404, 429, 500, 503, 600, 999)
    ),
    *(over(f"status {code}", answer=http2.reply(code)) for code in (204, 205, 304)),
    over("status 204 without a length", answer=said(head(204, end=True))),
    over("status 204 with a body", answer=http2.reply(204, b"body")),
    over("status 304 with a length", answer=said(head(304, ("content-length", "5"), end=True))),
    over("status 304 valid with a length", {"valid_status_codes": [304]},
         said(head(304, ("content-length", "5"), end=True))),
    over("status 204 with a length and none", answer=said(head(204, ("content-length", "5"), end=True))),
    over("status 304 with a body", answer=http2.reply(304, b"body")),
    over("valid status", {"valid_status_codes": [404]}, http2.reply(404, b"gone")),
    over("status 101", answer=said(head(101), data(b"rest")), timeout=SHORT),
    *(
        over(f"after {name}", answer=said(*interim, head(200, ("content-length", "2")), data(b"ok")))
        for name, interim in {
            "a 100": [head(100)], "a 103": [head(103, ("link", "</x>"))], "a 199": [head(199)],
            "five 102": [head(102)] * 5, "six 102": [head(102)] * 6, "a hundred 102": [head(102)] * 100,
        }.items()
    ),
    over("after a 103 that ends the stream", answer=said(head(103, end=True)), timeout=SHORT),
    over("of a 103 alone", answer=said(head(103)), timeout=SHORT),
    over("of a 103 and the end", answer=said(head(103), end=End.CLOSE)),
)  # fmt: skip

BODY = (
    over("body without length", answer=http2.reply(200, b"ok", length=False)),
    over("body empty without length", answer=said(head(200, end=True))),
    over("body empty in a frame of its own", answer=said(head(200), data(b""))),
    over("body empty with length 0", answer=said(head(200, ("content-length", "0")), data(b""))),
    over("body of 3 MB", answer=http2.reply(200, b"0123456789" * 300_000)),
    over("body in bytes", answer=said(head(200), *[data(b"x", end=False)] * 50, data(b"y"))),
    over("body with padding", answer=said(head(200), http2.padded(b"some", 255, end=False), http2.padded(b"", 9))),
    over("body with empty frames", answer=said(head(200), *[data(b"", end=False)] * 20, data(b"ok"))),
    over("body with trailers", answer=said(head(200), data(b"ok", end=False), headers(("x-t", "1"), end=True))),
    over("body with trailers of a status",
         answer=said(head(200), data(b"ok", end=False), headers((":status", "500"), end=True)), timeout=SHORT),
    over("body with trailers that do not end it",
         answer=said(head(200), data(b"ok", end=False), headers(("x-t", "1")), data(b"more")), timeout=SHORT),
    over("body size limit", {"body_size_limit": "4B"}, http2.reply(200, b"more than four")),
    over("body shorter than announced", answer=said(head(200, ("content-length", "9")), data(b"ok"))),
    over("body longer than announced", answer=said(head(200, ("content-length", "2")), data(b"okay"))),
    over("body longer than announced in a second frame",
         answer=said(head(200, ("content-length", "2")), data(b"ok", end=False), data(b"ay"))),
    over("body announced and none", answer=said(head(200, ("content-length", "9"), end=True))),
    over("body announced as nothing", answer=said(head(200, ("content-length", "0")), data(b"ok"))),
    *(
        over(f"length {name}", answer=said(head(200, *(("content-length", value) for value in values)), data(b"ok")))
        for name, values in {
            "twice the same": ("2", "2"), "twice different": ("2", "3"), "as a list": ("2, 2",), "of a plus": ("+2",),
            "negative": ("-2",), "of a letter": ("x",), "empty": ("",), "of zeros": ("002",),
            "of 2^63": ("9223372036854775808",),
        }.items()
    ),
    over("gzip", {"compression": "gzip"}, http2.reply(200, ZIPPED, ("content-encoding", "gzip"))),
    over("deflate", {"compression": "deflate"}, http2.reply(200, DEFLATED)),
    over("br", {"compression": "br"}, http2.reply(200, BROTLI)),
    over("gzip that is none", {"compression": "gzip"}, http2.reply(200, b"plain")),
    over("transfer-encoding in the response",
         answer=said(head(200, ("transfer-encoding", "chunked")), data(b"2\r\nok\r\n0\r\n\r\n")), timeout=SHORT),
    over("body check", {"fail_if_body_not_matches_regexp": ["^o.$"]}),
    over("body check that fails", {"fail_if_body_matches_regexp": ["^o.$"]}),
    over("last modified", answer=http2.reply(200, b"ok", ("last-modified", MODIFIED))),
    over("header check", {"fail_if_header_not_matches": matcher("X-A", "^1$")}, http2.reply(200, b"ok", ("x-a", "1"))),
    over("header check that fails", {"fail_if_header_matches": matcher("x-a", "1")},
         http2.reply(200, b"ok", ("x-a", "0"), ("x-a", "1"))),
    over("header check of a missing header", {"fail_if_header_matches": matcher("X-A", "1")}),
    over("header check of a pseudo-header", {"fail_if_header_not_matches": matcher(":status", "200")}),
    over("header check of a trailer", {"fail_if_header_not_matches": matcher("X-T", "1")},
         said(head(200), data(b"ok", end=False), headers(("x-t", "1"), end=True))),
)  # fmt: skip

REDIRECTS = (
    *(
        over(f"redirect {code} of {method}", {"method": method, "body": "hello"},
             {"/": redirect(code, "/next"), "/next": ARRIVED})
        for code, method in ((301, "GET"), (302, "POST"), (303, "POST"), (307, "POST"), (308, "PUT"))
    ),
    over("redirect to the same port", answer={
        "/": redirect(302, "https://127.0.0.1:{tls_port}/next"), "/next": ARRIVED}),
    over("redirect to the same name", IP4, {
        "/": redirect(302, "https://localhost:{tls_port}/next"), "/next": ARRIVED}, target=LOCALHOST_TLS),
    over("redirect to a plain port", answer={
        "/": redirect(302, "http://127.0.0.1:{port}/next"), "/next": PLAINLY_ARRIVED}),
    Case("http2 redirect from a plain port", TRUST, tls=BOTH, pages={
        "/": raw(b"HTTP/1.1 302 F\r\nLocation: https://127.0.0.1:{tls_port}/next\r\n\r\n"), "/next": ARRIVED}),
    over("redirect with a cookie", answer={
        "/": redirect(302, "/next", ("set-cookie", "a=1"), ("set-cookie", "b=2")), "/next": ARRIVED}),
    over("redirect with cookies of both kinds", {"headers": {"Cookie": "mine=1"}}, {
        "/": redirect(302, "/next", ("set-cookie", "a=1"), ("set-cookie", "b=2")), "/next": ARRIVED}),
    over("redirect refused", {"follow_redirects": False, "valid_status_codes": [302]},
         {"/": redirect(302, "/next"), "/next": ARRIVED}),
    over("redirect eleven times", answer={
        "/": redirect(302, "/1"), **{f"/{n}": redirect(302, f"/{n + 1}") for n in range(1, 11)}, "/11": ARRIVED}),
    over("redirect to a broken answer", answer={"/": redirect(302, "/next"), "/next": said(reset())}),
    over("redirect 307 of a body file", {"method": "POST", "body_file": "files/body"},
         {"/": redirect(307, "/next"), "/next": ARRIVED}),
)  # fmt: skip

HEADER_FIELDS = (
    *(
        malformed(f"field {name}", headers((":status", "200"), *fields), data(b"ok"))
        for name, fields in {
            "connection": [("connection", "close")], "keep-alive": [("keep-alive", "5")],
            "upgrade": [("upgrade", "h2c")], "te": [("te", "gzip")], "in upper case": [("X-Upper", "1")],
            "with a blank in the name": [("x y", "1")], "of UTF-8 name": [("x-é", "1")], "without name": [("", "1")],
            "with a colon in the name": [("x:y", "1")], "of NUL": [("x-a", "a\0b")],
            "of a line end": [("x-a", "a\r\nb")],
            "of a control character": [("x-a", "a\x01b")], "of DEL": [("x-a", "a\x7fb")], "of a tab": [("x-a", "a\tb")],
            "of blanks": [("x-a", "  b  ")], "of UTF-8": [("x-a", "grün")], "of latin-1": [("x-a", "gr\udcfcn")],
            "of an unknown pseudo-header": [(":odd", "1")], "of a request's pseudo-header": [(":path", "/")],
            "of a second status": [(":status", "404")],
            "of a pseudo-header at the end": [("x-a", "1"), (":status", "404")],
        }.items()
    ),
    *(
        malformed(f"status line {name}", headers(*fields), data(b"ok"))
        for name, fields in {
            "without status": [("x-a", "1")], "empty": [(":status", "")], "of nothing at all": [],
            "after a field": [("x-a", "1"), (":status", "200")],
            "of two digits": [(":status", "20")], "of four digits": [(":status", "2000")],
            "of letters": [(":status", "2x0")], "of a plus": [(":status", "+20")], "of a minus": [(":status", "-20")],
            "of zeros": [(":status", "000")], "of 099": [(":status", "099")], "of blanks": [(":status", " 20")],
            "with a reason": [(":status", "200 OK")],
        }.items()
    ),
    *(
        over(f"fields of {name}", answer=said(headers((":status", "200"), *fields), data(b"ok")))
        for name, fields in {
            "a megabyte": [("x-a", large(1_000_000))],
            "9 megabytes": [(f"x-{number}", large(1_000_000)) for number in range(9)],
            "9 megabytes in one": [("x-a", large(9_000_000))],
            "11 megabytes": [("x-a", large(11_000_000))],
            "ten thousand": [(f"x-{n}", "a") for n in range(10_000)],
        }.items()
    ),
    over("fields of 10 megabytes exactly", answer=said(headers(*ten_megabytes(0)), data(b"ok"))),
    over("fields of 10 megabytes and a byte", answer=said(headers(*ten_megabytes(1)), data(b"ok"))),
    over("interim fields of 11 megabytes in all", answer=said(
        *[headers((":status", "103"), ("x-a", large(1_000_000)))] * 11, head(200), data(b"ok"))),
    over("trailers of 11 megabytes", answer=said(
        head(200), data(b"ok", end=False), headers(("x-a", large(11_000_000)), end=True))),
)  # fmt: skip

COMPRESSED = (
    malformed("hpack of an index too high", raw_headers(b"\x88\xff\x80\x01"), data(b"ok")),
    malformed("hpack of index zero", raw_headers(b"\x88\x80"), data(b"ok")),
    malformed("hpack cut in a string", raw_headers(b"\x88\x00\x03x-a\x05abc"), data(b"ok")),
    malformed("hpack cut in a number", raw_headers(b"\x88\x00\x7f\xff"), data(b"ok")),
    malformed("hpack of an endless number", raw_headers(b"\x88\xff" + b"\xff" * 30), data(b"ok")),
    malformed("hpack of a bad Huffman string", raw_headers(b"\x88\x00\x03x-a\x84\xff\xff\xff\xff"), data(b"ok")),
    malformed("hpack of a Huffman string badly padded", raw_headers(b"\x88\x00\x03x-a\x81\x00"), data(b"ok")),
    malformed("hpack of a table too large", raw_headers(integer(4097, 5, 0x20) + b"\x88"), data(b"ok")),
    malformed("hpack of a table made small", raw_headers(b"\x20" + b"\x88"), data(b"ok")),
    malformed("hpack of a table changed too late", raw_headers(b"\x88\x20"), data(b"ok")),
    malformed("hpack bomb", raw_headers(
        b"\x88\x40\x03x-a" + integer(4000, 7) + b"a" * 4000 + b"\xbe" * 10_000), data(b"ok"), timeout=AMPLE),
    malformed("hpack of the dynamic table", raw_headers(b"\x88\x40\x03x-a\x011\xbe\xbe"), data(b"ok")),
    malformed("hpack of a field larger than the table", raw_headers(
        b"\x88\x40\x03x-a" + integer(5000, 7) + b"a" * 5000 + b"\xbe"), data(b"ok")),
)  # fmt: skip

OK_HEAD = head(200, ("content-length", "2"))

FRAMES = (
    malformed("a ping", ping(), OK_HEAD, ping(), data(b"ok")),
    malformed("a ping answered", ping(flags=1), OK_HEAD, data(b"ok")),
    malformed("settings again", settings((1, 0), (4, 10)), OK_HEAD, settings(), data(b"ok")),
    malformed("an unknown frame", frame(0xFA, b"grease", 0xFF, 1), OK_HEAD, frame(0x0A, b"altsvc"), data(b"ok")),
    malformed("a priority frame", frame(2, b"\0\0\0\0\x10", stream=1), OK_HEAD, data(b"ok")),
    malformed("headers with padding", frame(1, b"\x03\x88\0\0\0", 0x4 | 0x8, 1), data(b"ok")),
    malformed("headers with priority", frame(1, b"\0\0\0\0\x10\x88", 0x4 | 0x20, 1), data(b"ok")),
    malformed("headers with padding and priority", frame(1, b"\x02\0\0\0\0\x10\x88\0\0", 0x2C, 1), data(b"ok")),
    malformed("headers with too much padding", frame(1, b"\x09\x88\0\0\0", 0x4 | 0x8, 1), data(b"ok")),
    malformed("headers with a priority cut", frame(1, b"\0\0", 0x4 | 0x20, 1), data(b"ok")),
    malformed("data with too much padding", OK_HEAD, frame(0, b"\x09ok", 0x9, 1)),
    malformed("data with padding and nothing else", OK_HEAD, frame(0, b"", 0x9, 1)),
    malformed("headers in many frames", http2.headers(
        (":status", "200"), *((f"x-{n}", "a" * 20) for n in range(50)), size=7), data(b"ok")),
    malformed("headers broken off by data", frame(1, b"\x88", 0, 1), data(b"ok")),
    malformed("headers broken off by a ping", frame(1, b"\x88", 0, 1), ping(), frame(9, b"", 4, 1), data(b"ok")),
    malformed("headers continued on another stream", frame(1, b"\x88", 0, 1), frame(9, b"", 4, 3), data(b"ok")),
    malformed("a continuation out of nowhere", frame(9, b"\x88", 4, 1), data(b"ok")),
    malformed("headers twice", OK_HEAD, head(200), data(b"ok")),
    malformed("data before headers", data(b"ok")),
    malformed("data on stream 0", OK_HEAD, data(b"ok", stream=0)),
    malformed("headers on stream 0", headers((":status", "200"), stream=0)),
    malformed("data on an idle stream", data(b"ok", stream=3), OK_HEAD, data(b"ok")),
    malformed("headers on an idle stream", headers((":status", "200"), stream=3), OK_HEAD, data(b"ok")),
    malformed("headers on a stream of the server's", headers((":status", "200"), stream=2), OK_HEAD, data(b"ok")),
    malformed("data after the end", OK_HEAD, data(b"ok"), data(b"more")),
    malformed("a frame of 16384 bytes", head(200), frame(0, b"a" * 16384, 1, 1)),
    malformed("a frame of 16 megabytes announced", head(200), frame(0, b"a", 1, 1, length=0xFFFFFF)),
    malformed("a ping of 7 bytes", frame(6, b"1234567"), OK_HEAD, data(b"ok")),
    malformed("a ping on a stream", frame(6, b"12345678", stream=1), OK_HEAD, data(b"ok")),
    malformed("settings of 5 bytes", frame(4, b"12345"), OK_HEAD, data(b"ok")),
    malformed("settings on a stream", frame(4, b"", stream=1), OK_HEAD, data(b"ok")),
    malformed("an acknowledgement of 6 bytes", frame(4, b"123456", 1), OK_HEAD, data(b"ok")),
    malformed("settings of a window too large", settings((4, 1 << 31)), OK_HEAD, data(b"ok")),
    malformed("settings of a frame size too small", settings((5, 100)), OK_HEAD, data(b"ok")),
    malformed("settings of a frame size too large", settings((5, 1 << 24)), OK_HEAD, data(b"ok")),
    malformed("settings of push 2", settings((2, 2)), OK_HEAD, data(b"ok")),
    malformed("settings of push 1", settings((2, 1)), OK_HEAD, data(b"ok")),
    malformed("settings unknown", settings((0xFAFA, 7), (8, 1)), OK_HEAD, data(b"ok")),
    malformed("settings of no streams", settings((3, 0)), OK_HEAD, data(b"ok")),
    malformed("a window update of 0", window_update(0), OK_HEAD, data(b"ok")),
    malformed("a window update of 0 on the stream", window_update(0, 1), OK_HEAD, data(b"ok")),
    malformed("a window update of 3 bytes", frame(8, b"123"), OK_HEAD, data(b"ok")),
    malformed("a window that overflows", window_update((1 << 31) - 1), OK_HEAD, data(b"ok")),
    malformed("a window of the stream that overflows", window_update((1 << 31) - 1, 1), OK_HEAD, data(b"ok")),
    malformed("a window update on an idle stream", window_update(1, 5), OK_HEAD, data(b"ok")),
    malformed("a push promise", frame(5, b"\0\0\0\x02\x82\x87\x84\x41\x01x", 4, 1), OK_HEAD, data(b"ok")),
    malformed("a priority frame of 4 bytes", frame(2, b"1234", stream=1), OK_HEAD, data(b"ok")),
    malformed("reset before the headers", reset()),
    malformed("reset without an error before the headers", reset(0)),
    malformed("reset before the headers for calm", reset(http2.ENHANCE_YOUR_CALM)),
    malformed("reset before the headers asking for HTTP/1.1", reset(http2.HTTP_1_1_REQUIRED)),
    malformed("reset in the body", OK_HEAD, data(b"o", end=False), reset()),
    malformed("reset without an error in the body", OK_HEAD, data(b"o", end=False), reset(0)),
    malformed("reset after the body", OK_HEAD, data(b"ok"), reset(0)),
    malformed("reset of stream 0", reset(stream=0), OK_HEAD, data(b"ok")),
    malformed("reset of another stream", reset(stream=3), OK_HEAD, data(b"ok")),
    malformed("reset of 3 bytes", frame(3, b"123", stream=1), OK_HEAD, data(b"ok")),
    malformed("going away in good order", goaway(1), OK_HEAD, data(b"ok")),
    malformed("going away between headers and body", OK_HEAD, goaway(1), data(b"ok")),
    malformed("going away later", goaway((1 << 31) - 1), OK_HEAD, goaway(1), data(b"ok")),
    malformed("going away with an error and an answer", goaway(1, http2.INTERNAL_ERROR), OK_HEAD, data(b"ok")),
    malformed("going away with an error in the body", OK_HEAD, data(b"o", end=False), goaway(1, 2, b"why"), data(b"k")),
    over(
        "going away before us in the body",
        answer=said(OK_HEAD, data(b"o", end=False), *ALL_READ, goaway(0)),
        timeout=SHORT,
    ),
    malformed("going away before us with an answer", goaway(0, http2.INTERNAL_ERROR), OK_HEAD, data(b"ok")),
    over("going away and gone", answer=said(goaway(1, http2.ENHANCE_YOUR_CALM, b"too_many_pings"), end=End.CLOSE)),
    over("going away before our request with an error", answer=said(goaway(0, http2.PROTOCOL_ERROR), end=End.CLOSE)),
    malformed("going away of 7 bytes", frame(7, b"1234567"), OK_HEAD, data(b"ok")),
    malformed("going away on a stream", frame(7, b"12345678", stream=1), OK_HEAD, data(b"ok")),
    over("the end before the headers", answer=said(end=End.CLOSE)),
    over("the end in the headers", answer=said(frame(1, b"\x88", 0, 1), end=End.CLOSE)),
    over("the end in a frame", answer=said(frame(1, b"\x88", 4, 1, length=9), end=End.CLOSE)),
    over("the end in the body", answer=said(OK_HEAD, data(b"o", end=False), end=End.CLOSE)),
    over("the end in a body without length", answer=said(head(200), data(b"o", end=False), end=End.CLOSE)),
    over("a reset connection before the headers", answer=said(Pause(0.1), end=End.RESET)),
    over("a reset connection in the body", answer=said(OK_HEAD, data(b"o", end=False), *ALL_READ, end=End.RESET)),
    malformed("silence", timeout=SHORT),
    malformed("silence in the headers", frame(1, b"\x88", 0, 1)),
    malformed("silence in a frame of headers", frame(1, b"\x88", 4, 1, length=9)),
    malformed("silence after a 103", head(103)),
    malformed("silence in the body", OK_HEAD, data(b"o", end=False)),
    malformed("silence in a frame of data", OK_HEAD, frame(0, b"o", 1, 1, length=2)),
    malformed("a flood of pings", ping() * 5000, OK_HEAD, data(b"ok"), timeout=AMPLE),
    malformed("a flood of settings", settings((4, 100)) * 5000, OK_HEAD, data(b"ok"), timeout=AMPLE),
    malformed("a flood of empty continuations", frame(1, b"\x88", 0, 1), frame(9, b"", 0, 1) * 9000,
              frame(9, b"", 4, 1), data(b"ok"), timeout=AMPLE),
)  # fmt: skip

OPENINGS = (
    opened("opening without settings", b""),
    opened("opening with a ping", ping() + settings()),
    opened("opening with an acknowledgement", SETTINGS_ACK),
    opened("opening with HTTP/1", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno", said(end=End.CLOSE)),
    opened("opening with garbage", b"220 mail.example.test ESMTP\r\n", said(end=End.CLOSE)),
    opened("opening with nothing and the end", b"", said(end=End.CLOSE)),
    opened("opening with a window of 0", settings((4, 0))),
    opened("opening with many settings", settings(*((n, 1) for n in range(20, 120)))),
    opened("opening with no streams allowed", settings((3, 0)), timeout=SHORT),
    opened("opening with a table of 0", settings((1, 0))),
    opened("opening and no settings at all", b"", raw(OK_HEAD, data(b"ok"), end=End.HOLD)),
    opened("opening and no acknowledgement", http2.OPENING, raw(OK_HEAD, data(b"ok"), end=End.HOLD)),
    over("opening refused", {"headers": {"User-Agent": "us"}}, said(reset(http2.REFUSED_STREAM)),
         tls=Tls(alpn=("h2",)), timeout=SHORT),  # the original repeats its request without a pause
    over("opening with going away", {"headers": {"User-Agent": "us"}}, said(end=End.CLOSE),
         tls=Tls(alpn=("h2",), opening=http2.OPENING + goaway(0))),
)  # fmt: skip

GROUPS: dict[str, tuple[Case, ...]] = {
    "http2_offer": OFFER,
    "http2_request": REQUEST,
    "http2_status": STATUS,
    "http2_body": BODY,
    "http2_redirects": REDIRECTS,
    "http2_fields": HEADER_FIELDS,
    "http2_compression": COMPRESSED,
    "http2_frames": FRAMES,
    "http2_openings": OPENINGS,
}
"""Every case, by its golden file."""
