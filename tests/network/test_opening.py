"""Tests of connecting over loopback: reported phases and reasons of failures.

Each test runs on asyncio's loop and on uvloop, which call the functions of one turn in different orders.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from probe_exporter.network import address_choice
from probe_exporter.network.connection import Connection
from probe_exporter.network.opening import connect, connect_udp, dial, dial_udp, dial_unix
from probe_exporter.network.settings import SourceSettings
from probe_exporter.prober.failure import OutOfFiles, ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.tls import layer
from tests.descriptors import no_descriptors, open_descriptors
from tests.loops import ON_BOTH_LOOPS
from tests.targets import Pki
from tests.targets.peer import TlsPeer, a_probe, everything, failing, greet, hold, over_tls, peer, say, take
from tests.waiting import PATIENCE, until

pytestmark = ON_BOTH_LOOPS


# --- connecting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
async def test_connect_resolves_and_connects(host: str, family: int) -> None:
    async with peer(greet, family) as port:
        probe = a_probe()
        before = time.perf_counter()
        connection = await connect(probe, host, port)
        assert await everything(connection) == b"hello"
        after = time.perf_counter()
        connection.close()
    assert probe.samples.get(address_choice.IP_PROTOCOL) == (6 if family == socket.AF_INET6 else 4)
    assert 0 < connection.connect_seconds < after - before
    assert before < connection.opened_at < connection.first_byte_at <= connection.last_byte_at < after
    assert connection.tls_seconds == 0
    assert connection.handshake is None
    assert probe.current_phase == ""


async def test_dial_accepts_ipv6_zone() -> None:
    async with peer(greet, socket.AF_INET6) as port:
        connection = await dial(a_probe(), ["::1%1"], port)
        assert await everything(connection) == b"hello"
        connection.close()


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    "opens",
    [
        lambda: dial(a_probe(), ["127.0.0.1"], 1),
        lambda: dial_udp(a_probe(), "127.0.0.1", 1),
        lambda: dial_unix(a_probe(), "/tmp/any"),
        lambda: connect(a_probe(), "127.0.0.1", 1),
    ],
    ids=["dial", "dial_udp", "dial_unix", "connect"],
)
async def test_connecting_without_descriptors_says_so(opens: Callable[[], Coroutine[Any, Any, object]]) -> None:
    with no_descriptors():
        failed = await failing(opens())
    assert isinstance(failed, OutOfFiles)
    assert failed.reason is Reason.CONNECT_FAILED
    assert failed.message.endswith("the exporter has no file descriptor left; raise its limit of open files")


async def test_dial_reports_refused_port() -> None:
    probe = a_probe()
    failed = await failing(dial(probe, ["127.0.0.1"], unused_port()))
    assert failed.reason is Reason.CONNECT_REFUSED
    assert probe.current_phase == "connect"


@pytest.mark.parametrize("port", [-1, 0, 65536, 99999])
async def test_dial_refuses_invalid_port(port: int) -> None:
    assert (await failing(dial(a_probe(), ["127.0.0.1"], port))).reason is Reason.TARGET_INVALID


async def test_dial_reports_unreachable_address() -> None:
    """The kernel refuses TCP connections to a multicast address at once."""
    failed = await failing(dial(a_probe(), ["224.0.0.1"], 9))
    assert failed.reason is Reason.CONNECT_UNREACHABLE


async def test_dial_tries_addresses_in_turn() -> None:
    probe = a_probe()
    async with peer(greet) as port:
        connection = await dial(probe, ["127.0.0.77", "::1", "127.0.0.1"], port)
        assert await everything(connection) == b"hello"
        connection.close()
    assert [event.fields["ip"] for event in probe.events] == ["127.0.0.77", "::1"]
    assert probe.current_phase == ""


async def test_dial_fails_with_reason_of_last_address() -> None:
    async with peer(hold) as port:
        failed = await failing(dial(a_probe(), ["127.0.0.77", "224.0.0.1"], port))
    assert failed.reason is Reason.CONNECT_UNREACHABLE


async def test_connect_uses_source_address() -> None:
    async def tell(connected: socket.socket) -> None:
        await say(connected, connected.getpeername()[0].encode())

    async with peer(tell) as port:
        connection = await connect(a_probe(), "127.0.0.1", port, SourceSettings(source_ip_address="127.0.0.42"))
        assert await everything(connection) == b"127.0.0.42"
        connection.close()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("192.0.2.1", Reason.CONNECT_FAILED),
        ("::1", Reason.SETTINGS_UNUSABLE),
        ("no address", Reason.SETTINGS_UNUSABLE),
    ],
)
async def test_connect_fails_with_foreign_source_address(source: str, reason: Reason) -> None:
    async with peer(hold) as port:
        failed = await failing(connect(a_probe(), "127.0.0.1", port, SourceSettings(source_ip_address=source)))
    assert failed.reason is reason


def full_listener(stack: contextlib.ExitStack) -> int:
    """Return a port whose backlog is full, so a SYN is never answered."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    port = int(listener.getsockname()[1])
    for _ in range(3):
        client = stack.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
    return port


