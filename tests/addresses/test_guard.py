"""Tests of the guard: no spelling, redirect or proxy lets a probe reach a denied target.

Loopback stands for the network that has to be kept safe. Listeners of the test's own would take any packet for it, and
a name server of the test's own answers for every name: a lookup that should not have been made is seen, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.addresses import guard
from probe_exporter.addresses.guard import Guard, Lists
from probe_exporter.addresses.spellings import interpret, readings
from probe_exporter.config import loading
from probe_exporter.network import lookup
from probe_exporter.network.opening import dial, dial_udp
from probe_exporter.network.policy import NetworkPolicy
from probe_exporter.plugins import loader
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.runner import Result, run
from tests.exporters import ROOT, ours
from tests.outcomes import why
from tests.targets import Pki, Site, Tls, redirect, reply
from tests.targets.dns import DnsServer, Zone
from tests.targets.http3 import Quic
from tests.targets.http3 import redirect as redirect3
from tests.targets.nodes import Node, greet, nodes
from tests.targets.proxy import HttpProxy, ProxyServer, SocksProxy
from tests.waiting import until

PROBERS = loader.load_probers([])
DENIED = (Reason.TARGET_DENIED, "connect")
DENIED_BY_NAME = (Reason.TARGET_DENIED, "resolve")
LOOPBACK = ["127.0.0.0/8", "::1"]


@dataclass
class ForbiddenListeners:
    """TCP and UDP listeners on one port of both loopbacks, which no probe may reach.

    Every address of 127.0.0.0/8 is covered, because a socket without an address of its own listens there too.
    """

    port: int = 0
    _streams: list[socket.socket] = field(default_factory=list)
    _datagrams: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Self:
        while True:
            stream = socket.create_server(("::", self.port), family=socket.AF_INET6, dualstack_ipv6=True)
            self.port = stream.getsockname()[1]
            datagram = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            datagram.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            try:
                datagram.bind(("::", self.port))
            except OSError:  # another process has the port
                stream.close()
                datagram.close()
                self.port = 0
                continue
            for sock in (stream, datagram):
                sock.setblocking(False)
            self._streams, self._datagrams = [stream], [datagram]
            return self

    def __exit__(self, *_: object) -> None:
        for sock in (*self._streams, *self._datagrams):
            sock.close()

    def arrivals(self) -> int:
        """Return the number of connections and datagrams since the last call."""
        count = 0
        for sock in self._streams:
            with contextlib.suppress(BlockingIOError):
                while True:
                    connected, _ = sock.accept()
                    connected.close()
                    count += 1
        for sock in self._datagrams:
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.recvfrom(65536)
                    count += 1
        return count


@pytest.fixture
def trap() -> Iterator[ForbiddenListeners]:
    with ForbiddenListeners() as trap:
        yield trap


@pytest.fixture(autouse=True)
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hosts file of the test."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost internal.test\n::1 six.test\n")
    monkeypatch.setattr(lookup, "HOSTS", path)
    return path


@dataclass
class Exporter:
    """The modules of a configuration and their name server."""

    modules: Any
    zone: Zone

    async def probe(self, name: str, target: str, timeout: float = 60.0) -> Result:
        return await run(self.modules[name], target, timeout)


@asynccontextmanager
async def exporter(
    tmp_path: Path, modules: dict[str, Any], zone: dict[str, Any] | None = None, targets: object = None
) -> AsyncIterator[Exporter]:
    """Load a configuration whose modules use the test's name server for every name."""
    answers = Zone({"*": [["127.0.0.1", "::1"]]} if zone is None else zone)
    async with DnsServer(answers) as server:
        resolver = {"servers": [f"127.0.0.1:{server['port']}"], "timeout": "20s"}
        document = {"modules": {name: {"resolver": resolver, **module} for name, module in modules.items()}}
        if targets is not None:
            document["targets"] = targets  # type: ignore[assignment]  # another kind of block
        path = tmp_path / "config.yml"
        path.write_text(str(document).replace("True", "true").replace("False", "false"))
        yield Exporter(loading.load([path], PROBERS).modules, answers)


# --- spellings ---------------------------------------------------------------------------------------------

ADDRESSES = [
    "127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0",
    "::1", "0:0:0:0:0:0:0:1", "::0001", "0000:0000:0000:0000:0000:0000:0000:0001", "0::1", "::", "::0.0.0.1", "::0",
    "::ffff:127.0.0.1", "::ffff:7f00:1", "::FFFF:7F00:0001", "0:0:0:0:0:ffff:127.0.0.1", "::ffff:0.0.0.0",
    "::127.0.0.1", "::7f00:1", "::ffff:0:127.0.0.1", "::ffff:0:7f00:1",
    "64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "0064:FF9B::7F00:0001", "64:ff9b:1::7f00:1", "64:ff9b:1:7f00:0:100::",
    "2002:7f00:1::", "2002:7f00:0001::1", "2001:0:7f00:1::", "2001::80ff:fffe", "2001:db8::5efe:127.0.0.1",
    "2001:db8::200:5efe:7f00:1", "::1%lo", "::1%1", "::ffff:127.0.0.1%lo",
]  # fmt: skip
"""Loopback, as addresses that every library takes for one: themselves, or with loopback somewhere within."""

