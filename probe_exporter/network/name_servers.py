"""Ask name servers for the addresses of a name: in turn, over UDP, and over TCP where the answer is too long.

A library would be shorter. c-ares, which was used before, has a timeout that no option sets: it shrinks to a quarter of
a second after quick answers, and a late answer to an earlier try is lost. So a name that took 0.8 s to look up failed a
probe that had 5 s. The rules here are those of Go's resolver, which the original uses, with some more (3, 4):

1. Each server is asked in turn, `attempts` times. A try lasts until an answer or a failure comes, or for `timeout`.
2. SERVFAIL, REFUSED and the like, and a closed port, end a try at once. "No such name" and "no address" are answers.
3. All tries of a question have the same message id, and their sockets stay open: the answer to an earlier try counts.
4. A server that let a whole try pass is asked after the others for `SILENCE` seconds, or until it answers.
5. Each question has sockets of its own. The kernel chooses a random port, which protects against forged answers
   together with the random id. Nothing is cached, so that a probe gets the same answer as a client would get now.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from probe_exporter.addresses import literals
from probe_exporter.addresses.endpoints import join_host_port
from probe_exporter.network.dns_query import FORMERR, NXDOMAIN, Question, Response, encode_query, read_response
from probe_exporter.prober.deadline import Deadline
from probe_exporter.prober.failure import ProbeFailed, Reason, check_files

SILENCE = 30.0
"""Seconds for which a server that did not answer is asked last."""

MAX_SILENT_SERVERS = 64

Server = tuple[str, int]
"""The address and the port of a name server."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The servers to ask and the rules for asking them.

    Args:
        servers: in the order in which they are asked.
        timeout: seconds for one try.
        attempts: how often each server is asked.
        tcp: use no UDP.
    """

    servers: Sequence[Server]
    timeout: float
    attempts: int
    tcp: bool = False

    def tries(self, now: float) -> Iterator[Server]:
        """The server to ask in each try; those that were silent lately come last."""
        order = sorted(self.servers, key=lambda server: _silent.get(server, now) > now)
        for _ in range(self.attempts):
            yield from order


_silent: dict[Server, float] = {}
"""Until when, on the loop's clock, each server that did not answer is asked last."""


async def ask(question: Question, plan: Plan) -> tuple[str, ...]:
    """Return the addresses in the first answer; none if the name has no address of this version.

    Raises:
        ProbeFailed: there is no such name, or no server answered: with one of the ``dns_…`` reasons.
    """
    return (await exchange(question.name, question.encode(), plan)).addresses


async def exchange(name: str, question: bytes, plan: Plan) -> Response:
    """Return the first answer to an encoded question about a name.

    Raises:
        ProbeFailed: there is no such name, or no server answered: with one of the ``dns_…`` reasons.
    """
    name = name.rstrip(".")
    pending = _PendingQuestion(name, question, plan)
    try:
        response = await pending.run()
    finally:
        pending.close()
    if response.code == NXDOMAIN:
        raise ProbeFailed(Reason.DNS_NAME_NOT_FOUND, f"looking up {name} failed: there is no such name")
    return response


