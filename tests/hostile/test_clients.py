"""Test that no client of the exporter's web server holds its event loop, or takes much memory."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Iterator

import pytest

from tests.hostile.clients import ATTACKS, SECONDS, Attack, request
from tests.hostile.known import known
from tests.hostile.measure import MAX_TURN_SECONDS, WebServer, thaw, watched

pytestmark = pytest.mark.slow

MAX_MEMORY_BYTES = 96 * 2**20
"""The clients take a part of it: they run in the same process."""

TRIES = 3


@pytest.fixture(scope="module", autouse=True)
def _thawed() -> Iterator[None]:
    yield
    thaw()


def healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("GET", "/-/healthy")
    status = connection.getresponse().status
    connection.close()
    return status == 200


def warm_up(port: int) -> None:
    """Ask for what loads code and files when it is first used: that is not the clients' doing."""
    for path in ("/metrics", "/probe?module=http_2xx&target=127.0.0.1:1", "/probe?module=tcp_connect&target=a.test:1"):
        request(path)(port)


async def cost(attack: Attack) -> tuple[float, int]:
    """Attack an exporter; return the worst turn of its loop, and by how much the process grew."""
    async with WebServer() as served:
        await asyncio.to_thread(warm_up, served.port)
        async with watched() as watching:
            attacking = asyncio.create_task(asyncio.to_thread(attack, served.port))
            while not attacking.done():
                assert await asyncio.to_thread(healthy, served.port)
                await asyncio.sleep(0.05)
            await attacking
    return watching.turn, watching.growth


@pytest.mark.parametrize("name", [name for name in ATTACKS if not known(f"clients: {name} / ")])
async def test_client_costs_no_more_than_its_budget(name: str) -> None:
    fault = ""
    for _ in range(TRIES):
        turn, growth = await cost(ATTACKS[name])
        if turn <= MAX_TURN_SECONDS and growth <= MAX_MEMORY_BYTES:
            return
        fault = f"a turn of {1000 * turn:.0f} ms, {growth >> 20} MiB more memory"
    pytest.fail(fault)
