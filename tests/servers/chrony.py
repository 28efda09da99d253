"""chronyd: an NTP server with this machine's clock as its source, and one without a source. Neither sets the clock."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from tests.servers import NOBODY, Room, server

STRATUM = 10

CONFIG = """
port {port}
bindaddress 127.0.0.1
allow 127.0.0.0/8
{source}
cmdport 0
bindcmdaddress /
pidfile {directory}/pid
"""
REQUEST = bytes([0b00_100_011]) + bytes(47)
"""A client's query of NTP 4 (RFC 5905, 7.3)."""


@server
def chrony(room: Room) -> Iterator[int]:
    """A server that is synchronized to its local clock."""
    yield from _chronyd(room, f"local stratum {STRATUM}")


@server
def chrony_lost(room: Room) -> Iterator[int]:
    """A server without a time source."""
    yield from _chronyd(room, "")


def _chronyd(room: Room, source: str) -> Iterator[int]:
    room.needs("chronyd")
    port = room.port()
    config = room.write("chrony.conf", CONFIG.format(port=port, source=source, directory=room.directory))

    def answers() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(1)
            asking.connect(("127.0.0.1", port))
            try:
                asking.send(REQUEST)
                return len(asking.recv(100)) == len(REQUEST)
            except OSError:
                return False

    # Without privileges (-U), and without touching the clock (-x).
    with room.running("chronyd", "-d", "-x", "-U", "-u", NOBODY, "-f", config, ready=answers, user=NOBODY):
        yield port
