"""The http cases with OAuth 2.0: the token request, the token response, and the use of the token.

Cases state no expectation: the comparison and the golden files do. The target is also the token server, so that the
outcome shows the order of both kinds of request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.peers.cases import Case, Settings
from tests.peers.http_cases import IP4
from tests.targets import Answer, Repeat, Tls, chunked, raw, redirect, reply
from tests.targets.answers import head
from tests.targets.proxy import HttpProxy, SocksProxy

TARGET = "http://127.0.0.1:{port}/"
TOKEN = {"access_token": "abc", "token_type": "bearer", "expires_in": 3600}
LIMIT = 1 << 20


def said(fields: object, status: int | str = 200, media_type: str = "application/json") -> Answer:
    """Return a response of a token server."""
    body = fields if isinstance(fields, str) else json.dumps(fields)
    return reply(status, body.encode(), ("Content-Type", media_type))


GOOD = said(TOKEN)
REFUSED = said({"error": "invalid_client", "error_description": "no such client"}, 401)


def with_token(
    name: str,
    answer: Answer = GOOD,
    block: Settings | None = None,
    asked: Settings | None = None,
    *,
    target: str = TARGET,
    pages: Mapping[str, Answer] | None = None,
    proxy: HttpProxy | SocksProxy | None = None,
) -> Case:
    """Return a case of an ``oauth2`` block with this response of the token server."""
    oauth2 = {"client_id": "id", "client_secret": "secret", "token_url": TARGET + "token", **(block or {})}
    everything = {"/": reply(200, b"ok"), "/next": reply(200, b"arrived"), "/token": answer, **(pages or {})}
    return Case(f"oauth2 {name}", {**IP4, "oauth2": oauth2, **(asked or {})}, target, everything, Tls(), proxy=proxy)


ASKING = (
    with_token("client credentials"),
    with_token("escaped id and secret", block={"client_id": "i d:ü&=+/~*", "client_secret": "s%:é <>"}),
    with_token("scopes", block={"scopes": ["a", "b c", "ü"]}),
    with_token("parameters", block={"endpoint_params": {"z": "1 2", "audience": "x&y", "a": ""}}),
    with_token("parameters with another grant", block={"endpoint_params": {"grant_type": "password"}}),
    with_token("parameters with a scope", block={"endpoint_params": {"scope": "x"}}),
    with_token("parameters with a scope beside scopes", block={"endpoint_params": {"scope": "x"}, "scopes": ["y"]}),
    with_token("parameters with a client_id", REFUSED, {"endpoint_params": {"client_id": "other"}}),
    with_token("an unknown grant", block={"grant_type": "whatever"}),
    with_token("no secret", block={"client_secret": ""}),
    with_token("no secret and a refusal", REFUSED, {"client_secret": ""}),
    with_token("secret of a file", block={"client_secret": "", "client_secret_file": "files/token"}),
    with_token("secret of a missing file", block={"client_secret": "", "client_secret_file": "files/none"}),
    with_token("secret by reference", block={"client_secret": "", "client_secret_ref": "somewhere"}),
    with_token("token URL with user and query", block={"token_url": "http://a:b@127.0.0.1:{port}/token?q=1#f"}),
    with_token("token URL of another scheme", block={"token_url": "ftp://127.0.0.1/token"}),
    with_token("token URL relative", block={"token_url": "/token"}),
    with_token("token URL to a dead port", block={"token_url": "http://127.0.0.1:{dead}/token"}),
    with_token("over TLS", block={"token_url": "https://localhost:{tls_port}/token",
                                  "tls_config": {"ca_file": "pki/root.pem"}}),
    with_token("over TLS with server_name", block={"token_url": "https://127.0.0.1:{tls_port}/token", "tls_config": {
        "ca_file": "pki/root.pem", "server_name": "www.example.test"}}),
    with_token("over TLS by an unknown authority", block={"token_url": "https://localhost:{tls_port}/token"}),
    with_token("over TLS that only the module trusts", block={"token_url": "https://localhost:{tls_port}/token"},
               asked={"tls_config": {"ca_file": "pki/root.pem"}}),
    with_token("with a missing authority", block={"tls_config": {"ca_file": "pki/none.pem"}}),
    with_token("with an authority by reference", block={"tls_config": {"ca_ref": "somewhere"}}),
    with_token("through a proxy", block={"proxy_url": "http://u:p@127.0.0.1:{proxy}"}, proxy=HttpProxy()),
    with_token("through a proxy over TLS", block={
        "proxy_url": "http://127.0.0.1:{proxy}", "proxy_connect_header": {"X-A": ["1"]},
        "token_url": "https://localhost:{tls_port}/token", "tls_config": {"ca_file": "pki/root.pem"}},
        proxy=HttpProxy()),
    with_token("through SOCKS5", block={
        "proxy_url": "socks5://127.0.0.1:{proxy}", "token_url": "http://localhost:{port}/token"}, proxy=SocksProxy()),
    with_token("past a proxy", block={"proxy_url": "http://127.0.0.1:{dead}", "no_proxy": "x"}),
    with_token("while the target has a proxy", asked={"proxy_url": "http://127.0.0.1:{proxy}"}, proxy=HttpProxy()),
    with_token("through a proxy that refuses", block={
        "proxy_url": "http://127.0.0.1:{proxy}", "token_url": "https://localhost:{tls_port}/token"},
        proxy=HttpProxy(connect=reply(403))),
    with_token("after a redirect that makes it GET", redirect(302, "/elsewhere"), pages={"/elsewhere": GOOD}),
    with_token("after a redirect", redirect(307, "/elsewhere"), pages={"/elsewhere": GOOD}),
    with_token("after a redirect to another host", redirect(307, "http://localhost:{port}/elsewhere"),
               pages={"/elsewhere": GOOD}),
)  # fmt: skip

ANSWERS = (
    *(
        with_token(f"answer {name}", said(fields))
        for name, fields in {
            "without expiry": {"access_token": "abc"},
            "of another type": {**TOKEN, "token_type": "Custom"},
            "of type mac": {**TOKEN, "token_type": "mac"},
            "of type basic": {**TOKEN, "token_type": "BASIC"},
            "of no type": {**TOKEN, "token_type": ""},
            "of type null": {**TOKEN, "token_type": None},
            "with expiry as text": {**TOKEN, "expires_in": "60"},
            "with expiry of a word": {**TOKEN, "expires_in": "soon"},
            "with expiry of a fraction": {**TOKEN, "expires_in": 60.5},
            "with expiry of null": {**TOKEN, "expires_in": None},
            "with expiry of zero": {**TOKEN, "expires_in": 0},
            "with expiry in the past": {**TOKEN, "expires_in": -5},
            "without token": {"token_type": "bearer"},
            "with an empty token": {**TOKEN, "access_token": ""},
            "with a number for a token": {**TOKEN, "access_token": 5},
            "with a blank in the token": {**TOKEN, "access_token": "a b"},
            "with capitals": {"Access_Token": "abc"},
            "with an error": {"error": "invalid_scope"},
            "of a list": [],
            "of a text": '"abc"',
            "of garbage": "no JSON at all",
            "of nothing": "",
            "with garbage behind": '{"access_token": "abc"} and more',
            "with a token twice": '{"access_token": "a", "access_token": "b"}',
        }.items()
    ),
    *(
        with_token(f"answer as {name}", said(body, media_type=media_type))
        for name, media_type, body in (
            ("a form", "application/x-www-form-urlencoded", "access_token=abc&token_type=bearer&expires_in=60"),
            ("a form in plain text", "text/plain; charset=utf-8", "access_token=a%20b"),
            ("a form without token", "text/plain", "token_type=bearer"),
            ("a form that says it is HTML", "text/html", "access_token=abc"),
            ("JSON in plain text", "text/plain", '{"access_token": "abc"}'),
            ("JSON without a type", "", '{"access_token": "abc"}'),
        )
    ),
    *(with_token(f"answer {status}", said({"error": "x"}, status)) for status in (400, 401, 403, 404, 500, 503)),
    with_token("answer 201", said(TOKEN, 201)),
    with_token("answer 400 with a token", said(TOKEN, 400)),
    with_token("answer 300 with a token", said(TOKEN, 300)),
    with_token("answer 500 of HTML", reply(500, b"<h1>no</h1>", ("Content-Type", "text/html"))),
    with_token("answer chunked", chunked(b'{"access_token":', b'"abc"}')),
    with_token("answer cut", raw(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"access_token": "abc"}')),
    with_token("answer that ends at once", raw(b"")),
    with_token("answer that is not HTTP", raw(b"220 mail.example.test ESMTP\r\n\r\n")),
    with_token("answer at the limit", said(json.dumps(TOKEN) + " " * (LIMIT - len(json.dumps(TOKEN))))),
    with_token("answer above the limit", raw(
        head(200) + b'{"access_token": "abc", "x": "', Repeat(b"x" * 65_536, 32), b'"}')),
)  # fmt: skip

USE = (
    with_token("and a header Authorization", asked={"headers": {"Authorization": "mine"}}),
    with_token("and a user in the target", target="http://u:p@127.0.0.1:{port}/"),
    with_token("and a User-Agent", asked={"headers": {"User-Agent": "somebody/1"}}),
    with_token("and other headers", asked={"headers": {"Host": "h.test", "X-A": "1"},
                                           "http_headers": {"X-B": {"values": ["2"]}}}),
    with_token("and a body", asked={"method": "POST", "body": "hello"}),
    with_token("and a body file", asked={"method": "POST", "body_file": "files/body"}),
    with_token("and a missing body file", asked={"body_file": "files/none"}),
    with_token("and a target that refuses it", pages={"/": reply(401, b"no")}),
    with_token("and a target that has to refuse it", asked={"valid_status_codes": [401]}, pages={"/": reply(401)}),
    with_token("and a dead target", target="http://127.0.0.1:{dead}/"),
    with_token("and a redirect", pages={"/": redirect(302, "/next")}),
    with_token("and a redirect to the same name", target="http://localhost:{port}/",
               pages={"/": redirect(302, "http://localhost:{port}/next")}),
    with_token("and a redirect elsewhere", target="http://localhost:{port}/",
               pages={"/": redirect(302, "http://0.0.0.0:{port}/next")}),
)  # fmt: skip

GROUPS: dict[str, tuple[Case, ...]] = {
    "oauth2": ASKING,
    "oauth2_answers": ANSWERS,
    "oauth2_use": USE,
}
"""Every case, by its golden file; assertions differ each time and are tested in test_oauth2.py."""
