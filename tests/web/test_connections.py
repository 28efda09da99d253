"""Slow and broken clients, by real sockets, at a door with little patience."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp.web import BaseRequest

from probe_exporter.web.answers import Answer
from probe_exporter.web.connections import Connections, Limits

BRIEF = Limits(head=0.4, take=0.4, idle=0.8, look=0.05)
REQUEST = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = bytes(16 << 20)
"""More than the buffers of any two systems take."""


async def answer(request: BaseRequest) -> Answer:
    """As the path wishes: slowly, at length, or at once."""
    if request.path == "/slow":
        await asyncio.sleep(1.0)
    return Answer(LARGE if request.path == "/large" else b"done", {})


@contextlib.asynccontextmanager
async def door(limits: Limits = BRIEF) -> AsyncIterator[tuple[Connections, int]]:
    """A door with these limits, and its port."""
    connections = Connections(answer, limits)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    watching = asyncio.ensure_future(connections.watch())
    try:
        yield connections, server.sockets[0].getsockname()[1]
    finally:
        watching.cancel()
        server.close()
        await connections.close()


async def reads(reader: asyncio.StreamReader, seconds: float = 5.0) -> bytes:
    """All that comes until the end, which must come in time; a reset is one."""
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), seconds)
    return b""


async def seconds_until_closed(reader: asyncio.StreamReader) -> float:
    began = asyncio.get_running_loop().time()
    assert await reads(reader) == b""
    return asyncio.get_running_loop().time() - began


async def test_who_says_nothing_is_let_go() -> None:
    async with door() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert 0.35 < await seconds_until_closed(reader) < 0.7
        writer.close()


async def test_who_dribbles_is_let_go_however_busily_it_dribbles() -> None:
    async with door() as (connections, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def dribble() -> None:
            for byte in REQUEST * 100:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        dribbling = asyncio.ensure_future(dribble())
        assert 0.35 < await seconds_until_closed(reader) < 0.7
        dribbling.cancel()
        assert not connections.unheard
        writer.close()


async def test_a_second_request_has_to_be_whole_in_time_too() -> None:
    async with door() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST % b"")
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.2)
        writer.write(b"GET / HT")
        assert 0.35 < await seconds_until_closed(reader) < 0.7
        writer.close()


async def test_a_request_in_pieces_is_answered_if_it_is_whole_in_time() -> None:
    async with door() as (connections, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in (b"GET /", b" HTTP/1.1\r\nHo", b"st: x\r\n", b"\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.05)
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        assert not connections.unheard
        writer.close()


async def test_who_says_no_more_and_listens_is_answered_if_that_is_quickly_done() -> None:
    """Health checks by ``nc`` close their half once they have asked. What takes longer has a client that is gone."""
    async with door() as (_, port):
        for request in [REQUEST % b""] * 20 + [REQUEST % b"slow"]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            writer.write_eof()
            assert (b"done" in await reads(reader)) is (b"slow" not in request)
            writer.close()


async def test_time_spent_on_the_answer_is_not_the_client_s() -> None:
    async with door() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST % b"slow")
        await asyncio.sleep(0.1)
        writer.write(b"GET")  # of the next one
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_connection_may_rest_between_requests_and_not_for_ever() -> None:
    async with door() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(REQUEST % b"")
            await reader.readuntil(b"done")
            await asyncio.sleep(0.5)
        assert 0.1 < await seconds_until_closed(reader) < 0.7
        writer.close()


async def test_a_thousand_requests_in_one_piece_have_a_thousand_answers() -> None:
    async with door() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST % b"" * 1000)
        for _ in range(1000):
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_who_takes_no_answer_is_let_go() -> None:
    async with door() as (connections, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(REQUEST % b"large")
        await asyncio.sleep(0.2)
        assert connections._server.connections
        await asyncio.sleep(0.8)
        assert not connections._server.connections
        assert len(await reads(reader)) < len(LARGE)
        writer.close()


async def test_who_takes_an_answer_in_its_time_gets_all_of_it() -> None:
    async with door(Limits(look=0.05)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST % b"large")
        await reader.readuntil(b"\r\n\r\n")
        taken = 0
        while taken < len(LARGE):
            taken += len(await reader.read(1 << 20))
            await asyncio.sleep(0.01)
        writer.close()


async def test_beyond_the_limit_the_oldest_silent_connection_makes_room() -> None:
    async with door(Limits(unheard=3)) as (connections, port):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST % b"")
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        for early, _ in silent[:3]:
            assert await reads(early, 1) == b""
        assert len(connections.unheard) == 2
        for _, other in silent:
            other.close()
        writer.close()
