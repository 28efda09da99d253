"""redis-server: over TCP, over TLS and over its socket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers import Room, listening, server


@dataclass(frozen=True)
class Redis:
    """A running redis-server: its ports and its socket."""

    port: int
    tls_port: int
    path: str


@server
def redis(room: Room) -> Iterator[Redis]:
    made = Redis(room.port(), room.port(), str(room.directory / "redis.sock"))
    certificate, key = room.certificate()
    options = {
        "port": made.port, "tls-port": made.tls_port, "unixsocket": made.path, "bind": "127.0.0.1", "save": "",
        "tls-cert-file": certificate, "tls-key-file": key, "tls-auth-clients": "no", "dir": room.directory,
    }  # fmt: skip
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    with room.running("redis-server", *arguments, ready=listening(made.port)):
        yield made