OLD_ADDRESSES = [
    "2130706433", "017700000001", "0x7f000001", "0X7F000001", "127.1", "127.0.1", "0177.1", "0177.0.0.1", "0x7f.1",
    "0x7f.0.0.1", "0x7f.0x0.0x0.0x1", "127.0.0.01", "127.0.0.0x1", "127.00.00.01", "0127.0.0.1", "00000177.0.0.1",
    "127.0x0.1", "127.65535", "127.0.0.1.", "127.1.", "0x7f.1.", "0", "0x0", "0.0", "00.00.00.00", "0x",
]  # fmt: skip
"""Loopback, as inet_aton(3) reads it, or as some read it that take 0127 for 127."""

UNICODE_ADDRESSES = [
    "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
    "127\u30020\u30020\u30021",
    "\u2460\u2461\u2466.0.0.\u2460",
    "\U0001d7cf\U0001d7d0\U0001d7d5.\U0001d7ce.\U0001d7ce.\U0001d7cf",
    "\u0662",
]
"""The same in digits and dots beyond ASCII, some of which IDNA maps to ours."""

NAMES = [
    "localhost",
    "LOCALHOST",
    "localhost.",
    "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
    "\uff2c\uff2f\uff23\uff21\uff2c\uff28\uff2f\uff33\uff34",
    "internal.test",
    "rebound.example",
]
"""Names that the hosts file, the resolver, or the owner of their domain, maps to loopback."""

URLS = [
    "http://allowed.test@{host}:{port}/", "http://allowed.test:80@{host}:{port}/", "http://allowed.test%40@{host}:{port}/",
    "http://{host}:{port}#@allowed.test/", "http://{host}:{port}/?@allowed.test/", "http://{host}:{port}?@allowed.test:80/",
    "http://{host}:{port}\\@allowed.test/", "http://allowed.test\\@{host}:{port}/", "http:///{host}:{port}/",
    "HTTP://{host}:{port}/", "{host}:{port}", "//{host}:{port}/", "http:\\\\{host}:{port}", " http://{host}:{port}/",
    "http://%31%32%37.0.0.1:{port}/", "http://127.0.0.1%00.allowed.test:{port}/", "http://127.0.0.1%2eallowed.test:{port}/",
    "http://127.0.0.1\t:{port}/", "http://127.0.0.1:{port}\r\n/", "http://[127.0.0.1]:{port}/", "http://[::1%25lo]:{port}/",
]  # fmt: skip
"""Loopback behind what other parsers of URLs would take for something else."""


HOSTS_IN_TARGETS = ("tcp", "udp", "dns", "icmp")
"""Probers whose targets are hosts, not URLs."""


def literal_in_a_target(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets", [{"deny": LOOPBACK}, {"allow": ["10.0.0.0/8", "allowed.test"]}], ids=["deny", "allow"]
)
@pytest.mark.parametrize("host", [*ADDRESSES, *OLD_ADDRESSES, *UNICODE_ADDRESSES, *NAMES])
async def test_guard_denies_every_spelling_of_a_host(
    tmp_path: Path, trap: ForbiddenListeners, host: str, targets: dict[str, Any]
) -> None:
    """For each prober with a host in its target; addresses are never sent to the name server."""
    modules = {
        "http": {"prober": "http"},
        "http3": {"prober": "http", "http": {"enable_http3": True, "enable_http2": False}},
        "tcp": {"prober": "tcp"},
        "udp": {"prober": "udp", "udp": {"query_response": [{"send": "x"}, {"expect": "y"}]}},
        "dns": {"prober": "dns", "dns": {"query_name": "example.test"}},
        "icmp": {"prober": "icmp"},
        "grpc": {"prober": "grpc"},
        "websocket": {"prober": "websocket"},
    }
    written = f"{literal_in_a_target(host)}:{trap.port}"
    of = {"http": f"http://{written}/", "http3": f"https://{written}/", "websocket": f"ws://{written}/", "icmp": host}
    async with exporter(tmp_path, modules, targets=targets) as exporting:
        for name in modules:
            result = await exporting.probe(name, of.get(name, written))
            assert result.failure is not None, name
            if name in HOSTS_IN_TARGETS:
                assert result.failure.reason in (Reason.TARGET_DENIED, Reason.DNS_RESOLUTION), (name, result.failure)
            else:  # a URL may be refused before its host is checked
                assert result.failure.reason is not Reason.INTERNAL_ERROR, name
            assert trap.arrivals() == 0, name
        if host not in NAMES:
            assert exporting.zone.asked == []


@pytest.mark.parametrize("url", URLS)
async def test_guard_denies_every_spelling_of_a_url(tmp_path: Path, trap: ForbiddenListeners, url: str) -> None:
    targets = {"deny": LOOPBACK, "allow": ["allowed.test", "10.0.0.0/8"]}
    zone = {"allowed.test": [["10.1.1.1"]]}  # nothing is to be sent there either: port 9 is not permitted
    targets["deny"] = [*targets["deny"], "10.1.1.1"]
    async with exporter(tmp_path, {"m": {"prober": "http"}}, zone, targets) as exporting:
        result = await exporting.probe("m", url.format(host="127.0.0.1", port=trap.port))
    assert not result.success
    assert trap.arrivals() == 0


