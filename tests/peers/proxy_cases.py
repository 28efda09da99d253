"""The http cases through proxies: requests to the proxy, ``no_proxy`` rules, failures.

Cases state no expectation: the comparison and the golden files do. Some targets are not loopback by name or number
(``0.0.0.0``, names under ``.invalid``), because loopback has its own rules; probes only ever connect to loopback.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.peers.cases import AMPLE, SHORT, Case, Settings
from tests.peers.http_cases import IP4, LOCALHOST_TLS, OVER_TLS, TRUST, at
from tests.targets import Answer, End, Pause, Repeat, Tls, raw, redirect, reply, silence
from tests.targets.answers import Part
from tests.targets.proxy import ESTABLISHED, OPENED, HttpProxy, SocksProxy

HTTP = "http://127.0.0.1:{proxy}"
HTTPS = "https://127.0.0.1:{tls_proxy}"
SOCKS = "socks5://127.0.0.1:{proxy}"
LOCALHOST = "http://localhost:{port}/"
ANY = "http://0.0.0.0:{port}/"
NOWHERE = "http://nowhere.invalid:{port}/"
ARRIVED = reply(200, b"arrived")
SKIP = {"skip_resolve_phase_with_proxy": True}


def via(
    name: str,
    url: str = HTTP,
    asked: Settings | None = None,
    target: str = "http://127.0.0.1:{port}/",
    *,
    proxy: HttpProxy | SocksProxy | None = None,
    pages: Mapping[str, Answer] | None = None,
    timeout: str = AMPLE,
    pinned: bool = True,
) -> Case:
    """Return a case through the proxy at `url`, with a target that serves both HTTP and HTTPS."""
    settings = {**IP4, **TRUST, "proxy_url": url, **(asked or {})}
    usual = SocksProxy() if url.startswith("socks") else HttpProxy()
    return Case(
        f"proxy {name}", settings, target, pages or at(reply(200, b"ok")), Tls(), proxy=proxy or usual, timeout=timeout,
        pinned=pinned,
    )  # fmt: skip


def both(name: str, url: str = HTTP, asked: Settings | None = None) -> tuple[Case, Case]:
    """Return the same case for an http and an https target."""
    return via(name, url, asked, "http://127.0.0.1:{port}/?q"), via(f"{name} for https", url, asked, OVER_TLS + "?q")


def headers(**values: list[str]) -> dict[str, object]:
    """Return the setting with headers for a CONNECT."""
    return {"proxy_connect_header": {name.replace("_", "-"): value for name, value in values.items()}}


ASKING = (
    *both("of HTTP"),
    *both("with user and password", "http://us%20er:p%40ss@127.0.0.1:{proxy}"),
    *both("with a user", "http://user@127.0.0.1:{proxy}"),
    *both("of a name", "http://localhost:{proxy}"),
    *both("with a path", "http://127.0.0.1:{proxy}/a/b?c#d"),
    *both("with an upper-case scheme", "HTTP://127.0.0.1:{proxy}"),
    *both("of an unknown scheme", "ftp://127.0.0.1:{proxy}"),
    *both("without scheme", "//127.0.0.1:{proxy}"),
    *both("empty", ""),
    *both("with skipped resolving", HTTP, SKIP),
    *both("empty with skipped resolving", "", SKIP),
    *both("of TLS", HTTPS),
    *both("of TLS with server_name", HTTPS, {"tls_config": {"ca_file": "pki/root.pem", "server_name": "localhost"}}),
    *both("of TLS not verified", HTTPS, {"tls_config": {"insecure_skip_verify": True}}),
    *both("with Proxy-Authorization in headers", HTTP, {"headers": {"Proxy-Authorization": "mine"}}),
    via("of TLS by a name that the target lacks", "https://localhost:{tls_proxy}", target=OVER_TLS,
        proxy=HttpProxy(certificate="localhost_only")),
    via("for a name", target=LOCALHOST),
    via("for a name over https", target=LOCALHOST_TLS),
    via("for a name with skipped resolving", asked=SKIP, target=LOCALHOST),
    via("for a name over https with skipped resolving", asked=SKIP, target=LOCALHOST_TLS),
    via("for a name that only it knows", target=NOWHERE, pinned=False),
    via("for a name that only it knows with skipped resolving", asked=SKIP, target=NOWHERE),
    via("for a default port", asked=SKIP, target="http://nowhere.invalid", proxy=HttpProxy(forward=ARRIVED)),
    via("for the default port of https", asked=SKIP, target="https://nowhere.invalid",
        proxy=HttpProxy(connect=reply(403))),
    via("for IPv6", target="http://[::1]:{port}/"),
    via("for IPv6 over https", target="https://[::1]:{tls_port}/"),
    via("for a target with user and fragment", target="http://u:p@127.0.0.1:{port}/#frag"),
    via("with a Host header", asked={"headers": {"Host": "localhost:1"}}, proxy=HttpProxy(forward=ARRIVED)),
    via("with a Host header over https", asked={"headers": {"Host": "www.example.test"}}, target=OVER_TLS),
    via("with a body", asked={"method": "POST", "body": "hello"}),
    via("with a body file", asked={"method": "POST", "body_file": "files/body"}),
    via("with a large body over https", asked={"method": "POST", "body_file": "files/large"}, target=OVER_TLS),
    via("with credentials for the target", asked={"basic_auth": {"username": "u", "password": "p"}}),
    via("with HEAD", asked={"method": "HEAD"}, pages=at(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"))),
    via("with HTTP/2 off", asked={"enable_http2": False}, target=OVER_TLS),
    via("with headers for CONNECT", asked=headers(X_A=["1", "2"], X_B=["3"]), target=OVER_TLS),
    via("with headers for CONNECT, not sent to forward", asked=headers(X_A=["1"])),
    via("with a User-Agent for CONNECT", asked=headers(User_Agent=["me"]), target=OVER_TLS),
    via("with a Proxy-Authorization for CONNECT", asked=headers(Proxy_Authorization=["mine"]), target=OVER_TLS),
    via("with a Proxy-Authorization for CONNECT and a user", "http://u:p@127.0.0.1:{proxy}",
        headers(Proxy_Authorization=["mine"]), OVER_TLS),
    via("with framing headers for CONNECT", asked=headers(Host=["h"], Content_Length=["3"]), target=OVER_TLS),
    via("with a bad header name for CONNECT", asked={"proxy_connect_header": {"X A": ["1"]}}, target=OVER_TLS),
    via("with a line end in a header for CONNECT", asked=headers(X_A=["1\n2"]), target=OVER_TLS),
    via("with fail_if_not_ssl through TLS", HTTPS, {"fail_if_not_ssl": True}),
)  # fmt: skip

TUNNELS = tuple(
    via(f"tunnel {name}", target=OVER_TLS, proxy=HttpProxy(established=said))
    for name, said in {
        "of HTTP 1.0": b"HTTP/1.0 200 OK\r\n\r\n",
        "of HTTP 2.0": b"HTTP/2.0 200 OK\r\n\r\n",
        "of bare line feeds": b"HTTP/1.1 200 OK\n\n",
        "with headers": b"HTTP/1.1 200 OK\r\nVia: 1.1 x\r\nConnection: close\r\n\r\n",
        "with a length of zero": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "with a body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "with chunked coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "after 100": b"HTTP/1.1 100 Continue\r\n\r\n" + ESTABLISHED,
    }.items()
)

SOCKS5 = (
    *both("of SOCKS5", SOCKS),
    *both("of SOCKS5 with a password", "socks5://us%20er:p%40ss@127.0.0.1:{proxy}"),
    via("of SOCKS5 with a user", "socks5://user@127.0.0.1:{proxy}"),
    via("of SOCKS5 with a password not asked for", "socks5://u:p@127.0.0.1:{proxy}", proxy=SocksProxy(raw(b"\5\0"))),
    via("of SOCKS5 with an empty user not asked for", "socks5://:p@127.0.0.1:{proxy}", proxy=SocksProxy(raw(b"\5\0"))),
    via("of SOCKS5 for IPv6", SOCKS, target="http://[::1]:{port}/"),
    via("of SOCKS5 for a name", SOCKS, target=LOCALHOST),
    via("of SOCKS5 for a name over https", SOCKS, target=LOCALHOST_TLS),
    via("of SOCKS5 for a name with skipped resolving", SOCKS, SKIP, LOCALHOST),
    via("of SOCKS5 for an address with skipped resolving", SOCKS, SKIP),
    via("of SOCKS5 for a name that only it knows with skipped resolving", SOCKS, SKIP, NOWHERE),
    via("of SOCKS5 for a long name", SOCKS, SKIP, f"http://{'a' * 256}.invalid:{{port}}/"),
    via("of SOCKS5 for a name of UTF-8", SOCKS, SKIP, "http://bücher.invalid:{port}/"),
    via("of SOCKS5h for an address", "socks5h://127.0.0.1:{proxy}"),
    via("of SOCKS5h for a name", "socks5h://127.0.0.1:{proxy}", target=LOCALHOST),
    via("of SOCKS5h for a name with skipped resolving", "socks5h://127.0.0.1:{proxy}", SKIP, LOCALHOST),
    via("of SOCKS5 with an unknown method", SOCKS, proxy=SocksProxy(raw(b"\5\1"))),
    via("of SOCKS5 with a name for an answer", SOCKS, proxy=SocksProxy(opened=b"\5\0\0\3\4host\0\7")),
    via("of SOCKS5 with an IPv6 address for an answer", SOCKS, proxy=SocksProxy(opened=b"\5\0\0\4" + bytes(18))),
    via("of SOCKS5 with headers for CONNECT", SOCKS, headers(X_A=["1"]), OVER_TLS),
    via("of SOCKS4", "socks4://127.0.0.1:{proxy}", proxy=HttpProxy(greeting=raw(b"\0\x5b\0\0\0\0\0\0"))),
)  # fmt: skip


def exempt(name: str, rules: str, target: str = ANY, asked: Settings | None = None, *, pinned: bool = True) -> Case:
    """Return a case of a ``no_proxy`` list, whose targets are connected to directly."""
    return via(f"except {name}", HTTP, {"no_proxy": rules, **(asked or {})}, target, pinned=pinned)


NO_PROXY = (
    *(
        exempt(f"addresses {name}", rules)
        for name, rules in {
            "equal": "0.0.0.0", "unequal": "0.0.0.1", "of a network": "0.0.0.0/8", "of another network": "10.0.0.0/8",
            "of a bad network": "0.0.0.0/33", "of a masked network": "0.0.0.0/255.0.0.0", "of all": "0.0.0.0/0",
            "with the port": "0.0.0.0:{port}", "with another port": "0.0.0.0:1", "with an empty port": "0.0.0.0:",
            "of a network with the port": "0.0.0.0/8:{port}", "among others": "x, ,10.0.0.0/8,0.0.0.0 ",
            "with zeros": "000.0.0.0", "with a star": "0.0.0.*", "mapped": "::ffff:0.0.0.0", "as a URL": "http://0.0.0.0",
        }.items()
    ),
    *(
        exempt(f"IPv6 addresses {name}", rules, "http://[::]:{port}/")
        for name, rules in {
            "equal": "::", "long": "0:0:0:0:0:0:0:0", "in brackets": "[::]", "with the port": "[::]:{port}",
            "of a network": "::/64", "of IPv4": "0.0.0.0",
        }.items()
    ),
    exempt("all", "*"),
    exempt("all among others", "x,*"),
    exempt("all of a port", "*:{port}"),
    exempt("a port", ":{port}"),
    exempt("nothing", ""),
    exempt("a blank", " "),
    exempt("localhost without being asked to", "x", LOCALHOST),
    exempt("loopback without being asked to", "x", "http://127.0.0.1:{port}/"),
    exempt("IPv6 loopback without being asked to", "x", "http://[::1]:{port}/"),
    exempt("loopback over https without being asked to", "x", OVER_TLS),
    exempt("loopback with skipped resolving", "x", "http://127.0.0.1:{port}/", SKIP),
    exempt("localhost with skipped resolving", "x", LOCALHOST, SKIP),
    exempt("what is reached with skipped resolving", "0.0.0.0", ANY, SKIP),
    *(
        # An exempt name can't be resolved, so its probe fails. The proxy resolves the others.
        exempt(f"names {name}", rules, NOWHERE, SKIP, pinned=False)
        for name, rules in {
            "equal": "nowhere.invalid", "in capitals": "NOWHERE.Invalid", "above": "invalid",
            "above with a dot": ".invalid", "above with a star": "*.invalid",
            "equal with a dot": ".nowhere.invalid", "of the same end": "where.invalid",
            "with the port": "nowhere.invalid:{port}", "with another port": "nowhere.invalid:1",
            "with an empty port": "nowhere.invalid:", "with a named port": "nowhere.invalid:http",
            "above with the port": ".invalid:{port}", "ending in a dot": "nowhere.invalid.", "of stars": "no*.invalid",
            "of two dots": "..invalid", "of a dot": ".", "with a path": "nowhere.invalid/x",
        }.items()
    ),
    exempt("names of UTF-8", "bücher.invalid", "http://xn--bcher-kva.invalid:{port}/", SKIP, pinned=False),
    exempt("names in punycode", "xn--bcher-kva.invalid", "http://bücher.invalid:{port}/", SKIP, pinned=False),
)  # fmt: skip


def moved(name: str, location: str, url: str = HTTP, asked: Settings | None = None, target: str = LOCALHOST) -> Case:
    """Return a case of one redirect."""
    return via(f"redirect {name}", url, asked, target, pages={"/": redirect(302, location), "/next": ARRIVED})


REDIRECTS = (
    moved("on the same host", "/next"),
    moved("on the same host with skipped resolving", "/next", asked=SKIP),
    moved("to the same name", "http://localhost:{port}/next"),
    moved("to https", "https://localhost:{tls_port}/next"),
    moved("to https with skipped resolving", "https://localhost:{tls_port}/next", asked=SKIP),
    moved("from https", "http://localhost:{port}/next", target=LOCALHOST_TLS),
    moved("to a name that only the proxy knows", "http://nowhere.invalid:{port}/next"),
    moved("to a name that only the proxy knows with SOCKS5", "http://nowhere.invalid:{port}/next", SOCKS),
    moved("on the same host with SOCKS5", "/next", SOCKS),
    moved("from an exempt host to another", "http://nowhere.invalid:{port}/next", asked={"no_proxy": "x"}),
    moved("from the proxy to an exempt host", "http://localhost:{port}/next", asked={"no_proxy": "x"}, target=ANY),
    moved("from an exempt name to an address with skipped resolving", "http://127.0.0.1:{port}/next",
          asked={**SKIP, "no_proxy": "x"}),
    moved("with a password for the proxy", "http://nowhere.invalid:{port}/next", "http://u:p@127.0.0.1:{proxy}"),
    moved("elsewhere with credentials", "http://nowhere.invalid:{port}/next",
          asked={"basic_auth": {"username": "u", "password": "p"}}),
    moved("of a name with skipped resolving through a named proxy", "/next", "http://localhost:{proxy}", SKIP),
)  # fmt: skip

LYING: dict[str, tuple[Part, ...]] = {
    "with garbage": (b"garbage\r\n\r\n",),
    "with an alert of TLS": (b"\x15\x03\x03\x00\x02\x02\x28",),
    "and ends at once": (),
    "and ends in its headers": (b"HTTP/1.1 200 OK\r\nX: y",),
    "with endless headers": (b"HTTP/1.1 200 OK\r\n", Repeat(b"X: " + b"y" * 65_000 + b"\r\n", 400)),
}

FAILURES = (
    *(
        via(f"answers CONNECT {name}", target=OVER_TLS, proxy=HttpProxy(connect=answer), timeout=timeout)
        for name, answer, timeout in (
            ("407", reply(407, b"who?", ("Proxy-Authenticate", "Basic realm=x")), AMPLE),
            *((str(code), reply(code, b"no"), AMPLE) for code in (201, 204, 302, 400, 403, 404, 500, 502, 503, 504)),
            ("299", reply("299 Odd"), AMPLE),
            ("101", raw(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), AMPLE),
            ("500 without reason", raw(b"HTTP/1.1 500\r\n\r\n"), AMPLE),
            *((name, raw(*said), AMPLE) for name, said in LYING.items()),
            ("with a reset", raw(end=End.RESET), AMPLE),
            ("with silence", silence(), SHORT),
            ("with half a head", silence(b"HTTP/1.1 200 OK\r\n"), SHORT),
            ("with drops", raw(Repeat(b"X", 10_000, every=0.05)), SHORT),
            ("200 and ends", raw(ESTABLISHED, Pause(0.1)), AMPLE),
            ("200 and says something else", silence(ESTABLISHED, Pause(0.1), b"220 mail.example.test\r\n"), AMPLE),
            ("200 and nothing more", silence(ESTABLISHED), SHORT),
        )
    ),
    *(
        via(f"answers a request {name}", proxy=HttpProxy(forward=answer), timeout=timeout)
        for name, answer, timeout in (
            ("407", reply(407, b"who?", ("Proxy-Authenticate", "Basic realm=x")), AMPLE),
            ("403", reply(403, b"no"), AMPLE),
            ("502", reply(502), AMPLE),
            *((name, raw(*said), AMPLE) for name, said in LYING.items()),
            ("with silence", silence(), SHORT),
        )
    ),
    via("answers a request 407 that is valid", asked={"valid_status_codes": [407]},
        proxy=HttpProxy(forward=reply(407))),
    *(
        via(f"is not there ({name})", url, target=target)
        for name, url in {
            "refused": "http://127.0.0.1:{dead}", "SOCKS refused": "socks5://127.0.0.1:{dead}",
            "no host": "http://", "no port": "ftp://127.0.0.1", "relative": "foo",
        }.items()
        for target in ("http://127.0.0.1:{port}/",)
    ),
    via("is not there (refused for https)", "http://127.0.0.1:{dead}", target=OVER_TLS),
    via("is not there (no such name)", "http://nowhere.invalid:1", pinned=False),
    via("of TLS by an unknown authority", HTTPS, {"tls_config": {}}, proxy=HttpProxy(certificate="unknown_root")),
    via("of TLS by a wrong name", HTTPS, proxy=HttpProxy(certificate="wrong_name")),
    via("of TLS by a wrong name for https", HTTPS, target=OVER_TLS, proxy=HttpProxy(certificate="wrong_name")),
    via("of TLS that is plain", "https://127.0.0.1:{proxy}", proxy=HttpProxy(greeting=raw(b"220 mail.test\r\n"))),
    via("of TLS that is silent", "https://127.0.0.1:{proxy}", proxy=HttpProxy(greeting=silence()), timeout=SHORT),
    via("tunnel to a bad certificate", asked={"tls_config": {}}, target=OVER_TLS),
    *(
        via(f"of SOCKS5 answers {name}", SOCKS, proxy=SocksProxy(reply=raw(said)))
        for name, said in {
            **{str(code): bytes([5, code]) + OPENED[2:] for code in range(1, 10)},
            "of version 4": b"\4" + OPENED[1:], "with a reserved byte": b"\5\0\1\1\0\0\0\0\0\0",
            "with an unknown type": b"\5\0\0\7\0\0\0\0\0\0", "and ends at once": b"", "too little": b"\5\0\0\1\0",
            "a refusal and ends": b"\5\5",
        }.items()
    ),
    via("of SOCKS5 answers with silence", SOCKS, proxy=SocksProxy(reply=silence()), timeout=SHORT),
    via("of SOCKS5 opens and ends", SOCKS, proxy=SocksProxy(reply=raw(OPENED, Pause(0.1)))),
    via("of SOCKS5 opens slowly", SOCKS, proxy=SocksProxy(reply=raw(
        b"\5", Pause(0.1), b"\0\0\1\0\0", Pause(0.1), b"\0\0\0\0", Pause(0.1), b"HTTP/1.1 204 No\r\n\r\n"))),
    via("of SOCKS5 accepts nothing", SOCKS, proxy=SocksProxy(raw(b"\5\xff"))),
    via("of SOCKS5 wants a password", SOCKS, proxy=SocksProxy(raw(b"\5\2"), asks=True), timeout=SHORT),
    via("of SOCKS5 refuses the password", "socks5://u:p@127.0.0.1:{proxy}", proxy=SocksProxy(verdict=raw(b"\1\1"))),
    via("of SOCKS5 answers the password with version 5", "socks5://u:p@127.0.0.1:{proxy}",
        proxy=SocksProxy(verdict=raw(b"\5\0"))),
    via("of SOCKS5 is silent about the password", "socks5://u:p@127.0.0.1:{proxy}",
        proxy=SocksProxy(verdict=silence()), timeout=SHORT),
    via("of SOCKS5 with a long user", f"socks5://{'x' * 256}:p@127.0.0.1:{{proxy}}", proxy=SocksProxy()),
    via("of SOCKS5 with an empty user", "socks5://:p@127.0.0.1:{proxy}"),
    *(
        via(f"of SOCKS5 begins {name}", SOCKS, proxy=SocksProxy(answer), timeout=SHORT)
        for name, answer in {
            "as version 4": raw(b"\4\0"), "as HTTP": raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "with silence": silence(), "with half an answer": silence(b"\5"),
        }.items()
    ),
)  # fmt: skip

GROUPS: dict[str, tuple[Case, ...]] = {
    "proxies": ASKING,
    "proxy_tunnels": TUNNELS,
    "proxy_socks": SOCKS5,
    "no_proxy": NO_PROXY,
    "proxy_redirects": REDIRECTS,
    "proxy_failures": FAILURES,
}
"""Every case, by its golden file."""
