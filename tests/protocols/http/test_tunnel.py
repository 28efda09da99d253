"""Connect through a proxy: the bytes of CONNECT and SOCKS5, and the reasons when a tunnel fails.

tests/peers compares the resulting metrics with the original.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.network import connection as connections
from probe_exporter.network import lookup, opening
from probe_exporter.network.address_choice import IP_PROTOCOL
from probe_exporter.network.connection import Secure
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.probers import http
from probe_exporter.probers.http import HttpSettings, prober
from probe_exporter.protocols.http.proxy import Proxy
from probe_exporter.protocols.http.tunnel import connect_head, socks5
from probe_exporter.runner import Result, run
from probe_exporter.tls import metrics
from probe_exporter.tls.context import ClientContext
from probe_exporter.tls.settings import TLSSettings
from tests.outcomes import why
from tests.targets import Answer, End, Pause, Pki, Repeat, Site, Tls, http2, raw, redirect, reply, silence
from tests.targets.proxy import ESTABLISHED, OPENED, HttpProxy, ProxyServer, SocksProxy

OK = reply(200, b"ok")
AGENT = "User-Agent: Blackbox-Exporter/0.28.0 probe-exporter/"


@pytest.fixture(autouse=True)
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names for this machine; no_proxy rules do not treat those of 0.0.0.0 as loopback."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n0.0.0.0 any.test\n127.0.0.9 two.test\n127.0.0.1 two.test\n")
    monkeypatch.setattr(lookup, "HOSTS", path)


class TunnelSetup:
    """A target and a proxy, and probes of the target through the proxy."""

    def __init__(self, site: Site, proxy: ProxyServer) -> None:
        self.site = site
        self.proxy = proxy

    async def probe(self, target: str = "http://127.0.0.1:{port}/", timeout: float = 60.0, **settings: Any) -> Result:
        """Probe a target with the given settings; ports of the proxy are filled in."""
        settings = {"preferred_ip_protocol": "ip4", "proxy_url": "http://127.0.0.1:{proxy}", **settings}
        for word, port in {"{proxy}": "port", "{tls_proxy}": "tls_port"}.items():
            if word in settings["proxy_url"]:
                settings["proxy_url"] = settings["proxy_url"].replace(word, str(self.proxy[port]))
        module = Module("m", prober, HttpSettings.model_validate(settings), 0.0, Place("test.yml"))
        return await run(module, self.site.fill(target), timeout)

    @property
    def asked(self) -> list[str]:
        """The request lines that the proxy received, with port names."""
        return [self.site.blank(request.line) for request in self.proxy.requests]


@asynccontextmanager
async def staged(
    pki: Pki,
    behaviour: HttpProxy | SocksProxy | None = None,
    pages: Mapping[str, Answer] | None = None,
    tls: Tls | None = None,
) -> AsyncIterator[TunnelSetup]:
    """Start a target and a proxy for the length of the block."""
    site = Site(pages or {"/": OK}, tls or Tls(), pki.directory)
    proxy = ProxyServer({}, pki=pki.directory, behaviour=behaviour or HttpProxy())
    async with site, proxy:
        yield TunnelSetup(site, proxy)


def seconds(result: Result, phase: str) -> float:
    return result.probe.samples.get(http.DURATION, phase)


# --- CONNECT, as bytes -------------------------------------------------------------------------------------


def head(url: str, *headers: tuple[str, str]) -> list[str]:
    lines = connect_head("www.example.test:443", Proxy.parse(url, list(headers))).decode().split("\r\n")
    assert lines[-2:] == ["", ""]
    return [line if not line.startswith(AGENT) else AGENT for line in lines[:-2]]


def test_connect_request_has_host_port_and_user_agent() -> None:
    assert head("http://p") == ["CONNECT www.example.test:443 HTTP/1.1", "Host: www.example.test:443", AGENT]


def test_connect_request_has_the_credentials_of_the_url() -> None:
    assert "Proxy-Authorization: Basic dXMgZXI6cEBzcw==" in head("http://us%20er:p%40ss@p")
    assert "Proxy-Authorization: Basic dTo=" in head("http://u@p")


def test_connect_request_has_the_configured_headers() -> None:
    lines = head("http://p", ("X-A", "1"), ("X-A", "2"), ("x-b", "3"), ("Proxy-Authorization", "mine"))
    assert lines[-4:] == ["X-A: 1", "X-A: 2", "x-b: 3", "Proxy-Authorization: mine"]


def test_connect_request_headers_replace_only_the_user_agent() -> None:
    lines = head(
        "http://u:p@p", ("user-agent", "me"), ("Host", "h"), ("Content-Length", "3"), ("proxy-authorization", "mine")
    )
    assert lines == [
        "CONNECT www.example.test:443 HTTP/1.1",
        "Host: www.example.test:443",
        "Proxy-Authorization: Basic dTpw",
        "user-agent: me",
    ]


# --- SOCKS5, as bytes --------------------------------------------------------------------------------------


def talk(answers: list[bytes], host: str = "127.0.0.1", user: str | None = None, password: str = "") -> list[bytes]:
    """Return the client's messages; each of the proxy's answers must have the length that the client expects."""
    dialogue = socks5(host, 443, user, password)
    said, wanted = next(dialogue)
    everything = [said]
    for number, answer in enumerate(answers, 1):
        assert len(answer) == wanted
        try:
            said, wanted = dialogue.send(answer)
        except StopIteration:
            assert number == len(answers)
            return everything
        everything.append(said)
    pytest.fail(f"more is expected: {wanted} bytes")


TO_IPV4 = b"\5\1\0\1\x7f\0\0\1\1\xbb"


def test_socks_without_credentials() -> None:
    assert talk([b"\5\0", b"\5\0\0\1", b"\0\0\0\0\0\0"]) == [b"\5\1\0", TO_IPV4, b""]


def test_socks_with_credentials() -> None:
    said = talk([b"\5\2", b"\1\0", b"\5\0\0\1", b"\0\0\0\0\0\0"], user="us\udcffer", password="päss")
    assert said == [b"\5\2\0\2", b"\1\5us\xffer\5p\xc3\xa4ss", TO_IPV4, b""]


def test_socks_with_credentials_that_are_not_requested() -> None:
    assert talk([b"\5\0", b"\5\0\0\1", b"\0\0\0\0\0\0"], user="u") == [b"\5\2\0\2", TO_IPV4, b""]


def test_socks_with_a_name_and_with_ipv6() -> None:
    answers = [b"\5\0", b"\5\0\0\1", b"\0\0\0\0\0\0"]
    assert talk(answers, "a.test")[1] == b"\5\1\0\3\6a.test\1\xbb"
    assert talk(answers, "bücher.test")[1] == b"\5\1\0\3\x12xn--bcher-kva.test\1\xbb"
    assert talk(answers, "2001:db8::1")[1] == b"\5\1\0\4 \1\r\xb8" + bytes(11) + b"\1\1\xbb"


def test_socks_reads_any_bound_address() -> None:
    talk([b"\5\0", b"\5\0\0\4", bytes(18)])
    talk([b"\5\0", b"\5\0\0\3", b"\4", b"host\0\7"])
    talk([b"\5\0", b"\5\0\0\3", b"\0", b"\0\7"])


@pytest.mark.parametrize(
    ("answers", "reason", "words"),
    [
        ([b"\5\xff"], Reason.PROXY_REFUSED, "credentials"),
        ([b"\5\2"], Reason.PROXY_REFUSED, "credentials"),
        ([b"\4\0"], Reason.PROXY_PROTOCOL_ERROR, "version 4"),
        ([b"HT"], Reason.PROXY_PROTOCOL_ERROR, "version 72"),
        ([b"\5\0", b"\4\0\0\1"], Reason.PROXY_PROTOCOL_ERROR, "version 4"),
        ([b"\5\0", b"\5\0\1\1"], Reason.PROXY_PROTOCOL_ERROR, "reserved"),
        ([b"\5\0", b"\5\0\0\7"], Reason.PROXY_PROTOCOL_ERROR, "type 7"),
        ([b"\5\0", b"\5\1\0\1"], Reason.PROXY_REFUSED, "127.0.0.1:443: it has a general failure"),
        ([b"\5\0", b"\5\2\0\1"], Reason.PROXY_REFUSED, "rules"),
        ([b"\5\0", b"\5\5\0\1"], Reason.PROXY_REFUSED, "refused"),
        ([b"\5\0", b"\5\x5d\0\1"], Reason.PROXY_REFUSED, "its reply is 93"),
    ],
)
def test_socks_refusals_and_violations_have_their_reason(answers: list[bytes], reason: Reason, words: str) -> None:
    with pytest.raises(ProbeFailed) as failed:
        talk(answers)
    assert failed.value.reason is reason
    assert words in failed.value.message


@pytest.mark.parametrize(
    ("verdict", "reason"), [(b"\1\1", Reason.PROXY_REFUSED), (b"\5\0", Reason.PROXY_PROTOCOL_ERROR)]
)
def test_socks_refused_password_has_its_reason(verdict: bytes, reason: Reason) -> None:
    with pytest.raises(ProbeFailed) as failed:
        talk([b"\5\2", verdict], user="u", password="hunter2")
    assert failed.value.reason is reason
    assert "hunter2" not in failed.value.message


@pytest.mark.parametrize(("user", "password"), [("", "p"), ("u" * 256, "p"), ("u", "p" * 256), ("ü" * 128, "")])
def test_socks_credentials_are_limited_in_size(user: str, password: str) -> None:
    with pytest.raises(ProbeFailed) as failed:
        talk([b"\5\2"], user=user, password=password)
    assert failed.value.reason is Reason.SETTINGS_UNUSABLE


def test_socks_names_are_limited_in_size() -> None:
    with pytest.raises(ProbeFailed) as failed:
        talk([b"\5\0"], host="a" * 256)
    assert failed.value.reason is Reason.TARGET_INVALID


@given(st.lists(st.binary(min_size=4, max_size=300)))
def test_socks_survives_any_answer(answers: list[bytes]) -> None:
    dialogue = socks5("a.test", 443, "u", "p")
    _, wanted = next(dialogue)
    try:
        for answer in answers:
            _, wanted = dialogue.send((answer * 70)[:wanted])
            assert 0 <= wanted <= 257
    except (StopIteration, ProbeFailed):
        pass


# --- through -----------------------------------------------------------------------------------------------

WAYS = {
    "http": "http://127.0.0.1:{proxy}",
    "https": "https://127.0.0.1:{tls_proxy}",
    "socks5": "socks5://127.0.0.1:{proxy}",
    "socks5h": "socks5h://u:p@127.0.0.1:{proxy}",
}


def behaviour(way: str) -> HttpProxy | SocksProxy:
    return SocksProxy() if way.startswith("socks") else HttpProxy()


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/", "https://127.0.0.1:{tls_port}/"])
@pytest.mark.parametrize("way", WAYS)
async def test_every_proxy_scheme_reaches_every_target_scheme(way: str, target: str, pki: Pki) -> None:
    """One case is TLS within TLS."""
    async with staged(pki, behaviour(way)) as stage:
        result = await stage.probe(target, proxy_url=WAYS[way], tls_config=pki.trust())
        assert why(result) is None
        assert stage.asked
        assert len(stage.site.requests) == 1
        assert (seconds(result, "tls") > 0) is target.startswith("https")


@pytest.mark.parametrize("way", WAYS)
async def test_tunnel_carries_large_bodies_both_ways(way: str, pki: Pki, tmp_path: Path) -> None:
    sent, received = bytes(range(256)) * 8192, b"0123456789abcdef" * 131_072
    (tmp_path / "body").write_bytes(sent)
    async with staged(pki, behaviour(way), {"/": reply(200, received)}) as stage:
        result = await stage.probe(
            "https://127.0.0.1:{tls_port}/", proxy_url=WAYS[way], method="POST", body_file=str(tmp_path / "body"),
            fail_if_body_not_matches_regexp=["^(?:0123456789abcdef)+$"], tls_config=pki.trust(),
        )  # fmt: skip
        assert why(result) is None
        assert result.probe.samples.get(http.BODY_LENGTH) == len(received)
        assert stage.site.requests[0].body == sent


@pytest.mark.parametrize("way", WAYS)
async def test_tunnel_carries_http2(way: str, pki: Pki) -> None:
    async with staged(pki, behaviour(way), {"/": http2.reply(200, b"ok")}, Tls(alpn=("h2",))) as stage:
        result = await stage.probe("https://127.0.0.1:{tls_port}/", proxy_url=WAYS[way], tls_config=pki.trust())
        assert why(result) is None
        assert result.probe.samples.get(http.VERSION) == 2


async def test_tunnel_reports_the_certificate_of_the_target(pki: Pki) -> None:
    async with staged(pki, HttpProxy(certificate="rich")) as stage:
        result = await stage.probe("https://127.0.0.1:{tls_port}/", proxy_url=WAYS["https"], tls_config=pki.trust())
        assert why(result) is None
        ((_, subject, *_),) = result.probe.samples.labelled[metrics.CERTIFICATE_INFO]
        assert subject == "CN=leaf"


async def test_proxy_receives_the_name_and_socks5_the_address(pki: Pki) -> None:
    target = "https://localhost:{tls_port}/"
    for url, behaviour, line in (
        ("http://127.0.0.1:{proxy}", HttpProxy(), "CONNECT localhost:{tls_port} HTTP/1.1"),
        ("socks5://127.0.0.1:{proxy}", SocksProxy(), "SOCKS connect to address 127.0.0.1 port {tls_port}"),
        ("socks5h://127.0.0.1:{proxy}", SocksProxy(), "SOCKS connect to name localhost port {tls_port}"),
    ):
        async with staged(pki, behaviour) as stage:
            assert why(await stage.probe(target, proxy_url=url, tls_config=pki.trust())) is None
            assert stage.asked[-1] == line


async def test_forwarded_request_has_an_absolute_url(pki: Pki) -> None:
    async with staged(pki) as stage:
        await stage.probe("http://localhost:{port}/?a b#c", proxy_url="http://u:p@127.0.0.1:{proxy}")
        assert stage.asked == ["GET http://localhost:{port}/?a%20b HTTP/1.1"]
        assert stage.proxy.requests[0].all("Proxy-Authorization") == ["Basic dTpw"]


async def test_skip_resolve_leaves_the_name_to_the_proxy(pki: Pki) -> None:
    async with staged(pki) as stage:
        result = await stage.probe("http://nowhere.invalid:{port}/", skip_resolve_phase_with_proxy=True)
        assert why(result) is None
        assert IP_PROTOCOL not in result.probe.samples.families
        assert "resolve" not in {phase for (phase,) in result.probe.samples.labelled[http.DURATION]}


async def test_exempt_host_is_resolved_even_if_resolving_is_skipped(pki: Pki) -> None:
    async with staged(pki) as stage:
        result = await stage.probe("http://any.test:{port}/", skip_resolve_phase_with_proxy=True, no_proxy="any.test")
        assert why(result) is None
        assert stage.asked == []
        assert IP_PROTOCOL not in result.probe.samples.families


@pytest.mark.parametrize("rules", ["any.test", ".test", "0.0.0.0", "0.0.0.0/32"])
async def test_no_proxy_matches_the_name_or_the_address_of_the_target(rules: str, pki: Pki) -> None:
    async with staged(pki) as stage:
        assert why(await stage.probe("http://any.test:{port}/", no_proxy=rules)) is None
        assert stage.asked == []
        assert why(await stage.probe("http://any.test:{port}/", no_proxy="other.test")) is None
        assert stage.asked == ["GET http://any.test:{port}/ HTTP/1.1"]


async def test_proxy_addresses_are_tried_one_after_another(pki: Pki) -> None:
    async with staged(pki) as stage:
        result = await stage.probe(proxy_url="http://two.test:{proxy}")
        assert why(result) is None
        assert any("trying the next" in event.message for event in result.probe.events)


async def test_redirect_hops_choose_their_proxy_anew(pki: Pki) -> None:
    pages = {
        "/": redirect(302, "https://any.test:{tls_port}/direct"),
        "/direct": redirect(302, "http://nowhere.invalid:{port}/last"),
        "/last": OK,
    }
    async with staged(pki, pages=pages) as stage:
        result = await stage.probe(
            "http://127.0.0.1:{port}/", proxy_url="http://127.0.0.1:{proxy}", tls_config={"insecure_skip_verify": True},
        )  # fmt: skip
        assert why(result) is None
        assert stage.asked == [
            "GET http://127.0.0.1:{port}/ HTTP/1.1",
            "CONNECT any.test:{tls_port} HTTP/1.1",
            "GET http://nowhere.invalid:{port}/last HTTP/1.1",
        ]
        stage.proxy.requests.clear()
        result = await stage.probe(no_proxy="any.test", tls_config={"insecure_skip_verify": True})
        assert why(result) is None
        assert stage.asked == ["GET http://nowhere.invalid:{port}/last HTTP/1.1"]


async def test_proxy_credentials_are_not_sent_to_the_target(pki: Pki) -> None:
    async with staged(pki) as stage:
        await stage.probe(
            "https://localhost:{tls_port}/", proxy_url="http://u:p@127.0.0.1:{proxy}",
            proxy_connect_header={"X-Secret": ["hunter2"]}, tls_config=pki.trust(),
        )  # fmt: skip
        assert stage.proxy.requests[0].all("X-Secret") == ["hunter2"]
        names = {name.lower() for name, _ in stage.site.requests[0].headers}
        assert names == {"host", "user-agent", "connection"}


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_tunnel_time_counts_as_connect(pki: Pki) -> None:
    slow = raw(Pause(2), b"HTTP/1.1 200 OK\r\n\r\n")
    async with staged(pki, HttpProxy(connect=Answer(slow.parts, End.HOLD))) as stage:
        result = await stage.probe("https://127.0.0.1:{tls_port}/", timeout=8)
        assert why(result) == (Reason.TLS_TIMEOUT, "tls")
    async with staged(pki, SocksProxy(reply=raw(Pause(8), OPENED + b"HTTP/1.1 204 No\r\n\r\n"))) as stage:
        result = await stage.probe(proxy_url=WAYS["socks5"])
        assert why(result) is None
        assert 6 < seconds(result, "connect") < result.duration
        assert seconds(result, "processing") < 4


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_socks_answers_may_come_in_pieces(size: int, pki: Pki) -> None:
    """The last piece contains the beginning of the target's response."""
    said = OPENED + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    pieces = [part for at in range(0, len(said), size) for part in (said[at : at + size], Pause(0.002))]
    async with staged(pki, SocksProxy(reply=raw(*pieces))) as stage:
        result = await stage.probe(proxy_url=WAYS["socks5"])
        assert why(result) is None
        assert result.probe.samples.get(http.BODY_LENGTH) == 2


