"""Connections over real sockets on loopback: every way they begin, stall, break and end has its reason and its time.

All of it runs on asyncio's loop and on uvloop, whose transports differ in what they buffer and when.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from probe_exporter import connection as connections
from probe_exporter import names, net, tls
from probe_exporter.addressing import ConnectSettings, SourceSettings
from probe_exporter.connection import HIGH_WATER
from probe_exporter.net import Connection, Secure, connect, dial, dial_udp, resolve
from probe_exporter.prober import Probe, ProbeFailed, Reason
from probe_exporter.tls import TLSSettings, client_context
from tests.conftest import NewLoop
from tests.targets import Pki

pytestmark = pytest.mark.usefixtures("new_loop")

RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 seconds
NO_TIME = 5.0
"""Seconds that nothing here takes unless it hangs."""


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    made: NewLoop = request.param
    return made


def a_probe() -> Probe:
    loop = asyncio.get_running_loop()
    return Probe("target", loop.time() + 60, loop.time)


Play = Callable[[socket.socket], Awaitable[None]]


@asynccontextmanager
async def peer(play: Play, family: int = socket.AF_INET, receive_buffer: int = 0) -> AsyncIterator[int]:
    """A server on a port of loopback that plays the same to everybody who connects; its sockets close in the end."""
    loop = asyncio.get_running_loop()
    with socket.socket(family) as listener:
        if receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        listener.listen()
        listener.setblocking(False)
        tasks: set[asyncio.Task[None]] = set()
        taken: list[socket.socket] = []

        async def serve(connected: socket.socket) -> None:
            with connected, contextlib.suppress(ConnectionError):
                await play(connected)

        async def accept() -> None:
            while True:
                connected, _ = await loop.sock_accept(listener)
                connected.setblocking(False)
                taken.append(connected)
                tasks.add(asyncio.create_task(serve(connected)))

        accepting = asyncio.create_task(accept())
        try:
            yield listener.getsockname()[1]
        finally:
            for task in (accepting, *tasks):
                task.cancel()
            outcomes = await asyncio.gather(accepting, *tasks, return_exceptions=True)
            for connected in taken:
                connected.close()
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome


async def take(connected: socket.socket, size: int = 65536) -> bytes:
    return await asyncio.get_running_loop().sock_recv(connected, size)


async def say(connected: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connected, data)


async def hold(connected: socket.socket) -> None:
    """Say nothing, for as long as the client stays."""
    while await take(connected):
        pass


async def greet(connected: socket.socket) -> None:
    await say(connected, b"hello")


async def everything(connection: Connection) -> bytes:
    data = b""
    while piece := await connection.read():
        data += piece
    return data


async def failing(awaitable: Awaitable[object]) -> ProbeFailed:
    with pytest.raises(ProbeFailed) as failed:
        await asyncio.wait_for(awaitable, NO_TIME)
    return failed.value


# --- resolving ---------------------------------------------------------------------------------------------


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 both.test four.test\n127.0.0.2 both.test\n::1 both.test six.test\n::2 both.test\n")
    monkeypatch.setattr(names, "HOSTS", path)


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize(
    ("host", "preferred", "fallback", "address"),
    [
        ("both.test", "ip6", True, "::1"),
        ("both.test", "", True, "::1"),
        ("both.test", "ip4", True, "127.0.0.1"),
        ("both.test", "anything", True, "127.0.0.1"),
        ("both.test", "ip6", False, "::1"),
        ("both.test", "ip4", False, "127.0.0.1"),
        ("four.test", "ip6", True, "127.0.0.1"),
        ("six.test", "ip4", True, "::1"),
        ("127.0.0.1", "ip6", True, "127.0.0.1"),
        ("::1", "ip4", True, "::1"),
        ("::ffff:127.0.0.1", "ip4", False, "127.0.0.1"),
    ],
)
async def test_an_address_of_the_preferred_family_is_chosen_or_the_others_first(
    host: str, preferred: str, fallback: bool, address: str
) -> None:
    probe = a_probe()
    assert await resolve(probe, host, preferred=preferred, fallback=fallback) == address
    assert probe.samples.get(net.IP_PROTOCOL) == (6 if ":" in address else 4)
    assert probe.samples.get(net.IP_HASH) == names.fingerprint(address)
    assert probe.samples.get(net.LOOKUP_TIME) >= 0


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize(
    ("host", "preferred", "reason"),
    [
        ("four.test", "ip6", Reason.DNS_NO_ADDRESS),
        ("six.test", "ip4", Reason.DNS_NO_ADDRESS),
        ("127.0.0.1", "ip6", Reason.DNS_NO_ADDRESS),
        ("::1", "ip4", Reason.DNS_NO_ADDRESS),
        ("a..b", "ip4", Reason.DNS_RESOLUTION),
        ("", "ip4", Reason.TARGET_INVALID),
    ],
)
async def test_without_a_permitted_address_the_metrics_say_so(host: str, preferred: str, reason: Reason) -> None:
    probe = a_probe()
    assert (await failing(resolve(probe, host, preferred=preferred, fallback=False))).reason is reason
    assert probe.samples.get(net.IP_PROTOCOL) == 0
    assert probe.samples.get(net.IP_HASH) == 0
    assert probe.samples.get(net.LOOKUP_TIME) >= 0


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
    assert probe.samples.get(net.IP_PROTOCOL) == (6 if family == socket.AF_INET6 else 4)
    assert 0 < connection.connect_seconds < after - before
    assert before < connection.opened_at < connection.first_byte_at <= connection.last_byte_at < after
    assert connection.tls_seconds == 0
    assert connection.handshake is None
    assert probe.current_phase == ""


async def test_an_ipv6_zone_is_part_of_the_address() -> None:
    async with peer(greet, socket.AF_INET6) as port:
        connection = await dial(a_probe(), ["::1%1"], port)
        assert await everything(connection) == b"hello"
        connection.close()


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_a_port_where_nobody_listens_refuses() -> None:
    probe = a_probe()
    failed = await failing(dial(probe, ["127.0.0.1"], unused_port()))
    assert failed.reason is Reason.CONNECT_REFUSED
    assert probe.current_phase == "connect"


@pytest.mark.parametrize("port", [-1, 0, 65536, 99999])
async def test_what_is_no_port_is_an_invalid_target(port: int) -> None:
    assert (await failing(dial(a_probe(), ["127.0.0.1"], port))).reason is Reason.TARGET_INVALID


async def test_an_address_without_a_way_to_it_is_unreachable() -> None:
    """A multicast address takes no connections; the system says so at once."""
    failed = await failing(dial(a_probe(), ["224.0.0.1"], 9))
    assert failed.reason is Reason.CONNECT_UNREACHABLE


async def test_the_addresses_are_tried_in_turn() -> None:
    probe = a_probe()
    async with peer(greet) as port:
        connection = await dial(probe, ["127.0.0.77", "::1", "127.0.0.1"], port)
        assert await everything(connection) == b"hello"
        connection.close()
    assert [event.fields["ip"] for event in probe.events] == ["127.0.0.77", "::1"]
    assert probe.current_phase == ""


async def test_the_last_address_gives_the_reason() -> None:
    async with peer(hold) as port:
        failed = await failing(dial(a_probe(), ["127.0.0.77", "224.0.0.1"], port))
    assert failed.reason is Reason.CONNECT_UNREACHABLE


async def test_the_source_address_can_be_chosen() -> None:
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
async def test_a_source_address_that_is_not_ours_fails(source: str, reason: Reason) -> None:
    async with peer(hold) as port:
        failed = await failing(connect(a_probe(), "127.0.0.1", port, SourceSettings(source_ip_address=source)))
    assert failed.reason is reason


async def full_listener(stack: contextlib.ExitStack) -> int:
    """A port that takes no more connections: a SYN to it is never answered."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    port = int(listener.getsockname()[1])
    for _ in range(3):
        client = stack.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
    await asyncio.sleep(0.05)
    return port


