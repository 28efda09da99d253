"""Test slow and broken clients on real sockets. Tests of timeouts move a simulated clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
import uvloop

from probe_exporter.web import connections
from probe_exporter.web.answers import Answer
from probe_exporter.web.connections import (
    COMPARED_AIOHTTP,
    GRACE_SECONDS,
    LAST_ANSWER_SECONDS,
    MAX_HEAD_BYTES,
    Connections,
    Limits,
)
from probe_exporter.web.request import WebRequest
from tests.clocks import StandingLoop, advance, settle
from tests.cost import short_turns
from tests.waiting import until

PATIENT = Limits()
BRIEF = Limits(head=4.0, take=4.0, idle=8.0, look=0.5)
"""Seconds of the simulated clock."""

REQUEST = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b"POST /%b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nxy"
UPGRADE = b"GET /%b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
PLAIN_OR_NOT = pytest.mark.parametrize("first", [REQUEST, BODY, UPGRADE], ids=["plain", "body", "upgrade"])
"""The first is answered by our loop; from the others on, aiohttp's answers."""

LARGE = bytes(16 << 20)
"""More than the socket buffers of both sides hold."""


@pytest.fixture
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's factory, or a `StandingLoop` for tests that use the fixture `still`."""
    return StandingLoop if "still" in request.fixturenames else uvloop.new_event_loop


@pytest.fixture
def still() -> None:
    """Use a simulated clock."""


