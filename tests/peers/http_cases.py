"""The http cases over HTTP/1: every setting and every failure.

Cases state no expectation: `test_http.py` compares ours with the original, and the golden files pin ours.
"""

from __future__ import annotations

import gzip
import ssl
import zlib
from collections.abc import Mapping

from tests.peers.cases import SHORT, Case, Settings
from tests.targets import Answer, End, Pause, Repeat, Tls, chunked, raw, redirect, reply, silence

FILES = {
    "files/token": "  token from a file\n",
    "files/user": "alice\n",
    "files/empty": "",
    "files/body": "the body of a file",
    "files/large": "0123456789abcdef" * 8192,
    "files/awkward": "two\nlines",
}
"""Text files that modules name; they are in the exporters' working directory."""

IP4 = {"preferred_ip_protocol": "ip4"}  # for targets with localhost: not every machine resolves it to ::1
OVER_TLS = "https://127.0.0.1:{tls_port}/"
LOCALHOST_TLS = "https://localhost:{tls_port}/"
TRUST = {"tls_config": {"ca_file": "pki/root.pem"}}
MODIFIED = "Mon, 02 Jan 2006 15:04:05 GMT"
ZIPPED = gzip.compress(b"compressed text " * 64, mtime=0)
GZIP_HEADERS = {
    "an extra field": b"\x1f\x8b\x08\x04" + bytes(6) + b"\x05\0extra",
    "name and comment": b"\x1f\x8b\x08\x18" + bytes(6) + b"name\0comment\0",
    "a name of 511 bytes": b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 511 + b"\0",
    "a name of 512 bytes": b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 512 + b"\0",
    "unknown flags": b"\x1f\x8b\x08\xe0" + bytes(6),
    "another method": b"\x1f\x8b\x07\0" + bytes(6),
    "a checksum": b"\x1f\x8b\x08\x02" + bytes(6)
    + (zlib.crc32(b"\x1f\x8b\x08\x02" + bytes(6)) & 0xFFFF).to_bytes(2, "little"),
    "a bad checksum": b"\x1f\x8b\x08\x02" + bytes(6) + b"ab",
}  # fmt: skip
DEFLATED = zlib.compress(b"compressed text " * 64)[2:-4]
BROTLI = bytes.fromhex("1bff03f81da9539fbb71493706526d7855f6569db45603c4e376aaa600")  # the same text


def at(answer: Answer) -> Mapping[str, Answer]:
    """Return a site with one page."""
    return {"/": answer}


def tls(**settings: object) -> dict[str, object]:
    """Return a `tls_config` that trusts the test's root, with further settings."""
    return {"tls_config": {"ca_file": "pki/root.pem", **settings}}


def matcher(header: str, regexp: str, **more: object) -> list[dict[str, object]]:
    """Return one header matcher of the configuration."""
    return [{"header": header, "regexp": regexp, **more}]