async def test_connecting_can_be_cancelled_in_the_middle() -> None:
    with contextlib.ExitStack() as stack:
        port = await full_listener(stack)
        probe = a_probe()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(dial(probe, ["127.0.0.1"], port), 0.1)
    assert probe.current_phase == "connect"


# --- reading -----------------------------------------------------------------------------------------------


async def test_what_arrives_is_read_once_and_then_the_end() -> None:
    async def play(connected: socket.socket) -> None:
        await say(connected, b"one")
        await asyncio.sleep(0.05)
        await say(connected, b"two")

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        assert await everything(connection) == b"onetwo"
        assert await connection.read() == b""
        assert connection.last_byte_at - connection.first_byte_at > 0.04
        connection.close()


async def test_a_peer_may_cut_what_it_says_anywhere() -> None:
    """Bytes by number, up to a mark, and whatever is left: however they come."""
    said = b"12345first line\r\nsecond\r\nrest"
    for cut in range(len(said)):

        async def play(sock: socket.socket, cut: int = cut) -> None:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, said[:cut])
            await asyncio.sleep(0.001)
            await loop.sock_sendall(sock, said[cut:])

        async with peer(play) as port:
            connection = await dial(a_probe(), ["127.0.0.1"], port)
            assert await connection.exactly(0) == b""
            assert await connection.exactly(5) == b"12345"
            assert await connection.until(b"\r\n", limit=10) == b"first line"
            assert await connection.until(b"\r\n", limit=100) == b"second"
            assert await connection.exactly(4) == b"rest"
            assert await connection.read() == b""
            connection.close()