class LimitedServer:
    """A server with these limits, and its state for assertions."""

    def __init__(self, limits: Limits) -> None:
        self.connections = Connections(self.answer, limits)
        self.begun = asyncio.Event()
        self.finish = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.asked: list[str] = []  # the paths of all requests
        self.tasks: list[asyncio.Task[object] | None] = []  # that answered them
        self.port = 0

    async def answer(self, request: WebRequest) -> Answer:
        """Answer /slow when the test sets `finish`, /large with a large body, /bug not at all, other paths at once."""
        self.asked.append(request.raw_path)
        self.tasks.append(asyncio.current_task())
        if request.raw_path == "/slow":
            self.begun.set()
            try:
                await self.finish.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if request.raw_path == "/bug":
            raise RuntimeError("a bug")
        return Answer(LARGE if request.raw_path == "/large" else b"done", {})

    @property
    def unheard(self) -> int:
        """Return how many connections have sent no complete request yet."""
        return len(self.connections.unheard)

    @property
    def open(self) -> int:
        """Return the number of open connections."""
        return len(self.connections._server.connections)

    @property
    def unread(self) -> int:
        """Return the bytes in write buffers that clients have not read."""
        wires = [connection.transport for connection in self.connections._server.connections]
        return sum(wire.get_write_buffer_size() for wire in wires if isinstance(wire, asyncio.Transport))

    async def connect(self, *, limit: int = 1 << 16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect a client."""
        return await asyncio.open_connection("127.0.0.1", self.port, limit=limit)


@contextlib.asynccontextmanager
async def serving(limits: Limits = PATIENT) -> AsyncIterator[LimitedServer]:
    """Run a server with these limits."""
    one = LimitedServer(limits)
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
    """Read until the connection is closed. A reset counts as closed and loses the data."""
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


async def test_silent_client_is_disconnected_after_the_head_timeout(still: None) -> None:
    async with serving(BRIEF) as one:
        reader, writer = await one.connect()
        await until(lambda: one.unheard == 1)
        await advance(3.9)
        assert one.unheard == 1
        await advance(0.7)
        assert await reads(reader) == b""
        assert (one.unheard, one.open) == (0, 0)
        writer.close()


async def test_client_that_sends_byte_by_byte_is_disconnected_after_the_head_timeout(still: None) -> None:
    async with serving(BRIEF) as one:
        reader, writer = await one.connect()
        await until(lambda: one.unheard == 1)
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


async def test_incomplete_second_request_is_disconnected_after_the_head_timeout(still: None) -> None:
    async with serving(BRIEF) as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % b"")
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        await advance(2.0)
        writer.write(b"GET / HT")
        await until(lambda: one.unheard == 1)
        await advance(3.9)
        assert one.unheard == 1
        await advance(0.7)
        assert await reads(reader) == b""
        writer.close()


async def test_request_in_pieces_is_answered_within_the_head_timeout(still: None) -> None:
    async with serving(BRIEF) as one:
        reader, writer = await one.connect()
        for piece in (b"GET /", b" HTTP/1.1\r\nHo", b"st: x\r\n", b"\r\n"):
            writer.write(piece)
            await advance(0.9)
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        assert one.unheard == 0
        writer.close()


async def test_half_closed_client_gets_only_a_quick_answer(still: None) -> None:
    """Health checks with ``nc`` shut down their side after the request. For longer answers it counts as gone."""
    async with serving(BRIEF) as one:
        for request in [REQUEST % b""] * 20 + [REQUEST % b"slow"]:
            reader, writer = await one.connect()
            writer.write(request)
            writer.write_eof()
            if b"slow" in request:
                await one.begun.wait()
            else:
                assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
            await advance(LAST_ANSWER_SECONDS * 0.9)
            if b"slow" in request:  # another answer may be complete before the end of the request arrives
                assert one.open == 1
            await advance(LAST_ANSWER_SECONDS * 0.2)
            assert await reads(reader) == b""
            writer.close()
            await until(lambda: one.open == 0)


@pytest.mark.parametrize(("path", "said"), [(b"", b"done"), (b"slow", b"")], ids=["at once", "never"])
async def test_half_closed_client_gets_only_a_quick_answer_on_uvloop(path: bytes, said: bytes) -> None:
    async with serving() as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % path)
        writer.write_eof()
        assert (await reads(reader)).endswith(said)
        writer.close()


async def test_head_timeout_does_not_run_while_a_request_is_answered(still: None) -> None:
    async with serving(BRIEF) as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % b"slow")
        await one.begun.wait()
        writer.write(b"GET")  # the start of the next request
        await advance(6.0)
        await advance(6.0)
        one.finish.set()
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_idle_connection_is_closed_after_the_idle_timeout(still: None) -> None:
    async with serving(BRIEF) as one:
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


async def test_pipelined_requests_are_all_answered() -> None:
    async with serving() as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % b"" * 1000)
        for _ in range(1000):
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.close()


def head_of(size: int, *, field: int = 50_000) -> bytes:
    """Return the head of a request with that many bytes, in header fields of at most so many."""
    begin, end = b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n"
    left = size - len(begin) - len(end)
    sizes = [field] * (left // field - 1)
    sizes.append(left - sum(sizes))
    return begin + b"".join(b"A: %b\r\n" % (b"a" * (one - 5)) for one in sizes) + end


async def test_head_has_a_limit_in_bytes() -> None:
    async with serving() as one:
        reader, writer = await one.connect()
        writer.write(head_of(MAX_HEAD_BYTES) + head_of(MAX_HEAD_BYTES))
        for _ in range(2):
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.write(head_of(2 * MAX_HEAD_BYTES)[: MAX_HEAD_BYTES + 1])
        assert (await reads(reader)).startswith(b"HTTP/1.1 431")
        writer.close()
        assert len(one.asked) == 2


async def test_head_beyond_the_limit_behind_another_request_closes_the_connection() -> None:
    async with serving() as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % b"slow")
        await one.begun.wait()
        writer.write(head_of(2 * MAX_HEAD_BYTES))
        assert await reads(reader) == b""
        await one.cancelled.wait()
        writer.close()
        assert one.asked == ["/slow"]


async def test_bodies_and_complete_heads_do_not_count_for_the_limit_in_bytes() -> None:
    async with serving() as one:
        body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * MAX_HEAD_BYTES)
        pipelined = head_of(1000, field=200) * (2 * MAX_HEAD_BYTES // 1000)
        for requests in (body + bytes(2 * MAX_HEAD_BYTES) + REQUEST % b"", pipelined):
            reader, writer = await one.connect()
            writer.write(requests)
            for _ in range(2 if requests is not pipelined else 2 * MAX_HEAD_BYTES // 1000):
                assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
            writer.close()


async def test_body_is_not_decompressed() -> None:
    """The body is not gzip, so that to decompress it would fail."""
    async with serving() as one:
        reader, writer = await one.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
        writer.write(REQUEST % b"")
        for _ in range(2):
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_connection_is_closed_after_the_answer_to_a_chunked_body() -> None:
    async with serving() as one:
        for rest in (b"", b"3\r\nabc\r\n0\r\n\r\n", b"1\r\nx\r\n" * 10_000):
            reader, writer = await one.connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + rest)
            head, _, body = (await reads(reader)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert b"Connection: close" in head
            assert body == b"done"
            writer.close()


async def test_thousand_clients_that_leave_together_are_closed_in_short_turns() -> None:
    async with serving() as one:
        clients = [await one.connect() for _ in range(1000)]
        await until(lambda: one.open == 1000)
        for _, writer in clients:
            writer.write_eof()
        with short_turns():
            await until(lambda: one.open == 0)
        for reader, writer in clients:
            assert await reads(reader) == b""
            writer.close()


async def test_client_that_does_not_read_is_disconnected_after_the_take_timeout(still: None) -> None:
    async with serving(BRIEF) as one:
        reader, writer = await one.connect(limit=1024)
        writer.write(REQUEST % b"large")
        await until(lambda: one.unread > 0)
        await advance(0.6)
        await advance(3.9)
        assert one.open == 1
        await advance(0.7)
        assert one.open == 0
        assert len(await reads(reader)) < len(LARGE)
        writer.close()


async def test_slow_reader_gets_the_whole_answer_within_the_take_timeout(still: None) -> None:
    async with serving(BRIEF) as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % b"large")
        await reader.readuntil(b"\r\n\r\n")
        await advance(0.6)  # the server notices unread data
        await reader.readexactly(len(LARGE) // 2)
        await advance(3.0)
        await reader.readexactly(len(LARGE) - len(LARGE) // 2)
        writer.close()


async def test_oldest_silent_connection_is_closed_beyond_the_limit() -> None:
    async with serving(Limits(unheard=3)) as one:
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


async def test_oldest_idle_connections_are_closed_beyond_the_limit() -> None:
    """Idle connections are those of clients that have had a response and keep the connection open."""
    async with serving(Limits(open=20)) as one:
        busy, busy_writer = await one.connect()
        busy_writer.write(REQUEST % b"slow")
        await one.begun.wait()
        idle = []
        for _ in range(100):
            reader, writer = await one.connect()
            writer.write(REQUEST % b"")
            await reader.readuntil(b"done")
            idle.append((reader, writer))
            assert one.open <= 21
        for reader, _ in idle[:78]:
            assert await reads(reader) == b""
        one.finish.set()
        assert (await busy.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        for _, writer in (*idle, (busy, busy_writer)):
            writer.close()


async def test_connection_with_a_request_in_the_queue_is_not_idle() -> None:
    """The request arrives in the same turn of the loop in which another client connects."""
    async with serving() as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % b"")
        await reader.readuntil(b"done")
        (connection,) = one.connections._server.connections
        connection.data_received(REQUEST % b"")
        one.connections._close_idle()
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_request_that_ends_as_the_shutdown_gives_up_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as one:
        _, writer = await one.connect()
        writer.write(REQUEST % b"slow")
        await one.begun.wait()
        closing = asyncio.ensure_future(one.connections.close())
        [connection] = one.connections._server.connections
        await until(lambda: connection._handler_waiter is not None)
        waiter = connection._handler_waiter
        assert waiter is not None
        one.finish.set()
        waiter.cancel()
        await closing
        writer.close()
    assert caplog.text == ""


# --- our loop and aiohttp's ----------------------------------------------------------------------------------


async def test_plain_requests_are_answered_in_the_task_of_the_connection() -> None:
    """This saves a task and two turns of the event loop for each request."""
    async with serving() as one:
        reader, writer = await one.connect()
        for request in (REQUEST, REQUEST, BODY, REQUEST):
            writer.write(request % b"")
            await reader.readuntil(b"done")
        [connection] = one.connections._server.connections
        own = connection._task_handler
        assert [task is own for task in one.tasks] == [True, True, False, False]
        writer.close()


def test_our_loop_was_compared_with_this_aiohttp() -> None:
    """If this fails, compare the changes of aiohttp's web_protocol.py with `Connection`, then set the constant."""
    assert aiohttp.__version__ == COMPARED_AIOHTTP


async def test_another_aiohttp_answers_all_requests_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "COMPARED_AIOHTTP", "0")
    async with serving() as one:
        reader, writer = await one.connect()
        writer.write(REQUEST % b"")
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        [connection] = one.connections._server.connections
        assert connection._task_handler not in one.tasks
        writer.close()


