"""The websocket prober against servers of aiohttp and websockets, directly, behind nginx and through proxies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from websockets.asyncio.server import ServerConnection, serve

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.prober.failure import Reason
from probe_exporter.probers.websocket import FAILED_BY_REGEXP, STATUS_CODE, WebsocketSettings, prober
from probe_exporter.runner import Result, run
from probe_exporter.tls import metrics
from tests.outcomes import reason_of
from tests.processes import free_port
from tests.servers.websocket_proxy import WebsocketProxy
from tests.targets import Pki

pytestmark = pytest.mark.slow

CHAT = [
    {"expect": r"^hello (\w+)$", "send": "I am $1"},
    {"expect": "^echo: I am you$", "send_bytes": "\x00\udcff" + "x" * 100_000},
    {"expect_bytes": "x" * 100_000 + "\udcff\x00"},
]


async def probe(target: str, *steps: dict[str, Any], timeout: float = 20.0, **settings: Any) -> Result:
    made = WebsocketSettings.model_validate({"query_response": list(steps), **settings})
    return await run(Module("m", prober, made, 0.0, Place("t")), target, timeout)


PING_SECONDS = 2.0
"""Seconds between pings of a server, which waits half of that for the pong."""

WAIT_SECONDS = 7.0
"""Seconds that a server waits that is told to."""


class Aiohttp:
    """aiohttp's server: it greets, echoes text, reverses bytes, and records the close codes."""

    def __init__(self, *, pings: bool = False) -> None:
        self.closed: list[int | None] = []
        self.gone = asyncio.Event()
        self._heartbeat = PING_SECONDS if pings else None

    async def _chat(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=self._heartbeat)  # closes a connection without pong
        await socket.prepare(request)
        await socket.send_str("hello you")
        async for message in socket:
            if message.type is WSMsgType.TEXT and message.data == "wait":
                await asyncio.sleep(WAIT_SECONDS)
            if message.type is WSMsgType.TEXT:
                await socket.send_str(f"echo: {message.data}")
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data[::-1])
        self.closed.append(socket.close_code)
        self.gone.set()
        return socket

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/{any:.*}", self._chat)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield
        finally:
            await runner.cleanup()


class Websockets:
    """The same with the websockets library."""

    def __init__(self, *, pings: bool = False) -> None:
        self.closed: list[int | None] = []
        self.gone = asyncio.Event()
        self._ping_interval = PING_SECONDS if pings else None

    async def _chat(self, connection: ServerConnection) -> None:
        await connection.send("hello you")
        async for message in connection:
            if message == "wait":
                await asyncio.sleep(WAIT_SECONDS)
            await connection.send(f"echo: {message}" if isinstance(message, str) else message[::-1])
        self.closed.append(connection.close_code)
        self.gone.set()

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        async with serve(
            self._chat, "127.0.0.1", port, ping_interval=self._ping_interval, ping_timeout=PING_SECONDS / 2
        ):
            yield


servers = pytest.mark.parametrize("make", [Aiohttp, Websockets])


@servers
async def test_server_and_prober_exchange_messages(make: type[Aiohttp | Websockets]) -> None:
    server, port = make(), free_port()
    async with server.listening(port):
        result = await probe(f"ws://127.0.0.1:{port}/", *CHAT)
        assert reason_of(result) is None
        await server.gone.wait()
    assert server.closed == [1000]


@servers
@pytest.mark.usefixtures("clock")
async def test_server_pings_are_answered_during_steps(make: type[Aiohttp | Websockets]) -> None:
    """The server closes a connection whose pong is late, and the steps take longer than that."""
    server, port = make(pings=True), free_port()
    steps = {"expect": "hello", "send": "wait"}, {"expect": "echo", "send": "wait"}, {"expect": "echo"}
    async with server.listening(port):
        assert reason_of(await probe(f"ws://127.0.0.1:{port}/", *steps)) is None


@servers
@pytest.mark.usefixtures("clock")
async def test_last_step_decides_the_verdict(make: type[Aiohttp | Websockets]) -> None:
    server, port = make(), free_port()
    async with server.listening(port):
        result = await probe(f"ws://127.0.0.1:{port}/", {"expect": "goodbye"})
        assert reason_of(result) is Reason.DIALOGUE_NO_MATCH
        result = await probe(f"ws://127.0.0.1:{port}/", {"expect": "hello"}, {"expect": "more"})
        assert reason_of(result) is Reason.TIMEOUT_DIALOGUE
        assert result.probe.samples.get(FAILED_BY_REGEXP) == 1


@servers
@pytest.mark.parametrize("secure", [False, True])
async def test_probe_passes_through_nginx(
    make: type[Aiohttp | Websockets], secure: bool, pki: Pki, websocket_proxy: WebsocketProxy
) -> None:
    server, trust = make(), {"tls_config": {"ca_file": str(pki.directory / "root.pem")}}
    target = f"wss://127.0.0.1:{websocket_proxy.tls_port}" if secure else f"ws://127.0.0.1:{websocket_proxy.port}"
    async with server.listening(websocket_proxy.back):
        result = await probe(f"{target}/chat", *CHAT, http_config=trust)
        assert reason_of(result) is None
        assert (metrics.CERTIFICATE_INFO in result.probe.samples.labelled) is secure
        await server.gone.wait()
        server.gone.clear()
        members = {"basic_auth": {"username": "user", "password": "hunter2"}}
        assert reason_of(await probe(f"{target}/members", *CHAT, http_config=trust | members)) is None
        await server.gone.wait()
    assert server.closed == [1000, 1000]


@pytest.mark.parametrize(("path", "status"), [("/members", 401), ("/moved", 301), ("/forgetful", 400), ("/", 502)])
async def test_nginx_refusal_has_its_status(path: str, status: int, websocket_proxy: WebsocketProxy) -> None:
    """Wrong credentials, a redirect, upgrade headers that nginx drops, a dead backend."""
    server = Aiohttp()
    async with server.listening(websocket_proxy.back if path != "/" else free_port()):
        result = await probe(f"ws://127.0.0.1:{websocket_proxy.port}{path}")
    assert reason_of(result) is Reason.WEBSOCKET_UPGRADE_REFUSED
    assert result.probe.samples.get(STATUS_CODE) == status


async def test_probe_passes_through_proxies(tinyproxy: int, microsocks: int) -> None:
    server, port = Aiohttp(), free_port()
    async with server.listening(port):
        for proxy in (f"http://user:hunter2@127.0.0.1:{tinyproxy}", f"socks5://user:hunter2@127.0.0.1:{microsocks}"):
            assert reason_of(await probe(f"ws://127.0.0.1:{port}/", *CHAT, http_config={"proxy_url": proxy})) is None
        wrong = f"http://user:wrong@127.0.0.1:{tinyproxy}"
        result = await probe(f"ws://127.0.0.1:{port}/", http_config={"proxy_url": wrong})
        assert reason_of(result) is Reason.PROXY_REFUSED
