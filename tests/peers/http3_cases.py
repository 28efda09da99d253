"""The http cases over HTTP/3: requests, responses, and each way a server can violate the protocol.

Cases state no expectation: the comparison and the golden files do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tests.peers.cases import AMPLE, SHORT, Case, Settings
from tests.peers.http_cases import ARRIVED as PLAINLY_ARRIVED
from tests.peers.http_cases import BROTLI, DEFLATED, IP4, MODIFIED, TRUST, ZIPPED, at, matcher, tls
from tests.targets import Answer, End, Pause, Repeat, Tls, http3
from tests.targets.answers import Part
from tests.targets.http3 import (
    CONTROL,
    DECODER,
    ENCODER,
    GOAWAY,
    HEADERS,
    PUSH,
    PUSH_PROMISE,
    SETTINGS,
    SETTLED,
    Quic,
    block,
    both_ways,
    close,
    close_transport,
    data,
    frame,
    goaway,
    head,
    headers,
    on_control,
    opened,
    redirect,
    reply,
    reset,
    said,
    stop,
)

OVER_QUIC = "https://127.0.0.1:{quic_port}/"
LOCALHOST = "https://localhost:{quic_port}/"
HTTP3 = {"enable_http3": True, "enable_http2": False}
OK = reply(200, b"ok")
ARRIVED = reply(200, b"arrived")


def over(
    name: str,
    asked: Settings | None = None,
    answer: Answer | Mapping[str, Answer] = OK,
    *,
    target: str = OVER_QUIC,
    quic: Quic | None = None,
    timeout: str = AMPLE,
) -> Case:
    """Return a case over HTTP/3."""
    return Case(
        f"http3 {name}",
        {**HTTP3, **TRUST, **(asked or {})},
        target=target,
        pages=answer if isinstance(answer, Mapping) else at(answer),
        quic=quic or Quic(),
        timeout=timeout,
    )


def malformed(name: str, *parts: Part, end: End = End.CLOSE, timeout: str = AMPLE) -> Case:
    """Return a case of one unusual response."""
    return over(name, answer=said(*parts, end=end), timeout=timeout)


def control(name: str, content: bytes, *, opening: bytes = SETTLED) -> Case:
    """Return a case of one unusual control stream; the response follows."""
    answer = said(on_control(content), Pause(0.1), head(200), data(b"ok"))
    return over(name, answer=answer, quic=Quic(opening=opening))


REQUEST = (
    over("plain"),
    *(
        over(f"method {method}", {"method": method})
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "get", "")
    ),
    over("method HEAD", {"method": "HEAD"}, said(head(200, ("content-length", "12")))),
    over("method HEAD without a length", {"method": "HEAD"}, said(head(200))),
    over("method of a blank", {"method": "GE T"}),
    over("body with POST", {"method": "POST", "body": "hello"}),
    over("body with GET", {"body": "hello"}),
    replace(over("body large with POST", {"method": "POST", "body": "0123456789abcdef" * 8192}), pinned=False),
    over("body file", {"method": "POST", "body_file": "files/body"}),
    over("body file empty", {"method": "POST", "body_file": "files/empty"}),
    replace(over("body file large", {"method": "POST", "body_file": "files/large"}), pinned=False),
    over("body file missing", {"method": "POST", "body_file": "files/none"}),
    over("headers", {"headers": {"X-Two": "2", "Accept": "*/*", "x-lower": "a", "X-Empty": ""}}),
    over("headers of UTF-8", {"headers": {"X-A": "grün"}}),
    over("header Host", {"headers": {"Host": "www.example.test"}}),
    over("header Host with a port", {"headers": {"Host": "www.example.test:8443"}}),
    over("header User-Agent", {"headers": {"User-Agent": "somebody/1"}}),
    over("header User-Agent empty", {"headers": {"User-Agent": ""}}),
    over("header Accept-Encoding", {"headers": {"Accept-Encoding": "br"}}),
    over("header Cookie", {"headers": {"Cookie": "a=1; b=2"}}),
    over("headers of the connection", {"headers": {"Connection": "keep-alive", "Keep-Alive": "5", "Upgrade": "x",
                                                    "Proxy-Connection": "close", "Transfer-Encoding": "chunked"}}),
    over("header TE of trailers", {"headers": {"TE": "trailers"}}),
    over("http_headers", {"http_headers": {"X-A": {"values": ["1", "2"], "secrets": ["s"], "files": ["files/token"]}}}),
    over("basic_auth", {"basic_auth": {"username": "alice", "password": "secret"}}),
    over("authorization", {"authorization": {"credentials": "token"}}),
    over("bearer_token_file", {"bearer_token_file": "files/token"}),
    over("header Authorization", {"headers": {"Authorization": "Mine x"}}),
    over("user info in the target", target="https://al%20ice:p%40ss@127.0.0.1:{quic_port}/"),
    over("target of http", target="http://127.0.0.1:{quic_port}/"),
    over("target without a scheme", target="127.0.0.1:{quic_port}"),
    over("target with a query", target="https://127.0.0.1:{quic_port}/?a=b%20c&d"),
    over("target of a name", IP4, target=LOCALHOST),
    over("target of IPv6", target="https://[::1]:{quic_port}/"),
    over("target that does not exist", target="https://nowhere.invalid:{quic_port}/"),
    over("target that does not parse", target="https://127.0.0.1:{quic_port}/%zz"),
    over("preferred IPv6 of IPv4 alone", {"preferred_ip_protocol": "ip6", "ip_protocol_fallback": False}),
    over("proxy_url", {"proxy_url": "http://127.0.0.1:1"}),
    over("refused", target="https://127.0.0.1:{dead}/", timeout=SHORT),
)  # fmt: skip

RESPONSE = (
    *(over(f"status {code}", answer=reply(code, b"body")) for code in (201, 300, 304, 404, 500, 503)),
    over("status 204", answer=said(head(204))),
    over("status 304 with a length", answer=said(head(304, ("content-length", "5")))),
    over("status 599", answer=reply(599)),
    over("status 999", answer=reply(999)),
    over("valid status", {"valid_status_codes": [404]}, reply(404, b"gone")),
    over("valid version", {"valid_http_versions": ["HTTP/3.0"]}),
    over("valid version of none", {"valid_http_versions": []}),
    over("fail_if_ssl", {"fail_if_ssl": True}),
    over("fail_if_not_ssl", {"fail_if_not_ssl": True}),
    over("without a length", answer=reply(200, b"some body", length=False)),
    over("without a body", answer=said(head(200))),
    over("body large", answer=reply(200, b"0123456789abcdef" * 100_000)),
    over("body in many frames",
         answer=said(head(200), data(b"a"), data(), data(b"b"), frame(0x21, b"grease"), data(b"c"))),
    over("body limited", {"body_size_limit": "10B"}, reply(200, b"0123456789abcdef")),
    over("body at its limit", {"body_size_limit": "16B"}, reply(200, b"0123456789abcdef")),
    over("body matched", {"fail_if_body_matches_regexp": ["no+"]}, reply(200, b"nooo")),
    over("body not matched", {"fail_if_body_not_matches_regexp": ["yes"]}, reply(200, b"nooo")),
    over("body of JSON", {"fail_if_body_json_matches_cel": "body.a == 1"}, reply(200, b'{"a": 1}')),
    over("header matched", {"fail_if_header_matches": matcher("X-A", "b")}, reply(200, b"ok", ("x-a", "b"))),
    over("header not matched", {"fail_if_header_not_matches": matcher("x-a", "c")}, reply(200, b"ok", ("x-a", "b"))),
    over("last modified", answer=reply(200, b"ok", ("last-modified", MODIFIED))),
    over("trailers", answer=said(head(200), data(b"ok"), headers(("x-trailer", "1")))),
    over("trailers without a body", answer=said(head(200), headers(("x-trailer", "1")))),
    *(malformed(f"after a {code}", head(code, ("link", "</x>")), head(200), data(b"ok")) for code in (100, 103)),
    over("after twenty 103", answer=said(*[head(103)] * 20, head(200), data(b"ok"))),
    over("a slow answer", answer=said(Pause(0.2), head(200), Pause(0.1), data(b"ok"))),
    over("a dripping answer", answer=said(head(200), Repeat(data(b"x"), 5, every=0.03))),
    over("gzip not asked for", answer=reply(200, ZIPPED, ("content-encoding", "gzip"))),
    over("compression gzip", {"compression": "gzip"}, reply(200, ZIPPED, ("content-encoding", "gzip"))),
    over("compression br", {"compression": "br"}, reply(200, BROTLI, ("content-encoding", "br"))),
    over("compression deflate", {"compression": "deflate"}, reply(200, DEFLATED, ("content-encoding", "deflate"))),
    over("compression identity", {"compression": "identity"}),
    over("header Accept-Encoding of gzip", {"headers": {"Accept-Encoding": "gzip"}, "compression": "gzip"},
         reply(200, ZIPPED, ("content-encoding", "gzip"))),
    over("gzip asked for and not expected", {"headers": {"Accept-Encoding": "gzip"}},
         reply(200, ZIPPED, ("content-encoding", "gzip"))),
)  # fmt: skip


def redirected(
    name: str,
    location: str,
    asked: Settings | None = None,
    *,
    status: int = 302,
    target: str = OVER_QUIC,
    timeout: str = AMPLE,
) -> Case:
    """Return a case of one redirect."""
    answer = {"/": redirect(status, location), "/next": ARRIVED}
    return over(f"redirect {name}", asked, answer, target=target, timeout=timeout)


REDIRECTS = (
    *(redirected(str(status), "/next", status=status) for status in (301, 302, 303, 307, 308)),
    redirected("absolute", "https://127.0.0.1:{quic_port}/next"),
    redirected("to a name", "https://localhost:{quic_port}/next", IP4),
    redirected("of the same name", "https://localhost:{quic_port}/next", IP4, target=LOCALHOST),
    redirected("to plain http", "http://127.0.0.1:{quic_port}/next"),
    redirected("to a dead port", "https://127.0.0.1:{dead}/next", timeout=SHORT),
    redirected("not followed", "/next", {"follow_redirects": False, "valid_status_codes": [302]}),
    redirected("with a body", "/next", {"method": "POST", "body": "hello"}, status=307),
    redirected("with credentials", "/next", {"basic_auth": {"username": "alice", "password": "secret"}}),
    redirected("elsewhere with credentials", "https://localhost:{quic_port}/next",
               {"basic_auth": {"username": "alice", "password": "secret"}, **IP4}),
    redirected("with a server_name", "/next", tls(server_name="www.example.test")),
    over("redirect with cookies", answer={
        "/": redirect(302, "/next", ("set-cookie", "a=1"), ("set-cookie", "b=2")), "/next": ARRIVED}),
    over("redirects without end", answer=redirect(302, "/")),
    over("redirect that goes away", answer={
        "/": said(goaway(4), head(302, ("location", "/next"))), "/next": ARRIVED}),
    Case("http3 redirect to nobody on QUIC", {**HTTP3, **TRUST}, OVER_QUIC, timeout=SHORT, quic=Quic(), tls=Tls(),
         pages={"/": redirect(302, "https://127.0.0.1:{tls_port}/next"), "/next": PLAINLY_ARRIVED}),
)  # fmt: skip

FRAMES = (
    malformed("nothing"),
    malformed("garbage", b"HTTP/1.1 200 OK\r\n\r\n"),
    malformed("data before headers", data(b"ok"), head(200)),
    malformed("headers that do not decompress", frame(HEADERS, b"\0\0\xff\xff\xff\xff\xff\xff")),
    malformed("headers of the dynamic table", frame(HEADERS, b"\2\0\x80")),
    malformed("headers cut", head(200)[:-2]),
    malformed("headers that are empty", frame(HEADERS, b"\0\0")),
    malformed("headers without status", headers(("x-a", "b"))),
    malformed("two statuses", headers((":status", "200"), (":status", "201"))),
    malformed("status after headers", headers(("x-a", "b"), (":status", "200"))),
    malformed("a pseudo-header of requests", headers((":status", "200"), (":path", "/"))),
    *(
        malformed(f"status {name}", head(status), data(b"ok"))
        for name, status in {"of two digits": "20", "of four digits": "2000", "of a letter": "2x0", "empty": "",
                             "of a plus": "+20", "of zeros": "000", "of 099": "099", "of 101": "101"}.items()
    ),
    *(
        malformed(f"header {name}", head(200, *fields), data(b"ok"))
        for name, fields in {
            "in upper case": [("X-Upper", "1")], "with a blank in the name": [("x y", "1")],
            "without name": [("", "1")], "with a colon in the name": [("x:y", "1")], "of UTF-8 name": [("x-é", "1")],
            "of NUL": [("x-a", "a\0b")], "of a line end": [("x-a", "a\r\nb")],
            "of a control character": [("x-a", "a\x01b")],
            "of blanks": [("x-a", "  b  ")], "of UTF-8": [("x-a", "grün")], "of latin-1": [("x-a", "gr\udcfcn")],
            "connection": [("connection", "close")], "te": [("te", "gzip")],
            "transfer-encoding": [("transfer-encoding", "chunked")], "upgrade": [("upgrade", "x")],
            "keep-alive": [("keep-alive", "5")],
        }.items()
    ),
    *(
        malformed(f"length {name}", head(200, *(("content-length", value) for value in values)), data(b"ok"))
        for name, values in {
            "too short": ["1"], "too long": ["3"], "of 0": ["0"], "negative": ["-2"], "of a letter": ["x"],
            "of a plus": ["+2"], "twice the same": ["2", "2"], "twice different": ["2", "3"], "as a list": ["2, 2"],
            "empty": [""], "of zeros": ["002"], "too large": ["99999999999999999999"],
        }.items()
    ),
    malformed("length without a body", head(200, ("content-length", "2"))),
    malformed("a frame cut", head(200), frame(0, b"ok", length=5)),
    malformed("settings on the stream", frame(SETTINGS), head(200), data(b"ok")),
    malformed("going away on the stream", frame(GOAWAY, b"\0"), head(200), data(b"ok")),
    malformed("a promise", frame(PUSH_PROMISE, b"\0" + block((":method", "GET"))), head(200), data(b"ok")),
    malformed("a frame of HTTP/2", frame(0x6, b"12345678"), head(200), data(b"ok")),
    malformed("an unknown frame", frame(0x21, b"grease"), head(200), frame(0x21, b"grease"), data(b"ok")),
    malformed("data after trailers", head(200), data(b"a"), headers(("x-a", "1")), data(b"b")),
    malformed("headers after trailers", head(200), data(b"a"), headers(("x-a", "1")), headers(("x-a", "1"))),
    malformed("trailers with a status", head(200), data(b"ok"), head(200)),
    malformed("a 103 and the end", head(103)),
    malformed("a body with HEAD's status 204", head(204), data(b"ok")),
    over("a body with HEAD", {"method": "HEAD"}, said(head(200, ("content-length", "2")), data(b"ok"))),
    malformed("headers of 100 kilobytes", head(200, ("x-a", "a" * 100_000)), data(b"ok")),
    malformed("headers of a megabyte", head(200, ("x-a", "a" * 1_000_000)), data(b"ok")),
    malformed("headers by the thousand", head(200, *((f"x-{n}", "a") for n in range(2000))), data(b"ok")),
)  # fmt: skip

THEN = Pause(0.3)  # long enough for the earlier data to be read: Go loses data that arrives together with the end
FIVE_OF_NINE = (head(200, ("content-length", "9")), data(b"five!"))

ENDS = (
    malformed("silence", end=End.HOLD, timeout=SHORT),
    malformed("silence in the headers", head(200)[:-2], end=End.HOLD, timeout=SHORT),
    malformed("silence after a 103", head(103), end=End.HOLD, timeout=SHORT),
    malformed("silence before the body", head(200, ("content-length", "9")), end=End.HOLD, timeout=SHORT),
    malformed("silence in the body", *FIVE_OF_NINE, end=End.HOLD, timeout=SHORT),
    malformed("silence in a frame", head(200), frame(0, b"five!", length=9), end=End.HOLD, timeout=SHORT),
    malformed("silence after the body", head(200, ("content-length", "2")), data(b"ok"), end=End.HOLD, timeout=SHORT),
    malformed("a reset", reset(), end=End.HOLD),
    malformed("a rejection", reset(http3.REQUEST_REJECTED), end=End.HOLD),
    malformed("a reset after the headers", head(200), THEN, reset(), end=End.HOLD),
    malformed("a reset in the body", *FIVE_OF_NINE, THEN, reset(), end=End.HOLD),
    malformed("a reset without error in the body", head(200), data(b"ok"), THEN, reset(http3.NO_ERROR),
              end=End.HOLD),
    over("the rest of the request not wanted", {"method": "POST", "body_file": "files/body"},
         said(stop(), head(200), data(b"ok"))),
    malformed("the connection closed", close(), end=End.HOLD),
    malformed("the connection closed with an error", close(http3.INTERNAL_ERROR, "out of order"), end=End.HOLD),
    malformed("the connection broken", close_transport(), end=End.HOLD),
    malformed("the connection closed after the headers", head(200), THEN, close(), end=End.HOLD),
    malformed("the connection closed in the body", *FIVE_OF_NINE, THEN, close(), end=End.HOLD),
    malformed("the connection broken in the body", *FIVE_OF_NINE, THEN, close_transport(), end=End.HOLD),
    malformed("going away before the answer", goaway(4), Pause(0.05), head(200), data(b"ok")),
    malformed("going away from the request", goaway(0), end=End.HOLD, timeout=SHORT),
    malformed("going away from the request and answering", goaway(0), Pause(0.05), head(200), data(b"ok")),
    control("control stream without settings", frame(GOAWAY, b"\0"), opening=b"\0"),
    control("control stream of garbage", b"HTTP/1.1 200 OK\r\n", opening=b"\0"),
    control("control stream of unknown frames", frame(0x21, b"grease")),
    control("control stream with unknown frames first", frame(0x21, b"grease") + frame(SETTINGS), opening=b"\0"),
    control("control stream with settings of HTTP/2", frame(SETTINGS, b"\2\0"), opening=b"\0"),
    control("control stream with settings twice over", frame(SETTINGS, b"\x21\0\x21\0"), opening=b"\0"),
    control("control stream with settings cut", frame(SETTINGS, b"\x21"), opening=b"\0"),
    control("control stream with an unknown setting", frame(SETTINGS, b"\x21\5"), opening=b"\0"),
    control("control stream with many settings", frame(SETTINGS, b"".join(bytes((0x41, n, 1)) for n in range(50))),
            opening=b"\0"),
    control("control stream with data", data(b"x")),
    control("control stream with headers", head(200)),
    control("control stream with a push allowed", frame(0xD, b"\x05")),
    control("control stream with a cancelled push", frame(0x3, b"\x05")),
    control("control stream with a frame of HTTP/2", frame(0x6, b"12345678")),
    control("control stream with a bad farewell", frame(GOAWAY, b"\x01")),
    control("control stream with an empty farewell", frame(GOAWAY)),
    over("no control stream", quic=Quic(opening=b"\x21")),
    malformed("control stream ended", on_control(b"", end=True), Pause(0.1), head(200), data(b"ok")),
    malformed("control stream twice", opened(CONTROL, frame(SETTINGS)), Pause(0.1), head(200), data(b"ok")),
    control("settings twice", frame(SETTINGS)),
    malformed("a push", opened(PUSH, b"\0" + head(200)), Pause(0.1), head(200), data(b"ok")),
    malformed("an encoder stream of garbage", opened(ENCODER, b"\xff" * 20), Pause(0.1), head(200), data(b"ok")),
    malformed("an encoder stream with a table", opened(ENCODER, b"\x3f\xe1\x1f"), Pause(0.1), head(200), data(b"ok")),
    malformed("a decoder stream of garbage", opened(DECODER, b"\xff" * 20), Pause(0.1), head(200), data(b"ok")),
    malformed("an unknown stream", opened(0x21, b"grease"), Pause(0.1), head(200), data(b"ok")),
    malformed("a stream of the server's that goes both ways", both_ways(b"x"), Pause(0.1), head(200), data(b"ok")),
)  # fmt: skip


def served(certificate: str, asked: Settings | None = None, *, target: str = OVER_QUIC) -> Case:
    """Return a case of one server certificate."""
    return over(f"certificate {certificate}".replace("_", " "), asked, target=target, quic=Quic(certificate))


NOT_VERIFIED = {"tls_config": {"insecure_skip_verify": True}}
CLIENT = {"cert_file": "pki/client.pem", "key_file": "pki/client.key"}

HANDSHAKE = (
    *(
        served(name)
        for name in (
            "rsa", "localhost_only", "rich", "nameless", "many_names", "by_root", "expired", "not_yet_valid",
            "wrong_name", "common_name_only", "self_signed", "unknown_root", "for_clients", "by_pretender",
            "by_old_intermediate", "no_intermediate", "with_root", "with_bystander",
        )
    ),
    *(
        over(f"not verified {name}".replace("_", " "), NOT_VERIFIED, quic=Quic(name))
        for name in ("leaf", "expired", "wrong_name", "self_signed", "with_bystander")
    ),
    over("no ca_file and a private root", {"tls_config": {}}),
    over("ca inline", {"tls_config": {"ca": "{pki/root.pem}"}}),
    over("ca_file missing", {"tls_config": {"ca_file": "pki/none.pem"}}),
    over("ca_file is the intermediate", {"tls_config": {"ca_file": "pki/intermediate.pem"}}),
    over("ca_file is the leaf", {"tls_config": {"ca_file": "pki/leaf.pem"}}),
    over("ca_ref", {"tls_config": {"ca_ref": "somewhere"}}),
    over("expired with a wrong name", tls(server_name="no.example.test"), quic=Quic("expired")),
    over("server_name", tls(server_name="www.example.test")),
    over("server_name wrong", tls(server_name="no.example.test")),
    over("server_name with a final dot", tls(server_name="www.example.test.")),
    over("server_name of an address", {**tls(server_name="127.0.0.1"), **IP4}, target=LOCALHOST),
    over("server_name not verified", {"tls_config": {"insecure_skip_verify": True, "server_name": "x.test"}}),
    over("server_name before the Host header",
         {**tls(server_name="www.example.test"), "headers": {"Host": "no.example.test"}}),
    over("server name of a wrong Host header", {"headers": {"Host": "no.example.test"}}),
    over("client certificate", tls(**CLIENT), quic=Quic(client_ca="root")),
    over("client certificate not asked for", tls(**CLIENT)),
    over("client certificate not given", quic=Quic(client_ca="root")),
    over("client certificate of a stranger",
         tls(cert_file="pki/foreign_client.pem", key_file="pki/foreign_client.key"), quic=Quic(client_ca="root")),
    over("client key missing", tls(cert_file="pki/client.pem", key_file="pki/none.key")),
    over("client key of another", tls(cert_file="pki/client.pem", key_file="pki/leaf.key")),
    *(
        over(f"suite {suite}", quic=Quic(suite=suite))
        for suite in ("AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256")
    ),
    over("version minimum of 1.3", tls(min_version="TLS13")),
    over("version maximum of 1.2", tls(max_version="TLS12")),
    over("version minimum above maximum", tls(min_version="TLS13", max_version="TLS12")),
    over("version minimum of 1.0", tls(min_version="TLS10")),
    over("retry", quic=Quic(retry=True)),
    over("QUIC version 2 alone", quic=Quic(versions=(0x6B3343CF,))),
    over("no version of QUIC that we know", quic=Quic(versions=(0x0A1A2A3A,)), timeout=SHORT),
    over("another protocol by ALPN", quic=Quic(alpn=("doq",))),
    over("refused by QUIC", quic=Quic(refuses=True)),
    over("nobody home", quic=Quic(stateless=()), timeout=SHORT),
    over("garbage for a handshake", quic=Quic(stateless=(b"220 mail.example.test ESMTP\r\n",)), timeout=SHORT),
    over("random datagrams for a handshake", quic=Quic(stateless=(bytes(range(256)) * 4, b"\xff" * 1200)),
         timeout=SHORT),
    over("empty datagrams for a handshake", quic=Quic(stateless=(b"",)), timeout=SHORT),
)  # fmt: skip

GROUPS: dict[str, tuple[Case, ...]] = {
    "http3_request": REQUEST,
    "http3_response": RESPONSE,
    "http3_redirects": REDIRECTS,
    "http3_frames": FRAMES,
    "http3_ends": ENDS,
    "http3_handshake": HANDSHAKE,
}
"""Every case, by its golden file."""