async def test_requests_of_all_kinds_are_answered_in_order() -> None:
    async with serving() as one:
        reader, writer = await one.connect()
        kinds = [REQUEST, REQUEST, BODY, REQUEST, UPGRADE, REQUEST, BODY]
        writer.write(b"".join(kind % b"%d" % number for number, kind in enumerate(kinds)))
        for _ in kinds:
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        assert one.asked == [f"/{number}" for number in range(len(kinds))]
        writer.close()


@PLAIN_OR_NOT
async def test_client_that_disconnects_cancels_its_request_and_those_that_wait(first: bytes) -> None:
    async with serving() as one:
        _, writer = await one.connect()
        writer.write(first % b"" + REQUEST % b"slow" + REQUEST % b"never")
        await one.begun.wait()
        writer.transport.abort()
        await one.cancelled.wait()
        await until(lambda: one.open == 0)
        assert one.asked == ["/", "/slow"]


@PLAIN_OR_NOT
async def test_cancelled_handler_closes_its_connection(first: bytes) -> None:
    """The end of a drain cancels the tasks of running probes, whose clients get no response."""
    async with serving() as one:
        reader, writer = await one.connect()
        writer.write(first % b"slow" + REQUEST % b"never")
        await one.begun.wait()
        [task] = one.tasks
        assert task is not None
        task.cancel()
        assert await reads(reader) == b""
        await until(lambda: one.open == 0)
        assert one.asked == ["/slow"]
        writer.close()