def test_spellings_are_distinct_and_many() -> None:
    every = [*ADDRESSES, *OLD_ADDRESSES, *UNICODE_ADDRESSES, *NAMES, *URLS]
    assert len(set(every)) == len(every) >= 60


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "[::1%lo]", "any.test"]
)
async def test_trap_is_reached_without_targets(tmp_path: Path, trap: ForbiddenListeners, host: str) -> None:
    """Check the tests above: without a guard, these probes do arrive."""
    modules = {"tcp": {"prober": "tcp"}, "dns": {"prober": "dns", "dns": {"query_name": "example.test"}}}
    async with exporter(tmp_path, modules) as exporting:
        assert (await exporting.probe("tcp", f"{host}:{trap.port}")).success
        assert trap.arrivals() == 1
        unanswered = asyncio.create_task(exporting.probe("dns", f"{host}:{trap.port}"))
        await until(lambda: trap.arrivals() == 1)
        unanswered.cancel()
        await asyncio.gather(unanswered, return_exceptions=True)


# --- names and their addresses -----------------------------------------------------------------------------

TCP = {"m": {"prober": "tcp"}}


async def test_guard_does_not_look_up_denied_name(tmp_path: Path, trap: ForbiddenListeners) -> None:
    targets = {"deny": ["*.secret.test", "other.test"]}
    async with exporter(tmp_path, TCP, targets=targets) as exporting:
        for host in (
            "a.secret.test",
            "A.B.Secret.Test.",
            "other.test",
            "\uff41.\uff53\uff45\uff43\uff52\uff45\uff54.test",
        ):
            assert why(await exporting.probe("m", f"{host}:{trap.port}")) == DENIED_BY_NAME
        assert exporting.zone.asked == []
        assert trap.arrivals() == 0
        for host in ("secret.test", "a.other.test", "asecret.test"):
            assert why(await exporting.probe("m", f"{host}:{trap.port}")) is None


async def test_guard_does_not_look_up_name_without_matching_entry(tmp_path: Path, trap: ForbiddenListeners) -> None:
    async with exporter(tmp_path, TCP, targets={"allow": ["*.example.test"]}) as exporting:
        assert why(await exporting.probe("m", f"example.test:{trap.port}")) == DENIED_BY_NAME
        assert exporting.zone.asked == []


async def test_guard_address_entry_applies_to_names_that_resolve_to_it(
    tmp_path: Path, trap: ForbiddenListeners
) -> None:
    zone = {"good.test": [["127.0.0.5"]], "bad.test": [["127.0.0.6"]]}
    async with exporter(tmp_path, TCP, zone, {"allow": ["127.0.0.5"]}) as exporting:
        assert why(await exporting.probe("m", f"good.test:{trap.port}")) is None
        assert trap.arrivals() == 1
        assert why(await exporting.probe("m", f"bad.test:{trap.port}")) == DENIED
        assert trap.arrivals() == 0


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "::",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
async def test_guard_prevents_dns_rebinding_to_loopback_or_link_local(
    tmp_path: Path, trap: ForbiddenListeners, address: str
) -> None:
    """The owner of an allowed name may point it to other hosts, but not to the exporter's own host."""
    async with exporter(tmp_path, TCP, {"*": [[address]]}, {"allow": ["*.example.test"]}) as exporting:
        assert why(await exporting.probe("m", f"a.example.test:{trap.port}")) == DENIED
    assert trap.arrivals() == 0


async def test_guard_checks_the_address_connected_to_even_if_dns_changes(
    tmp_path: Path, trap: ForbiddenListeners
) -> None:
    """The probe connects to the address that was checked, without a second lookup."""
    zone = {"rebound.test": [["127.0.0.5"], ["127.0.0.1"], ["127.0.0.5"]]}
    async with exporter(tmp_path, TCP, zone, {"allow": ["127.0.0.5"]}) as exporting:
        target = f"rebound.test:{trap.port}"
        outcomes = [why(await exporting.probe("m", target)) for _ in range(3)]
    assert outcomes == [None, DENIED, None]
    assert trap.arrivals() == 2


# --- sent on by others -------------------------------------------------------------------------------------

