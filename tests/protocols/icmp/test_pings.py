"""Tests of the sockets that all pings share: how much of a flood one turn of the event loop reads."""

from __future__ import annotations

import asyncio
import select
import socket
from contextlib import closing
from typing import cast

import pytest

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.icmp.messages import request
from probe_exporter.protocols.icmp.pings import (
    _IP_RECVERR,
    MAX_TURN_BYTES,
    MAX_TURN_MESSAGES,
    _Channel,
    _Waiter,
)


@pytest.mark.parametrize("payload", [b"", b"x" * 8192])
@pytest.mark.parametrize("version", [4, 6])
def test_flood_of_replies_is_read_in_short_turns(payload: bytes, version: int) -> None:
    """A datagram socket of UDP stands in for one of ICMP, which receives from the kernel only."""
    family, host = (socket.AF_INET, "127.0.0.1") if version == 4 else (socket.AF_INET6, "::1")
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        receiver.bind((host, 0))
        receiver.setblocking(False)
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as flooder:
            message = request(version, 1, 1, payload)
            expected = min(MAX_TURN_MESSAGES, MAX_TURN_BYTES // len(message) + 1)
            for _ in range(expected + 10):
                flooder.sendto(message, receiver.getsockname())
        _Channel(version, receiver).receive()
        assert _remaining(receiver) == 10


def test_error_that_only_the_queue_has_is_read() -> None:
    """The event loop calls `receive` again and again while the queue has one. UDP stands in for ICMP."""
    with asyncio.Runner() as runner, closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        sender.bind(("127.0.0.1", 0))
        sender.setblocking(False)
        channel = _Channel(4, sender)
        waiter = _Waiter("127.0.0.1", b"x" * 65515, runner.get_loop().create_future())
        with pytest.raises(ProbeFailed) as failed:
            channel.send(1, waiter, ("127.0.0.1", 9), [])
        assert failed.value.reason is Reason.ICMP_PACKET_TOO_BIG
        channel.receive()
        events = select.poll()
        events.register(sender, select.POLLIN)
        assert events.poll(0) == []


class _FloodedSocket:
    """Stands in for a datagram socket whose error queue never ends."""

    type = socket.SOCK_DGRAM

    def __init__(self) -> None:
        self.reads = 0

    def recvmsg_into(self, *_: object) -> object:
        self.reads += 1
        raise ConnectionRefusedError

    def recvmsg(self, *_: object) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]:
        self.reads += 1
        return b"", [], 0, ("127.0.0.1", 0)


def test_flood_of_errors_is_read_in_short_turns() -> None:
    flooded = _FloodedSocket()
    _Channel(4, cast("socket.socket", flooded)).receive()
    assert flooded.reads == MAX_TURN_MESSAGES + 1


def _remaining(receiver: socket.socket) -> int:
    count = 0
    while True:
        try:
            receiver.recv(65536)
        except BlockingIOError:
            return count
        count += 1
