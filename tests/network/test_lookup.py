"""Names become addresses in the order hosts file, DNS; each way of failing has its reason; nothing is remembered.

How name servers are asked is in `test_name_servers.py`, and what /etc/resolv.conf says in `test_resolv_conf.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from probe_exporter.addresses import literals
from probe_exporter.network import lookup, resolv_conf
from probe_exporter.network.lookup import Resolver
from probe_exporter.prober.failure import ProbeFailed, Reason
from tests.targets.dns import DnsServer, Zone, silence
from tests.waiting import until

A, AAAA = 1, 28
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5


class NameServer(asyncio.DatagramProtocol):
    """A name server that records queries and does not answer those for ``silent.test``."""

    def __init__(self) -> None:
        self.zone: dict[str, list[str]] = {}
        self.codes: dict[str, int] = {}
        self.asked: list[tuple[str, int]] = []
        self.port = 0
        self._unanswered: list[tuple[bytes, tuple[str, int]]] = []
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        name, kind, _ = _question(data)
        self.asked.append((name, kind))
        if name == "silent.test":
            self._unanswered.append((data, address))
        else:
            self._answer(data, address)

    def answer(self, name: str, addresses: list[str]) -> None:
        """Answer the queries for ``silent.test`` that are waiting."""
        self.zone[name] = addresses
        for data, address in self._unanswered:
            self._answer(data, address)

    def _answer(self, data: bytes, address: tuple[str, int]) -> None:
        assert self._transport is not None
        name, kind, question = _question(data)
        found = [address for address in self.zone.get(name, ()) if (":" in address) == (kind == AAAA)]
        code = self.codes.get(name, NOERROR if name in self.zone else NXDOMAIN)
        head = struct.pack(">HHHHHH", int.from_bytes(data[:2], "big"), 0x8180 | code, 1, len(found), 0, 0)
        family = socket.AF_INET6 if kind == AAAA else socket.AF_INET
        records = [socket.inet_pton(family, address) for address in found]
        body = b"".join(struct.pack(">HHHIH", 0xC00C, kind, 1, 3600, len(record)) + record for record in records)
        self._transport.sendto(head + question + body, address)


def _question(data: bytes) -> tuple[str, int, bytes]:
    """Return the name and type of a query, and its question section as bytes."""
    question = data[12 : data.index(b"\0", 12) + 5]
    labels, at = [], 0
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += question[at] + 1
    return ".".join(labels).lower(), int.from_bytes(question[-4:-2], "big"), question


@asynccontextmanager
async def name_server(seconds: int = 20) -> AsyncIterator[NameServer]:
    """A name server on loopback, which the system's lookups ask and no other.

    Args:
        seconds: after which a lookup gives up.
    """
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    with tempfile.NamedTemporaryFile("w") as conf, pytest.MonkeyPatch.context() as patch:
        conf.write(f"nameserver 127.0.0.1\nsearch search.test\noptions timeout:{seconds} attempts:1\n")
        conf.flush()
        patch.setattr(resolv_conf, "RESOLV_CONF", Path(conf.name))
        patch.setattr(lookup, "PORT", server.port)
        yield server
    transport.close()


@pytest.fixture(autouse=True)
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's hosts file, initially empty."""
    path = tmp_path / "hosts"
    path.touch()
    monkeypatch.setattr(lookup, "HOSTS", path)
    monkeypatch.setattr(resolv_conf, "NSSWITCH_CONF", tmp_path / "nsswitch.conf")
    return path


async def failure(host: str, family: int = 0) -> str:
    """Return the reason why a lookup fails."""
    with pytest.raises(ProbeFailed) as failed:
        await lookup.lookup(host, family)
    return failed.value.reason


# --- addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_literal_normalises_addresses(text: str, address: str) -> None:
    assert literals.literal(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "127.1", "0x7f000001", "2130706433", "127.0.0.01", "127.0.0.1.", "[::1]", "::1:2:3::", " ::1"],
)
def test_literal_returns_none_for_names(text: str) -> None:
    """Forms that only inet_aton accepts are names."""
    assert literals.literal(text) is None


@pytest.mark.parametrize(
    ("address", "value"),
    [
        ("127.0.0.1", 3668918509),
        ("::1", 1751717746),
        ("192.0.2.1", 1969986452),
        ("2001:db8::1", 1851458804),
        ("::ffff:127.0.0.1", 3668918509),
    ],
)
def test_fingerprint_equals_the_originals(address: str, value: int) -> None:
    assert literals.fingerprint(literals.literal(address) or "") == value


def test_address_of_a_socket_has_the_number_of_the_zone() -> None:
    assert literals.socket_address("fe80::1%lo", 80) == ("fe80::1", 80, 0, 1)
    assert literals.socket_address("fe80::1%4294967295", 80) == ("fe80::1", 80, 0, 4294967295)