HTTP = {"prober": "http", "timeout": "60s"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_guard_checks_redirects(tmp_path: Path, trap: ForbiddenListeners, status: int) -> None:
    zone = {"site.test": [["127.0.0.1"]], "elsewhere.test": [["127.0.0.3"]]}
    for location in (
        "http://127.0.0.3:{}/",
        "//127.0.0.3:{}/",
        "http://elsewhere.test:{}/",
        "http://[::ffff:127.0.0.3]:{}/",
    ):
        async with Site({"/": redirect(status, location.format(trap.port))}) as site:
            targets = {"allow": ["127.0.0.1"]}
            async with exporter(tmp_path, {"m": HTTP}, zone, targets) as exporting:
                assert why(await exporting.probe("m", site.fill("http://site.test:{port}/"))) == DENIED
    assert trap.arrivals() == 0


async def test_guard_does_not_look_up_denied_redirect(tmp_path: Path) -> None:
    targets = {"deny": ["denied.test"]}
    async with (
        Site({"/": redirect(302, "http://denied.test/")}) as site,
        exporter(tmp_path, {"m": HTTP}, targets=targets) as exporting,
    ):
        assert why(await exporting.probe("m", site.fill("http://127.0.0.1:{port}/"))) == DENIED_BY_NAME
        assert exporting.zone.asked == []


async def test_guard_checks_redirects_over_http3(tmp_path: Path, trap: ForbiddenListeners, pki: Pki) -> None:
    http = {"enable_http3": True, "enable_http2": False, "tls_config": {"insecure_skip_verify": True}}
    module, targets = {**HTTP, "http": http}, {"allow": ["127.0.0.1"]}
    pages = {"/": redirect3(302, f"https://127.0.0.3:{trap.port}/")}
    async with (
        Site(pages, Tls(), pki.directory, quic=Quic()) as site,
        exporter(tmp_path, {"m": module}, targets=targets) as exporting,
    ):
        assert why(await exporting.probe("m", site.fill("https://127.0.0.1:{quic_port}/"))) == DENIED
    assert trap.arrivals() == 0


async def test_guard_checks_token_endpoint(tmp_path: Path, trap: ForbiddenListeners) -> None:
    oauth2 = {"client_id": "i", "client_secret": "s", "token_url": f"http://127.0.0.3:{trap.port}/token"}
    async with Site({"/": reply(200, b"ok")}) as site:
        module = {**HTTP, "http": {"oauth2": oauth2}}
        async with exporter(tmp_path, {"m": module}, targets={"deny": ["127.0.0.3"]}) as exporting:
            result = await exporting.probe("m", site.fill("http://127.0.0.1:{port}/"))
        assert why(result) == (Reason.TARGET_DENIED, "token")
        assert site.requests == []
    assert trap.arrivals() == 0


async def test_guard_checks_proxy_address(tmp_path: Path, trap: ForbiddenListeners) -> None:
    for scheme in ("http", "socks5"):
        module = {**HTTP, "http": {"proxy_url": f"{scheme}://127.0.0.3:{trap.port}"}}
        async with exporter(tmp_path, {"m": module}, targets={"deny": ["127.0.0.3"]}) as exporting:
            result = await exporting.probe("m", "http://any.test/")
        assert why(result) == (Reason.TARGET_DENIED, "proxy")
    assert trap.arrivals() == 0


PROXIED = [
    "127.0.0.3",
    "0x7f.0.0.3",
    "2130706435",
    "127.3",
    "0177.0.0.3",
    "\uff11\uff12\uff17.\uff10.\uff10.\uff13",
    "::ffff:127.0.0.3",
    "denied.test",
    "Denied.Test.",
]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h"])
@pytest.mark.parametrize("host", PROXIED)
async def test_guard_sends_no_denied_target_to_proxy(tmp_path: Path, kind: str, scheme: str, host: str) -> None:
    """A proxy may accept spellings of a name that the exporter does not look up."""
    async with ProxyServer(behaviour=HttpProxy() if kind == "http" else SocksProxy()) as proxy:
        http = {"proxy_url": f"{kind}://127.0.0.1:{proxy['port']}", "skip_resolve_phase_with_proxy": True}
        targets = {"deny": ["127.0.0.3", "denied.test"]}
        async with exporter(tmp_path, {"m": {**HTTP, "http": http}}, targets=targets) as exporting:
            result = await exporting.probe("m", f"{scheme}://{literal_in_a_target(host)}/")
            assert exporting.zone.asked == []
        assert why(result) in ((Reason.TARGET_DENIED, "proxy"), (Reason.TARGET_INVALID, ""))
        assert proxy.requests == []


@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h"])
async def test_guard_sends_no_denied_websocket_target_to_proxy(tmp_path: Path, kind: str) -> None:
    async with ProxyServer(behaviour=HttpProxy() if kind == "http" else SocksProxy()) as proxy:
        client = {"proxy_url": f"{kind}://127.0.0.1:{proxy['port']}"}
        module = {"prober": "websocket", "websocket": {"http_config": client}}
        targets = {"allow": ["127.0.0.1", "*.allowed.test"]}
        zone = {"*": [["10.1.2.3"]]}  # an address to which only the proxy connects
        async with exporter(tmp_path, {"m": module}, zone, targets) as exporting:
            for target in ("ws://denied.test/", "ws://10.1.2.3/", "wss://[::ffff:10.1.2.3]/"):
                result = await exporting.probe("m", target)
                assert result.failure is not None
                assert result.failure.reason is Reason.TARGET_DENIED, target
    assert proxy.requests == []


@pytest.mark.parametrize("kind", ["http", "socks5h"])
async def test_guard_requires_name_entry_for_names_behind_proxy(tmp_path: Path, kind: str) -> None:
    """The proxy resolves the name, so an address range can't allow it."""
    async with (
        ProxyServer(behaviour=HttpProxy() if kind == "http" else SocksProxy()) as proxy,
        Site({"/": reply()}) as site,
    ):
        http = {"proxy_url": f"{kind}://127.0.0.1:{proxy['port']}"}
        zone = {"any.test": [["127.0.0.1"]], "far.test": [["10.1.2.3"]]}  # the second is not connected to: the proxy is
        for allow, expected in [
            (["127.0.0.0/8"], (Reason.TARGET_DENIED, "proxy")),
            (["127.0.0.0/8", "*.test"], (Reason.TARGET_DENIED, "proxy")),  # known to be at 127.0.0.1, by a name
            (["127.0.0.0/8", "*"], None),
            ([f"127.0.0.1:{proxy['port']}", f"*:{site['port']}"], None),
            ([f"127.0.0.1:{proxy['port']}", "*:80"], (Reason.TARGET_DENIED, "proxy")),
        ]:
            async with exporter(tmp_path, {"m": {**HTTP, "http": http}}, zone, {"allow": allow}) as exporting:
                assert why(await exporting.probe("m", site.fill("http://any.test:{port}/"))) == expected, allow
        allow = [f"127.0.0.1:{proxy['port']}", "*.test"]
        async with exporter(tmp_path, {"m": {**HTTP, "http": http}}, zone, {"allow": allow}) as exporting:
            assert why(await exporting.probe("m", site.fill("http://far.test:{port}/"))) is None
        async with exporter(tmp_path, {"m": {**HTTP, "http": http}}, zone, {"deny": ["10.0.0.0/8"]}) as exporting:
            assert why(await exporting.probe("m", site.fill("http://far.test:{port}/"))) == (
                Reason.TARGET_DENIED,
                "proxy",
            )


@pytest.mark.parametrize("entry", ["*", "*:80", "any.test", "*.test:80"])
def test_guard_denies_names_behind_proxy_by_any_entry(entry: str) -> None:
    guarded = guarding(deny=[entry])
    assert denied(lambda: guarded.check_proxied("any.test", 80, []))
    assert not denied(lambda: guarding(["*"], ["*:81", "test", "0.0.0.0/0"]).check_proxied("any.test", 80, []))


async def test_guard_allows_socks5_address_by_its_name(tmp_path: Path) -> None:
    async with ProxyServer(behaviour=SocksProxy()) as proxy, Site({"/": reply()}) as site:
        http = {"proxy_url": f"socks5://127.0.0.1:{proxy['port']}", "preferred_ip_protocol": "ip4"}
        targets = {"allow": [f"127.0.0.1:{proxy['port']}", "*.test"]}
        async with exporter(tmp_path, {"m": {**HTTP, "http": http}}, {"*": [["10.1.2.3"]]}, targets) as exporting:
            assert why(await exporting.probe("m", site.fill("http://far.test:{port}/"))) is None
            assert why(await exporting.probe("m", site.fill("http://10.1.2.3:{port}/"))) == (
                Reason.TARGET_DENIED,
                "proxy",
            )


# --- the lists ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("everywhere", "of_module", "permitted"),
    [
        ({}, None, True),
        ({"allow": ["127.0.0.0/8"]}, None, True),
        ({"allow": ["127.0.0.0/8"], "deny": ["127.0.0.1"]}, None, False),
        ({"allow": ["127.0.0.1"], "deny": ["127.0.0.0/8"]}, None, False),
        ({"allow": []}, None, False),
        ({"allow": ["127.0.0.0/8"]}, {"deny": ["127.0.0.1"]}, False),
        ({"deny": ["127.0.0.1"]}, {"allow": ["127.0.0.1"]}, False),
        ({"allow": ["10.0.0.0/8"]}, {"allow": ["127.0.0.1"]}, False),
        ({"allow": ["127.0.0.1"]}, {"allow": ["10.0.0.0/8"]}, False),
        ({"allow": ["*"]}, {"allow": ["*"]}, True),
        ({"allow": ["127.0.0.1:{port}"]}, None, True),
        ({"allow": ["127.0.0.1:1"]}, None, False),
        ({"deny": ["127.0.0.1:1"]}, None, True),
        ({"deny": ["127.0.0.1:{port}"]}, None, False),
        ({"deny": ["*:{port}"]}, None, False),
        ({"allow": ["127.0.0.1"]}, {"deny": ["*:1"]}, True),
        (None, {"deny": ["127.0.0.1"]}, False),
        (None, {"allow": ["127.0.0.0/8"]}, True),
    ],
)
async def test_guard_needs_both_blocks_to_allow_and_deny_wins(
    tmp_path: Path,
    trap: ForbiddenListeners,
    everywhere: dict[str, list[str]] | None,
    of_module: dict[str, list[str]] | None,
    permitted: bool,
) -> None:
    def filled(targets: dict[str, list[str]]) -> dict[str, list[str]]:
        return {key: [entry.format(port=trap.port) for entry in entries] for key, entries in targets.items()}

    module = {"prober": "tcp"} if of_module is None else {"prober": "tcp", "targets": filled(of_module)}
    async with exporter(
        tmp_path, {"m": module}, targets=None if everywhere is None else filled(everywhere)
    ) as exporting:
        assert why(await exporting.probe("m", f"127.0.0.1:{trap.port}")) == (None if permitted else DENIED)
    assert trap.arrivals() == permitted