async def test_what_never_ends_or_ends_too_soon_fails() -> None:
    async def play(sock: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, b"1234567890")

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        with pytest.raises(ProbeFailed) as failed:
            await connection.until(b"\n", limit=9)
        assert failed.value.reason is Reason.PROTOCOL_ERROR
        connection.close()
        for bytes_or_mark in (11, b"\n"):
            connection = await dial(a_probe(), ["127.0.0.1"], port)
            with pytest.raises(ProbeFailed) as failed:  # noqa: PT012  # one or the other
                if isinstance(bytes_or_mark, int):
                    await connection.exactly(bytes_or_mark)
                else:
                    await connection.until(bytes_or_mark, limit=100)
            assert failed.value.reason is Reason.CONNECT_CLOSED
            connection.close()


async def test_what_arrived_before_a_reset_is_read_before_it_is_told() -> None:
    async def play(connected: socket.socket) -> None:
        await say(connected, b"last words")
        await take(connected)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        await asyncio.sleep(0.05)
        connection.send(b"go")
        await asyncio.sleep(0.05)
        assert await connection.read() == b"last words"
        for _ in range(2):
            assert (await failing(connection.read())).reason is Reason.CONNECT_RESET
        connection.close()


async def test_a_peer_may_close_its_half_and_still_listen() -> None:
    heard: list[bytes] = []

    async def play(connected: socket.socket) -> None:
        await say(connected, b"done")
        connected.shutdown(socket.SHUT_WR)
        while data := await take(connected):
            heard.append(data)

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        assert await everything(connection) == b"done"
        await connection.write(b"still here")
        connection.close()
        await asyncio.sleep(0.05)
    assert heard == [b"still here"]


async def test_reading_can_be_cancelled_and_begun_again() -> None:
    async def play(connected: socket.socket) -> None:
        await take(connected)
        await say(connected, b"at last")
        await hold(connected)

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.read(), 0.02)
        connection.send(b"go")
        assert await connection.read() == b"at last"
        connection.close()


FLOOD = 100 * 1024 * 1024


async def test_a_peer_that_floods_is_made_to_wait() -> None:
    """What nobody reads stays in its own and the system's buffers; once somebody does, all of it comes."""
    sent = 0

    async def pour(connected: socket.socket) -> None:
        nonlocal sent
        piece = bytes(1 << 20)
        while sent < FLOOD:
            await say(connected, piece)
            sent += len(piece)

    async with peer(pour) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        await asyncio.sleep(0.3)
        assert connection._held < HIGH_WATER + 1024 * 1024
        assert sent < FLOOD // 2
        received = 0
        while piece := await connection.read():
            received += len(piece)
        assert received == FLOOD
        connection.close()