async def test_tls_within_tls_closes_both_layers(pki: Pki) -> None:
    """Both layers send close_notify, the inner one inside the outer one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "leaf.pem", pki.directory / "leaf.key")
    heard: asyncio.Queue[object] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inner = context.wrap_bio(incoming, outgoing, server_side=True)
        for step in (inner.do_handshake, lambda: inner.read(9), lambda: inner.read(9)):
            while True:
                try:
                    heard.put_nowait(step())
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    if data := await reader.read(65_536):
                        incoming.write(data)
                    else:
                        incoming.write_eof()
                except ssl.SSLError as error:
                    heard.put_nowait(type(error))
                    break
        heard.put_nowait(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        probe = Probe("", math.inf)
        connection = await opening.dial(probe, ["127.0.0.1"], server.sockets[0].getsockname()[1])
        secure = Secure(ClientContext(TLSSettings(insecure_skip_verify=True), ()), "localhost")
        await connection.wrap(secure)
        await connection.wrap(secure)
        connection.send(b"hello")
        connection.close()
        said = [await asyncio.wait_for(heard.get(), 60) for _ in range(4)]
        assert said == [None, b"hello", b"", b""]  # an end without close_notify would be an error


# --- failures ----------------------------------------------------------------------------------------------

OVER_TLS = "https://127.0.0.1:{tls_port}/"
PLAIN = "http://127.0.0.1:{port}/"


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("connect", "reason"),
    [
        (reply(407, b"who?"), Reason.PROXY_REFUSED),
        (reply(403, b"no"), Reason.PROXY_REFUSED),
        (reply(502, b"can't"), Reason.PROXY_REFUSED),
        (reply(302, b"", ("Location", "http://127.0.0.1:{port}/")), Reason.PROXY_REFUSED),
        (raw(b"garbage\r\n\r\n"), Reason.PROXY_PROTOCOL_ERROR),
        (raw(b""), Reason.PROXY_PROTOCOL_ERROR),
        (raw(b"HTTP/1.1 200 OK\r\nX: y"), Reason.PROXY_PROTOCOL_ERROR),
        (raw(end=End.RESET), Reason.PROXY_PROTOCOL_ERROR),
        (silence(), Reason.PROXY_TIMEOUT),
        (silence(b"HTTP/1.1 200 OK\r\n"), Reason.PROXY_TIMEOUT),
        (raw(Repeat(b"HTTP/1.1 100 Continue\r\n\r\n", 1000, every=1)), Reason.PROXY_TIMEOUT),
    ],
)
@pytest.mark.slow
async def test_connect_failure_is_blamed_on_the_proxy(connect: Answer, reason: Reason, pki: Pki) -> None:
    async with staged(pki, HttpProxy(connect=connect)) as stage:
        result = await stage.probe(OVER_TLS, timeout=8)
        assert why(result) == (reason, "proxy")
        assert result.probe.samples.get(http.STATUS_CODE) == 0
        assert seconds(result, "connect") == 0
        assert stage.site.requests == []


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (SocksProxy(raw(b"\5\xff")), Reason.PROXY_REFUSED),
        (SocksProxy(reply=raw(b"\5\5\0\1" + bytes(6))), Reason.PROXY_REFUSED),
        (SocksProxy(reply=raw(b"\5\5")), Reason.PROXY_PROTOCOL_ERROR),
        (SocksProxy(raw(b"")), Reason.PROXY_TIMEOUT),  # the proxy continues and waits for the client
        (SocksProxy(raw(end=End.RESET)), Reason.PROXY_PROTOCOL_ERROR),
        (SocksProxy(raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")), Reason.PROXY_PROTOCOL_ERROR),
        (SocksProxy(silence()), Reason.PROXY_TIMEOUT),
        (SocksProxy(reply=silence(b"\5\0\0")), Reason.PROXY_TIMEOUT),
    ],
)
@pytest.mark.slow
async def test_socks_failure_is_blamed_on_the_proxy(behaviour: SocksProxy, reason: Reason, pki: Pki) -> None:
    async with staged(pki, behaviour) as stage:
        result = await stage.probe(PLAIN, timeout=8, proxy_url=WAYS["socks5"])
        assert why(result) == (reason, "proxy")
        assert stage.site.requests == []


@pytest.mark.parametrize(
    ("url", "reason", "words"),
    [
        ("http://127.0.0.1:1", Reason.PROXY_CONNECT, "refused"),
        ("socks5://127.0.0.1:1", Reason.PROXY_CONNECT, "refused"),
        ("http://nowhere.invalid:1", Reason.PROXY_CONNECT, "nowhere.invalid"),
        ("https://127.0.0.1:{proxy}", Reason.PROXY_CONNECT, "TLS"),
        ("https://127.0.0.1:{tls_proxy}", Reason.PROXY_CONNECT, "unknown authority"),
    ],
)
@pytest.mark.parametrize("target", [PLAIN, OVER_TLS])
async def test_unreachable_proxy_fails_in_phase_proxy(
    url: str, reason: Reason, words: str, target: str, pki: Pki
) -> None:
    async with staged(pki, HttpProxy(greeting=raw(b"220 mail.test\r\n"))) as stage:
        result = await stage.probe(target, proxy_url=url.replace("://", "://user:hunter2@"))
        assert why(result) == (reason, "proxy")
        assert result.failure is not None
        assert words in result.failure.message
        assert "127.0.0.1" in result.failure.message or "nowhere.invalid" in result.failure.message


@pytest.mark.parametrize("url", ["http://", "foo", "ftp://127.0.0.1"])
async def test_invalid_proxy_url_is_unusable_settings(url: str, pki: Pki) -> None:
    async with staged(pki) as stage:
        result = await stage.probe(proxy_url=url)
        assert why(result) == (Reason.SETTINGS_UNUSABLE, "")
        assert seconds(result, "connect") == 0


async def test_proxy_certificate_is_not_reported_as_that_of_the_target(pki: Pki) -> None:
    async with staged(pki, HttpProxy(certificate="expired")) as stage:
        result = await stage.probe(OVER_TLS, proxy_url=WAYS["https"], tls_config=pki.trust())
        assert why(result) == (Reason.PROXY_CONNECT, "proxy")
        assert metrics.CERTIFICATE_INFO not in result.probe.samples.labelled


async def test_target_certificate_failure_through_a_proxy_is_a_tls_failure(pki: Pki) -> None:
    async with staged(pki, tls=Tls("expired")) as stage:
        result = await stage.probe(OVER_TLS, tls_config=pki.trust())
        assert why(result) == (Reason.CERTIFICATE_EXPIRED, "tls")
        assert metrics.CERTIFICATE_INFO in result.probe.samples.labelled


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_silent_tls_handshake_with_the_proxy_times_out(pki: Pki) -> None:
    async with staged(pki, HttpProxy(greeting=silence())) as stage:
        result = await stage.probe(OVER_TLS, timeout=8, proxy_url="https://127.0.0.1:{proxy}")
        assert why(result) == (Reason.PROXY_TIMEOUT, "proxy")


@pytest.mark.usefixtures("clock")
async def test_tls_handshake_with_the_proxy_has_its_own_limit(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake has its own timeout, even if the probe's is later."""
    monkeypatch.setattr(connections, "MAX_HANDSHAKE_SECONDS", 5)
    async with staged(pki, HttpProxy(greeting=silence())) as stage:
        result = await stage.probe(OVER_TLS, timeout=20, proxy_url="https://127.0.0.1:{proxy}")
        assert why(result) == (Reason.PROXY_TIMEOUT, "proxy")
        assert 5 <= result.duration < 10