METADATA = [
    "169.254.169.254", "169.254.170.2", "169.254.0.1", "fe80::1%lo", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:42::42", "fd00:c1::a9fe:a9fe", "fd00:a9fe:a9fe::1",
    "fd00:100::100:200",
    "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "ff02::1",
    "224.0.0.251",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets", [{}, {"deny": ["10.0.0.1"]}, {"allow": ["*"]}, {"allow": ["0.0.0.0/0", "::/0", "128.0.0.0/1"]}]
)
@pytest.mark.parametrize("address", METADATA)
async def test_guard_requires_explicit_entry_for_link_local_and_metadata_addresses(
    tmp_path: Path, targets: dict[str, Any], address: str
) -> None:
    """No packet is sent to these addresses."""
    async with exporter(tmp_path, {"m": {"prober": "tcp"}, "i": {"prober": "icmp"}}, targets=targets) as exporting:
        assert why(await exporting.probe("m", f"{literal_in_a_target(address)}:80")) == DENIED
        assert why(await exporting.probe("i", address)) == (Reason.TARGET_DENIED, "setup")


async def test_guard_of_one_module_protects_metadata_for_all(tmp_path: Path) -> None:
    modules = {"m": {"prober": "tcp"}, "other": {"prober": "icmp", "targets": {"deny": ["10.0.0.1"]}}}
    async with exporter(tmp_path, modules) as exporting:
        assert why(await exporting.probe("m", "169.254.169.254:80")) == DENIED