# --- writing -----------------------------------------------------------------------------------------------


async def test_writing_waits_for_a_peer_that_does_not_read() -> None:
    """What is under way is bounded, and the rest goes out as the peer takes it."""
    go, all_taken = asyncio.Event(), asyncio.Event()
    taken = 0

    async def play(connected: socket.socket) -> None:
        nonlocal taken
        await go.wait()
        while data := await take(connected, 1 << 20):
            taken += len(data)
        all_taken.set()

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        written = 0

        async def upload() -> None:
            nonlocal written
            for _ in range(640):
                await connection.write(bytes(65536))
                written += 65536

        uploading = asyncio.create_task(upload())
        await asyncio.sleep(0.2)
        assert not uploading.done()
        assert written < 16 << 20
        go.set()
        await asyncio.wait_for(uploading, NO_TIME)
        connection.close()
        await asyncio.wait_for(all_taken.wait(), NO_TIME)
    assert taken == 640 * 65536


@pytest.mark.parametrize("half_closed", [False, True])
async def test_writing_to_a_peer_that_is_gone_fails(half_closed: bool) -> None:
    """Also where it had said before that it would say nothing more: an upload must not run on into nothing."""

    async def play(connected: socket.socket) -> None:
        if half_closed:
            connected.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.02)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async def upload(connection: Connection) -> None:
        for _ in range(1000):
            await connection.write(bytes(1024))
            await asyncio.sleep(0.001)

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        failed = await failing(upload(connection))
        connection.close()
    assert failed.reason in (Reason.CONNECT_RESET, Reason.CONNECT_CLOSED)


async def test_writing_after_closing_fails() -> None:
    async with peer(hold) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        connection.close()
        await asyncio.sleep(0.01)
        assert (await failing(connection.write(b"x"))).reason is Reason.CONNECT_CLOSED


# --- closing -----------------------------------------------------------------------------------------------


async def test_what_was_sent_goes_out_before_the_end() -> None:
    heard: list[bytes] = []

    async def play(connected: socket.socket) -> None:
        while data := await take(connected):
            heard.append(data)
        heard.append(b"<end>")

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        connection.send(b"all of ")
        connection.send(b"this")
        connection.close()
        connection.close()
        await asyncio.sleep(0.05)
    assert b"".join(heard) == b"all of this<end>"


async def test_aborting_drops_the_connection() -> None:
    ended = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            await hold(connected)
        ended.set()

    async with peer(play) as port:
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        connection.abort()
        connection.abort()
        await asyncio.wait_for(ended.wait(), NO_TIME)


