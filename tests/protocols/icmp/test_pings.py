"""Tests of the sockets that all pings share: how much of a flood one turn of the event loop reads."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from probe_exporter.protocols.icmp.messages import request
from probe_exporter.protocols.icmp.pings import MAX_TURN_BYTES, MAX_TURN_MESSAGES, _Channel


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


def _remaining(receiver: socket.socket) -> int:
    count = 0
    while True:
        try:
            receiver.recv(65536)
        except BlockingIOError:
            return count
        count += 1