@PLAIN_OR_NOT
async def test_bug_in_a_handler_is_logged_and_answered(first: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as one:
        reader, writer = await one.connect()
        writer.write(first % b"bug" + REQUEST % b"")
        assert (await reader.readuntil(b"log has more\n")).startswith(b"HTTP/1.1 500")
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.close()
    assert [record.getMessage() for record in caplog.records] == ["Unexpected exception in the web server"]
    assert "a bug" in caplog.text


@PLAIN_OR_NOT
async def test_invalid_http_after_a_response_is_refused(first: bytes) -> None:
    async with serving() as one:
        reader, writer = await one.connect()
        writer.write(first % b"")
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.write(b"\x16\x03\x01\r\n\r\n")
        refusal = await reads(reader)
        assert refusal.startswith(b"HTTP/1.1 400")
        assert b"\r\nConnection: close\r\n" in refusal
        writer.close()


@PLAIN_OR_NOT
async def test_request_in_progress_at_a_shutdown_is_answered(still: None, first: bytes) -> None:
    async with serving(BRIEF) as one:
        reader, writer = await one.connect()
        writer.write(first % b"" + REQUEST % b"slow" + REQUEST % b"never")
        await one.begun.wait()
        closing = asyncio.ensure_future(one.connections.close())
        await settle()
        one.finish.set()
        received = await reads(reader)
        assert received.count(b"HTTP/1.1 200") == 2
        assert received.endswith(b"done")
        await closing
        assert one.asked == ["/", "/slow"]
        writer.close()


@PLAIN_OR_NOT
async def test_request_that_outlasts_the_shutdown_is_cancelled(still: None, first: bytes) -> None:
    async with serving(BRIEF) as one:
        reader, writer = await one.connect()
        writer.write(first % b"slow")
        await one.begun.wait()
        closing = asyncio.ensure_future(one.connections.close())
        await settle()
        await advance(GRACE_SECONDS + 0.1)
        assert not one.cancelled.is_set()
        await advance(GRACE_SECONDS + 0.1)
        await closing
        await one.cancelled.wait()
        assert await reads(reader) == b""
        writer.close()


@PLAIN_OR_NOT
async def test_idle_timeout_starts_again_with_each_response(still: None, first: bytes) -> None:
    async with serving(BRIEF) as one:
        reader, writer = await one.connect()
        for request in (first, REQUEST, REQUEST):
            writer.write(request % b"")
            await reader.readuntil(b"done")
            await advance(7.9)
        assert one.open == 1
        await advance(0.2)
        assert await reads(reader) == b""
        writer.close()


async def test_pipelined_requests_are_answered_in_turns_of_their_own() -> None:
    """A client that sends thousands of requests at once must not hold the event loop until all are answered."""
    turn = 0
    answered: list[int] = []

    async def answer(request: WebRequest) -> Answer:
        answered.append(turn)
        return Answer(b"done", {})

    async with serving() as one:
        one.connections.answer = answer
        reader, writer = await one.connect()
        writer.write(REQUEST % b"" * 1000)
        while len(answered) < 1000:
            turn += 1
            await asyncio.sleep(0)
        assert len(set(answered)) == 1000
        assert (await reader.readexactly(4)) == b"HTTP"
        writer.close()


async def test_next_request_waits_until_the_client_reads_the_response(still: None) -> None:
    async with serving() as one:
        reader, writer = await one.connect(limit=1024)
        writer.write(REQUEST % b"large" + REQUEST % b"next")
        await until(lambda: one.unread > 0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert one.asked == ["/large"]
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(LARGE))
        assert (await reader.readuntil(b"done")).startswith(head[:15])
        assert one.asked == ["/large", "/next"]
        writer.close()