class _PendingQuestion:
    """One question, until it is answered or given up."""

    def __init__(self, name: str, question: bytes, plan: Plan) -> None:
        self._plan = plan
        self._name = name
        self._question = question
        self._number = secrets.randbits(16)
        self._edns = True
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[Server, asyncio.DatagramTransport] = {}
        self._asking: Server | None = None  # the server of the current try
        self._response: asyncio.Future[tuple[Server, Response]] | None = None

    async def run(self) -> Response:
        """Try the servers in turn."""
        failure = ""
        for server in self._plan.tries(self._loop.time()):
            response = await self._try(server)
            if response is not None and not response.failure:
                return response
            if response is not None:
                failure = f"{join_host_port(*server)} {response.failure}"
        if failure:
            raise ProbeFailed(Reason.DNS_RESOLUTION, f"looking up {self._name} failed: {failure}")
        servers = ", ".join(join_host_port(*server) for server in self._plan.servers)
        seconds = self._plan.timeout * self._plan.attempts * len(self._plan.servers)
        raise ProbeFailed(Reason.DNS_TIMEOUT, f"no answer for {self._name} from {servers} within {seconds:g} s")

    def close(self) -> None:
        """Close the sockets."""
        for transport in self._sockets.values():
            transport.abort()

    async def _try(self, server: Server) -> Response | None:
        """Ask one server; return the response of it or of a server asked earlier, None after the timeout of the try."""
        try:
            with Deadline(self._loop.time() + self._plan.timeout):
                return await self._exchange(server)
        except TimeoutError:
            if len(_silent) >= MAX_SILENT_SERVERS:
                _silent.clear()
            _silent[server] = self._loop.time() + SILENCE
            return None
        except OSError as error:
            check_files(error, f"asking {server[0]}")
            return _unreachable(error)
        finally:
            self._asking = self._response = None

    async def _exchange(self, server: Server) -> Response:
        if self._plan.tcp:
            return await self._over_tcp(server)
        self._asking, self._response = server, self._loop.create_future()
        if server not in self._sockets:
            self._sockets[server] = await self._open(server)
        self._sockets[server].sendto(encode_query(self._number, self._question, edns=self._edns))
        answering, response = await self._response
        return await self._over_tcp(answering) if response.truncated else response

    async def _open(self, server: Server) -> asyncio.DatagramTransport:
        sock = _socket(server, socket.SOCK_DGRAM)
        try:
            sock.connect(literals.socket_address(*server))
            transport, _ = await self._loop.create_datagram_endpoint(lambda: _Receiver(self, server), sock=sock)
        except BaseException:
            sock.close()
            raise
        return transport

    def received(self, server: Server, data: bytes) -> None:
        """Take a datagram from a server. A result ends the try, a failure only if it is for this server."""
        response = read_response(data, self._number, self._question)
        if response is None:
            return
        _silent.pop(server, None)
        if response.code == FORMERR:
            self._edns = False
        if (
            self._response is not None
            and not self._response.done()
            and (not response.failure or server == self._asking)
        ):
            self._response.set_result((server, response))

    def fail(self, server: Server, error: Exception) -> None:
        """Take an error of a socket, such as ICMP's "port unreachable"."""
        if self._response is not None and not self._response.done() and server == self._asking:
            self._response.set_result((server, _unreachable(error)))

    async def _over_tcp(self, server: Server) -> Response:
        """Ask once more over TCP, where a message has its length before it (RFC 1035, 4.2.2)."""
        with contextlib.closing(_socket(server, socket.SOCK_STREAM)) as sock:
            await self._loop.sock_connect(sock, literals.socket_address(*server))
            query = encode_query(self._number, self._question, edns=self._edns)
            await self._loop.sock_sendall(sock, len(query).to_bytes(2, "big") + query)
            size = int.from_bytes(await self._receive(sock, 2), "big")
            response = read_response(await self._receive(sock, size), self._number, self._question)
        if response is None or response.truncated:
            return Response(0, failure="sent no whole answer over TCP")
        return response

    async def _receive(self, sock: socket.socket, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = await self._loop.sock_recv(sock, size - len(data))
            if not more:
                raise ConnectionResetError("the connection was closed")
            data += more
        return bytes(data)


class _Receiver(asyncio.DatagramProtocol):
    """Receives datagrams of one server for a pending question."""

    def __init__(self, pending: _PendingQuestion, server: Server) -> None:
        self._pending = pending
        self._server = server

    def datagram_received(self, data: bytes, _: object) -> None:
        self._pending.received(self._server, data)

    def error_received(self, error: Exception) -> None:
        self._pending.fail(self._server, error)


def _unreachable(error: Exception) -> Response:
    return Response(0, failure=f"can't be asked: {getattr(error, 'strerror', None) or error}")


def _socket(server: Server, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if literals.version(server[0]) == 6 else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock
