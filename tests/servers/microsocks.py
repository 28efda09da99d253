"""microsocks: a SOCKS5 proxy that requires a password."""

from __future__ import annotations

from collections.abc import Iterator

from tests.servers import Room, listening, server


@server
def microsocks(room: Room) -> Iterator[int]:
    room.needs("microsocks")
    port = room.port()
    arguments = ("-i", "127.0.0.1", "-p", port, "-u", "user", "-P", "hunter2")
    with room.running("microsocks", *arguments, ready=listening(port)):
        yield port