def guarding(allow: list[str] | None = None, deny: list[str] | None = None) -> Guard:
    parsed = None if allow is None else tuple(map(guard.parse, allow))
    return Guard((Lists(parsed, tuple(map(guard.parse, deny or []))),))


def permits(guarded: Guard, address: str, port: int = 80, name: str = "") -> bool:
    return not denied(lambda: guarded.check_address(address, port, name))


def denied(check: Callable[[], object]) -> bool:
    """Return whether the guard refuses it."""
    try:
        check()
    except ProbeFailed as failed:
        return failed.reason is Reason.TARGET_DENIED
    return False


@pytest.mark.parametrize(
    ("allow", "address", "permitted"),
    [
        (["169.254.169.254"], "169.254.169.254", True),
        (["169.254.0.0/16"], "169.254.169.254", True),
        (["169.254.0.0/15"], "169.254.169.254", False),
        (["169.254.169.254:81"], "169.254.169.254", False),
        (["169.254.169.253"], "169.254.169.254", False),
        (["169.254.169.254"], "::ffff:169.254.169.254", False),
        (["169.254.169.254", "64:ff9b::/96"], "64:ff9b::169.254.169.254", True),
        (["64:ff9b::/96"], "64:ff9b::169.254.169.254", False),
        (["64:ff9b::/96"], "64:ff9b::10.0.0.1", True),
        (["10.0.0.0/8"], "64:ff9b::10.0.0.1", False),
        (["fe80::/10"], "fe80::1%lo", True),
        (["fd00:ec2::254"], "fd00:ec2::254", True),
        (["*", "168.63.129.16"], "168.63.129.16", True),
        (["127.0.0.0/8"], "0.0.0.0", False),
        (["0.0.0.0"], "0.0.0.0", True),
    ],
)
def test_guard_explicit_entry_lies_within_the_range(allow: list[str], address: str, permitted: bool) -> None:
    assert permits(guarding(allow), address) is permitted


def test_guard_name_entry_does_not_allow_bare_address() -> None:
    guarded = guarding(["*.example.org", "shop.example.com:443"])
    assert permits(guarded, "10.1.2.3", 80, "a.example.org")
    assert permits(guarded, "10.1.2.3", 443, "Shop.Example.Com.")
    assert not permits(guarded, "10.1.2.3", 80, "shop.example.com")
    assert not permits(guarded, "10.1.2.3", 80)
    assert not permits(guarded, "10.1.2.3", 80, "example.org")
    assert not permits(guarded, "10.1.2.3", 80, "aexample.org")


@pytest.mark.parametrize("name", sorted(guard.METADATA_NAMES))
def test_guard_requires_explicit_entry_for_metadata_names(name: str) -> None:
    for allow in (None, ["*"], ["*.internal", "*.goog", "*.com", "*.ec2.internal"]):
        assert denied(lambda allow=allow: guarding(allow).check_proxied(name.upper(), 80, []))  # type: ignore[misc]
    assert not denied(lambda: guarding([name]).check_proxied(name, 80, []))


async def test_guard_forgets_resolved_names_between_runs(tmp_path: Path) -> None:
    """A token is fetched in a separate run, so names resolved there allow nothing in the probe itself."""
    async with exporter(tmp_path, TCP, {"good.test": [["192.0.2.1"]]}, {"allow": ["good.test"]}) as exporting:
        policy = exporting.modules["m"].network
        assert policy is not None
        network = policy.for_run()
        await network.lookup("good.test", 4)
        assert not denied(lambda: network.check("192.0.2.1", 80))
        assert denied(lambda: network.for_another_run().check("192.0.2.1", 80))
        network.forget("192.0.2.1")
        assert denied(lambda: network.check("192.0.2.1", 80))


async def test_guard_refuses_to_connect_to_non_address(trap: ForbiddenListeners) -> None:
    """Otherwise the system would resolve a name without the guard."""
    for host in ("localhost", "127.1", "2130706433", "internal.test"):
        probe = Probe("t", 1e9, network=NetworkPolicy(guarding(deny=LOOPBACK)).for_run())
        for attempt in (dial(probe, [host], trap.port), dial_udp(probe, host, trap.port)):
            with pytest.raises(ProbeFailed) as refused:
                await attempt
            assert refused.value.reason is Reason.TARGET_INVALID
    assert trap.arrivals() == 0


@pytest.mark.parametrize(
    ("module", "address", "port", "name", "permitted"),
    [
        ("http_2xx", "10.1.2.3", 443, "", True),
        ("http_2xx", "10.1.2.3", 80, "", False),
        ("http_2xx", "192.168.1.1", 443, "www.example.org", True),
        ("http_2xx", "192.168.1.1", 443, "a.payroll.example.org", False),
        ("http_2xx", "127.0.0.1", 443, "www.example.org", False),
        ("http_2xx", "192.168.1.1", 443, "", False),
        ("tcp_connect", "10.20.0.1", 5432, "", True),
        ("tcp_connect", "10.21.0.1", 5432, "", False),
        ("tcp_connect", "10.20.0.1", 25, "", False),
        ("tcp_connect", "fd12:3456:789a::1", 5432, "", False),
        ("haproxy_socket", "10.1.2.3", 443, "", False),
    ],
)
def test_guard_example_in_docs_behaves_as_described(
    module: str, address: str, port: int, name: str, permitted: bool
) -> None:
    loaded = loading.load([ROOT / "examples" / "guarded.yml"], PROBERS)
    assert not loaded.warnings
    network = loaded.modules[module].network
    assert network is not None
    assert network.guard is not None
    assert permits(network.guard, address, port, name) is permitted
    socket_permitted = not denied(lambda: network.guard and network.guard.check_path("/run/haproxy/admin.sock"))
    assert socket_permitted is (module == "haproxy_socket")


