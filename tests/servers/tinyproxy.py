"""tinyproxy: an HTTP proxy that requires a password."""

from __future__ import annotations

from collections.abc import Iterator

from tests.servers import Room, listening, server

CONFIG = """
Port {port}
Listen 127.0.0.1
Allow 127.0.0.1
BasicAuth user hunter2
ViaProxyName "tinyproxy"
MaxClients 50
"""


@server
def tinyproxy(room: Room) -> Iterator[int]:
    room.needs("tinyproxy")
    port = room.port()
    config = room.write("tinyproxy.conf", CONFIG.format(port=port))
    with room.running("tinyproxy", "-d", "-c", config, ready=listening(port)):
        yield port