async def test_dial_can_be_cancelled_while_connecting() -> None:
    with contextlib.ExitStack() as stack:
        port = full_listener(stack)
        probe = a_probe()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(dial(probe, ["127.0.0.1"], port), 0.1)
    assert probe.current_phase == "connect"


# --- what an author has of it ------------------------------------------------------------------------------

SECONDS = Metric("probe_own_duration_seconds", "How long.", ("phase",))


async def test_connect_reports_phases_to_own_metric(pki: Pki) -> None:
    with TlsPeer(pki, say=b"welcome") as server:
        probe = a_probe()
        with await connect(probe, "127.0.0.1", server.port, over_tls(pki), seconds=SECONDS) as connection:
            assert await connection.read() == b"welcome"
        await server.end()
    took = {phase: seconds for (phase,), seconds in probe.samples.labelled[SECONDS].items()}
    assert [*took] == ["resolve", "connect", "tls"]
    assert took["connect"] == round(connection.connect_seconds, 9)
    assert took["tls"] >= round(connection.tls_seconds, 9) > 0
    assert [about for name, _, _, about, _ in probe.spans if name == "tls"] == ["127.0.0.1"]
    assert probe.current_phase == ""


async def test_connect_applies_source_settings() -> None:
    async with peer(greet) as port:
        failed = await failing(
            connect(a_probe(), "127.0.0.1", port, SourceSettings(ip_protocol_fallback=False), seconds=SECONDS)
        )
    assert failed.reason is Reason.DNS_NO_ADDRESS


async def test_connection_block_closes_on_error() -> None:
    heard: list[bytes] = []
    listened = asyncio.Event()

    async def listen(connected: socket.socket) -> None:
        heard.append(await take(connected))
        listened.set()

    async with peer(listen) as port:
        with contextlib.suppress(RuntimeError), await connect(a_probe(), "127.0.0.1", port) as connection:
            connection.send(b"last words")
            raise RuntimeError
        await asyncio.wait_for(listened.wait(), PATIENCE)
    assert heard == [b"last words"]
    with pytest.raises(ProbeFailed):
        await connection.write(b"more")


async def test_put_back_data_is_read_first() -> None:
    async with peer(greet) as port:
        with await connect(a_probe(), "127.0.0.1", port) as connection:
            assert await connection.exactly(4) == b"hell"
            connection.put_back(b"J")
            assert await connection.exactly(2) == b"Jo"


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
async def test_connect_udp_resolves_and_exchanges_datagrams(host: str, family: int) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as other:
        other.settimeout(PATIENCE)
        other.bind((host, 0))
        probe = a_probe()
        with await connect_udp(probe, host, other.getsockname()[1], seconds=SECONDS) as datagrams:
            datagrams.send(b"ping")
            data, sender = other.recvfrom(100)  # it is there at once
            other.sendto(data.upper(), sender)
            assert await datagrams.read() == b"PING"
    assert probe.samples.get(address_choice.IP_PROTOCOL) == (6 if family == socket.AF_INET6 else 4)
    assert [*probe.samples.labelled[SECONDS]] == [("resolve",)]


async def test_connect_udp_applies_source_settings() -> None:
    own = SourceSettings(source_ip_address="127.0.0.42")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.settimeout(PATIENCE)
        other.bind(("127.0.0.1", 0))
        with await connect_udp(a_probe(), "127.0.0.1", other.getsockname()[1], own) as datagrams:
            datagrams.send(b"from where?")
            _, sender = other.recvfrom(100)
    assert sender[0] == "127.0.0.42"


# --- leaks -------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_connections_leak_no_objects_or_descriptors(pki: Pki) -> None:
    """This holds after success and after failure."""

    left = 0

    async def play(connected: socket.socket) -> None:
        nonlocal left
        with contextlib.suppress(ConnectionError):
            await take(connected)
        connected.close()
        left += 1

    def left_over() -> tuple[int, frozenset[tuple[str, str]]]:
        descriptors = open_descriptors()
        return sum(isinstance(thing, Connection | layer.Layer) for thing in gc.get_objects()), descriptors

    async def some(port: int, times: int) -> None:
        nonlocal left
        left = 0
        for _ in range(times):
            connection = await dial(a_probe(), ["127.0.0.1"], port)
            connection.close()
            await failing(connect(a_probe(), "127.0.0.1", port, over_tls(pki)))
        await until(lambda: left == 2 * times)

    def no_more() -> bool:
        objects, descriptors = left_over()
        return objects <= before[0] + 1 and len(descriptors - before[1]) <= 1  # one may be on its way out

    async with peer(play) as port:
        await some(port, 1)
        before = left_over()
        await some(port, 20)
        await until(no_more)
