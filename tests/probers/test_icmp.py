"""The icmp prober on loopback and through a network of namespaces: metrics and reasons.

Through a network each test runs twice: on the unprivileged datagram sockets of the kernel, and on raw ones.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import ValidationError

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.network import address_choice, lookup
from probe_exporter.prober.failure import Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.probers import icmp
from probe_exporter.probers.icmp import IcmpSettings, prober
from probe_exporter.protocols.icmp import messages, pings
from probe_exporter.runner import Result, run
from tests import namespaces
from tests.deadlines import in_phase, run_until, watch
from tests.namespaces import NamespaceNetwork
from tests.outcomes import seconds_of_phases, why
from tests.waiting import until

FAR, FAR_6 = "10.91.2.2", "fd91:2::2"
NOBODY = "10.91.2.77"
Respond = Callable[[socket.socket, threading.Event], None]
SERIES = (icmp.LOSS, icmp.RTT_MIN, icmp.RTT_AVG, icmp.RTT_MAX, icmp.RTT_STDDEV, icmp.JITTER)


def may_ping() -> bool:
    """Return whether this process has permission to ping."""
    for family, protocol in ((socket.AF_INET, socket.IPPROTO_ICMP), (socket.AF_INET6, socket.IPPROTO_ICMPV6)):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                socket.socket(family, kind, protocol).close()
                break
            except OSError:
                continue
        else:
            return False
    return True


on_loopback = pytest.mark.skipif(not may_ping(), reason="neither ping_group_range nor CAP_NET_RAW lets us ping")


async def ping(target: str, timeout: float = 20.0, **settings: Any) -> Result:
    """Run one probe of a target."""
    return await run(module(**settings), target, timeout)


def module(**settings: Any) -> Module:
    return Module("m", prober, IcmpSettings.model_validate(settings), 0.0, Place("test.yml"))


def message(result: Result) -> str:
    """Return the message of the failure."""
    assert result.failure is not None
    return result.failure.message


def seconds(result: Result) -> dict[str, float]:
    """Return the seconds of each phase."""
    return seconds_of_phases(result, icmp.DURATION)


def value(result: Result, metric: Metric) -> float | None:
    """Return a sample without labels, or None."""
    return result.probe.samples.plain.get(metric)


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"ttl": 256},
        {"ttl": -1},
        {"payload_size": -1},
        {"count": 0},
        {"count": 1001},
        {"interval": "0s"},
        {"interval": -1},
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        IcmpSettings.model_validate(settings)


def test_payload_too_large_for_a_packet_is_a_caution() -> None:
    assert [key for key, _ in IcmpSettings(payload_size=65508).cautions()] == ["payload_size"]
    assert list(IcmpSettings(payload_size=65507).cautions()) == []


@pytest.mark.parametrize(("size", "payload"), [(0, icmp.TEXT), (4, icmp.TEXT[:4]), (30, icmp.TEXT + b"\0\0")])
def test_payload_is_the_text_cut_or_padded(size: int, payload: bytes) -> None:
    """Without a size it is as long as the original's, because paths may treat packets by their size."""
    assert IcmpSettings(payload_size=size).payload == payload
    assert len(icmp.TEXT) == 28


# --- loopback ----------------------------------------------------------------------------------------------


@on_loopback
@pytest.mark.parametrize(("target", "version"), [("127.0.0.1", 4), ("::1", 6), ("[::1]", 6), ("::1%lo", 6)])
async def test_answering_host_passes(target: str, version: int) -> None:
    result = await ping(target)
    assert why(result) is None
    assert value(result, address_choice.IP_PROTOCOL) == version
    assert value(result, icmp.HOP_LIMIT) == 64
    found = seconds(result)
    assert set(found) == {"resolve", "setup", "rtt"}
    assert all(0 < spent <= result.duration for spent in found.values())
    assert [metric.name for metric in SERIES if metric in result.probe.samples.plain] == []


