"""Test the bytes of an answer for different HTTP versions, methods and header fields."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
from collections.abc import Awaitable, Callable

import pytest

from probe_exporter.web.answers import Answer, exposition
from probe_exporter.web.connections import Connections
from probe_exporter.web.request import WebRequest

Exchange = Callable[[bytes], Awaitable[bytes]]


async def exchange(request: bytes, answer: Answer) -> tuple[list[str], bytes]:
    """Return the head's lines without Date, and the body; ``<closed>`` is added if the server closes the connection."""

    async def handle(asked: WebRequest) -> Answer:
        return Answer(b"", PLAIN) if asked.raw_path == "/another" else answer

    connections = Connections(handle)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        body = b"" if request.startswith(b"HEAD") else await reader.readexactly(len(answer.body))
        body += await what_follows(reader, writer)
        writer.close()
    finally:
        server.close()
        await connections.close()
    lines = head.decode().rstrip().split("\r\n")
    assert any(line.startswith("Date: ") for line in lines)
    return [line for line in lines if not line.startswith("Date: ")], body


async def what_follows(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Return surplus bytes before the answer to a second request, and ``<closed>`` if that is not answered."""
    received = b""
    with contextlib.suppress(ConnectionError):
        writer.write(b"GET /another HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while data := await reader.read(65536):
            received += data
    surplus, another, _ = received.partition(b"HTTP/1.1 200 ")
    return surplus if another else surplus + b"<closed>"


HEAD = ["HTTP/1.1 200 OK", "Server: probe-exporter", "Content-Type: text/plain", "Content-Length: 2"]
PLAIN = {"Content-Type": "text/plain"}


@pytest.mark.parametrize(
    ("request_line", "field", "said", "body"),
    [
        ("GET / HTTP/1.1", "", [], b"ok"),
        ("GET / HTTP/1.1", "Connection: close", ["Connection: close"], b"ok<closed>"),
        ("GET / HTTP/1.0", "", [], b"ok<closed>"),
        ("GET / HTTP/1.0", "Connection: keep-alive", ["Connection: keep-alive"], b"ok"),
        ("HEAD / HTTP/1.1", "", [], b""),
    ],
)
@pytest.mark.parametrize("sent", ["", "xy"], ids=["without a body", "with a body"])
async def test_connection_is_kept_or_closed_as_the_client_asks(
    request_line: str, field: str, said: list[str], body: bytes, sent: str
) -> None:
    """Requests with a body are answered by aiohttp's loop, others by ours."""
    fields = [field] * bool(field) + [f"Content-Length: {len(sent)}"] * bool(sent)
    request = "\r\n".join([request_line, "Host: x", *fields, "", sent]).encode()
    assert await exchange(request, Answer(b"ok", PLAIN)) == ([*HEAD, *said], body)


async def test_answer_closes_the_connection_when_forced() -> None:
    answer = Answer(b"ok", PLAIN, 503)
    answer.closes = True
    lines, body = await exchange(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", answer)
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert lines[-1] == "Connection: close"
    assert body == b"ok<closed>"


@pytest.mark.parametrize("bad", ["a\r\nb: c", "a\nb", "a\x00b"])
def test_answer_refuses_line_breaks_in_header_fields(bad: str) -> None:
    with pytest.raises(ValueError, match="header field Location"):
        Answer(b"ok", {"Location": bad})
    with pytest.raises(ValueError, match="header field X"):
        Answer(b"ok", PLAIN).add_fields({"X": bad})


async def test_added_fields_do_not_replace_the_answers_own() -> None:
    answer = Answer(b"ok", PLAIN)
    answer.add_fields({"Content-Type": "text/html", "X-Frame-Options": "deny"})
    lines, _ = await exchange(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", answer)
    assert "X-Frame-Options: deny" in lines
    assert [line for line in lines if line.startswith("Content-Type")] == ["Content-Type: text/plain"]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1023, 1024, 4095, 4096, 4097, 32_767, 32_768, 100_000])
def test_exposition_compresses_bodies_of_every_size(size: int) -> None:
    """The window is chosen by the body's size. Half of the body repeats itself, and half does not."""
    chance = random.Random(size)
    body = (b"probe_success 1\n" * size)[: size // 2] + chance.randbytes(size - size // 2)
    answer = exposition(WebRequest("GET", "/", {"Accept-Encoding": "gzip"}), body, "text/plain")
    assert gzip.decompress(answer.body) == body