STATUS = (
    Case("plain 200"),
    Case("plain 200 without a block", block=False),
    *(
        Case(f"status {code}", pages=at(reply(code, b"body")))
        for code in (201, 202, 205, 206, 300, 400, 401, 403, 404, 418, 429, 500, 503)
    ),
    Case("status 204", pages=at(raw(b"HTTP/1.1 204 No Content\r\n\r\n"))),
    Case("status 204 with a body", pages=at(reply(204, b"body"))),
    Case("status 304", pages=at(reply(304, b""))),
    Case("status 299 unassigned", pages=at(reply("299 Odd", b"body"))),
    Case("status 600", pages=at(reply("600 Beyond", b"body"))),
    Case("status 099", pages=at(reply("099 Low", b"body"))),
    Case("status 000", pages=at(reply("000 Nothing", b"body"))),
    Case("valid status listed", {"valid_status_codes": [404]}, pages=at(reply(404, b"gone"))),
    Case("valid status not listed", {"valid_status_codes": [404, 503]}),
    Case("valid status list excludes 200", {"valid_status_codes": [201]}),
    Case("valid status list empty", {"valid_status_codes": []}, pages=at(reply(404))),
    Case("valid status 101 upgrade", {"valid_status_codes": [101]},
         pages=at(raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nrest"))),
    Case("status 101 without upgrade", pages=at(raw(b"HTTP/1.1 101 Switching Protocols\r\n\r\nrest"))),
    Case("location on a 200 is no redirect", pages=at(reply(200, b"ok", ("Location", "/x")))),
)  # fmt: skip

VERSION = (
    *(
        Case(f"speaking {version}", pages=at(reply(200, b"ok", version=version)))
        for version in ("HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9")
    ),
    Case("valid version met", {"valid_http_versions": ["HTTP/1.1"]}),
    Case("valid version 1.0 met", {"valid_http_versions": ["HTTP/1.0"]},
         pages=at(reply(200, b"ok", version="HTTP/1.0"))),
    Case("valid version missed", {"valid_http_versions": ["HTTP/1.0", "HTTP/2.0"]}),
    Case("valid version misspelt", {"valid_http_versions": ["HTTP/2", "1.1"]}),
    Case("valid version list empty", {"valid_http_versions": []}),
)  # fmt: skip

REQUEST = (
    *(
        Case(f"method {method}", {"method": method})
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get")
    ),
    Case("method HEAD", {"method": "HEAD"}, pages=at(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"))),
    Case("method head in lower case", {"method": "head"}, pages=at(reply(200, b"ok"))),
    Case("method HEAD chunked", {"method": "HEAD"},
         pages=at(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))),
    Case("method empty", {"method": ""}),
    Case("method of odd characters", {"method": "a!#$%&'*+-.^_`|~"}),
    Case("method with a blank", {"method": "GE T"}),
    Case("method with a line end", {"method": "GET\r\nX: y"}),
    Case("body with GET", {"body": "hello"}),
    Case("body with POST", {"method": "POST", "body": "hello"}),
    Case("body with DELETE", {"method": "DELETE", "body": "hello"}),
    Case("body of UTF-8", {"method": "POST", "body": "grün"}),
    Case("body empty", {"method": "POST", "body": ""}),
    Case("body file", {"method": "POST", "body_file": "files/body"}),
    Case("body file with GET", {"body_file": "files/body"}),
    Case("body file empty", {"method": "POST", "body_file": "files/empty"}),
    Case("body file large", {"method": "POST", "body_file": "files/large"}),
    Case("body file missing", {"method": "POST", "body_file": "files/none"}),
    Case("body file is a directory", {"method": "POST", "body_file": "files"}),
    Case("headers", {"headers": {"X-Two": "2", "Accept": "*/*", "x-lower": "a", "X-MIXED-case": "c"}}),
    Case("headers trimmed", {"headers": {"X-A": "  a\tb  ", "X-Empty": ""}}),
    Case("headers of UTF-8", {"headers": {"X-A": "grün"}}),
    Case("header Host", {"headers": {"Host": "www.example.test"}}),
    Case("header Host lower case with port", {"headers": {"host": "www.example.test:8080"}}),
    Case("header Host empty", {"headers": {"Host": ""}}),
    Case("header Host of UTF-8", {"headers": {"Host": "bücher.example.test"}}),
    Case("header Host with a blank", {"headers": {"Host": "www example"}}),
    Case("header User-Agent", {"headers": {"User-Agent": "somebody/1"}}),
    Case("header user-agent in lower case", {"headers": {"user-agent": "somebody/1"}}),
    Case("header User-Agent empty", {"headers": {"User-Agent": ""}}),
    Case("header Connection keep-alive", {"headers": {"Connection": "keep-alive"}}),
    Case("header Connection close", {"headers": {"Connection": "close"}}),
    Case("header Connection upgrade", {"headers": {"Connection": "Upgrade", "Upgrade": "websocket"}}),
    Case("header Content-Length is ours to say", {"headers": {"Content-Length": "99"}, "body": "hello"}),
    Case("header Transfer-Encoding is ours to say", {"headers": {"Transfer-Encoding": "x"}, "body": "hello"}),
    Case("header Trailer is dropped", {"headers": {"Trailer": "X-T"}}),
    Case("header Content-Type", {"method": "POST", "headers": {"Content-Type": "text/plain"}, "body": "hi"}),
    Case("header Accept-Encoding", {"headers": {"Accept-Encoding": "gzip"}}, pages=at(reply(200, ZIPPED))),
    Case("header Cookie", {"headers": {"Cookie": "a=b"}}),
    Case("header name with a blank", {"headers": {"X A": "1"}}),
    Case("header name empty", {"headers": {"": "1"}}),
    Case("header name with a colon", {"headers": {"X:A": "1"}}),
    Case("header value with a line end", {"headers": {"X-A": "1\r\nX-B: 2"}}),
    Case("header value with NUL", {"headers": {"X-A": "1\0"}}),
    Case("http_headers values secrets files",
         {"http_headers": {"X-A": {"values": ["1", "2"], "secrets": ["3"], "files": ["files/token"]},
                           "x-b": {"values": ["4"]}}}),
    Case("http_headers after headers", {"headers": {"X-A": "0"}, "http_headers": {"X-A": {"values": ["1"]}}}),
    Case("http_headers after headers of another case",
         {"headers": {"x-a": "0"}, "http_headers": {"X-A": {"values": ["1"]}}}),
    Case("http_headers without values", {"http_headers": {"X-A": {}}}),
    Case("http_headers of an empty file", {"http_headers": {"X-A": {"files": ["files/empty"]}}}),
    Case("http_headers of a missing file", {"http_headers": {"X-A": {"files": ["files/none"]}}}),
    Case("http_headers of a file of two lines", {"http_headers": {"X-A": {"files": ["files/awkward"]}}}),
    Case("http_headers value with a line end", {"http_headers": {"X-A": {"values": ["1\n2"]}}}),
    Case("http_headers name with a blank", {"http_headers": {"X A": {"values": ["1"]}}}),
    Case("http_headers Cookie twice", {"http_headers": {"Cookie": {"values": ["a=b", "c=d"]}}}),
)  # fmt: skip

CREDENTIALS = (
    Case("basic_auth", {"basic_auth": {"username": "alice", "password": "wonder:land"}}),
    Case("basic_auth of UTF-8", {"basic_auth": {"username": "älice", "password": "ü"}}),
    Case("basic_auth empty", {"basic_auth": {}}),
    Case("basic_auth user only", {"basic_auth": {"username": "alice"}}),
    Case("basic_auth from files",
         {"basic_auth": {"username_file": "files/user", "password_file": "files/token"}}),
    Case("basic_auth user file missing", {"basic_auth": {"username_file": "files/none", "password": "x"}}),
    Case("basic_auth password file missing", {"basic_auth": {"username": "a", "password_file": "files/none"}}),
    Case("basic_auth password ref", {"basic_auth": {"username": "a", "password_ref": "somewhere"}}),
    Case("basic_auth user ref", {"basic_auth": {"username_ref": "somewhere", "password": "x"}}),
    Case("authorization", {"authorization": {"credentials": "secret"}}),
    Case("authorization of a type", {"authorization": {"type": " Token ", "credentials": "secret"}}),
    Case("authorization without credentials", {"authorization": {}}),
    Case("authorization from a file", {"authorization": {"credentials_file": "files/token"}}),
    Case("authorization file missing", {"authorization": {"credentials_file": "files/none"}}),
    Case("authorization file of two lines", {"authorization": {"credentials_file": "files/awkward"}}),
    Case("authorization ref", {"authorization": {"credentials_ref": "somewhere"}}),
    Case("authorization with a line end", {"authorization": {"credentials": "a\nb"}}),
    Case("bearer_token", {"bearer_token": "secret"}),
    Case("bearer_token_file", {"bearer_token_file": "files/token"}),
    Case("header Authorization before basic_auth",
         {"headers": {"Authorization": "Mine 1"}, "basic_auth": {"username": "alice", "password": "x"}}),
    Case("header Authorization before user info", {"headers": {"Authorization": "Mine 1"}},
         target="http://alice:pw@127.0.0.1:{port}/"),
    Case("user info", target="http://alice:pw@127.0.0.1:{port}/"),
    Case("user info escaped", target="http://al%40ice:p%3Aw@127.0.0.1:{port}/"),
    Case("user info without password", target="http://alice@127.0.0.1:{port}/"),
    Case("user info empty", target="http://@127.0.0.1:{port}/"),
    Case("basic_auth before user info", {"basic_auth": {"username": "bob", "password": "x"}},
         target="http://alice:pw@127.0.0.1:{port}/"),
)  # fmt: skip

EVERY_PATH = {path: reply(200, b"ok") for path in (
    "/", "/a%20b", "/a%2Fb%c3%a9", "/%C3%A9", "/a+b", "//a/../b/./c", "/%22%3C%3E%7C%5E%60%7B%7D%5C",
    "/!$&'()*+,;=:@[]~", "/p;x=1", "/%7Euser", "/%20",
)}  # fmt: skip

TARGETS = (
    *(
        Case(f"target {name}", target=target, pages=EVERY_PATH)
        for name, target in {
            "without scheme": "127.0.0.1:{port}",
            "without scheme with path": "127.0.0.1:{port}/a+b",
            "without path": "http://127.0.0.1:{port}",
            "of IPv6": "http://[::1]:{port}/",
            "of IPv6 without scheme": "[::1]:{port}",
            "of IPv6 without brackets": "http://::1:{port}/",
            "of IPv6 with a zone": "http://[::1%25lo]:{port}/",
            "of IPv6 with a raw zone": "http://[::1%lo]:{port}/",
            "of IPv4 in IPv6": "http://[::ffff:127.0.0.1]:{port}/",
            "with a query": "http://127.0.0.1:{port}?q=1&r=%20+",
            "with a blank in the query": "http://127.0.0.1:{port}/?q=a b",
            "with an empty query": "http://127.0.0.1:{port}/a+b?",
            "with a fragment": "http://127.0.0.1:{port}/a+b?q=1#frag",
            "with a blank in the path": "http://127.0.0.1:{port}/a b",
            "with escapes": "http://127.0.0.1:{port}/a%2Fb%c3%a9",
            "with a tilde escaped": "http://127.0.0.1:{port}/%7Euser",
            "with UTF-8 in the path": "http://127.0.0.1:{port}/é",
            "with UTF-8 in the query": "http://127.0.0.1:{port}/?q=é",
            "with dot segments": "http://127.0.0.1:{port}//a/../b/./c",
            "with delimiters in the path": "http://127.0.0.1:{port}/!$&'()*+,;=:@[]~",
            "with unsafe characters in the path": 'http://127.0.0.1:{port}/"<>|^`{}\\',
            "with a semicolon": "http://127.0.0.1:{port}/p;x=1?a=b;c=d",
            "with a bad escape": "http://127.0.0.1:{port}/%zz",
            "with a lone percent": "http://127.0.0.1:{port}/%",
            "with a tab": "http://127.0.0.1:{port}/\t",
            "with a trailing blank": "http://127.0.0.1:{port}/ ",
            "with a leading blank": " http://127.0.0.1:{port}/",
            "with an escaped host": "http://loc%61lhost:{port}/",
            "with a port that is no number": "http://127.0.0.1:{port}abc/",
            "with a port of zeros": "http://127.0.0.1:00{port}/",
            "with a port too high": "http://127.0.0.1:99999/",
            "without host": "http:///x",
            "of nothing but a scheme": "http://",
            "of a blank": " ",
            "of two slashes": "//127.0.0.1:{port}/",
            "of a short IPv4": "http://127.1:{port}/",
            "of a hexadecimal IPv4": "http://0x7f000001:{port}/",
            "of a decimal IPv4": "http://2130706433:{port}/",
            "of an IPv4 with a leading zero": "http://127.0.0.01:{port}/",
            "of two dots": "http://a..example/",
            "of a long label": "http://" + "a" * 64 + ".example/",
            "of a long name": "http://" + "a." * 127 + "example/",
            "of the unspecified IPv4": "http://0.0.0.0:{port}/",
            "of the unspecified IPv6": "http://[::]:{port}/",
        }.items()
    ),
    Case("target of an upper-case scheme", target="HTTP://127.0.0.1:{port}/"),
    Case("target of another scheme", target="ftp://127.0.0.1:{port}/"),
    Case("target of an unknown name", target="http://no-such-name.invalid/", pinned=False),
    Case("target of a name in the hosts file", IP4, target="http://localhost:{port}/"),
    Case("target of an upper-case name", IP4, target="http://LOCALHOST:{port}/"),
    Case("target of localhost by default", target="http://localhost:{port}/", pinned=False),
)

ADDRESSES = (
    *(
        Case(
            f"{host} prefers {preferred or 'default'} fallback {fallback}",
            {"preferred_ip_protocol": preferred, "ip_protocol_fallback": fallback},
            target=f"http://{url}:{{port}}/",
            pinned=host != "localhost" or preferred == "ip4",
        )
        for host, url in {"IPv4": "127.0.0.1", "IPv6": "[::1]", "localhost": "localhost"}.items()
        for preferred in ("ip4", "ip6")
        for fallback in (True, False)
    ),
    Case("resolve is skipped for proxies only", {"skip_resolve_phase_with_proxy": True}),
    Case("preferred family empty", {"preferred_ip_protocol": ""}, target="http://[::1]:{port}/"),
    Case("preferred family empty without fallback",
         {"preferred_ip_protocol": "", "ip_protocol_fallback": False}),
    Case("preferred family ipv6 is an odd word",
         {"preferred_ip_protocol": "ipv6", "ip_protocol_fallback": False}, target="http://[::1]:{port}/"),
)  # fmt: skip

FRONT = (
    Case("front unknown module", parameters={"module": "nobody"}),
    Case("front unknown module without target", parameters={"module": "nobody", "target": None}),
    Case("front no target", parameters={"target": None}),
    Case("front empty target", parameters={"target": ""}),
    Case("front hostname", parameters={"hostname": "www.example.test"}),
    Case("front hostname with port", parameters={"hostname": "www.example.test:8080"}),
    Case("front hostname empty", parameters={"hostname": ""}),
    Case("front hostname of UTF-8", parameters={"hostname": "bücher.example.test"}),
    Case("front hostname equal to Host", {"headers": {"Host": "a.test"}}, parameters={"hostname": "a.test"}),
    Case("front hostname unequal to Host", {"headers": {"host": "a.test"}}, parameters={"hostname": "b.test"}),
    Case("front hostname of another case", {"headers": {"Host": "a.test"}}, parameters={"hostname": "A.test"}),
    Case("front hostname over TLS", TRUST, OVER_TLS, tls=Tls(), parameters={"hostname": "www.example.test"}),
    Case("front hostname over TLS wrong", TRUST, OVER_TLS, tls=Tls(), parameters={"hostname": "no.test"}),
    *(
        Case(f"front timeout header {name}", headers={"X-Prometheus-Scrape-Timeout-Seconds": value})
        for name, value in {
            "ordinary": "100", "shorter": "30", "of an exponent": "1e2", "of a hexadecimal": "0x1p5",
            "with underscore": "1_00", "with blanks": " 30 ", "zero": "0", "empty": "", "of a word": "soon",
            "below the offset": "0.4", "at the offset": "0.5", "negative": "-1", "infinite": "inf",
            "not a number": "nan",
        }.items()
    ),
    Case("front timeout header without module timeout", timeout="0s",
         headers={"X-Prometheus-Scrape-Timeout-Seconds": "30"}),
    Case("front no timeout anywhere", timeout="0s"),
    Case("front timeout header cuts short", headers={"X-Prometheus-Scrape-Timeout-Seconds": "2.5"},
         pages=at(silence())),
)  # fmt: skip

COOKED = reply(200, b"ok", ("X-A", "one"), ("X-A", "two"), ("Server", "nginx"), ("x-low", "v"))

HEADER_CHECKS = (
    Case("header matches and fails", {"fail_if_header_matches": matcher("X-A", "^one$")}, pages=at(COOKED)),
    Case("header matches second value", {"fail_if_header_matches": matcher("X-A", "^two$")}, pages=at(COOKED)),
    Case("header does not match", {"fail_if_header_matches": matcher("X-A", "three")}, pages=at(COOKED)),
    Case("header name of another case", {"fail_if_header_matches": matcher("x-a", "one")}, pages=at(COOKED)),
    Case("header of lower case received", {"fail_if_header_matches": matcher("X-Low", "v")}, pages=at(COOKED)),
    Case("header missing", {"fail_if_header_matches": matcher("X-None", "one")}, pages=at(COOKED)),
    Case("header missing allowed", {"fail_if_header_matches": matcher("X-None", "one", allow_missing=True)},
         pages=at(COOKED)),
    Case("header required matches", {"fail_if_header_not_matches": matcher("Server", "(?i)NGINX")},
         pages=at(COOKED)),
    Case("header required any value", {"fail_if_header_not_matches": matcher("X-A", "two")}, pages=at(COOKED)),
    Case("header required misses", {"fail_if_header_not_matches": matcher("X-A", "three")}, pages=at(COOKED)),
    Case("header required missing", {"fail_if_header_not_matches": matcher("X-None", "one")}, pages=at(COOKED)),
    Case("header required missing allowed",
         {"fail_if_header_not_matches": matcher("X-None", "one", allow_missing=True)}, pages=at(COOKED)),
    Case("header both kinds good",
         {"fail_if_header_matches": matcher("X-A", "bad"),
          "fail_if_header_not_matches": matcher("X-A", "one") + matcher("Server", "nginx")}, pages=at(COOKED)),
    Case("header checks not reached", {"fail_if_header_matches": matcher("X-A", "one")},
         pages=at(reply(500, b"ok", ("X-A", "one")))),
    Case("header check spares the body check",
         {"fail_if_header_matches": matcher("X-A", "one"), "fail_if_body_matches_regexp": ["ok"]},
         pages=at(COOKED)),
    Case("header check of Host is not about requests", {"fail_if_header_not_matches": matcher("Host", ".")}),
    Case("header check of Content-Length", {"fail_if_header_not_matches": matcher("Content-Length", "^2$")}),
    Case("header check of Set-Cookie", {"fail_if_header_matches": matcher("Set-Cookie", "secret")},
         pages=at(reply(200, b"ok", ("Set-Cookie", "secret=1"), ("Set-Cookie", "b=2")))),
    Case("header value is trimmed", {"fail_if_header_not_matches": matcher("X-A", "^one$")},
         pages=at(reply(200, b"ok", ("X-A", "   one \t")))),
    Case("header value empty", {"fail_if_header_not_matches": matcher("X-A", "^$")},
         pages=at(reply(200, b"ok", ("X-A", "")))),
    Case("header value of latin-1", {"fail_if_header_not_matches": matcher("X-A", "^caf.$")},
         pages=at(raw(b"HTTP/1.1 200 OK\r\nX-A: caf\xe9\r\nContent-Length: 0\r\n\r\n"))),
    Case("header folded over two lines", {"fail_if_header_not_matches": matcher("X-A", "^one two$")},
         pages=at(raw(b"HTTP/1.1 200 OK\r\nX-A: one\r\n  two\r\nContent-Length: 0\r\n\r\n"))),
)  # fmt: skip

TEXT = reply(200, b"first line\nSecond Line\n\xff\xfe end \xc3\xa9\n")

BODY_CHECKS = (
    *(
        Case(f"body {name}", {f"fail_if_body_{kind}_regexp": regexps}, pages=at(TEXT))
        for name, kind, regexps in (
            ("matches and fails", "matches", ["Second"]),
            ("does not match", "matches", ["Third"]),
            ("one of several matches", "matches", ["Third", "first"]),
            ("required matches", "not_matches", ["Second"]),
            ("required misses", "not_matches", ["Third"]),
            ("one of several required misses", "not_matches", ["first", "Third"]),
            ("required case-insensitive", "not_matches", ["(?i)SECOND LINE"]),
            ("dot stops at line ends", "not_matches", ["first.*Second"]),
            ("dot with flag s", "not_matches", ["(?s)first.*Second"]),
            ("caret is the beginning of the text", "not_matches", ["^Second"]),
            ("caret with flag m", "not_matches", ["(?m)^Second"]),
            ("dollar is the very end", "not_matches", ["end .$"]),
            ("invalid UTF-8 is one character", "not_matches", ["\n..? end"]),
            ("replacement character", "not_matches", ["\ufffd\ufffd end"]),
            ("empty regexp", "matches", [""]),
            ("empty regexp required", "not_matches", [""]),
            ("word boundary is ASCII", "not_matches", [r"\bend\b"]),
        )
    ),
    Case("body empty required", {"fail_if_body_not_matches_regexp": ["x"]}, pages=at(reply(200))),
    Case("body both kinds good",
         {"fail_if_body_matches_regexp": ["bad"], "fail_if_body_not_matches_regexp": ["first"]}, pages=at(TEXT)),
    Case("body checks not reached", {"fail_if_body_matches_regexp": ["first"]}, pages=at(reply(500, b"first"))),
    Case("body chunked is matched across chunks", {"fail_if_body_not_matches_regexp": ["onetwo"]},
         pages=at(chunked(b"one", b"two"))),
    Case("body check on a cut body", {"fail_if_body_matches_regexp": ["nothing"]},
         pages=at(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"))),
    Case("body check met before the cut", {"fail_if_body_not_matches_regexp": ["short"]},
         pages=at(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"))),
    Case("body check with HEAD", {"method": "HEAD", "fail_if_body_not_matches_regexp": ["x"]},
         pages=at(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"))),
    Case("body check on a refused redirect", {"follow_redirects": False, "valid_status_codes": [302],
                                              "fail_if_body_not_matches_regexp": ["moved"]},
         pages=at(redirect(302, "/next"))),
    Case("body check on a followed redirect", {"fail_if_body_not_matches_regexp": ["arrived"]},
         pages={"/": redirect(302, "/next"), "/next": reply(200, b"arrived")}),
    Case("body of a megabyte", {"fail_if_body_not_matches_regexp": ["needle$"]},
         pages=at(reply(200, b"hay " * 250_000 + b"needle"))),
)  # fmt: skip

JSON = tuple(
    Case(f"json {name}", {"fail_if_body_json_not_matches_cel": expression}, pages=at(reply(200, text)))
    for name, expression, text in (
        ("object", "body.a == 1", b'{"a": 1}'),
        ("list of a key in brackets", 'body["a-b"].exists(x, x == 2)', b'{"a-b": [1, 2]}'),
        ("list of a key in brackets that does not match", 'body["a-b"].all(x, x["c"] == 2)', b'{"a-b": [{"c": 1}]}'),
        ("key in brackets as a text", 'string(body["a"]) == "1"', b'{"a": 1}'),
        ("duration in microseconds", "duration(body) < duration('1s')", '"350µs"'.encode()),
        ("duration negated", "-dyn(duration(body)) < duration('0s')", b'"1s"'),
        ("duration as a number", "int(duration(body)) == 1000000000", b'"1s"'),
        ("duration in milliseconds", "duration(body).getMilliseconds() == 1500", b'"1.5s"'),
        ("duration as a text", "string(duration(body)) == '1.5s'", b'"1.5s"'),
        (
            "time with a fraction as a text",
            "string(timestamp(body)) == '2026-01-02T03:04:05.7Z'",
            b'"2026-01-02T03:04:05.7Z"',
        ),
        ("time in lower case", "timestamp(body).getFullYear() == 2026", b'"2026-01-02t03:04:05z"'),
        ("infinity as a text", "string(body * body) == '+Inf'", b"1e300"),
        ("number with blanks", "int(body) == 1", b'" 1"'),
        ("number with an underscore", "double(body) == 10.0", b'"1_0"'),
        ("boolean as a number", "int(body) == 1", b"true"),
        ("object that does not match", "body.a == 2", b'{"a": 1}'),
        ("nothing", "true", b""),
        ("spaces around", "body == 1", b" \t1\r\n"),
        ("NaN", "true", b"NaN"),
        ("infinity", "true", b"Infinity"),
        ("NaN in a list", "true", b"[1, NaN]"),
        ("byte order mark", "true", b"\xef\xbb\xbf1"),
        ("UTF-16", "true", b"1".ljust(2, b"\0")),
        ("number beyond the range", "true", b"1e999"),
        ("number at the end of the range", "body > 1e300", b"1.7976931348623157e308"),
        ("number that underflows", "body == 0", b"1e-999"),
        ("number of 400 digits", "true", b"1" * 400),
        ("number of 300 digits", "body > 1e200", b"1" * 300),
        ("number with a leading zero", "true", b"01"),
        ("invalid UTF-8", "body == '\ufffd'", b'"\xff"'),
        ("invalid UTF-8 of two bytes", "body == '\ufffd\ufffd'", b'"\xe2\x82"'),
        ("surrogate in UTF-8", "body == '\ufffd\ufffd\ufffd'", b'"\xed\xa0\x80"'),
        ("lone high surrogate", "body == '\ufffdx'", rb'"\ud83dx"'),
        ("lone low surrogate", "body == '\ufffd'", rb'"\ude00"'),
        ("pair of surrogates", "body == '\U0001f600'", rb'"\ud83d\ude00"'),
        ("high surrogate before a pair", "body == '\ufffd\U0001f600'", rb'"\ud83d\ud83d\ude00"'),
        ("escaped backslash before ud83d", r"body == '\\ud83d'", rb'"\\ud83d"'),
        ("invalid UTF-8 in a key", "body['\ufffd'] == 1", b'{"\xff": 1}'),
        ("equal keys", "body.a == 2", b'{"a": 1, "a": 2}'),
        ("tab in a text", "true", b'"a\tb"'),
        ("DEL in a text", "body == '\x7f'", b'"\x7f"'),
        ("unknown escape", "true", rb'"\x41"'),
        ("something after the end", "true", b"1 2"),
        ("comma at the end", "true", b"[1,]"),
        ("large", "size(body) == 40000", b"[" + b"[]," * 39_999 + b"[]]"),
        ("deep", "true", b"[" * 500 + b"]" * 500),
        ("too deep", "true", b"[" * 20_000 + b"]" * 20_000),
    )
)

COMPRESSION = (
    Case("compression gzip", {"compression": "gzip"}, pages=at(reply(200, ZIPPED))),
    Case("compression gzip with its header", {"compression": "gzip", "headers": {"Accept-Encoding": "gzip"}},
         pages=at(reply(200, ZIPPED, ("Content-Encoding", "gzip")))),
    Case("compression in upper case", {"compression": "GZIP"}, pages=at(reply(200, ZIPPED))),
    Case("compression deflate", {"compression": "deflate"}, pages=at(reply(200, DEFLATED))),
    Case("compression deflate with a zlib wrapper", {"compression": "deflate"},
         pages=at(reply(200, zlib.compress(b"wrapped")))),
    Case("compression br", {"compression": "br"}, pages=at(reply(200, BROTLI))),
    Case("compression identity", {"compression": "identity"}, pages=at(reply(200, b"as it is"))),
    Case("compression unknown", {"compression": "zstd"}, pages=at(reply(200, b"as it is"))),
    Case("compression gzip of plain text", {"compression": "gzip"}, pages=at(reply(200, b"not compressed at all"))),
    Case("compression gzip of much plain text", {"compression": "gzip"}, pages=at(reply(200, b"plain " * 2000))),
    Case("compression gzip of a short text", {"compression": "gzip"}, pages=at(reply(200, b"no"))),
    Case("compression gzip of nothing", {"compression": "gzip"}, pages=at(reply(200))),
    Case("compression gzip cut", {"compression": "gzip"}, pages=at(reply(200, ZIPPED[:-10]))),
    Case("compression gzip cut by the connection", {"compression": "gzip"},
         pages=at(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + ZIPPED[:30]))),
    Case("compression gzip with a bad checksum", {"compression": "gzip"},
         pages=at(reply(200, ZIPPED[:-8] + b"\0" * 8))),
    Case("compression gzip with a bad size", {"compression": "gzip"},
         pages=at(reply(200, ZIPPED[:-4] + b"\0" * 4))),
    Case("compression gzip with a bad checksum and a match",
         {"compression": "gzip", "fail_if_body_not_matches_regexp": ["compressed"]},
         pages=at(reply(200, ZIPPED[:-8] + b"\0" * 8))),
    Case("compression gzip with a bad checksum in the second member", {"compression": "gzip"},
         pages=at(reply(200, ZIPPED + ZIPPED[:-8] + b"\0" * 8))),
    *(
        Case(f"compression gzip header with {name}", {"compression": "gzip"},
             pages=at(reply(200, header + ZIPPED[10:])))
        for name, header in GZIP_HEADERS.items()
    ),
    Case("compression gzip of two members", {"compression": "gzip"}, pages=at(reply(200, ZIPPED + ZIPPED))),
    Case("compression gzip and garbage after", {"compression": "gzip"},
         pages=at(reply(200, ZIPPED + b"garbage"))),
    Case("compression deflate of garbage", {"compression": "deflate"}, pages=at(reply(200, b"\xff" * 40))),
    Case("compression br of garbage", {"compression": "br"}, pages=at(reply(200, b"\xff" * 40))),
    Case("compression br cut", {"compression": "br"}, pages=at(reply(200, BROTLI[:-3]))),
    Case("compression gzip with a match",
         {"compression": "gzip", "fail_if_body_not_matches_regexp": ["compressed text $"]},
         pages=at(reply(200, ZIPPED))),
    Case("compression gzip with a match and garbage",
         {"compression": "gzip", "fail_if_body_not_matches_regexp": ["x"]}, pages=at(reply(200, b"garbage" * 5))),
    Case("compression gzip with HEAD", {"compression": "gzip", "method": "HEAD"},
         pages=at(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"))),
    Case("compression gzip on a failed status", {"compression": "gzip"}, pages=at(reply(500, ZIPPED))),
    Case("compression gzip on a plain failed status", {"compression": "gzip"}, pages=at(reply(500, b"plain" * 9))),
    Case("compression gzip on 204", {"compression": "gzip"}, pages=at(raw(b"HTTP/1.1 204 No\r\n\r\n"))),
    Case("compression gzip chunked", {"compression": "gzip"}, pages=at(chunked(ZIPPED[:20], ZIPPED[20:]))),
    Case("compression gzip with a limit", {"compression": "gzip", "body_size_limit": "100B"},
         pages=at(reply(200, ZIPPED))),
    Case("compression gzip within the limit", {"compression": "gzip", "body_size_limit": "1024B"},
         pages=at(reply(200, ZIPPED))),
    Case("compression gzip of a refused redirect",
         {"compression": "gzip", "follow_redirects": False, "valid_status_codes": [302]},
         pages=at(redirect(302, "/x", body=b"plain text"))),
)  # fmt: skip

BODY = (
    Case("length announced", pages=at(reply(200, b"x" * 1000))),
    Case("length by the connection's end", pages=at(reply(200, b"x" * 1000, length=False))),
    Case("length by chunks", pages=at(chunked(b"x" * 500, b"y" * 500))),
    Case("length zero", pages=at(reply(200))),
    Case("length chunked zero", pages=at(chunked())),
    Case("chunks with extensions and trailers",
         pages=at(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX-T: 1\r\n\r\n"))),
    Case("chunks of an HTTP 1.0 answer",
         pages=at(raw(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))),
    Case("chunks win over a length",
         pages=at(chunked(b"ok", headers=[("Content-Length", "9")]))),
    *(
        Case(f"chunks {name}",
             pages=at(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framing)))
        for name, framing in {
            "without final line": b"2\r\nok\r\n0\r\n", "without terminator": b"2\r\nok\r\n",
            "cut": b"5\r\nok", "of a bad size": b"zz\r\nok\r\n0\r\n\r\n", "of no size": b"\r\nok\r\n0\r\n\r\n",
            "with a prefix": b"0x2\r\nok\r\n0\r\n\r\n", "of bare line feeds": b"2\nok\n0\n\n",
            "of upper-case size": b"A\r\n0123456789\r\n0\r\n\r\n",
            "with leading zeros": b"0000000000000002\r\nok\r\n0\r\n\r\n",
            "of seventeen digits": b"00000000000000002\r\nok\r\n0\r\n\r\n",
            "of a huge size": b"ffffffffffffffff\r\nok\r\n0\r\n\r\n",
            "with blanks after the size": b"2  \r\nok\r\n0\r\n\r\n",
            "that are too long": b"2\r\nokxx0\r\n\r\n", "with a bad trailer": b"2\r\nok\r\n0\r\nno trailer\r\n\r\n",
        }.items()
    ),
    Case("more than announced", pages=at(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more"))),
    Case("less than announced", pages=at(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok"))),
    Case("less than announced, then a reset",
         pages=at(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", Pause(0.15), end=End.RESET))),
    Case("a reset in place of the end",
         pages=at(raw(b"HTTP/1.1 200 OK\r\n\r\nok", Pause(0.15), end=End.RESET))),
    Case("kept alive with a length",
         pages=at(silence(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"))),
    Case("kept alive after the last chunk",
         pages=at(silence(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))),
    Case("kept alive after 204", pages=at(silence(b"HTTP/1.1 204 No Content\r\n\r\n"))),
    Case("kept alive after HEAD", {"method": "HEAD"},
         pages=at(silence(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"))),
    *(
        Case(f"limit {name}", {"body_size_limit": limit}, pages=at(reply(200, b"x" * 1000)))
        for name, limit in {"above": "1001B", "exact": "1000B", "below": "999B", "of one": "1B",
                            "in KB": "1KB", "off": "0", "huge": "16MB"}.items()
    ),
    Case("limit with a match inside", {"body_size_limit": "10B", "fail_if_body_not_matches_regexp": ["^x+$"]},
         pages=at(reply(200, b"x" * 1000))),
    Case("limit with a match fails", {"body_size_limit": "10B", "fail_if_body_matches_regexp": ["y"]},
         pages=at(reply(200, b"x" * 1000 + b"y"))),
    Case("limit on a failed status", {"body_size_limit": "10B"}, pages=at(reply(500, b"x" * 1000))),
    Case("limit without length", {"body_size_limit": "10B"}, pages=at(chunked(b"x" * 1000))),
)  # fmt: skip

LAST_MODIFIED = (
    *(
        Case(f"last modified {name}", pages=at(reply(200, b"ok", *(("Last-Modified", date) for date in dates))))
        for name, dates in {
            "of RFC 1123": [MODIFIED],
            "of RFC 850": ["Monday, 02-Jan-06 15:04:05 GMT"],
            "of RFC 850 in 1970": ["Friday, 02-Jan-70 15:04:05 GMT"],
            "of RFC 850 in 1969": ["Thursday, 02-Jan-69 15:04:05 GMT"],
            "of RFC 850 in 2068": ["Monday, 02-Jan-68 15:04:05 GMT"],
            "of RFC 850 in another zone": ["Monday, 02-Jan-06 15:04:05 PST"],
            "of asctime": ["Mon Jan  2 15:04:05 2006"],
            "of asctime with a zero": ["Mon Jan 02 15:04:05 2006"],
            "at the epoch": ["Thu, 01 Jan 1970 00:00:00 GMT"],
            "in the year 1": ["Mon, 01 Jan 0001 00:00:00 GMT"],
            "in the year 9999": ["Fri, 31 Dec 9999 23:59:59 GMT"],
            "on the wrong weekday": ["Tue, 02 Jan 2006 15:04:05 GMT"],
            "on no weekday": ["Foo, 02 Jan 2006 15:04:05 GMT"],
            "with a one-digit day": ["Mon, 2 Jan 2006 15:04:05 GMT"],
            "with a one-digit hour": ["Mon, 02 Jan 2006 5:04:05 GMT"],
            "with fractions": ["Mon, 02 Jan 2006 15:04:05.5 GMT"],
            "with two blanks": ["Mon, 02  Jan 2006 15:04:05 GMT"],
            "of a numeric zone": ["Mon, 02 Jan 2006 15:04:05 +0000"],
            "of UTC": ["Mon, 02 Jan 2006 15:04:05 UTC"],
            "in lower case": ["mon, 02 jan 2006 15:04:05 GMT"],
            "in a lower-case zone": ["Mon, 02 Jan 2006 15:04:05 gmt"],
            "on 30 February": ["Thu, 30 Feb 2006 15:04:05 GMT"],
            "on 29 February": ["Sun, 29 Feb 2004 15:04:05 GMT"],
            "at hour 25": ["Mon, 02 Jan 2006 25:04:05 GMT"],
            "in a leap second": ["Mon, 02 Jan 2006 23:59:60 GMT"],
            "of ISO 8601": ["2006-01-02T15:04:05Z"],
            "of nonsense": ["yesterday"],
            "empty": [""],
            "twice": ["nonsense", MODIFIED],
        }.items()
    ),
    Case("last modified on a failed status", pages=at(reply(404, b"", ("Last-Modified", MODIFIED)))),
    Case("last modified with HEAD", {"method": "HEAD"}, pages=at(reply(200, b"", ("Last-Modified", MODIFIED)))),
    Case("last modified on a refused redirect", {"follow_redirects": False},
         pages=at(redirect(302, "/x", ("Last-Modified", MODIFIED)))),
    Case("last modified on a cut body", pages=at(
        raw(f"HTTP/1.1 200 OK\r\nLast-Modified: {MODIFIED}\r\nContent-Length: 9\r\n\r\nok".encode()))),
)  # fmt: skip

ARRIVED = reply(200, b"arrived")
LOOP = {"/": redirect(302, "/")}

SECRETS: Mapping[str, Settings] = {
    "basic_auth": {"basic_auth": {"username": "alice", "password": "x"}},
    "authorization": {"authorization": {"credentials": "secret"}},
    "header Authorization": {"headers": {"Authorization": "Mine 1"}},
    "header Cookie": {"headers": {"Cookie": "mine=1"}},
    "http_headers": {"http_headers": {"X-B": {"secrets": ["2"]}, "Cookie": {"values": ["c=d"]}}},
}
"""Settings whose headers a redirect to another host must not send."""

REDIRECTS = (
    *(
        Case(f"redirect {code}", pages={"/": redirect(code, "/next"), "/next": ARRIVED})
        for code in (301, 302, 303, 307, 308)
    ),
    Case("redirect 300 is final", pages={"/": redirect(300, "/next"), "/next": ARRIVED}),
    Case("redirect 304 is final", pages={"/": reply(304, b"", ("Location", "/next")), "/next": ARRIVED}),
    Case("redirect without location", pages=at(redirect(302, None))),
    Case("redirect with an empty location", pages=at(redirect(302, ""))),
    *(
        Case(f"redirect refused {code}", {"follow_redirects": False}, pages=at(redirect(code, "/next")))
        for code in (301, 302, 303, 307, 308)
    ),
    Case("redirect refused and valid", {"follow_redirects": False, "valid_status_codes": [302]},
         pages=at(redirect(302, "/next"))),
    Case("redirect refused by the old key", {"no_follow_redirects": True, "valid_status_codes": [302]},
         pages=at(redirect(302, "/next"))),
    Case("redirect allowed by the old key", {"no_follow_redirects": False, "follow_redirects": False},
         pages={"/": redirect(302, "/next"), "/next": ARRIVED}),
    Case("redirect refused with a cut body", {"follow_redirects": False, "valid_status_codes": [302]},
         pages=at(raw(b"HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 99\r\n\r\nshort"))),
    *(
        Case(f"redirect {code} of {method} with body", {"method": method, "body": "hello",
             "headers": {"Content-Type": "text/plain", "X-A": "1"}},
             pages={"/": redirect(code, "/next"), "/next": ARRIVED})
        for code in (301, 302, 303, 307, 308) for method in ("POST", "PUT")
    ),
    Case("redirect 303 of DELETE", {"method": "DELETE"}, pages={"/": redirect(303, "/next"), "/next": ARRIVED}),
    Case("redirect 302 of HEAD", {"method": "HEAD"},
         pages={"/": raw(b"HTTP/1.1 302 F\r\nLocation: /next\r\n\r\n"), "/next": reply(200)}),
    Case("redirect 307 of a body file", {"method": "POST", "body_file": "files/body"},
         pages={"/": redirect(307, "/next"), "/next": ARRIVED}),
    Case("redirect 302 of a body file", {"method": "POST", "body_file": "files/body"},
         pages={"/": redirect(302, "/next"), "/next": ARRIVED}),
    Case("redirect twice", pages={"/": redirect(301, "/a"), "/a": redirect(308, "/b"), "/b": ARRIVED}),
    Case("redirect ten times",
         pages={"/": redirect(302, "/1"), **{f"/{n}": redirect(302, f"/{n + 1}") for n in range(1, 10)},
                "/10": ARRIVED}),
    Case("redirect eleven times",
         pages={"/": redirect(302, "/1"), **{f"/{n}": redirect(302, f"/{n + 1}") for n in range(1, 11)},
                "/11": ARRIVED}),
    Case("redirect in a loop", pages=LOOP),
    Case("redirect in a loop with 302 valid", {"valid_status_codes": [302]}, pages=LOOP),
    *(
        Case(f"redirect location {name}", pages={
            "/": redirect(302, location), "/dir/next": ARRIVED, "/next": ARRIVED, "/dir/%20x": ARRIVED,
            "/dir/page": redirect(302, location), "/%C3%A9": ARRIVED, "/a%20b": ARRIVED},
            target="http://127.0.0.1:{port}" + path)
        for name, path, location in (
            ("relative", "/dir/page", "next"), ("with dots", "/dir/page", "../next"),
            ("with too many dots", "/dir/page", "../../../next"), ("of a query", "/", "?x=1"),
            ("with a fragment", "/", "/next#frag"), ("of two slashes", "/", "//127.0.0.1:{port}/next"),
            ("absolute to the same address", "/", "http://127.0.0.1:{port}/next"),
            ("absolute to a name", "/", "http://localhost:{port}/next"),
            ("absolute to IPv6", "/", "http://[::1]:{port}/next"),
            ("with a blank", "/", "/a b"), ("with UTF-8", "/", "/é"), ("with a bad escape", "/", "/%zz"),
            ("without path", "/", "http://127.0.0.1:{port}"),
            ("to a dead port", "/", "http://127.0.0.1:{dead}/"),
            ("to a bad name", "/", "http://a..example/"), ("to no host", "/", "http:///next"),
            ("of another scheme", "/", "ftp://127.0.0.1:{port}/next"), ("of mailto", "/", "mailto:a@b.c"),
            ("with a bad port", "/", "http://127.0.0.1:x/"), ("of an upper-case scheme", "/",
             "HTTP://127.0.0.1:{port}/next"), ("with user info", "/", "http://bob:pw@127.0.0.1:{port}/next"),
        )
    ),
    Case("redirect to a failing status", pages={"/": redirect(302, "/next"), "/next": reply(503, b"no")}),
    Case("redirect to a malformed answer", pages={"/": redirect(302, "/next"), "/next": raw(b"nonsense\r\n\r\n")}),
    Case("redirect to silence", pages={"/": redirect(302, "/next"), "/next": silence()}, timeout=SHORT),
    Case("redirect to a cut body", pages={
        "/": redirect(302, "/next"), "/next": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")}),
    Case("redirect with two locations", pages={
        "/": redirect(302, "/next", ("Location", "/other")), "/next": ARRIVED}),
    Case("redirect keeps the Host header", {"headers": {"Host": "www.example.test"}},
         pages={"/": redirect(302, "/next"), "/next": ARRIVED}),
    Case("redirect elsewhere drops the Host header", {"headers": {"Host": "www.example.test"}},
         pages={"/": redirect(302, "http://localhost:{port}/next"), "/next": ARRIVED}),
    Case("redirect resends headers", {"headers": {"X-A": "1"}, "http_headers": {"X-B": {"values": ["2"]}}},
         pages={"/": redirect(302, "/next"), "/next": ARRIVED}),
    Case("redirect keeps a configured Referer", {"headers": {"Referer": "http://me.test/"}},
         pages={"/": redirect(302, "/next"), "/next": ARRIVED}),
    Case("redirect hides user info in the Referer", target="http://alice:pw@127.0.0.1:{port}/",
         pages={"/": redirect(302, "/next"), "/next": ARRIVED}),
    *(
        Case(f"redirect {where} with {name}", {**IP4, **settings}, target="http://localhost:{port}/",
             pages={"/": redirect(302, location), "/next": ARRIVED})
        for where, location in {"on the host": "/next", "to the same name": "http://localhost:{port}/next",
                                "elsewhere": "http://127.0.0.1:{port}/next"}.items()
        for name, settings in SECRETS.items()
    ),
    Case("redirect from http to https", {**TRUST, **IP4}, target="http://localhost:{port}/", tls=Tls(),
         pages={"/": redirect(302, "https://localhost:{tls_port}/next"), "/next": ARRIVED}),
    Case("redirect from https to http", {**TRUST, **IP4}, target=LOCALHOST_TLS, tls=Tls(),
         pages={"/": redirect(302, "http://localhost:{port}/next"), "/next": ARRIVED}),
    Case("redirect on https", {**TRUST, **IP4}, target=LOCALHOST_TLS, tls=Tls("localhost_only"),
         pages={"/": redirect(302, "/next"), "/next": ARRIVED}),
    Case("redirect on https to the same name", {**TRUST, **IP4}, target=LOCALHOST_TLS, tls=Tls("localhost_only"),
         pages={"/": redirect(302, "https://localhost:{tls_port}/next"), "/next": ARRIVED}),
    Case("redirect on https with server_name", {**tls(server_name="www.example.test"), **IP4},
         target=LOCALHOST_TLS, tls=Tls(), pages={"/": redirect(302, "/next"), "/next": ARRIVED}),
    Case("redirect on https to the same name with server_name", {**tls(server_name="www.example.test"), **IP4},
         target=LOCALHOST_TLS, tls=Tls(),
         pages={"/": redirect(302, "https://localhost:{tls_port}/next"), "/next": ARRIVED}),
    Case("redirect on https elsewhere with server_name", {**tls(server_name="www.example.test"), **IP4},
         target=LOCALHOST_TLS, tls=Tls(),
         pages={"/": redirect(302, "https://127.0.0.1:{tls_port}/next"), "/next": ARRIVED}),
    Case("redirect to https of a stranger", {**TRUST, **IP4}, target="http://localhost:{port}/",
         tls=Tls("unknown_root"),
         pages={"/": redirect(302, "https://localhost:{tls_port}/next"), "/next": ARRIVED}),
)  # fmt: skip


def cookie_case(name: str, *cookies: str, location: str = "/next", target: str = "http://127.0.0.1:{port}/",
                settings: Mapping[str, object] = IP4) -> Case:  # fmt: skip
    """Return a case of a redirect that sets cookies; the second request shows which of them are sent back."""
    return Case(
        f"cookie {name}",
        settings,
        target=target,
        tls=Tls(),
        pages={
            "/": redirect(302, location, *(("Set-Cookie", cookie) for cookie in cookies)),
            "/next": ARRIVED,
            "/deep/next": ARRIVED,
        },
    )


COOKIES = (
    cookie_case("plain", "a=1"),
    cookie_case("several", "a=1", "b=2; Path=/", "c=3; Path=/next"),
    cookie_case("longest path first", "a=1; Path=/", "b=2; Path=/deep", location="/deep/next"),
    cookie_case("of another path", "a=1; Path=/elsewhere"),
    cookie_case("of a similar path", "a=1; Path=/ne"),
    cookie_case("secure over http", "a=1; Secure"),
    cookie_case("secure to https", "a=1; Secure", location="https://127.0.0.1:{tls_port}/next",
                settings={"tls_config": {"ca_file": "pki/root.pem"}}),
    cookie_case("for http only", "a=1; HttpOnly; SameSite=Strict"),
    cookie_case("expired", "a=1; Max-Age=0"),
    cookie_case("expired by date", "a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT"),
    cookie_case("alive by date", "a=1; Expires=Fri, 31 Dec 2099 23:59:59 GMT"),
    cookie_case("alive by age", "a=1; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT"),
    cookie_case("replaced", "a=1", "a=2"),
    cookie_case("deleted", "a=1", "a=; Max-Age=0"),
    cookie_case("quoted", 'a="1 2"'),
    cookie_case("empty", "a="),
    cookie_case("without a name", "=1", "novalue"),
    cookie_case("with odd characters", "a=1,2", "b=x y", "c=ü"),
    cookie_case("of the domain of an address", "a=1; Domain=127.0.0.1"),
    cookie_case("of a foreign domain", "a=1; Domain=example.com"),
    cookie_case("of localhost", "a=1; Domain=localhost", target="http://localhost:{port}/"),
    cookie_case("kept on the name", "a=1", location="http://localhost:{port}/next",
                target="http://localhost:{port}/"),
    cookie_case("not sent elsewhere", "a=1", location="http://localhost:{port}/next"),
    cookie_case("beside a configured one", "a=1", settings={"headers": {"Cookie": "mine=1"}}),
    cookie_case("of the Host header", "a=1; Domain=example.test",
                settings={"headers": {"Host": "www.example.test"}}),
    cookie_case("of a public suffix", "a=1; Domain=co.uk", settings={"headers": {"Host": "www.example.co.uk"}}),
)  # fmt: skip


def answered(name: str, data: bytes) -> Case:
    """Return a case of one unusual response."""
    return Case(f"answer {name}", pages=at(raw(data)))


def with_headers(name: str, lines: bytes, body: bytes = b"ok") -> Case:
    """Return a case of one unusual header."""
    return answered(name, b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n" + body)


LENGTH_2 = b"\r\nContent-Length: 2\r\n\r\nok"

ANSWERS = (
    *(
        answered(f"with status line {name}", line + LENGTH_2)
        for name, line in {
            "without reason": b"HTTP/1.1 200 ", "without blank": b"HTTP/1.1 200",
            "of two blanks": b"HTTP/1.1  200 OK", "of latin-1": b"HTTP/1.1 200 \xe9",
            "of HTTP 1": b"HTTP/1 200 OK", "of HTTP 2": b"HTTP/2 200 OK", "of HTTP 11.1": b"HTTP/11.1 200 OK",
            "in lower case": b"http/1.1 200 OK", "of ICY": b"ICY 200 OK", "of two digits": b"HTTP/1.1 99 X",
            "of four digits": b"HTTP/1.1 1000 X", "of a plus": b"HTTP/1.1 +20 X", "of a minus": b"HTTP/1.1 -20 X",
            "of a letter": b"HTTP/1.1 2x0 X", "of a tab": b"HTTP/1.1\t200 OK", "after a line": b"\r\nHTTP/1.1 200 OK",
            "after a blank": b" HTTP/1.1 200 OK",
        }.items()
    ),
    answered("of bare line feeds", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    answered("of mixed line ends", b"HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 2\n\r\nok"),
    answered("of HTTP 0.9", b"hello"),
    answered("of garbage", b"\x16\x03\x01\x02\x00garbage\r\nmore\r\n\r\n"),
    answered("of SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
    answered("of nothing", b""),
    answered("cut in the status line", b"HTTP/1.1 2"),
    answered("cut after the status line", b"HTTP/1.1 200 OK\r\n"),
    answered("cut in the headers", b"HTTP/1.1 200 OK\r\nContent-Le"),
    answered("of a status line alone", b"HTTP/1.1 200 OK\r\n\r\n"),
    Case("answer of a reset", pages=at(raw(end=End.RESET))),
    Case("answer of a reset in the headers",
         pages=at(raw(b"HTTP/1.1 200 OK\r\nX-A", Pause(0.15), end=End.RESET))),
    *(
        with_headers(f"with length {name}", lines)
        for name, lines in {
            "twice the same": b"Content-Length: 2\r\nContent-Length: 2",
            "twice different": b"Content-Length: 2\r\nContent-Length: 3", "as a list": b"Content-Length: 2, 2",
            "of a plus": b"Content-Length: +2", "negative": b"Content-Length: -2", "of a letter": b"Content-Length: x",
            "empty": b"Content-Length: ", "of blanks": b"Content-Length:   2  ", "of a prefix": b"Content-Length: 0x2",
            "of zeros": b"Content-Length: 002", "too large": b"Content-Length: 99999999999999999999",
            "of the largest": b"Content-Length: 9223372036854775807",
        }.items()
    ),
    *(
        with_headers(f"with header {name}", lines + b"\r\nContent-Length: 2")
        for name, lines in {
            "folded": b"X-A: one\r\n two", "without colon": b"NoColon", "without name": b": v",
            "with a blank in the name": b"X A: v", "with a blank before the colon": b"X-A : v",
            "with a bracket in the name": b"X(A): v", "of UTF-8 name": "X-é: v".encode(),
            "of NUL": b"X-A: a\0b", "of a control character": b"X-A: a\x01b", "of latin-1": b"X-A: a\xe9b",
            "of a bare carriage return": b"X-A: a\rb", "of a megabyte": b"X-A: " + b"a" * 1_000_000,
            "of 11 megabytes": b"X-A: " + b"a" * 11_000_000,
            "lines by the ten thousand": b"\r\n".join(b"X-%d: a" % n for n in range(10_000)),
        }.items()
    ),
    with_headers("with a first header folded", b" X-A: b\r\nContent-Length: 2"),
    *(
        with_headers(f"with coding {name}", lines, b"2\r\nok\r\n0\r\n\r\n")
        for name, lines in {
            "in mixed case": b"Transfer-Encoding: ChunKed", "gzip": b"Transfer-Encoding: gzip, chunked",
            "identity": b"Transfer-Encoding: identity", "unknown": b"Transfer-Encoding: x",
            "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "empty": b"Transfer-Encoding: ",
        }.items()
    ),
    *(
        answered(f"after {name}", interim + b"HTTP/1.1 200 OK" + LENGTH_2)
        for name, interim in {
            "a 100": b"HTTP/1.1 100 Continue\r\n\r\n", "a 103": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
            "a 199": b"HTTP/1.1 199 X\r\n\r\n", "twenty 102": b"HTTP/1.1 102 Processing\r\n\r\n" * 20,
            "a 100 with a length": b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\n",
            "endless 103": (b"HTTP/1.1 103 Early\r\nLink: " + b"a" * 5000 + b"\r\n\r\n") * 2200,
        }.items()
    ),
    answered("of a 103 alone", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    Case("answer before the request", greeting=raw(b"HTTP/1.1 200 OK" + LENGTH_2, Pause(0.2))),
)  # fmt: skip

FAILURES = (
    Case("refused", target="http://127.0.0.1:{dead}/"),
    Case("refused over TLS", target="https://127.0.0.1:{dead}/"),
    Case("silence", pages=at(silence()), timeout=SHORT),
    Case("silence after one byte", pages=at(silence(b"H")), timeout=SHORT),
    Case("silence in the headers", pages=at(silence(b"HTTP/1.1 200 OK\r\nX-A: b\r\n")), timeout=SHORT),
    Case("silence after a 100", pages=at(silence(b"HTTP/1.1 100 Continue\r\n\r\n")), timeout=SHORT),
    Case("silence before the body", pages=at(silence(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")),
         timeout=SHORT),
    Case("silence in the body", pages=at(silence(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfive!")),
         timeout=SHORT),
    Case("silence in the body with a match", {"fail_if_body_matches_regexp": ["six"]},
         pages=at(silence(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfive!")), timeout=SHORT),
    Case("silence in a chunk",
         pages=at(silence(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nfive!")), timeout=SHORT),
    Case("silence on a failed status", pages=at(silence(b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nfive!")),
         timeout=SHORT),
    Case("silence in a gzip body", {"compression": "gzip"},
         pages=at(silence(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + ZIPPED[:5])), timeout=SHORT),
    Case("silence in the body of a refused redirect", {"follow_redirects": False, "valid_status_codes": [302]},
         pages=at(silence(b"HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 9\r\n\r\nfive!")), timeout=SHORT),
    Case("silence in the body of a followed redirect",
         pages={"/": silence(b"HTTP/1.1 302 F\r\nLocation: /next\r\nContent-Length: 9\r\n\r\nfive!"),
                "/next": ARRIVED}, timeout=SHORT),
    Case("a slow answer in time", pages=at(raw(Pause(0.2), b"HTTP/1.1 200 OK" + LENGTH_2))),
    Case("a dripping answer in time", pages=at(raw(b"HTTP/1.1 200 OK\r\n\r\n", Repeat(b"x", 5, every=0.03)))),
    Case("no timeout left", timeout="1ns"),
    Case("fail_if_ssl over plain", {"fail_if_ssl": True}),
    Case("fail_if_not_ssl over plain", {"fail_if_not_ssl": True}),
    Case("fail_if_not_ssl after a failed status", {"fail_if_not_ssl": True}, pages=at(reply(500))),
    Case("ca_file missing with a plain target", {"tls_config": {"ca_file": "pki/none.pem"}}),
    Case("ca_file of garbage with a plain target", {"tls_config": {"ca_file": "pki/garbage.pem"}}),
)  # fmt: skip


def served(certificate: str, *, settings: Mapping[str, object] = TRUST, target: str = OVER_TLS) -> Case:
    """Return a case of one server certificate."""
    return Case(f"certificate {certificate}".replace("_", " "), settings, target, tls=Tls(certificate))


V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
NOT_VERIFIED = {"tls_config": {"insecure_skip_verify": True}}

TLS = (
    served("leaf"),
    served("rsa"),
    served("localhost_only"),
    *(
        served(name)
        for name in (
            "rich", "awkward", "multi_valued", "nameless", "many_names", "by_root", "expired", "not_yet_valid",
            "wrong_name", "common_name_only", "self_signed", "unknown_root", "for_clients", "by_pretender",
            "by_old_intermediate", "no_intermediate", "with_root", "with_bystander",
        )
    ),
    *(
        Case(f"not verified {name}".replace("_", " "), NOT_VERIFIED, OVER_TLS, tls=Tls(name))
        for name in ("leaf", "expired", "wrong_name", "self_signed", "no_intermediate", "with_bystander")
    ),
    Case("no ca_file and a private root", {}, OVER_TLS, tls=Tls()),
    Case("ca inline", {"tls_config": {"ca": "{pki/root.pem}"}}, OVER_TLS, tls=Tls()),
    Case("ca inline of garbage", {"tls_config": {"ca": "garbage"}}, OVER_TLS, tls=Tls()),
    Case("ca_file missing", {"tls_config": {"ca_file": "pki/none.pem"}}, OVER_TLS, tls=Tls()),
    Case("ca_file of garbage", {"tls_config": {"ca_file": "pki/garbage.pem"}}, OVER_TLS, tls=Tls()),
    Case("ca_ref", {"tls_config": {"ca_ref": "somewhere"}}, OVER_TLS, tls=Tls()),
    Case("ca_file is the intermediate", {"tls_config": {"ca_file": "pki/intermediate.pem"}}, OVER_TLS, tls=Tls()),
    Case("ca_file is the leaf", {"tls_config": {"ca_file": "pki/leaf.pem"}}, OVER_TLS, tls=Tls()),
    Case("ca_file is the expired leaf", {"tls_config": {"ca_file": "pki/expired.pem"}}, OVER_TLS,
         tls=Tls("expired")),
    Case("ca_file is the self-signed leaf", {"tls_config": {"ca_file": "pki/self_signed.pem"}}, OVER_TLS,
         tls=Tls("self_signed")),
    Case("ca_file of two roots", {"tls_config": {"ca_file": "pki/twin_roots.pem"}}, OVER_TLS, tls=Tls("twin")),
    Case("ca_file of two roots reversed", {"tls_config": {"ca_file": "pki/twin_roots_reversed.pem"}}, OVER_TLS,
         tls=Tls("twin")),
    Case("expired with a wrong name", tls(server_name="no.example.test"), OVER_TLS, tls=Tls("expired")),
    Case("unknown root with a wrong name", tls(server_name="no.example.test"), OVER_TLS, tls=Tls("unknown_root")),
    Case("name localhost", {**TRUST, **IP4}, LOCALHOST_TLS, tls=Tls()),
    Case("name localhost against addresses", {**TRUST, **IP4}, LOCALHOST_TLS, tls=Tls("wrong_name")),
    Case("address of IPv6", TRUST, "https://[::1]:{tls_port}/", tls=Tls()),
    Case("server_name", tls(server_name="www.example.test"), OVER_TLS, tls=Tls()),
    Case("server_name wrong", tls(server_name="no.example.test"), OVER_TLS, tls=Tls()),
    Case("server_name in upper case", tls(server_name="WWW.Example.Test"), OVER_TLS, tls=Tls()),
    Case("server_name with a final dot", tls(server_name="www.example.test."), OVER_TLS, tls=Tls()),
    Case("server_name of an address", {**tls(server_name="127.0.0.1"), **IP4}, LOCALHOST_TLS, tls=Tls()),
    Case("server_name wildcard", tls(server_name="any.example.test"), OVER_TLS, tls=Tls("wildcard")),
    Case("server_name wildcard too deep", tls(server_name="a.b.example.test"), OVER_TLS, tls=Tls("wildcard")),
    Case("server_name wildcard bare", tls(server_name="example.test"), OVER_TLS, tls=Tls("wildcard")),
    Case("server_name not verified", {"tls_config": {"insecure_skip_verify": True, "server_name": "x.test"}},
         OVER_TLS, tls=Tls()),
    Case("server name of the Host header", {**TRUST, "headers": {"Host": "www.example.test"}}, OVER_TLS, tls=Tls()),
    Case("server name of a wrong Host header", {**TRUST, "headers": {"Host": "no.example.test"}}, OVER_TLS,
         tls=Tls()),
    Case("server name of the Host header with port", {**TRUST, "headers": {"Host": "www.example.test:443"}},
         OVER_TLS, tls=Tls()),
    Case("server_name before the Host header",
         {**tls(server_name="www.example.test"), "headers": {"Host": "no.example.test"}}, OVER_TLS, tls=Tls()),
    Case("client certificate", tls(cert_file="pki/client.pem", key_file="pki/client.key"), OVER_TLS,
         tls=Tls(client_ca="root")),
    Case("client certificate over TLS 1.2", tls(cert_file="pki/client.pem", key_file="pki/client.key"), OVER_TLS,
         tls=Tls(client_ca="root", maximum=V12)),
    Case("client certificate inline", tls(cert="{pki/client.pem}", key="{pki/client.key}"), OVER_TLS,
         tls=Tls(client_ca="root")),
    Case("client certificate not given", TRUST, OVER_TLS, tls=Tls(client_ca="root")),
    Case("client certificate not given over TLS 1.2", TRUST, OVER_TLS, tls=Tls(client_ca="root", maximum=V12)),
    Case("client certificate of a stranger",
         tls(cert_file="pki/foreign_client.pem", key_file="pki/foreign_client.key"), OVER_TLS,
         tls=Tls(client_ca="root")),
    Case("client certificate not asked for", tls(cert_file="pki/client.pem", key_file="pki/client.key"), OVER_TLS,
         tls=Tls()),
    Case("client certificate missing", tls(cert_file="pki/none.pem", key_file="pki/client.key"), OVER_TLS,
         tls=Tls()),
    Case("client key missing", tls(cert_file="pki/client.pem", key_file="pki/none.key"), OVER_TLS, tls=Tls()),
    Case("client key of another", tls(cert_file="pki/client.pem", key_file="pki/leaf.key"), OVER_TLS, tls=Tls()),
    Case("client key of garbage", tls(cert_file="pki/client.pem", key_file="pki/garbage.pem"), OVER_TLS, tls=Tls()),
    Case("client key ref", tls(cert_file="pki/client.pem", key_ref="somewhere"), OVER_TLS, tls=Tls()),
    Case("HTTP/2 not offered", {**TRUST, "enable_http2": False}, OVER_TLS, tls=Tls()),
    Case("version 1.2 only", TRUST, OVER_TLS, tls=Tls(maximum=V12)),
    Case("version 1.3 only", TRUST, OVER_TLS, tls=Tls(minimum=V13)),
    Case("version held to 1.2", tls(max_version="TLS12"), OVER_TLS, tls=Tls()),
    Case("version held to 1.3", tls(min_version="TLS13"), OVER_TLS, tls=Tls()),
    Case("version 1.3 demanded of a 1.2 server", tls(min_version="TLS13"), OVER_TLS, tls=Tls(maximum=V12)),
    Case("version 1.2 demanded of a 1.3 server", tls(max_version="TLS12"), OVER_TLS, tls=Tls(minimum=V13)),
    Case("version minimum above maximum", tls(min_version="TLS13", max_version="TLS12"), OVER_TLS, tls=Tls()),
    *(
        Case(f"cipher {cipher}", TRUST, OVER_TLS, tls=Tls(certificate, maximum=V12, ciphers=cipher))
        for certificate, cipher in (
            ("leaf", "ECDHE-ECDSA-AES128-GCM-SHA256"), ("leaf", "ECDHE-ECDSA-AES256-GCM-SHA384"),
            ("leaf", "ECDHE-ECDSA-CHACHA20-POLY1305"), ("rsa", "ECDHE-RSA-AES256-GCM-SHA384"),
            ("rsa", "ECDHE-RSA-AES128-SHA"), ("rsa", "AES128-GCM-SHA256"), ("rsa", "DHE-RSA-AES128-GCM-SHA256"),
        )
    ),
    Case("fail_if_ssl", {**TRUST, "fail_if_ssl": True}, OVER_TLS, tls=Tls()),
    Case("fail_if_not_ssl", {**TRUST, "fail_if_not_ssl": True}, OVER_TLS, tls=Tls()),
    Case("fail_if_ssl after a redirect from https", {**TRUST, "fail_if_ssl": True}, OVER_TLS, tls=Tls(),
         pages={"/": redirect(302, "http://127.0.0.1:{port}/next"), "/next": ARRIVED}),
    Case("tls with a failed status", TRUST, OVER_TLS, tls=Tls(), pages=at(reply(503, b"no"))),
    Case("tls with a cut body", TRUST, OVER_TLS, tls=Tls(),
         pages=at(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok"))),
    Case("tls with a body to the end", TRUST, OVER_TLS, tls=Tls(), pages=at(reply(200, b"ok", length=False))),
    Case("tls with a reset for an end", TRUST, OVER_TLS, tls=Tls(),
         pages=at(raw(b"HTTP/1.1 200 OK\r\n\r\nok", Pause(0.15), end=End.RESET))),
    Case("tls with a malformed answer", TRUST, OVER_TLS, tls=Tls(), pages=at(raw(b"nonsense\r\n\r\n"))),
    Case("tls with no answer", TRUST, OVER_TLS, tls=Tls(), pages=at(raw(b""))),
    Case("tls with silence", TRUST, OVER_TLS, tls=Tls(), pages=at(silence()), timeout=SHORT),
    Case("tls stalled in the handshake", TRUST, OVER_TLS, tls=silence(), timeout=SHORT),
    Case("tls answered with garbage", TRUST, OVER_TLS, tls=raw(b"garbage in place of a handshake\r\n")),
    Case("tls answered with plain HTTP", TRUST, OVER_TLS, tls=raw(b"HTTP/1.1 400 Bad Request" + LENGTH_2)),
    Case("tls answered with an alert", TRUST, OVER_TLS, tls=raw(b"\x15\x03\x03\x00\x02\x02\x28")),
    Case("tls answered with the end", TRUST, OVER_TLS, tls=raw(b"")),
    Case("tls answered with a reset", TRUST, OVER_TLS, tls=raw(end=End.RESET)),
    Case("tls asked of a plain port", TRUST, "https://127.0.0.1:{port}/", greeting=raw(b"220 mail.test\r\n")),
    Case("plain asked of a TLS port", {}, "http://127.0.0.1:{tls_port}/", tls=Tls()),
)  # fmt: skip

GROUPS: dict[str, tuple[Case, ...]] = {
    "status": STATUS,
    "version": VERSION,
    "request": REQUEST,
    "credentials": CREDENTIALS,
    "targets": TARGETS,
    "addresses": ADDRESSES,
    "front": FRONT,
    "header_checks": HEADER_CHECKS,
    "body_checks": BODY_CHECKS,
    "json": JSON,
    "compression": COMPRESSION,
    "body": BODY,
    "last_modified": LAST_MODIFIED,
    "redirects": REDIRECTS,
    "cookies": COOKIES,
    "answers": ANSWERS,
    "failures": FAILURES,
    "tls": TLS,
}
"""Every case, by its golden file."""