@pytest.mark.parametrize("zone", ["nowhere0", "a\0b", "\0", "4294967296", "9" * 5_000])
def test_address_of_a_socket_needs_an_interface(zone: str) -> None:
    with pytest.raises(ProbeFailed) as failed:
        literals.socket_address(f"fe80::1%{zone}", 80)
    assert failed.value.reason is Reason.TARGET_INVALID


def test_version_of_address() -> None:
    assert (literals.version("127.0.0.1"), literals.version("::1"), literals.version("fe80::1%eth0")) == (4, 6, 6)


# --- the hosts file ----------------------------------------------------------------------------------------

HOSTS = """\
# a comment
127.0.0.1   localhost loopback.test  # and another
::1\tLocalhost
192.0.2.1 many.test
192.0.2.2 many.test other.test.
not-an-address nobody.test
192.0.2.3
::ffff:192.0.2.4 mapped.test
"""


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("localhost", ["127.0.0.1", "::1"]),
        ("LOCALHOST", ["127.0.0.1", "::1"]),
        ("localhost.", ["127.0.0.1", "::1"]),
        ("loopback.test", ["127.0.0.1"]),
        ("many.test", ["192.0.2.1", "192.0.2.2"]),
        ("other.test", ["192.0.2.2"]),
        ("mapped.test", ["192.0.2.4"]),
    ],
)
async def test_lookup_prefers_hosts_file(hosts: Path, host: str, addresses: list[str]) -> None:
    hosts.write_text(HOSTS)
    async with name_server() as server:
        server.zone[host.lower().rstrip(".")] = ["192.0.2.99"]
        assert await lookup.lookup(host) == addresses
        assert server.asked == []


async def test_lookup_uses_hosts_file_for_both_families(hosts: Path) -> None:
    """A name in the hosts file gets no address from DNS, even of the other family."""
    hosts.write_text("192.0.2.1 here.test\n")
    async with name_server() as server:
        server.zone["here.test"] = ["2001:db8::1"]
        assert await failure("here.test", 6) is Reason.DNS_NO_ADDRESS
        assert await lookup.lookup("here.test", 4) == ["192.0.2.1"]
        assert server.asked == []


async def test_lookup_reads_changed_hosts_file(hosts: Path) -> None:
    hosts.write_text("192.0.2.1 here.test\n")
    assert lookup.in_hosts_file("here.test") == ("192.0.2.1",)
    hosts.write_text("192.0.2.2 here.test\n")
    os.utime(hosts, ns=(1, 1))
    assert lookup.in_hosts_file("here.test") == ("192.0.2.2",)


async def test_lookup_works_without_hosts_file(hosts: Path) -> None:
    hosts.unlink()
    async with name_server() as server:
        server.zone["a.test"] = ["192.0.2.1"]
        assert await lookup.lookup("a.test") == ["192.0.2.1"]


async def test_lookup_reads_hosts_file_with_invalid_utf8(hosts: Path) -> None:
    hosts.write_bytes(b"192.0.2.1 here.test # \xff\n192.0.2.2 \xff.test\n")
    assert await lookup.lookup("here.test") == ["192.0.2.1"]


# --- DNS ---------------------------------------------------------------------------------------------------


async def test_lookup_queries_only_needed_families() -> None:
    async with name_server() as server:
        for host in ("both.test", "four.test", "six.test"):
            server.zone[host] = ["192.0.2.1", "2001:db8::1"]
        assert sorted(await lookup.lookup("both.test")) == ["192.0.2.1", "2001:db8::1"]
        assert await lookup.lookup("four.test", 4) == ["192.0.2.1"]
        assert await lookup.lookup("six.test", 6) == ["2001:db8::1"]
        assert set(server.asked) == {("both.test", A), ("both.test", AAAA), ("four.test", A), ("six.test", AAAA)}


@pytest.mark.parametrize("family", [0, 4, 6])
async def test_lookup_failure_has_reason(family: int) -> None:
    async with name_server() as server:
        server.zone |= {"four.test": ["192.0.2.1"], "six.test": ["2001:db8::1"], "none.test": []}
        server.codes |= {"broken.test": SERVFAIL, "refused.test": REFUSED}
        assert await failure("absent.test", family) is Reason.DNS_NAME_NOT_FOUND
        assert await failure("none.test", family) is Reason.DNS_NO_ADDRESS
        assert await failure("broken.test", family) is Reason.DNS_RESOLUTION
        assert await failure("refused.test", family) is Reason.DNS_RESOLUTION
        if family:
            assert await failure({4: "six.test", 6: "four.test"}[family], family) is Reason.DNS_NO_ADDRESS


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("family", [0, 4, 6])
@pytest.mark.slow
async def test_lookup_without_answer_times_out(family: int) -> None:
    async with name_server(10):
        assert await failure("silent.test", family) is Reason.DNS_TIMEOUT