async def test_status_407_is_a_refusal_of_the_proxy(pki: Pki) -> None:
    async with staged(pki, HttpProxy(forward=reply(407, b"who?"))) as stage:
        result = await stage.probe(PLAIN)
        assert why(result) == (Reason.PROXY_REFUSED, "validation")
        assert result.probe.samples.get(http.STATUS_CODE) == 407
        assert why(await stage.probe(PLAIN, valid_status_codes=[407])) is None


async def test_endless_connect_response_is_bounded(pki: Pki) -> None:
    flood = raw(b"HTTP/1.1 200 OK\r\n", Repeat(b"X: " + b"y" * 65_000 + b"\r\n", 1000))
    async with staged(pki, HttpProxy(connect=flood)) as stage:
        tracemalloc.start()
        result = await stage.probe(OVER_TLS)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert why(result) == (Reason.PROXY_PROTOCOL_ERROR, "proxy")
        assert most < 64 * 1024 * 1024


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("way", ["http", "https", "socks5"])
@pytest.mark.slow
async def test_timed_out_probe_closes_the_proxy_connection(way: str, pki: Pki) -> None:
    """The connection is closed at once and not by the garbage collector."""
    waiting = SocksProxy(reply=silence()) if way == "socks5" else HttpProxy(connect=silence())
    async with staged(pki, waiting) as stage:
        result = await stage.probe(OVER_TLS, timeout=8, proxy_url=WAYS[way], tls_config=pki.trust())
        assert 8 <= result.duration < 12
        await asyncio.wait_for(stage.proxy.abandoned.wait(), 5)


async def test_proxy_secrets_are_not_reported(pki: Pki) -> None:
    async with staged(pki, HttpProxy(connect=reply(407))) as stage:
        result = await stage.probe(
            OVER_TLS, proxy_url="http://us%65r:hunter2@127.0.0.1:{proxy}",
            proxy_connect_header={"X-Secret": ["hunter3"]},
        )  # fmt: skip
        assert result.failure is not None
        told = [result.failure.message, *(f"{event.message} {event.fields}" for event in result.probe.events)]
        assert "hunter" not in " ".join(told)


async def test_connect_response_may_have_many_headers_and_ignored_body(pki: Pki) -> None:
    """The response to CONNECT has no body, and its headers have no meaning (RFC 9110, section 9.3.6)."""
    said = ESTABLISHED[:-2] + b"Content-Length: 3\r\nX-Long: " + b"y" * 100_000 + b"\r\n\r\nabc"
    async with staged(pki, HttpProxy(established=said)) as stage:
        assert why(await stage.probe(OVER_TLS, tls_config=pki.trust())) is None
