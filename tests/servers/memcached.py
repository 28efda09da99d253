"""memcached over TCP and UDP on one port."""

from __future__ import annotations

from collections.abc import Iterator

from tests.servers import NOBODY, Room, listening, server


@server
def memcached(room: Room) -> Iterator[int]:
    room.needs("memcached")
    port = room.port()
    arguments = ("-l", "127.0.0.1", "-p", port, "-U", port, "-m", "8")
    with room.running("memcached", *arguments, ready=listening(port), user=NOBODY):
        yield port