@on_loopback
async def test_name_is_resolved_by_preference(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.77 four.test both.test\n::1 six.test both.test\n")
    monkeypatch.setattr(lookup, "HOSTS", hosts)
    found = [
        value(await ping("both.test"), address_choice.IP_PROTOCOL),
        value(await ping("both.test", preferred_ip_protocol="ip4"), address_choice.IP_PROTOCOL),
        value(await ping("four.test"), address_choice.IP_PROTOCOL),
    ]
    assert found == [6, 4, 4]
    refused = await ping("four.test", ip_protocol_fallback=False)
    assert why(refused) == (Reason.DNS_NO_ADDRESS, "resolve")
    assert seconds(refused) == {"resolve": 0, "setup": 0, "rtt": 0}


@pytest.mark.parametrize("target", ["", "[]", "[::1", "127.0.0.1:80", "http://127.0.0.1/", "[::1]:80", " "])
async def test_invalid_host_fails(target: str) -> None:
    result = await ping(target)
    assert result.failure is not None
    assert result.phase == "resolve"
    assert seconds(result) == {"resolve": 0, "setup": 0, "rtt": 0}


@on_loopback
@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("size", [1, 28, 29, 1472, 9001, 65487])
async def test_payload_of_any_size_is_returned(target: str, size: int) -> None:
    assert why(await ping(target, payload_size=size)) is None


@on_loopback
@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("size", [65600, 10**9, 10**18, 10**30])
async def test_payload_too_large_for_a_packet_fails_without_allocating_it(target: str, size: int) -> None:
    result = await ping(target, payload_size=size)
    assert why(result) == (Reason.ICMP_PACKET_TOO_BIG, "rtt")
    assert seconds(result)["rtt"] == 0


@on_loopback
async def test_unknown_interface_is_named_in_the_error() -> None:
    result = await ping("fe80::1%nowhere0")
    assert why(result) == (Reason.TARGET_INVALID, "setup")
    assert "nowhere0" in message(result)


@on_loopback
@pytest.mark.parametrize(
    ("target", "source"), [("127.0.0.1", "127.0.0.9"), ("127.0.0.1", "::ffff:127.0.0.9"), ("::1", "::1")]
)
async def test_local_source_address_is_used(target: str, source: str) -> None:
    assert why(await ping(target, source_ip_address=source)) is None


@on_loopback
@pytest.mark.parametrize(("target", "source"), [("127.0.0.1", "192.0.2.1"), ("::1", "2001:db8::1")])
async def test_foreign_source_address_fails(target: str, source: str) -> None:
    result = await ping(target, source_ip_address=source)
    assert why(result) == (Reason.ICMP_SEND_FAILED, "setup")
    assert message(result) == f"sending from {source} failed: Cannot assign requested address"


@on_loopback
@pytest.mark.parametrize(("target", "source"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1"), ("::1", "here")])
async def test_source_address_of_the_other_family_fails(target: str, source: str) -> None:
    assert why(await ping(target, source_ip_address=source)) == (Reason.SETTINGS_UNUSABLE, "setup")


@on_loopback
async def test_series_sets_its_own_gauges() -> None:
    result = await ping("127.0.0.1", count=5, interval="20ms")
    assert why(result) is None
    assert value(result, icmp.LOSS) == 0
    low, mean, high = (value(result, metric) or 0 for metric in (icmp.RTT_MIN, icmp.RTT_AVG, icmp.RTT_MAX))
    assert 0 < low <= mean <= high
    assert 0 <= (value(result, icmp.RTT_STDDEV) or 0) <= high - low
    assert 0 <= (value(result, icmp.JITTER) or 0) <= high - low
    assert seconds(result)["rtt"] == mean
    assert result.duration > 0.04  # four pauses; the loop reads its clock once a turn, so each may seem shorter


@on_loopback
async def test_series_longer_than_the_timeout_fails_at_once() -> None:
    result = await ping("127.0.0.1", timeout=20.0, count=3, interval="10s")
    assert why(result) == (Reason.SETTINGS_UNUSABLE, "setup")
    assert icmp.LOSS not in result.probe.samples.plain  # nothing was sent
    assert "3 requests at intervals of 10 s take 20 s" in message(result)


@on_loopback
async def test_two_thousand_concurrent_pings_get_their_own_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings of one address differ only in their sequence number, and the kernel buffers only some hundred replies."""
    monkeypatch.setattr(pings, "_RECEIVE_BUFFER", 100_000)  # the limit for an ordinary user
    before = threading.active_count(), len(asyncio.all_tasks())
    results = await asyncio.gather(*(ping(f"127.0.{number % 8}.1", timeout=200.0) for number in range(2000)))
    assert [why(result) for result in results] == [None] * 2000
    assert (threading.active_count(), len(asyncio.all_tasks())) == before
    assert all(not channel._waiting for channel in pings._channels[asyncio.get_running_loop()].values())


@on_loopback
async def test_pings_share_a_socket_per_family() -> None:
    await asyncio.gather(*(ping(target) for target in ("127.0.0.1", "127.0.0.2", "::1", "::1")))
    assert sorted(version for version, *_ in pings._channels[asyncio.get_running_loop()]) == [4, 6]


@on_loopback
async def test_cancelled_ping_is_forgotten() -> None:
    """The ping is cancelled, as when the client of the request disconnects."""
    pinging, probes = watch(module(count=2, interval="10s"))
    task = asyncio.create_task(run(pinging, "127.0.0.1", 20.0))
    await until(lambda: probes and probes[0].current_phase == "rtt")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(not channel._waiting for channel in pings._channels[asyncio.get_running_loop()].values())


# --- through a network -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def laid() -> Iterator[NamespaceNetwork]:
    namespaces.require()
    with namespaces.network() as network:
        # Linux limits the types in this mask to a burst of 50 for all namespaces together.
        network.router.sysctl(ipv4__icmp_ratemask=0)
        yield network


@pytest.fixture(params=["datagram", "raw"])
def path(laid: NamespaceNetwork, request: pytest.FixtureRequest) -> NamespaceNetwork:
    """Reset the network, and choose the kind of socket that its near host pings with."""
    near, router, far = laid.near, laid.router, laid.far
    near.sysctl(ipv4__ping_group_range="0 2147483647" if request.param == "datagram" else "1 0")
    router.nft("")
    far.nft("")
    far.sysctl(ipv4__icmp_echo_ignore_all=0, ipv6__icmp__echo_ignore_all=0, ipv4__ip_default_ttl=64)
    for host, device in ((router, "host2"), (far, "eth0")):
        host.ip("link", "set", device, "mtu", "1500")
    near.ip("route", "flush", "cache")
    return laid


def through(path: NamespaceNetwork, *targets: str, timeout: float = 20.0, **settings: Any) -> list[Result]:
    """Ping targets concurrently from the near host; without CAP_NET_RAW if it is to use datagram sockets."""

    async def all_of_them() -> list[Result]:
        return await asyncio.gather(*(ping(target, timeout, **settings) for target in targets))

    return path.near.wait_for(all_of_them, net_raw=not uses_datagrams(path))


def until_silence(path: NamespaceNetwork, target: str, **settings: Any) -> Result:
    """Ping a target from the near host that does not answer; the deadline strikes soon after the request."""

    async def one() -> Result:
        return await run_until(in_phase("rtt"), module(**settings), target, grace=0.1)

    return path.near.wait_for(one, net_raw=not uses_datagrams(path))


def uses_datagrams(path: NamespaceNetwork) -> bool:
    return path.near.run("cat", "/proc/sys/net/ipv4/ping_group_range").split() != ["1", "0"]


TRIES = 20
"""Attempts for a measurement: a busy machine may delay some replies, but not all."""


@pytest.mark.slow
@pytest.mark.parametrize("target", [FAR, FAR_6])
def test_far_host_answers_through_the_router(path: NamespaceNetwork, target: str) -> None:
    (result,) = through(path, target)
    assert why(result) is None
    assert value(result, icmp.HOP_LIMIT) == 63
    assert 0 < seconds(result)["rtt"] <= result.duration


@pytest.mark.slow
def test_link_local_address_is_reached_by_its_zone(path: NamespaceNetwork) -> None:
    found = re.search(r"inet6 (fe80::\S+)/64", path.router.run("ip", "address", "show", "dev", "host1"))
    assert found is not None
    (plain,) = through(path, f"{found[1]}%eth0")
    (from_ours,) = through(path, f"{found[1]}%eth0", source_ip_address="fd91:1::1")
    assert (why(plain), why(from_ours)) == (None, None)


@pytest.mark.slow
def test_source_address_is_seen_by_the_target(path: NamespaceNetwork) -> None:
    """The far host drops requests from the first address of the near host."""
    path.near.ip("address", "replace", "10.91.1.9/24", "dev", "eth0")
    path.near.ip("address", "replace", "fd91:1::9/64", "dev", "eth0", "nodad")
    path.far.nft(
        "table inet f {\n chain c {\n type filter hook input priority 0\n"
        " ip saddr 10.91.1.1 icmp type echo-request drop\n ip6 saddr fd91:1::1 icmpv6 type echo-request drop\n }\n}"
    )
    for target, first, second in ((FAR, "10.91.1.1", "10.91.1.9"), (FAR_6, "fd91:1::1", "fd91:1::9")):
        dropped = until_silence(path, target, source_ip_address=first)
        (passed,) = through(path, target, source_ip_address=second)
        assert (why(dropped), why(passed)) == ((Reason.ICMP_TIMEOUT, "rtt"), None)


@pytest.mark.slow
def test_hop_limit_is_that_of_the_reply(path: NamespaceNetwork) -> None:
    path.far.sysctl(ipv4__ip_default_ttl=200)
    (result,) = through(path, FAR)
    assert value(result, icmp.HOP_LIMIT) == 199


@pytest.mark.slow
@pytest.mark.parametrize(("target", "router"), [(FAR, "10.91.1.254"), (FAR_6, "fd91:1::fe")])
def test_ttl_exceeded_fails_the_probe_at_once(path: NamespaceNetwork, target: str, router: str) -> None:
    (failed,) = through(path, target, ttl=1)
    (passed,) = through(path, target, ttl=2)
    assert why(failed) == (Reason.ICMP_TIME_EXCEEDED, "rtt")
    assert failed.duration < 20
    assert message(failed).startswith(f"{router} says: ")
    assert (value(failed, icmp.HOP_LIMIT), seconds(failed)["rtt"]) == (None, 0)
    assert why(passed) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "rule", "words"),
    [
        (FAR, "icmp type echo-request reject with icmp type host-unreachable", "host unreachable"),
        (FAR, "icmp type echo-request reject with icmp type admin-prohibited", "administratively prohibited"),
        (FAR_6, "icmpv6 type echo-request reject with icmpv6 type no-route", "no route to destination"),
        (FAR_6, "icmpv6 type echo-request reject with icmpv6 type addr-unreachable", "address unreachable"),
    ],
)
def test_unreachable_host_fails_the_probe_at_once(path: NamespaceNetwork, target: str, rule: str, words: str) -> None:
    path.router.nft(f"table inet f {{\n chain c {{\n type filter hook forward priority 0\n {rule}\n }}\n}}")
    (result,) = through(path, target)
    assert why(result) == (Reason.ICMP_UNREACHABLE, "rtt")
    assert result.duration < 20
    assert message(result).endswith(words)


@pytest.mark.slow
def test_error_fails_only_the_ping_it_is_about(path: NamespaceNetwork) -> None:
    """All pings share a socket, and the kernel reports an error to the next call on it."""
    rule = "ip daddr 10.91.2.9 reject with icmp type host-unreachable"
    path.router.nft(f"table inet f {{\n chain c {{\n type filter hook forward priority 0\n {rule}\n }}\n}}")
    path.far.ip("address", "replace", "10.91.2.9/24", "dev", "eth0")
    results = through(path, *(["10.91.2.9", FAR] * 50))
    assert [why(result) for result in results] == [(Reason.ICMP_UNREACHABLE, "rtt"), None] * 50


@pytest.mark.slow
def test_unread_error_does_not_fail_the_next_ping(path: NamespaceNetwork) -> None:
    """The error arrives while the event loop is busy, and the kernel reports it to the next send."""

    async def at_once() -> Result:
        time.sleep(0.1)  # noqa: ASYNC251  # nothing may be read meanwhile
        return await ping(FAR)

    async def one_after_the_other() -> tuple[Result, Result]:
        return await asyncio.gather(ping(FAR, ttl=1), at_once())

    failed, passed = path.near.wait_for(one_after_the_other, net_raw=not uses_datagrams(path))
    assert (why(failed), why(passed)) == ((Reason.ICMP_TIME_EXCEEDED, "rtt"), None)


@pytest.mark.slow
@pytest.mark.parametrize("target", [FAR, FAR_6])
def test_error_leaves_the_socket_usable(path: NamespaceNetwork, target: str) -> None:
    """libuv stops watching a descriptor that polls as an error. Later pings then got no reply."""

    async def one_after_the_other() -> list[tuple[str, str] | None]:
        found = []
        for ttl in (1, 64, 1, 64):
            found.append(why(await ping(target, ttl=ttl)))
            await asyncio.sleep(0.01)
        return found

    found = path.near.wait_for(one_after_the_other, net_raw=not uses_datagrams(path))
    assert found == [(Reason.ICMP_TIME_EXCEEDED, "rtt"), None] * 2


@pytest.mark.slow
def test_ttl_zero_is_the_system_default_unless_dont_fragment(path: NamespaceNetwork) -> None:
    """As in the original, which uses 64 with dont_fragment."""
    path.near.sysctl(ipv4__ip_default_ttl=1)
    try:
        (plain,) = through(path, FAR, ttl=0)
        (whole,) = through(path, FAR, ttl=0, dont_fragment=True)
    finally:
        path.near.sysctl(ipv4__ip_default_ttl=64)
    assert (why(plain), why(whole)) == ((Reason.ICMP_TIME_EXCEEDED, "rtt"), None)


@pytest.mark.slow
@pytest.mark.parametrize("target", [FAR, FAR_6])
def test_silent_host_times_out_in_the_rtt_phase(path: NamespaceNetwork, target: str) -> None:
    path.far.sysctl(ipv4__icmp_echo_ignore_all=1, ipv6__icmp__echo_ignore_all=1)
    result = until_silence(path, target)
    assert why(result) == (Reason.ICMP_TIMEOUT, "rtt")
    assert seconds(result)["rtt"] == 0


@pytest.mark.slow
def test_missing_route_fails(path: NamespaceNetwork) -> None:
    path.near.ip("route", "delete", "default")
    try:
        (result,) = through(path, "203.0.113.1")
    finally:
        path.near.ip("route", "add", "default", "via", "10.91.1.254")
    assert why(result) == (Reason.ICMP_SEND_FAILED, "rtt")


@pytest.mark.slow
def test_local_firewall_is_told_from_a_timeout(path: NamespaceNetwork) -> None:
    path.near.nft("table inet f {\n chain c {\n type filter hook output priority 0\n ip daddr 10.91.2.2 drop\n }\n}")
    try:
        (result,) = through(path, FAR)
    finally:
        path.near.nft("")
    assert why(result) == (Reason.ICMP_SEND_FAILED, "rtt")
    assert "firewall" in message(result)


@pytest.mark.slow
def test_dont_fragment_payload_must_fit_every_link(path: NamespaceNetwork) -> None:
    """28 bytes of headers and 1372 of payload fit into an MTU of 1400; one byte more does not."""
    for host, device in ((path.router, "host2"), (path.far, "eth0")):
        host.ip("link", "set", device, "mtu", "1400")
    for _ in range(2):
        (fits,) = through(path, FAR, payload_size=1372, dont_fragment=True)
        (too_big,) = through(path, FAR, payload_size=1373, dont_fragment=True)
        assert why(fits) is None
        assert why(too_big) == (Reason.ICMP_PACKET_TOO_BIG, "rtt")
        assert "10.91.1.254 says: packet too big (MTU 1400)" in message(too_big)
        assert too_big.duration < 20
    (cut_up,) = through(path, FAR, payload_size=1373)
    assert why(cut_up) is None


@pytest.mark.slow
def test_dont_fragment_payload_must_fit_the_first_link(path: NamespaceNetwork) -> None:
    (fits,) = through(path, FAR, payload_size=1472, dont_fragment=True)
    (too_big,) = through(path, FAR, payload_size=1473, dont_fragment=True)
    (cut_up,) = through(path, FAR, payload_size=1473)
    assert (why(fits), why(cut_up)) == (None, None)
    assert why(too_big) == (Reason.ICMP_PACKET_TOO_BIG, "rtt")


@pytest.mark.slow
def test_ipv6_path_mtu_is_learnt_from_the_first_failure(path: NamespaceNetwork) -> None:
    """Routers do not fragment IPv6. The first large packet fails, and the kernel then fragments the next."""
    for host, device in ((path.router, "host2"), (path.far, "eth0")):
        host.ip("link", "set", device, "mtu", "1400")
    (first,) = through(path, FAR_6, payload_size=1400, dont_fragment=True)
    (second,) = through(path, FAR_6, payload_size=1400, dont_fragment=True)
    path.near.ip("-6", "route", "flush", "cache")
    assert why(first) == (Reason.ICMP_PACKET_TOO_BIG, "rtt")
    assert "MTU 1400" in message(first)
    assert why(second) is None


def lose(path: NamespaceNetwork, every: int) -> None:
    """Have the router drop every n-th request, beginning with the first."""
    rules = [f"{type_} type echo-request numgen inc mod {every} == 0 drop" for type_ in ("icmp", "icmpv6")]
    lines = ["table inet f {", " chain c {", "  type filter hook forward priority 0", *rules, " }", "}"]
    path.router.nft("\n".join(lines))


@dataclass(frozen=True)
class PathMeasurement:
    """A measurement of a path: the share of requests without a reply, and the round trip in seconds."""

    loss: float
    rtt: tuple[float, float, float] | None  # lowest, mean and highest


def by_ours(path: NamespaceNetwork, target: str, count: int, timeout: float = 20.0) -> PathMeasurement:
    """Measure with our series. Its interval is also how long it waits for the last reply, so it is not too short."""
    (result,) = through(path, target, timeout=timeout, count=count, interval="60ms")
    loss = value(result, icmp.LOSS)
    assert loss is not None
    low, mean, high = (value(result, metric) for metric in (icmp.RTT_MIN, icmp.RTT_AVG, icmp.RTT_MAX))
    return PathMeasurement(loss, None if low is None or mean is None or high is None else (low, mean, high))


def by_ping(path: NamespaceNetwork, target: str, count: int) -> PathMeasurement:
    """Measure with ping: ``12 packets transmitted, 9 received, 25% packet loss …  rtt min/avg/max/mdev = …``."""
    said = path.near.run("ping", "-q", "-c", str(count), "-i", "0.02", "-W", "1", target)
    return _found(r"(\d+) packets transmitted, (\d+) received", r"= ([\d.]+)/([\d.]+)/([\d.]+)/", said)


def by_fping(path: NamespaceNetwork, target: str, count: int) -> PathMeasurement:
    """Measure with fping: ``… xmt/rcv/%loss = 12/9/25%, min/avg/max = …``; it exits with 1 if something got lost."""
    said = path.near.run("sh", "-c", f"fping -q -c {count} -p 20 -t 1000 {target} 2>&1 || true")
    return _found(r"xmt/rcv/%loss = (\d+)/(\d+)/", r"min/avg/max = ([\d.]+)/([\d.]+)/([\d.]+)", said)


def _found(counts: str, milliseconds: str, said: str) -> PathMeasurement:
    counted, rtt = re.search(counts, said), re.search(milliseconds, said)
    assert counted, said
    assert rtt, said
    low, mean, high = (float(one) / 1000 for one in rtt.groups())
    return PathMeasurement(1 - int(counted[2]) / int(counted[1]), (low, mean, high))


@pytest.mark.slow
@pytest.mark.parametrize("target", [FAR, FAR_6])
@pytest.mark.parametrize(("every", "count"), [(2, 6), (3, 9), (4, 12), (10, 20)])
def test_loss_is_the_share_of_lost_requests(path: NamespaceNetwork, target: str, every: int, count: int) -> None:
    """ping and fping measure the same loss; one of the two kinds of socket is enough for them."""
    lose(path, every)
    ways = (by_ours,) if uses_datagrams(path) else (by_ours, by_ping, by_fping)
    found = [by(path, target, count).loss for by in ways]
    assert found == pytest.approx([1 / every] * len(ways))


@pytest.mark.slow
def test_series_without_reply_is_total_loss(path: NamespaceNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """The series ends MARGIN before the deadline; the margin here is long enough for a busy machine."""
    monkeypatch.setattr(icmp, "MARGIN", 2.0)
    path.far.sysctl(ipv4__icmp_echo_ignore_all=1)
    (result,) = through(path, FAR, timeout=2.5, count=3, interval="50ms")
    assert why(result) == (Reason.ICMP_TIMEOUT, "rtt")
    assert value(result, icmp.LOSS) == 1
    assert [metric for metric in SERIES[1:] if value(result, metric) is not None] == []
    assert message(result) == "no reply to any of 3 echo requests"
    assert result.duration > 0.4


@pytest.mark.slow
def test_series_ends_at_the_first_error(path: NamespaceNetwork) -> None:
    (result,) = through(path, FAR, timeout=120.0, ttl=1, count=4, interval="30s")
    assert why(result) == (Reason.ICMP_TIME_EXCEEDED, "rtt")
    assert result.duration < 30  # no second request was sent
    assert value(result, icmp.LOSS) == 1


# --- a far host that takes its time ------------------------------------------------------------------------


def late(*delays: float) -> Respond:
    """Return a responder that delays its replies by these seconds in turn."""

    def respond(sock: socket.socket, stop: threading.Event) -> None:
        number = 0
        due: list[tuple[float, bytes, str]] = []
        while not stop.is_set():
            wait = min([at for at, _, _ in due], default=time.monotonic() + 0.05) - time.monotonic()
            if select.select([sock], [], [], max(0, min(wait, 0.05)))[0]:
                packet, (sender, _) = sock.recvfrom(65536)
                message = packet[(packet[0] & 15) * 4 :]
                if message[0] == 8:
                    due.append((time.monotonic() + delays[number % len(delays)], message, sender))
                    number += 1
            for entry in [entry for entry in due if entry[0] <= time.monotonic()]:
                due.remove(entry)
                sock.sendto(answer(entry[1]), (entry[2], 0))

    return respond


def answer(asked: bytes) -> bytes:
    """Return the reply to an echo request: another type, and the checksum adjusted for it (RFC 1624)."""
    total = struct.unpack("!H", asked[2:4])[0] + 0x0800
    return b"\0\0" + struct.pack("!H", (total & 0xFFFF) + (total >> 16)) + asked[4:]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.03, 0.1])
def test_rtt_is_the_delay_of_the_path(path: NamespaceNetwork, delay: float) -> None:
    """ping and fping measure the same delay."""

    def one(path: NamespaceNetwork, target: str, count: int) -> PathMeasurement:
        (result,) = through(path, target)
        rtt = seconds(result)["rtt"]
        return PathMeasurement(0, (rtt, rtt, rtt))

    with path.far.responding(late(delay)):
        for by in (one, by_ours, by_ping, by_fping):
            lows = []
            for _ in range(TRIES):
                rtt = by(path, FAR, 4).rtt
                assert rtt is not None
                low, mean, high = rtt
                assert delay <= low <= mean <= high
                lows.append(low)
                if low < delay + 0.05:
                    break
            assert min(lows) < delay + 0.05, by


@pytest.mark.slow
def test_loss_and_delay_are_measured_together(path: NamespaceNetwork) -> None:
    """A late reply is not lost, and a lost one has no round trip."""
    lose(path, 4)
    with path.far.responding(late(0.05)):
        found = [by(path, FAR, 12) for by in (by_ours, by_ping, by_fping)]
    assert [one.loss for one in found] == pytest.approx([0.25] * 3)
    for one in found:
        assert one.rtt is not None
        assert one.rtt[0] >= 0.05


MEASURED = pytest.approx([0, 0.05, 0.15, 0.25, 0.1, 0.2], abs=0.045)


@pytest.mark.slow
def test_rtt_statistics_are_those_of_the_path(path: NamespaceNetwork) -> None:
    """Round trips of 50, 250, 50 and 250 ms have a mean of 150, a deviation of 100 and a jitter of 200 ms."""
    found = []
    for _ in range(TRIES):
        with path.far.responding(late(0.05, 0.25)):
            (result,) = through(path, FAR, count=4, interval="300ms")
        assert why(result) is None
        found.append([value(result, metric) for metric in SERIES])
        if found[-1] == MEASURED:
            break
    assert MEASURED in found


@pytest.mark.slow
def test_busy_event_loop_does_not_add_to_the_rtt(path: NamespaceNetwork) -> None:
    """The kernel's timestamp of the reply counts."""

    async def busy() -> Result:
        asyncio.get_running_loop().call_later(0.005, time.sleep, 0.3)
        return await ping(FAR)

    found = []
    with path.far.responding(late(0.05)):
        for _ in range(TRIES):
            result = path.near.wait_for(busy)
            assert why(result) is None
            assert result.duration > 0.25
            assert seconds(result)["rtt"] >= 0.05
            found.append(seconds(result)["rtt"])
            if found[-1] < 0.15:
                break
    assert min(found) < 0.15


@pytest.mark.slow
def test_foreign_replies_are_ignored(path: NamespaceNetwork) -> None:
    """They have another address, payload, sequence number, identifier or checksum. The right reply comes later."""

    def forge(sock: socket.socket, stop: threading.Event) -> None:
        sock.settimeout(0.05)
        while not stop.is_set():
            try:
                packet, (sender, _) = sock.recvfrom(65536)
            except TimeoutError:
                continue
            asked = packet[20:]
            if asked[0] == 8:
                identifier, sequence = struct.unpack("!HH", asked[4:8])
                other = messages.request(4, identifier, sequence, b"x" + asked[9:])
                sock.sendto(answer(other), (sender, 0))
                sock.sendto(answer(messages.request(4, identifier, sequence + 1 & 0xFFFF, asked[8:])), (sender, 0))
                sock.sendto(answer(messages.request(4, identifier ^ 1, sequence, asked[8:])), (sender, 0))
                damaged = answer(asked)
                sock.sendto(damaged[:3] + bytes([damaged[3] ^ 1]) + damaged[4:], (sender, 0))
                with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as elsewhere:
                    elsewhere.bind(("10.91.2.9", 0))
                    elsewhere.sendto(answer(asked), (sender, 0))
                time.sleep(0.1)
                sock.sendto(answer(asked), (sender, 0))

    path.far.ip("address", "replace", "10.91.2.9/24", "dev", "eth0")
    with path.far.responding(forge):
        (result,) = through(path, FAR)
    assert why(result) is None
    assert seconds(result)["rtt"] >= 0.1


@pytest.mark.slow
def test_error_about_another_target_is_ignored(path: NamespaceNetwork) -> None:
    """Everything else in it is that of our request, which is answered later."""

    def mislead(sock: socket.socket, stop: threading.Event) -> None:
        sock.settimeout(0.05)
        while not stop.is_set():
            try:
                packet, (sender, _) = sock.recvfrom(65536)
            except TimeoutError:
                continue
            if packet[20] == messages.REQUESTS[4]:
                about = packet[:16] + socket.inet_aton(NOBODY) + packet[20:28]
                blank = b"\3\1\0\0" + bytes(4) + about  # host unreachable
                sock.sendto(b"\3\1" + struct.pack("!H", messages.checksum(blank)) + bytes(4) + about, (sender, 0))
                time.sleep(0.1)
                sock.sendto(answer(packet[20:]), (sender, 0))

    with path.far.responding(mislead):
        (result,) = through(path, FAR)
    assert why(result) is None
    assert seconds(result)["rtt"] >= 0.1


# --- permission --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
def test_missing_permission_names_what_grants_it(laid: NamespaceNetwork, target: str) -> None:
    laid.near.sysctl(ipv4__ping_group_range="1 0")
    result = laid.near.wait_for(lambda: ping(target), net_raw=False)
    assert why(result) == (Reason.ICMP_PERMISSION, "setup")
    assert "net.ipv4.ping_group_range" in message(result)
    assert "CAP_NET_RAW" in message(result)
    assert seconds(result)["rtt"] == 0


@pytest.mark.slow
def test_permission_granted_later_works_without_restart(laid: NamespaceNetwork) -> None:
    async def twice() -> tuple[Result, Result]:
        refused = await ping("127.0.0.1")
        laid.near.sysctl(ipv4__ping_group_range="0 2147483647")
        return refused, await ping("127.0.0.1")

    laid.near.sysctl(ipv4__ping_group_range="1 0")
    twice_there: Callable[[], Coroutine[None, None, tuple[Result, Result]]] = twice
    refused, passed = laid.near.wait_for(twice_there, net_raw=False)
    assert why(refused) == (Reason.ICMP_PERMISSION, "setup")
    assert why(passed) is None