async def test_a_closed_connection_holds_no_socket_though_its_peer_never_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stalled peer would otherwise cost a descriptor for each probe of it."""
    monkeypatch.setattr(connections, "LINGER", 0.2)
    released = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        await released.wait()
        with contextlib.suppress(ConnectionError):
            await hold(connected)

    async with peer(play, receive_buffer=4096) as port:
        before = len(list(Path("/proc/self/fd").iterdir()))
        connection = await dial(a_probe(), ["127.0.0.1"], port)
        with_one = len(list(Path("/proc/self/fd").iterdir()))
        connection.send(bytes(32 << 20))
        await asyncio.sleep(0.05)
        connection.close()
        gone = asyncio.get_running_loop().time() + connections.LINGER + 1
        while len(list(Path("/proc/self/fd").iterdir())) >= with_one:
            assert asyncio.get_running_loop().time() < gone, f"{with_one - before} descriptors are still open"
            await asyncio.sleep(0.05)
        released.set()


# --- TLS ---------------------------------------------------------------------------------------------------


class Shaker:
    """A TLS server in a thread, for one client: what it learns of the client, and of how the handshake ended.

    Attributes:
        failure: the error that its handshake ended with.
        client_certificate: what the client showed, in DER.
        heard: the client's first words.
    """

    def __init__(
        self, pki: Pki, certificate: str = "leaf", *, client_ca: str = "", version: str = "", say: bytes = b""
    ) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pki.directory / f"{certificate}.pem", pki.directory / f"{certificate}.key")
        if client_ca:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(pki.directory / f"{client_ca}.pem")
        if version:
            self._context.minimum_version = self._context.maximum_version = ssl.TLSVersion[version]
        self._say = say
        self.failure: OSError | None = None
        self.client_certificate: bytes | None = None
        self.heard = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(NO_TIME)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    async def end(self) -> None:
        """Wait until the server has seen the end."""
        await asyncio.to_thread(self._thread.join, NO_TIME)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        plain, _ = self._listener.accept()
        plain.settimeout(NO_TIME)
        try:
            with self._context.wrap_socket(plain, server_side=True) as secure:
                self.client_certificate = secure.getpeercert(binary_form=True)
                secure.sendall(self._say)
                self.heard = secure.recv(65536)
        except OSError as error:
            self.failure = error
        finally:
            plain.close()


def trust(pki: Pki, authority: str = "root", **settings: Any) -> TLSSettings:
    return TLSSettings.model_validate({"ca_file": str(pki.directory / f"{authority}.pem"), **settings})


def over_tls(pki: Pki, **settings: Any) -> ConnectSettings:
    return ConnectSettings(tls=True, tls_config=trust(pki, **settings))


async def test_tls_begins_with_the_connection(pki: Pki) -> None:
    with Shaker(pki, say=b"welcome") as server:
        probe = a_probe()
        connection = await connect(probe, "127.0.0.1", server.port, over_tls(pki))
        assert connection.handshake is not None
        assert connection.tls_seconds > 0
        assert await connection.read() == b"welcome"
        assert connection.first_byte_at > connection.opened_at + connection.tls_seconds / 2
        await connection.write(b"thanks")
        connection.close()
        await server.end()
    assert server.heard == b"thanks"
    assert probe.samples.get(tls.VERSION_INFO, "TLS 1.3") == 1
    assert probe.current_phase == ""


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize(
    ("certificate", "reason", "errors"),
    [
        ("expired", Reason.CERTIFICATE_EXPIRED, {"expired"}),
        ("not_yet_valid", Reason.CERTIFICATE_NOT_YET_VALID, {"not_yet_valid"}),
        ("wrong_name", Reason.CERTIFICATE_WRONG_NAME, {"wrong_name"}),
        ("unknown_root", Reason.CERTIFICATE_UNKNOWN_AUTHORITY, {"unknown_authority"}),
        ("self_signed", Reason.CERTIFICATE_UNKNOWN_AUTHORITY, {"unknown_authority"}),
    ],
)
async def test_a_refused_certificate_is_reported_and_the_server_is_told(
    pki: Pki, version: str, certificate: str, reason: Reason, errors: set[str]
) -> None:
    """By an alert, before anything else; our own certificate it never sees."""
    identity = {"cert_file": str(pki.directory / "client.pem"), "key_file": str(pki.directory / "client.key")}
    with Shaker(pki, certificate, version=version, client_ca="root") as server:
        probe = a_probe()
        failed = await failing(connect(probe, "127.0.0.1", server.port, over_tls(pki, **identity)))
        await server.end()
    assert failed.reason is reason
    assert probe.current_phase == "tls"
    assert {labels[0] for labels in probe.samples.families[tls.VERIFY_ERROR_INFO]} == errors
    assert tls.CERTIFICATE_INFO in probe.samples.families
    assert isinstance(server.failure, ssl.SSLError)
    assert "alert" in str(server.failure)
    assert server.client_certificate is None


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_client_certificate_reaches_the_server_that_asks(pki: Pki, version: str) -> None:
    identity = {"cert_file": str(pki.directory / "client.pem"), "key_file": str(pki.directory / "client.key")}
    with Shaker(pki, version=version, client_ca="root", say=b"hello") as server:
        connection = await connect(a_probe(), "127.0.0.1", server.port, over_tls(pki, **identity))
        assert await connection.read() == b"hello"
        connection.close()
        await server.end()
    mine = x509.load_pem_x509_certificate((pki.directory / "client.pem").read_bytes())
    assert server.client_certificate == mine.public_bytes(Encoding.DER)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_server_that_wants_a_client_certificate_in_vain_is_a_tls_failure(pki: Pki, version: str) -> None:
    """In TLS 1.3 that shows only when we read."""

    async def talk(port: int) -> None:
        connection = await connect(a_probe(), "127.0.0.1", port, over_tls(pki))
        try:
            await connection.read()
        finally:
            connection.close()

    with Shaker(pki, version=version, client_ca="root") as server:
        assert (await failing(talk(server.port))).reason is Reason.TLS_HANDSHAKE


async def test_a_handshake_that_the_server_refuses_is_a_tls_failure(pki: Pki) -> None:
    with Shaker(pki, version="TLSv1_2") as server:
        failed = await failing(connect(a_probe(), "127.0.0.1", server.port, over_tls(pki, min_version="TLS13")))
    assert failed.reason is Reason.TLS_HANDSHAKE


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x01", b"\0" * 1000])
async def test_a_server_that_does_not_speak_tls_is_a_tls_failure(pki: Pki, answer: bytes) -> None:
    async def play(connected: socket.socket) -> None:
        await take(connected)
        await say(connected, answer)

    async with peer(play) as port:
        probe = a_probe()
        failed = await failing(connect(probe, "127.0.0.1", port, over_tls(pki)))
    assert failed.reason is Reason.TLS_HANDSHAKE
    assert probe.current_phase == "tls"


async def test_a_server_that_closes_in_the_handshake_is_a_tls_failure(pki: Pki) -> None:
    async def play(connected: socket.socket) -> None:
        await take(connected)

    async with peer(play) as port:
        assert (await failing(connect(a_probe(), "127.0.0.1", port, over_tls(pki)))).reason is Reason.TLS_HANDSHAKE


async def test_a_server_that_resets_in_the_handshake_has_reset_the_connection(pki: Pki) -> None:
    async def play(connected: socket.socket) -> None:
        await take(connected)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async with peer(play) as port:
        assert (await failing(connect(a_probe(), "127.0.0.1", port, over_tls(pki)))).reason is Reason.CONNECT_RESET


async def test_a_handshake_has_its_own_limit(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stalls or drips; its socket is gone afterwards."""
    monkeypatch.setattr(connections, "HANDSHAKE_LIMIT", 0.1)
    left = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            await hold(connected)
        left.set()

    async with peer(play) as port:
        probe = a_probe()
        failed = await failing(connect(probe, "127.0.0.1", port, over_tls(pki)))
        await asyncio.wait_for(left.wait(), NO_TIME)
    assert failed.reason is Reason.TLS_TIMEOUT
    assert probe.current_phase == "tls"