async def test_mapped_address_of_a_name_is_an_ipv4_address() -> None:
    """So it is in the original, and where the target is such an address."""
    async with name_server() as server:
        server.zone["mapped.test"] = ["::ffff:192.0.2.1", "2001:db8::1"]
        server.zone["only.test"] = ["::ffff:192.0.2.1"]
        assert sorted(await lookup.lookup("mapped.test")) == ["192.0.2.1", "2001:db8::1"]
        assert await lookup.lookup("mapped.test", 6) == ["2001:db8::1"]
        assert await failure("only.test", 6) == "dns_no_address"


async def test_lookup_encodes_idn() -> None:
    async with name_server() as server:
        server.zone["xn--bcher-kva.test"] = ["192.0.2.1"]
        assert await lookup.lookup("B\u00fccher.test", 4) == ["192.0.2.1"]
        assert server.asked == [("xn--bcher-kva.test", A)]


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a..test",
        ".test",
        "-a.test",
        "a-.test",
        "a b.test",
        "a/b",
        f"{'a' * 64}.test",
        ".".join(["a" * 49] * 6),
        "127.1",
        "127.0.0.01",
        "2130706433",
        "1.2.3.4.5",
        "b\u00fccher..test",
        "\u0378.test",
        "\udcff.test",
    ],
)
async def test_lookup_does_not_query_invalid_names(host: str) -> None:
    async with name_server() as server:
        assert await failure(host) is Reason.DNS_RESOLUTION
        assert server.asked == []


@pytest.mark.parametrize("host", ["a_b.test", "_a.test", "1.test", "a-b.test", "0x7f000001", "a.test."])
async def test_lookup_accepts_unusual_names(host: str) -> None:
    async with name_server() as server:
        server.zone[host.rstrip(".")] = ["192.0.2.1"]
        assert await lookup.lookup(host, 4) == ["192.0.2.1"]


async def test_lookup_uses_search_domains() -> None:
    async with name_server() as server:
        server.zone["short.search.test"] = ["192.0.2.1"]
        assert await lookup.lookup("short", 4) == ["192.0.2.1"]


async def test_lookup_with_search_domains_tells_the_most() -> None:
    """Of the name's own failure and those in search domains the one to look up counts."""
    async with name_server() as server:
        server.zone |= {"empty.search.test": []}
        server.codes |= {"broken.search.test": SERVFAIL}
        assert await failure("empty") is Reason.DNS_NO_ADDRESS
        assert await failure("broken") is Reason.DNS_RESOLUTION
        assert await failure("absent") is Reason.DNS_NAME_NOT_FOUND


async def test_lookup_as_written_uses_no_search_domain() -> None:
    async with name_server() as server:
        server.zone["short.search.test"] = ["192.0.2.1"]
        with pytest.raises(ProbeFailed) as failed:
            await lookup.lookup("short", 4, as_written=True)
        assert failed.value.reason is Reason.DNS_NAME_NOT_FOUND
        assert server.asked == [("short", A)]


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "any.localhost"])
async def test_localhost_needs_no_name_server(host: str) -> None:
    async with name_server() as server:
        assert await lookup.lookup(host) == ["127.0.0.1", "::1"]
        assert server.asked == []


async def test_onion_names_are_not_shown_to_name_servers() -> None:
    async with name_server() as server:
        assert await failure("any.onion") is Reason.DNS_NAME_NOT_FOUND
        assert ("any.onion", A) not in server.asked


@pytest.mark.parametrize(
    ("line", "addresses"),
    [
        ("hosts: files dns", ["192.0.2.1"]),
        ("hosts: dns files", ["192.0.2.2"]),
        ("hosts: dns", ["192.0.2.2"]),
        ("hosts: files", ["192.0.2.1"]),
        ("hosts: files mdns4_minimal [NOTFOUND=return] dns", ["192.0.2.1"]),
    ],
)
async def test_lookup_follows_nsswitch(hosts: Path, line: str, addresses: list[str]) -> None:
    hosts.write_text("192.0.2.1 both.test\n192.0.2.1 here.test\n")
    hosts.with_name("nsswitch.conf").write_text(line + "\n")
    async with name_server() as server:
        server.zone |= {"both.test": ["192.0.2.2"], "there.test": ["192.0.2.2"]}
        assert await lookup.lookup("both.test", 4) == addresses
        if "files" not in line:
            assert await failure("here.test") is Reason.DNS_NAME_NOT_FOUND
        else:
            assert await lookup.lookup("here.test", 4) == ["192.0.2.1"]
        if "dns" not in line:
            assert await failure("there.test") is Reason.DNS_NAME_NOT_FOUND


