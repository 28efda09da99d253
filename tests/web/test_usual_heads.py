"""Test that a request whose head was seen before is answered as aiohttp's parser would have it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from probe_exporter.web import connections, usual_heads
from probe_exporter.web.answers import Answer
from probe_exporter.web.connections import Connections
from probe_exporter.web.request import WebRequest
from tests.waiting import until

FIELDS = b"\r\nHost: x:9115\r\nUser-Agent: Prometheus/3.5.0\r\nAccept: text/plain;version=0.0.4\r\n\r\n"
USUAL = b"GET /probe?target=a&module=http HTTP/1.1" + FIELDS

LINES = [
    b"GET / HTTP/1.1",
    b"GET /probe?target=b%20c&module=tcp HTTP/1.1",
    b"GET /probe?target=http://[::1]:80/a;b&x='\"<>|\\^`{} HTTP/1.1",
    b"GET /a#b HTTP/1.1",
    b"GET //a HTTP/1.1",
    b"GET /\xc3\xa4 HTTP/1.1",
    b"GET /a\x7f HTTP/1.1",
    b"GET /a\x01 HTTP/1.1",
    b"GET /a\tb HTTP/1.1",
    b"GET /a b HTTP/1.1",
    b"GET  /a HTTP/1.1",
    b"GET /a HTTP/1.1 ",
    b"GET /a HTTP/1.0",
    b"GET /a HTTP/1.2",
    b"GET /a HTTP/2.0",
    b"GET /a http/1.1",
    b"GET a HTTP/1.1",
    b"GET * HTTP/1.1",
    b"GET http://x/a HTTP/1.1",
    b"GET HTTP/1.1",
    b"GET /a",
    b"get /a HTTP/1.1",
    b"POST /a HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT x:80 HTTP/1.1",
    b"GET /a HTTP/1.1\n",
    b"\r\nGET /a HTTP/1.1",
    b"",
    b"GET /" + b"a" * 3000 + b" HTTP/1.1",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1",
]
"""Request lines, of which some are plain, some need a parser, and some are invalid."""

ALSO = [
    USUAL + USUAL,
    b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET /a HTTP/1.1\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\nA:\r\n b\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\r\n\r\n" + USUAL,
]
ENDED = [
    b"HEAD /a HTTP/1.1" + FIELDS,
    b"GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    USUAL[:-2],
    USUAL[:50],
    b"\r\n\r\n",
]
"""Data after which the client closes its half: there is no answer, or none with a body."""

LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

Asked = tuple[str, str, list[tuple[str, str]]]
"""Method, path and fields of a request that was answered."""


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[Connections, int, list[Asked]]]:
    asked: list[Asked] = []

    async def answer(request: WebRequest) -> Answer:
        asked.append((request.method, request.raw_path, list(request.headers.items())))
        return Answer(b"done", {})

    served = Connections(answer)
    server = await asyncio.get_running_loop().create_server(served, "127.0.0.1", 0)
    try:
        yield served, server.sockets[0].getsockname()[1], asked
    finally:
        server.close()
        await served.close()


async def exchange(pieces: Sequence[bytes]) -> tuple[list[Asked], list[bytes]]:
    """Send pieces on one connection; return what was asked, and the answers without their dates.

    Each piece is sent after the answer to the one before. After the last one comes a request to close the connection.
    """
    async with serving() as (_, port, asked):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers: list[bytes] = []
        with contextlib.suppress(ConnectionError):
            for piece in (*pieces, LAST):
                writer.write(piece)
                if piece in ENDED:
                    writer.write_eof()
                    break
                try:
                    answers.append(await reader.readuntil(b"done"))
                except asyncio.IncompleteReadError as read:
                    answers.append(read.partial)
                    break
            answers.append(await reader.read())
        writer.close()
    lines = [[line for line in answer.split(b"\r\n") if not line.startswith(b"Date: ")] for answer in answers]
    return asked, [b"\r\n".join(kept) for kept in lines]


@pytest.mark.parametrize("piece", [line + FIELDS for line in LINES] + ALSO + ENDED)
async def test_known_fields_change_no_answer(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The piece comes after a usual request, whose fields are known then, or not."""
    known = await exchange([USUAL, USUAL, piece])
    monkeypatch.setattr(usual_heads, "MAX_FIELDS_BYTES", 0)
    parsed = await exchange([USUAL, USUAL, piece])
    assert known == parsed
    monkeypatch.setattr(connections, "COMPARED_AIOHTTP", "another")
    refused = not piece.isascii()  # bytes beyond ASCII are only encoded where our loop knows where a request begins
    assert (await exchange([USUAL, USUAL, piece]))[0] == (parsed[0][:2] if refused else parsed[0])


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("/probe?target=grün.test&module=tcp".encode(), "/probe?target=gr%C3%BCn.test&module=tcp"),
        (b"/probe?target=\xff%20%C3%BC", "/probe?target=%FF%20%C3%BC"),
        ("/ä?ö#ü".encode(), "/%C3%A4?%C3%B6#%C3%BC"),
    ],
)
async def test_bytes_beyond_ascii_in_a_path_are_encoded(line: bytes, path: str) -> None:
    """``curl`` sends them as they were typed."""
    fields = b" HTTP/1.1\r\nHost: x\r\nX-Raw: \xc3\xa4\r\n\r\n"
    asked, _ = await exchange([b"GET " + line + fields, USUAL, b"GET " + line + fields])
    assert [one[1] for one in asked] == [path, "/probe?target=a&module=http", path, "/last"]
    assert dict(asked[0][2])["X-Raw"] == dict(asked[2][2])["X-Raw"] == "ä"


