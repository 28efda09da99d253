"""Test that a new replica behind a load balancer gets its share, although clients keep their connections open."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from probe_exporter.web.answers import Answer
from probe_exporter.web.connections import AGE_JITTER, Connections, Limits
from probe_exporter.web.request import WebRequest
from tests import exporters
from tests.clocks import StandingLoop, advance
from tests.conftest import NewLoop
from tests.exporters import probe_path
from tests.targets.balancer import Balancer, Streams
from tests.waiting import until
from tests.web.test_routes import PLUGINS

AGE = 60.0
"""Seconds of the simulated clock."""

CLIENTS = 12
ROUNDS_AN_AGE = 10


class Client:
    """A client of HTTP/1.1 that keeps its connection, and opens a new one when a response says ``close``."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: Streams | None = None
        self.connections = 0

    async def get(self, path: str) -> tuple[str, str, str]:
        """Return the response's status line, header fields and body.

        Raises:
            asyncio.IncompleteReadError: the server closed the connection instead of answering.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            self.connections += 1
        reader, writer = self._streams
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.lower().splitlines() if line.startswith("content-length:"))
        body = await reader.readexactly(int(length.partition(":")[2]))
        if "connection: close" in head.lower():
            assert await reader.read() == b""
            self.close()
        status, _, fields = head.partition("\r\n")
        return status, fields, body.decode()

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@contextlib.asynccontextmanager
async def replica(name: str, age: float) -> AsyncIterator[int]:
    """Run a server that answers with its name; yield its port."""

    async def answer(request: WebRequest) -> Answer:
        return Answer(name.encode(), {})

    connections = Connections(answer, Limits(age=age))
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        closing = asyncio.ensure_future(connections.close())
        await until(lambda: not connections._server.connections)
        await advance(2.0)
        await closing


class Replicas:
    """Replicas behind a balancer, and clients that keep their connections to it."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self.clients = [Client(balancer.port) for _ in range(CLIENTS)]

    async def shares(self) -> dict[str, int]:
        """Let each client send one request; return how many each replica answered."""
        answered: dict[str, int] = {}
        for client in self.clients:
            # A connection that has been closed no longer counts when the next one is placed.
            await until(
                lambda: sum(self.balancer.shares.values()) == sum(one._streams is not None for one in self.clients)
            )
            status, _, name = await client.get("/")
            assert status == "HTTP/1.1 200 OK"
            answered[name] = answered.get(name, 0) + 1
        return answered

    async def pass_age(self) -> dict[str, int]:
        """Let the longest age of a connection pass, with requests all the time; return the last shares."""
        shares = {}
        for _ in range(ROUNDS_AN_AGE + 1):
            await advance(AGE * (1 + AGE_JITTER) / ROUNDS_AN_AGE)
            shares = await self.shares()
        return shares


@contextlib.asynccontextmanager
async def replicas(age: float) -> AsyncIterator[tuple[Replicas, contextlib.AsyncExitStack]]:
    """Run two replicas, ``a`` and ``b``, behind a balancer; yield them, and a stack for what joins them."""
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(replica(name, age)) for name in "ab"]
        both = Replicas(await stack.enter_async_context(Balancer(*ports)))
        try:
            yield both, stack
        finally:
            for client in both.clients:
                client.close()


@pytest.fixture
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    """Use a simulated clock, but not with processes."""
    return asyncio.new_event_loop if "tmp_path" in request.fixturenames else StandingLoop


async def test_new_replica_gets_an_even_share_within_an_age() -> None:
    async with replicas(AGE) as (both, stack):
        assert await both.shares() == {"a": 6, "b": 6}
        both.balancer.add(await stack.enter_async_context(replica("c", AGE)))
        assert await both.shares() == {"a": 6, "b": 6}
        assert await both.pass_age() == {"a": 4, "b": 4, "c": 4}


async def test_new_replica_gets_nothing_without_an_age() -> None:
    async with replicas(0.0) as (both, stack):
        await both.shares()
        both.balancer.add(await stack.enter_async_context(replica("c", 0.0)))
        assert await both.pass_age() == {"a": 6, "b": 6}
        assert [client.connections for client in both.clients] == [1] * CLIENTS


async def test_connection_is_not_closed_before_the_shortest_age() -> None:
    async with replicas(AGE) as (both, _):
        await both.shares()
        await advance(AGE * (1 - AGE_JITTER) - 1.0)
        await both.shares()
        await both.shares()
        assert [client.connections for client in both.clients] == [1] * CLIENTS


async def test_ages_of_connections_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that were opened at one moment are not all opened again at one moment."""
    ends = itertools.cycle((0, 1))
    monkeypatch.setattr(random, "uniform", lambda *limits: limits[next(ends)])
    async with replicas(AGE) as (both, _):
        await both.shares()
        for seconds, reopened in ((AGE * (1 - AGE_JITTER) + 0.1, CLIENTS // 2), (AGE * 2 * AGE_JITTER, CLIENTS)):
            await advance(seconds)
            await both.shares()
            await both.shares()
            assert sum(client.connections - 1 for client in both.clients) == reopened


async def test_exporter_that_joins_two_gets_probes_and_none_fails(tmp_path: Path) -> None:
    """With real exporters, whose connections live for a tenth of a second."""
    (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: actor}}\n")
    flags = (f"--modules.dir={PLUGINS}", "--web.max-connection-age=100ms")
    with exporters.ours(tmp_path, *flags) as one, exporters.ours(tmp_path, *flags) as two:
        async with Balancer(one.port, two.port) as balancer:
            clients = [Client(balancer.port) for _ in range(6)]

            async def probe(client: Client) -> None:
                status, _, body = await client.get(probe_path(target="ok"))
                assert (status, "probe_success 1\n" in body) == ("HTTP/1.1 200 OK", True)

            async def until_all_had(connections: int) -> None:
                while min(balancer.placed.values()) < connections:
                    await asyncio.gather(*map(probe, clients))

            await until_all_had(3)
            with exporters.ours(tmp_path, *flags) as three:
                balancer.add(three.port)
                await until_all_had(10)
                for client in clients:
                    client.close()