async def test_lookup_remembers_nothing() -> None:
    """However long the name server says that an address holds: a probe is to see what a client would see."""
    async with name_server() as server:
        for address in ("192.0.2.1", "192.0.2.2"):
            server.zone["moving.test"] = [address]
            assert await lookup.lookup("moving.test", 4) == [address]
        server.codes["moving.test"] = SERVFAIL
        assert await failure("moving.test", 4) is Reason.DNS_RESOLUTION


async def test_lookup_is_not_delayed_by_unanswered_ones() -> None:
    """A lookup is answered while a hundred others wait."""
    async with name_server() as server:
        server.zone["quick.test"] = ["192.0.2.1"]
        waiting = [asyncio.create_task(lookup.lookup("silent.test", 4)) for _ in range(100)]
        await until(lambda: ("silent.test", A) in server.asked)
        assert await lookup.lookup("quick.test", 4) == ["192.0.2.1"]
        assert not any(task.done() for task in waiting)
        server.answer("silent.test", ["192.0.2.7"])
        assert await asyncio.gather(*waiting) == [["192.0.2.7"]] * 100


# --- a module's own name servers ---------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_own_resolver_ignores_hosts_file_and_search_domains(hosts: Path, address: str) -> None:
    """The resolver asks for the name as written, without the hosts file and search domains."""
    hosts.write_text("192.0.2.9 both.test\n")
    zone = Zone({"both.test": [["192.0.2.1", "2001:db8::1"]], "six.test": [["2001:db8::6"]]})
    async with DnsServer(zone) as server:
        own = Resolver(((address, server["port"]),), 20.0)
        assert await lookup.lookup("both.test", resolver=own) == ["192.0.2.1", "2001:db8::1"]
        assert await lookup.lookup("both.test", 4, resolver=own) == ["192.0.2.1"]
        assert await lookup.lookup("six.test.", resolver=own) == ["2001:db8::6"]
        for name, family, reason in [
            ("six.test", 4, Reason.DNS_NO_ADDRESS),
            ("none.test", 0, Reason.DNS_NAME_NOT_FOUND),
            ("localhost", 0, Reason.DNS_NAME_NOT_FOUND),
            ("both", 0, Reason.DNS_NAME_NOT_FOUND),
            ("a b", 0, Reason.DNS_RESOLUTION),
        ]:
            with pytest.raises(ProbeFailed) as failed:
                await lookup.lookup(name, family, resolver=own)
            assert failed.value.reason is reason, name
        assert "both.test" in zone.asked
        assert not [name for name in zone.asked if name.startswith("both.") and name != "both.test"]


def refusing(query: bytes) -> list[bytes]:
    """A script that answers with REFUSED."""
    return [query[:2] + b"\x81\x85" + query[4:]]


async def test_own_resolver_failure_has_reason() -> None:
    async with DnsServer(refusing) as server:
        own = Resolver((("127.0.0.1", server["port"]),), 20.0)
        with pytest.raises(ProbeFailed) as failed:
            await lookup.lookup("any.test", resolver=own)
    assert failed.value.reason is Reason.DNS_RESOLUTION
    assert failed.value.message == f"looking up any.test failed: 127.0.0.1:{server['port']} answered REFUSED"


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_own_resolver_gives_up_after_its_timeout() -> None:
    loop = asyncio.get_running_loop()
    async with DnsServer(silence) as server:
        own = Resolver((("127.0.0.1", server["port"]), ("::1", server["port"])), 10.0)
        started = loop.time()
        with pytest.raises(ProbeFailed) as failed:
            await lookup.lookup("any.test", resolver=own)
    assert failed.value.reason is Reason.DNS_TIMEOUT
    assert failed.value.message.endswith("within 10 s")
    assert loop.time() - started >= 10


@pytest.mark.usefixtures("clock")
async def test_own_resolver_tries_next_server() -> None:
    async with DnsServer(silence) as silent, DnsServer(Zone({"a.test": [["192.0.2.1"]]})) as server:
        own = Resolver((("127.0.0.1", silent["port"]), ("127.0.0.1", server["port"])), 8.0)
        assert await lookup.lookup("a.test", 4, resolver=own) == ["192.0.2.1"]


async def test_own_resolver_remembers_nothing() -> None:
    zone = Zone({"moving.test": [["192.0.2.1"], ["192.0.2.2"]]})
    async with DnsServer(zone) as server:
        own = Resolver((("127.0.0.1", server["port"]),), 20.0)
        assert await lookup.lookup("moving.test", 4, resolver=own) == ["192.0.2.1"]
        assert await lookup.lookup("moving.test", 4, resolver=own) == ["192.0.2.2"]