async def received(pieces: Sequence[bytes], requests: int) -> Asked:
    """Give a connection exactly these pieces, as if each had arrived alone; return the last of its requests."""
    async with serving() as (served, port, asked):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: served.number)
        [connection] = served._server.connections
        for piece in pieces:
            connection.data_received(piece)
        for _ in range(requests):
            await reader.readuntil(b"done")
        writer.close()
    return asked[-1]


@pytest.mark.parametrize("before", [[], [USUAL]], ids=["first", "second"])
async def test_bytes_beyond_ascii_are_encoded_wherever_the_head_is_cut(before: list[bytes]) -> None:
    """A segment may end anywhere in a line, or between the bytes of a character."""
    head = "GET /ä?ö=ü HTTP/1.1\r\nHost: x\r\nX-Raw: ä\r\n\r\n".encode()
    cuts = [[head[:at], head[at:]] for at in range(1, len(head))]
    for pieces in (*cuts, [head[at : at + 1] for at in range(len(head))]):
        _, path, fields = await received([*before, *pieces], requests=len(before) + 1)
        assert (path, dict(fields)["X-Raw"]) == ("/%C3%A4?%C3%B6=%C3%BC", "ä")


async def test_bytes_beyond_ascii_in_a_long_line_are_encoded() -> None:
    """It goes to the parser in pieces."""
    line = "a" * connections.PIECE + "ä" * connections.PIECE
    asked, _ = await exchange([f"GET /{line} HTTP/1.1\r\nHost: x\r\nX-Raw: ä\r\n\r\n".encode()])
    assert asked[0][1] == "/" + line.replace("ä", "%C3%A4")
    assert dict(asked[0][2])["X-Raw"] == "ä"


async def test_head_after_a_beginning_goes_to_the_parser() -> None:
    """What looks like a head is the rest of one."""
    async with serving() as (_, port, asked):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in (USUAL, b"GET /begun HTTP/1.1\r\nX-", USUAL.replace(b"GET ", b"GET: ", 1)):
            writer.write(piece)
            if piece.startswith(b"GET /begun"):
                await asyncio.sleep(0.05)  # so that the server gets the pieces one by one; the outcome is the same
            else:
                await reader.readuntil(b"done")
        writer.close()
    assert [path for _, path, _ in asked] == ["/probe?target=a&module=http", "/begun"]
    assert asked[1][2][0][0] == "X-GET"


async def test_beginning_behind_a_usual_head_spoils_nothing() -> None:
    """The server has the beginning of a request before it answers the one whose fields it knows."""
    async with serving() as (served, port, asked):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(USUAL)
        await reader.readuntil(b"done")
        [connection] = served._server.connections
        connection.data_received(USUAL)
        connection.data_received(b"GET /begun HTTP/1.1\r\n")
        assert b"Connection: close" not in await reader.readuntil(b"done")
        writer.write(b"Host: x\r\n\r\n")
        await reader.readuntil(b"done")
        writer.close()
    assert [path for _, path, _ in asked][-1] == "/begun"


async def test_second_request_needs_no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    parse = connections.Connection._parse

    def counting(self: connections.Connection, piece: bytes) -> None:
        parsed.append(piece)
        parse(self, piece)

    monkeypatch.setattr(connections.Connection, "_parse", counting)
    other = USUAL.replace(b"target=a", b"target=b")
    asked, answers = await exchange([USUAL, other, USUAL])
    assert [path for _, path, _ in asked] == [f"/probe?target={target}&module=http" for target in "aba"] + ["/last"]
    assert len(answers) == 5
    assert parsed[0] == USUAL
    assert other not in parsed


async def test_fields_are_forgotten_when_there_are_too_many() -> None:
    async with serving() as (served, port, asked):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(usual_heads.MAX_HEADS + 1):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: %d\r\n\r\n" % number)
            await reader.readuntil(b"done")
        writer.close()
        assert len(asked) == usual_heads.MAX_HEADS + 1
        assert len(served.heads._fields) == 1


async def test_large_heads_are_not_kept() -> None:
    async with serving() as (served, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"a" * usual_heads.MAX_FIELDS_BYTES))
        await reader.readuntil(b"done")
        writer.close()
        assert not served.heads._fields
