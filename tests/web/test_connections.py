"""Slow and broken clients, by real sockets. Where patience is the subject, the test moves the clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from aiohttp.web import BaseRequest

from probe_exporter.web.answers import Answer
from probe_exporter.web.connections import LAST_ANSWER_SECONDS, Connections, Limits
from tests.web.clock import StandingLoop, advance, happens

PATIENT = Limits()
BRIEF = Limits(head=4.0, take=4.0, idle=8.0, look=0.5)
"""Seconds on a clock that stands still. A test's own timeout runs on that clock, too: together they stay below it."""

REQUEST = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = bytes(16 << 20)
"""More than the buffers of any two systems take."""


@pytest.fixture
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """The loop of production, or one whose clock stands still for a test that asks for `still`."""
    return StandingLoop if "still" in request.fixturenames else uvloop.new_event_loop


@pytest.fixture
def still() -> None:
    """Have the clock stand still."""


class Door:
    """A server with these limits, and what its tests look at."""

    def __init__(self, limits: Limits) -> None:
        self.connections = Connections(self.answer, limits)
        self.begun = asyncio.Event()
        self.finish = asyncio.Event()
        self.port = 0

    async def answer(self, request: BaseRequest) -> Answer:
        """As the path wishes: once the test lets it, at length, or at once."""
        if request.path == "/slow":
            self.begun.set()
            await self.finish.wait()
        return Answer(LARGE if request.path == "/large" else b"done", {})

    @property
    def unheard(self) -> int:
        """How many connections owe the rest of a request."""
        return len(self.connections.unheard)

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self.connections._server.connections)

    @property
    def unread(self) -> int:
        """The bytes that clients have still to take."""
        wires = [connection.transport for connection in self.connections._server.connections]
        return sum(wire.get_write_buffer_size() for wire in wires if isinstance(wire, asyncio.Transport))

    async def connect(self, *, limit: int = 1 << 16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client."""
        return await asyncio.open_connection("127.0.0.1", self.port, limit=limit)


@contextlib.asynccontextmanager
async def door(limits: Limits = PATIENT) -> AsyncIterator[Door]:
    """Open a door."""
    one = Door(limits)
    server = await asyncio.get_running_loop().create_server(one.connections, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    watching = asyncio.ensure_future(one.connections.watch())
    try:
        yield one
    finally:
        watching.cancel()
        server.close()
        closing = asyncio.ensure_future(one.connections.close())
        if isinstance(asyncio.get_running_loop(), StandingLoop):
            await advance(2.0)
        await closing


async def reads(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the end; a reset is one."""
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


async def test_who_says_nothing_is_let_go(still: None) -> None:
    async with door(BRIEF) as one:
        reader, writer = await one.connect()
        await happens(lambda: one.unheard == 1)
        await advance(3.9)
        assert one.unheard == 1
        await advance(0.7)
        assert await reads(reader) == b""
        assert (one.unheard, one.open) == (0, 0)
        writer.close()


async def test_who_dribbles_is_let_go_however_busily_it_dribbles(still: None) -> None:
    async with door(BRIEF) as one:
        reader, writer = await one.connect()
        await happens(lambda: one.unheard == 1)
        for byte in REQUEST[:19]:
            writer.write(bytes([byte]))
            await advance(0.2)
        assert one.unheard == 1
        for byte in REQUEST[19:22]:
            writer.write(bytes([byte]))
            await advance(0.3)
        assert await reads(reader) == b""
        assert one.unheard == 0
        writer.close()


async def test_a_second_request_has_to_be_whole_in_time_too(still: None) -> None:
    async with door(BRIEF) as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % b"")
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        await advance(2.0)
        writer.write(b"GET / HT")
        await happens(lambda: one.unheard == 1)
        await advance(3.9)
        assert one.unheard == 1
        await advance(0.7)
        assert await reads(reader) == b""
        writer.close()


async def test_a_request_in_pieces_is_answered_if_it_is_whole_in_time(still: None) -> None:
    async with door(BRIEF) as one:
        reader, writer = await one.connect()
        for piece in (b"GET /", b" HTTP/1.1\r\nHo", b"st: x\r\n", b"\r\n"):
            writer.write(piece)
            await advance(0.9)
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        assert one.unheard == 0
        writer.close()


async def test_who_says_no_more_and_listens_is_answered_if_that_is_quickly_done(still: None) -> None:
    """Health checks by ``nc`` close their half once they have asked. What takes longer has a client that is gone."""
    async with door(BRIEF) as one:
        for request in [REQUEST % b""] * 20 + [REQUEST % b"slow"]:
            reader, writer = await one.connect()
            writer.write(request)
            writer.write_eof()
            if b"slow" in request:
                await one.begun.wait()
            else:
                assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
            await advance(LAST_ANSWER_SECONDS * 0.9)
            assert one.open == 1
            await advance(LAST_ANSWER_SECONDS * 0.2)
            assert await reads(reader) == b""
            writer.close()
            await happens(lambda: one.open == 0)


@pytest.mark.parametrize(("path", "said"), [(b"", b"done"), (b"slow", b"")], ids=["at once", "never"])
async def test_who_says_no_more_is_answered_so_on_the_loop_of_production(path: bytes, said: bytes) -> None:
    async with door() as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % path)
        writer.write_eof()
        assert (await reads(reader)).endswith(said)
        writer.close()


async def test_time_spent_on_the_answer_is_not_the_client_s(still: None) -> None:
    async with door(BRIEF) as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % b"slow")
        await one.begun.wait()
        writer.write(b"GET")  # of the next one
        await advance(6.0)
        await advance(6.0)
        one.finish.set()
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_connection_may_rest_between_requests_and_not_for_ever(still: None) -> None:
    async with door(BRIEF) as one:
        reader, writer = await one.connect()
        for _ in range(2):
            writer.write(REQUEST % b"")
            await reader.readuntil(b"done")
            await advance(5.0)
        await advance(2.9)
        assert one.open == 1
        await advance(0.2)
        assert await reads(reader) == b""
        writer.close()


async def test_a_thousand_requests_in_one_piece_have_a_thousand_answers() -> None:
    async with door() as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % b"" * 1000)
        for _ in range(1000):
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_who_takes_no_answer_is_let_go(still: None) -> None:
    async with door(BRIEF) as one:
        reader, writer = await one.connect(limit=1024)
        writer.write(REQUEST % b"large")
        await happens(lambda: one.unread > 0)
        await advance(0.6)
        await advance(3.9)
        assert one.open == 1
        await advance(0.7)
        assert one.open == 0
        assert len(await reads(reader)) < len(LARGE)
        writer.close()


async def test_who_takes_an_answer_in_its_time_gets_all_of_it(still: None) -> None:
    async with door(BRIEF) as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % b"large")
        await reader.readuntil(b"\r\n\r\n")
        await advance(0.6)  # it is seen that there is more than the client takes
        await reader.readexactly(len(LARGE) // 2)
        await advance(3.0)
        await reader.readexactly(len(LARGE) - len(LARGE) // 2)
        writer.close()


async def test_beyond_the_limit_the_oldest_silent_connection_makes_room() -> None:
    async with door(Limits(unheard=3)) as one:
        silent = [await one.connect() for _ in range(5)]
        reader, writer = await one.connect()
        writer.write(REQUEST % b"")
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        for early, _ in silent[:3]:
            assert await reads(early) == b""
        assert one.unheard == 2
        for _, other in silent:
            other.close()
        writer.close()