async def test_a_handshake_that_is_cancelled_leaves_no_socket(pki: Pki) -> None:
    left = asyncio.Event()

    async def play(connected: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            await hold(connected)
        left.set()

    async with peer(play) as port:
        connecting = asyncio.create_task(connect(a_probe(), "127.0.0.1", port, over_tls(pki)))
        await asyncio.sleep(0.05)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await asyncio.wait_for(left.wait(), NO_TIME)


async def test_an_answer_that_comes_with_the_handshake_is_read(pki: Pki) -> None:
    """TLS 1.2: a server's last message of the handshake and its first words in one segment."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "leaf.pem", pki.directory / "leaf.key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def play(connected: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            incoming.write(await take(connected))
            try:
                server.do_handshake()
            except ssl.SSLWantReadError:
                await say(connected, outgoing.read())
                continue
            server.write(b"welcome")
            await say(connected, outgoing.read())
            await hold(connected)
            return

    async with peer(play) as port:
        connection = await connect(a_probe(), "127.0.0.1", port, over_tls(pki))
        assert await connection.read() == b"welcome"
        assert connection.first_byte_at > connection.opened_at
        connection.close()


def secure(pki: Pki, name: str = "localhost") -> Secure:
    return Secure(client_context(trust(pki)), name)


async def test_starttls_in_the_middle_of_a_conversation(pki: Pki) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "leaf.pem", pki.directory / "leaf.key")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        assert await reader.readline() == b"STARTTLS\r\n"
        writer.write(b"220 go\r\n")
        await writer.drain()
        await writer.start_tls(context)
        assert await reader.readline() == b"EHLO\r\n"
        writer.write(b"250 secure\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        probe = a_probe()
        connection = await dial(probe, ["127.0.0.1"], server.sockets[0].getsockname()[1])
        assert await connection.read() == b"220 ready\r\n"
        plain_at = connection.first_byte_at
        connection.send(b"STARTTLS\r\n")
        assert await connection.read() == b"220 go\r\n"
        await connection.start_tls(probe, secure(pki))
        connection.send(b"EHLO\r\n")
        assert await everything(connection) == b"250 secure\r\n"
        assert connection.first_byte_at > plain_at
        connection.close()


async def test_plain_text_before_the_handshake_does_not_pass_for_secure(pki: Pki) -> None:
    """Somebody in between could have put it there: it is part of the handshake, which fails by it."""

    async def play(connected: socket.socket) -> None:
        await say(connected, b"220 go\r\n250 injected\r\n")
        await hold(connected)

    async with peer(play) as port:
        probe = a_probe()
        connection = await dial(probe, ["127.0.0.1"], port)
        await asyncio.sleep(0.02)
        failed = await failing(connection.start_tls(probe, secure(pki)))
        connection.abort()
    assert failed.reason is Reason.TLS_HANDSHAKE


async def test_a_large_answer_over_tls_arrives_whole_and_bounded(pki: Pki) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "leaf.pem", pki.directory / "leaf.key")
    size = 20 << 20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            for _ in range(size >> 20):
                writer.write(bytes(1 << 20))
                await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        connection = await connect(a_probe(), "127.0.0.1", server.sockets[0].getsockname()[1], over_tls(pki))
        await asyncio.sleep(0.2)
        assert connection._held < HIGH_WATER + 1024 * 1024
        assert len(await everything(connection)) == size
        connection.close()


# --- datagrams ---------------------------------------------------------------------------------------------


def a_udp_socket(address: str = "127.0.0.1") -> socket.socket:
    """A socket on a port of its own, to be a peer with."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    sock.settimeout(NO_TIME)
    return sock


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_datagrams_go_to_one_address_and_come_from_it(address: str) -> None:
    """What another socket sends to ours is not heard."""
    with a_udp_socket(address) as peer, a_udp_socket(address) as stranger:
        datagrams = await dial_udp(a_probe(), address, peer.getsockname()[1])
        datagrams.send(b"question")
        question, ours = peer.recvfrom(100)
        assert question == b"question"
        stranger.sendto(b"lie", ours)
        peer.sendto(b"answer", ours)
        peer.sendto(b"more", ours)
        assert await datagrams.read() == b"answer"
        assert await datagrams.read() == b"more"
        assert not datagrams.waiting
        datagrams.close()


async def test_the_time_of_a_datagram_is_that_of_its_arrival() -> None:
    """Not that of reading it, which may be later."""
    with a_udp_socket() as peer:
        datagrams = await dial_udp(a_probe(), "127.0.0.1", peer.getsockname()[1])
        datagrams.send(b"question")
        _, ours = peer.recvfrom(100)
        assert datagrams.first_at == 0.0
        for answer in (b"first", b"second"):
            peer.sendto(answer, ours)
            await asyncio.sleep(0.05)
        read_at = time.perf_counter()
        assert await datagrams.read() == b"first"
        assert datagrams.arrived_at == datagrams.first_at < read_at - 0.08
        assert await datagrams.read() == b"second"
        assert datagrams.first_at + 0.04 < datagrams.arrived_at < read_at - 0.03
        datagrams.close()


async def test_a_udp_port_where_nobody_listens_refuses() -> None:
    """As soon as ICMP says so, and again to whoever asks again."""
    with a_udp_socket() as peer:
        port = peer.getsockname()[1]
    datagrams = await dial_udp(a_probe(), "127.0.0.1", port)
    datagrams.send(b"anybody?")
    for _ in range(2):
        with pytest.raises(ProbeFailed) as failed:
            await datagrams.read()
        assert failed.value.reason is Reason.CONNECT_REFUSED
    datagrams.close()


async def test_a_peer_that_goes_away_after_an_answer_has_reset_the_connection() -> None:
    """And the answer is read first."""
    with a_udp_socket() as peer:
        datagrams = await dial_udp(a_probe(), "127.0.0.1", peer.getsockname()[1])
        datagrams.send(b"question")
        _, ours = peer.recvfrom(100)
        peer.sendto(b"answer", ours)
        await asyncio.sleep(0.05)
    datagrams.send(b"another")
    await asyncio.sleep(0.05)
    assert await datagrams.read() == b"answer"
    with pytest.raises(ProbeFailed) as failed:
        await datagrams.read()
    assert failed.value.reason is Reason.CONNECT_RESET
    datagrams.close()


async def test_datagrams_have_a_way_and_a_source_or_a_reason() -> None:
    with a_udp_socket() as peer:
        datagrams = await dial_udp(a_probe(), "127.0.0.1", peer.getsockname()[1], source="127.0.0.9")
        datagrams.send(b"question")
        assert peer.recvfrom(100)[1][0] == "127.0.0.9"
        datagrams.close()
    for address, source, reason in (
        ("127.0.0.1", "192.0.2.1", Reason.CONNECT_FAILED),
        ("127.255.255.255", "", Reason.CONNECT_FAILED),
        ("127.0.0.1", "::1", Reason.SETTINGS_UNUSABLE),
        ("127.0.0.1", "localhost", Reason.SETTINGS_UNUSABLE),  # bind would look it up, and everybody wait
    ):
        with pytest.raises(ProbeFailed) as failed:
            await dial_udp(a_probe(), address, 9, source=source)
        assert failed.value.reason is reason


async def test_a_flood_of_datagrams_is_lost_beyond_a_limit() -> None:
    """As where the buffer of a socket is full."""
    with a_udp_socket() as peer:
        datagrams = await dial_udp(a_probe(), "127.0.0.1", peer.getsockname()[1])
        datagrams.send(b"question")
        _, ours = peer.recvfrom(100)
        for _ in range(100):
            peer.sendto(bytes(10_000), ours)
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        received = 0
        while datagrams.waiting:
            received += len(await datagrams.read())
        assert HIGH_WATER - 10_000 < received < HIGH_WATER + 10_000
        peer.sendto(b"later", ours)
        assert await datagrams.read() == b"later"
        datagrams.close()


async def test_reading_datagrams_can_be_cancelled_and_begun_again() -> None:
    with a_udp_socket() as peer:
        datagrams = await dial_udp(a_probe(), "127.0.0.1", peer.getsockname()[1])
        datagrams.send(b"question")
        _, ours = peer.recvfrom(100)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await datagrams.read()
        peer.sendto(b"answer", ours)
        assert await datagrams.read() == b"answer"
        datagrams.close()
        datagrams.close()
        await asyncio.sleep(0)
        datagrams.send(b"into the void")


# --- leaks -------------------------------------------------------------------------------------------------


async def test_connections_leave_nothing_behind(pki: Pki) -> None:
    """Neither objects nor descriptors, whatever became of them."""

    async def play(connected: socket.socket) -> None:
        await take(connected)

    async def count() -> tuple[int, int]:
        await asyncio.sleep(0.05)
        gc.collect()
        objects = sum(isinstance(thing, Connection | tls.Layer) for thing in gc.get_objects())
        return objects, len(list(Path("/proc/self/fd").iterdir()))

    async def some(port: int) -> None:
        for _ in range(10):
            connection = await dial(a_probe(), ["127.0.0.1"], port)
            connection.close()
            await failing(connect(a_probe(), "127.0.0.1", port, over_tls(pki)))

    async with peer(play) as port:
        await some(port)
        before = await count()
        await some(port)
        assert await count() == before
