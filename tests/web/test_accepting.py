"""Accept clients: a limited number in each turn, and with an answer when no file descriptor is left."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import cast

from probe_exporter.web.accepting import MAX_ACCEPTED_IN_A_TURN, NO_FILES, Acceptor
from tests.descriptors import no_descriptors
from tests.waiting import until


class GreetingProtocol(asyncio.Protocol):
    """Greets each client and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast("asyncio.Transport", transport)
        wire.write(b"hello")
        wire.close()


class AcceptingSocket:
    """A listening socket, and how many connections each turn of the loop has accepted."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.acceptor = Acceptor(self.listener, self.make)
        self.in_this_turn = 0
        self.most = 0
        self.accepted = 0

    def make(self) -> GreetingProtocol:
        if not self.in_this_turn:
            asyncio.get_running_loop().call_soon(self._end_turn)
        self.in_this_turn += 1
        self.accepted += 1
        self.most = max(self.most, self.in_this_turn)
        return GreetingProtocol()

    def _end_turn(self) -> None:
        self.in_this_turn = 0


@contextlib.asynccontextmanager
async def accepting(*, start: bool = True) -> AsyncIterator[AcceptingSocket]:
    codecs.lookup("idna")  # the event loop loads the codec when it first connects, which needs a file descriptor
    one = AcceptingSocket()
    if start:
        one.acceptor.start()
    try:
        yield one
    finally:
        one.acceptor.close()
        one.listener.close()


async def heard(client: socket.socket) -> bytes:
    """Read until the server closes; a reset counts as closed."""
    loop, data = asyncio.get_running_loop(), b""
    with contextlib.suppress(ConnectionError):
        while more := await loop.sock_recv(client, 65536):
            data += more
    return data


def clients(number: int) -> list[socket.socket]:
    made = [socket.socket() for _ in range(number)]
    for client in made:
        client.setblocking(False)
    return made


async def test_backlog_is_accepted_in_several_turns() -> None:
    async with accepting(start=False) as one:
        waiting = clients(3 * MAX_ACCEPTED_IN_A_TURN)
        for client in waiting:
            await asyncio.get_running_loop().sock_connect(client, one.listener.getsockname())
        one.acceptor.start()
        await until(lambda: one.accepted == len(waiting))
        assert one.most <= MAX_ACCEPTED_IN_A_TURN
        for client in waiting:
            assert await heard(client) == b"hello"
            client.close()


async def test_client_gets_503_if_no_file_descriptor_is_left() -> None:
    loop = asyncio.get_running_loop()
    async with accepting() as one:
        *refused, served = clients(4)
        with no_descriptors():
            for client in refused:
                await loop.sock_connect(client, one.listener.getsockname())
                await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                answer = await heard(client)
                assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                assert answer.endswith(f"\r\n\r\n{NO_FILES}\n".encode())
        assert one.accepted == 0
        await loop.sock_connect(served, one.listener.getsockname())
        assert await heard(served) == b"hello"
        for client in (*refused, served):
            client.close()


async def test_clients_wait_if_even_the_reserve_is_taken() -> None:
    loop = asyncio.get_running_loop()
    async with accepting() as one:
        (client,) = clients(1)
        with no_descriptors():
            one.acceptor._use_reserve()
            with contextlib.ExitStack() as taken:
                taken.enter_context(socket.socket())  # the descriptor of the reserve
                await loop.sock_connect(client, one.listener.getsockname())
                await until(lambda: one.acceptor._pause is not None)
                assert one.accepted == 0
        assert await heard(client) == b"hello"
        client.close()


async def test_closed_acceptor_accepts_nothing() -> None:
    async with accepting() as one:
        one.acceptor.close()
        (client,) = clients(1)
        await asyncio.get_running_loop().sock_connect(client, one.listener.getsockname())
        for _ in range(10):
            await asyncio.sleep(0)
        assert one.accepted == 0
        client.close()