# --- Unix sockets ------------------------------------------------------------------------------------------


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[Path]:
    """Make a Unix socket in a directory, and links to both."""
    directory = tmp_path / "run"
    directory.mkdir()
    (tmp_path / "link").symlink_to(directory)
    (tmp_path / "alias.sock").symlink_to(directory / "app.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "app.sock"))
        listener.listen()
        yield tmp_path


@pytest.mark.parametrize(
    ("targets", "permitted"),
    [
        ({}, True),
        ({"deny": ["unix:{}/run/app.sock"]}, False),
        ({"deny": ["unix:{}/link/app.sock"]}, False),
        ({"deny": ["unix:{}/alias.sock"]}, False),
        ({"deny": ["unix:{}/link/*"]}, False),
        ({"deny": ["unix:*"]}, False),
        ({"deny": ["unix:{}/run/app"]}, True),
        ({"deny": ["unix:{}/run/app*"]}, False),
        ({"allow": ["unix:{}/run/*"]}, True),
        ({"allow": ["unix:{}/link/app.sock"]}, True),
        ({"allow": ["unix:{}/other/*"]}, False),
        ({"allow": ["unix:@*"]}, False),
        ({"allow": ["*", "0.0.0.0/0"]}, False),
    ],
)
async def test_guard_checks_unix_socket_by_path(
    tmp_path: Path, unix: Path, targets: dict[str, list[str]], permitted: bool
) -> None:
    filled = {key: [entry.format(unix) for entry in entries] for key, entries in targets.items()}
    async with exporter(tmp_path, {"m": {"prober": "unix"}}, targets=filled) as exporting:
        for path in ("run/app.sock", "link/app.sock", "alias.sock", "run/../run/./app.sock", "link//app.sock"):
            assert why(await exporting.probe("m", f"{unix}/{path}")) == (None if permitted else DENIED), path
            relative = os.path.relpath(f"{unix}/{path}")
            assert why(await exporting.probe("m", relative)) == (None if permitted else DENIED), relative


async def test_guard_checks_abstract_unix_socket_by_name(tmp_path: Path) -> None:
    name = f"probe-exporter-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        for targets, permitted in [
            ({"allow": ["unix:@probe-*"]}, True),
            ({"allow": ["unix:/*"]}, False),
            ({"deny": ["unix:@*"]}, False),
        ]:
            async with exporter(tmp_path, {"m": {"prober": "unix"}}, targets=targets) as exporting:
                assert why(await exporting.probe("m", f"@{name}")) == (None if permitted else DENIED)


# --- the exporter as a whole -------------------------------------------------------------------------------


@pytest.mark.slow
async def test_exporter_logs_missing_targets_and_counts_denials(tmp_path: Path) -> None:
    (tmp_path / "open.yml").write_text("modules: {m: {prober: tcp}}")
    (tmp_path / "guarded.yml").write_text("targets: {deny: [127.0.0.1]}\nmodules: {m: {prober: tcp}}")
    with ours(tmp_path, "--config.file=open.yml") as exporter, ours(tmp_path, "--config.file=guarded.yml") as guarded:
        for _ in range(3):
            answer = await guarded.probe("m", "127.0.0.1:9")
            assert 'probe_failure_info{phase="connect",reason="target_denied"} 1' in answer.text
        assert "probe_exporter_targets_denied_total 3" in (await guarded.get("/metrics")).text
        assert "targets:\n    deny:\n        - 127.0.0.1\n" in (await guarded.get("/config")).text
        assert exporter.log.read_text().count("Anything may be probed") == 1
        assert "Anything may be probed" not in guarded.log.read_text()


@pytest.mark.slow
async def test_denied_address_of_a_probe_that_passes_is_counted_and_is_a_run(tmp_path: Path) -> None:
    zone = Zone({"many.test": [["127.0.0.2", "127.0.0.3"]]})
    async with DnsServer(zone) as dns, nodes({"127.0.0.2": Node(greet)}) as port:
        (tmp_path / "guarded.yml").write_text(
            "targets: {deny: [127.0.0.3]}\nmodules:\n  m:\n    prober: tcp\n    timeout: 60s\n"
            f"    addresses: {{policy: any}}\n    resolver: {{servers: ['127.0.0.1:{dns['port']}'], timeout: 60s}}\n"
        )
        with ours(tmp_path, "--config.file=guarded.yml") as exporter:
            answer = await exporter.probe("m", f"many.test:{port}")
            debug = await exporter.get(f"/probe?module=m&target=many.test:{port}&debug=true")
            metrics = (await exporter.get("/metrics")).text
    assert "probe_success 1" in answer.text
    assert 'probe_address_failure_info{address="127.0.0.3",phase="connect",reason="target_denied"} 1' in answer.text
    run = "address=127.0.0.3 attempt=1 result=failure decides=false reason=target_denied phase=connect err="
    assert f"\n{run}" in debug.text
    assert "probe_exporter_addresses_denied_total 2" in metrics
    assert "probe_exporter_targets_denied_total 0" in metrics


# --- without I/O -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0/8", "10.0.0.0/8:443", "10.1.2.3", "10.1.2.3:80", "fd00::/8", "[fd00::/8]:443", "::1", "[::1]",
        "[::1]:80",
        "::ffff:10.0.0.0/104", "example.org", "example.org:443", "Example.Org.", "*.example.org", "*.example.org:8443",
        "bücher.example", "*", "*:443", "unix:/run/app.sock", "unix:/run/*", "unix:@name", "unix:@*", "unix:*",
        "_sip.a.test",
    ],
)  # fmt: skip
def test_entry_keeps_its_spelling(text: str) -> None:
    assert str(guard.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "neither an address, a range of addresses nor a host name"),
        ("10.0.0.1/8", "is 10.0.0.0/8 meant, or 10.0.0.1?"),
        ("10.0.0.0/33", "neither an address nor a range"),
        ("127.1", "is 127.0.0.1 meant?"),
        ("0177.0.0.1", "is 127.0.0.1 or 177.0.0.1 meant?"),
        ("2130706433", "is 127.0.0.1 meant?"),
        ("fe80::1%eth0", "names none"),
        ("example.org:0", "'0' in 'example.org:0' is not a port"),
        ("example.org:http", "is not a port"),
        ("example.org:65536", "is not a port"),
        ("example.org:", "is not a port"),
        ("[example.org]:80", "only IPv6 addresses stand in brackets"),
        ("[127.0.0.1]:80", "only IPv6 addresses stand in brackets"),
        ("web-*.example.org", "before a name: *.example.org"),
        ("*.*.example.org", "before a name: *.example.org"),
        ("10.0.*", "before a name: *.example.org"),
        ("http://example.org", "'//example.org' in 'http://example.org' is not a port"),
        ("example.org/path", "neither an address nor a range"),
        ("exa mple.org", "nor a host name"),
        ("-a.test", "nor a host name"),
        ("unix:relative", "expected an absolute path"),
        ("unix:", "expected an absolute path"),
        ("unix:/run/*/app.sock", "stands at the end"),
        ("[fd00::]/8", "neither an address nor a range"),
        ("fd00::/8:443", "neither an address nor a range"),
    ],
)
def test_entry_refuses_malformed_text(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        guard.parse(text)
    assert complaint in str(refused.value)


PREFIXES_4 = st.integers(0, 32).flatmap(
    lambda length: st.integers(0, 2**32 - 1).map(
        lambda n: ipaddress.ip_network((n >> 32 - length << 32 - length, length))
    )
)
PREFIXES_6 = st.integers(0, 128).flatmap(
    lambda length: st.integers(0, 2**128 - 1).map(
        lambda n: ipaddress.IPv6Network((n >> 128 - length << 128 - length, length))
    )
)


def near(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> st.SearchStrategy[IPv4Address | IPv6Address]:
    """Generate addresses in a range, including its edges."""
    low, high, most = int(network.network_address), int(network.broadcast_address), 2**network.max_prefixlen - 1
    numbers = st.one_of(
        st.integers(low, high), st.sampled_from([max(low - 1, 0), low, high, min(high + 1, most)]), st.integers(0, most)
    )
    return numbers.map(IPv4Address if network.version == 4 else IPv6Address)


def spellings(number: int) -> st.SearchStrategy[str]:
    """Generate spellings of an IPv4 address that inet_aton(3) accepts."""
    a, b, c, d = number.to_bytes(4, "big")
    forms = [str(number), hex(number), f"0{number:o}", f"{a}.{number & 0xFFFFFF}", f"{a}.{b}.{number & 0xFFFF}",
             f"0x{a:x}.0{b:o}.{c}.{d}", f"0x{a:02X}.{b}.0x{number & 0xFFFF:x}", f"{a}.{b}.{c}.{d}."]  # fmt: skip
    return st.sampled_from(forms)


@given(st.one_of(PREFIXES_4, PREFIXES_6).flatmap(lambda network: st.tuples(st.just(network), near(network))))
def test_range_entry_denies_contained_addresses(drawn: tuple[Any, IPv4Address | IPv6Address]) -> None:
    """Together with what may be reached by way of an address, and nothing else; and it allows what is in it."""
    network, address = drawn
    interpretation = interpret(str(address))
    assert interpretation.address == address
    inside = any(meaning in network for meaning in interpretation.meanings)
    assert inside or address not in network
    if interpretation.own:
        assert not permits(guarding(), str(address))
    else:
        assert permits(guarding(deny=[str(network)]), str(address)) is not inside
        assert permits(guarding([str(network)]), str(address)) is (address in network)
    if isinstance(address, IPv4Address) and int(address):
        assert interpretation.meanings == (address,)


@given(
    PREFIXES_4.flatmap(
        lambda network: near(network).flatmap(lambda a: st.tuples(st.just(network), st.just(a), spellings(int(a))))
    )
)
def test_spelling_of_address_is_judged_like_the_address(drawn: tuple[Any, IPv4Address, str]) -> None:
    network, address, spelling = drawn
    assert str(address) in readings(spelling)
    if address in network:
        guarded = guarding(deny=[str(network)])
        assert denied(lambda: guarded.check_name(spelling))
        assert denied(lambda: guarded.check_proxied(spelling, 80, []))


@given(st.text(max_size=30))
def test_guard_accepts_any_host_without_error(host: str) -> None:
    guarded = guarding(["*.example.org", "10.0.0.0/8"], ["other.test", "192.168.0.0/16"])
    with contextlib.suppress(ProbeFailed):
        guarded.check_name(host)
    with contextlib.suppress(ProbeFailed):
        guarded.check_proxied(host, 80, [])
    with contextlib.suppress(ValueError):
        guard.parse(host)
