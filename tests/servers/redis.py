"""redis-server over TCP, TLS and a Unix socket; a master with a replica; a sentinel without masters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers import Room, having_said, listening, server


@dataclass(frozen=True)
class Redis:
    """A running redis-server: its ports and its socket."""

    port: int
    tls_port: int
    path: str


@server
def redis(room: Room) -> Iterator[Redis]:
    room.needs("redis-server")
    made = Redis(room.port(), room.port(), str(room.directory / "redis.sock"))
    certificate, key = room.certificate()
    options = {
        "port": made.port, "tls-port": made.tls_port, "unixsocket": made.path, "bind": "127.0.0.1", "save": "",
        "tls-cert-file": certificate, "tls-key-file": key, "tls-auth-clients": "no", "dir": room.directory,
    }  # fmt: skip
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    with room.running("redis-server", *arguments, ready=listening(made.port)):
        yield made


@dataclass(frozen=True)
class RedisPair:
    """A running master that requires a password, and its replica: their ports."""

    master: int
    replica: int


PASSWORD = "of-all"  # of the default user
USER, USER_PASSWORD = "prober", "of-one"  # may only PING and INFO
LIMITED, LIMITED_PASSWORD = "pinger", "of-another"  # may only PING


@server
def redis_pair(room: Room) -> Iterator[RedisPair]:
    room.needs("redis-server")
    made = RedisPair(room.port(), room.port())
    common = ["--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0", "--requirepass", PASSWORD]
    users = [
        ["--user", USER, "on", f">{USER_PASSWORD}", "+ping", "+info"],
        ["--user", LIMITED, "on", f">{LIMITED_PASSWORD}", "+ping"],
    ]
    master = [*common, "--port", made.master, *[word for user in users for word in user]]
    replica = [*common, "--port", made.replica, "--replicaof", "127.0.0.1", made.master, "--masterauth", PASSWORD]
    log = room.write("replica/replica.log", "")
    with (
        room.running("redis-server", *master, ready=listening(made.master)),
        room.running(
            "redis-server", *replica, "--dir", log.parent, "--logfile", log,
            ready=having_said("MASTER <-> REPLICA sync: Finished with success", log),
        ),
    ):  # fmt: skip
        yield made


@server
def redis_sentinel(room: Room) -> Iterator[int]:
    room.needs("redis-server")
    port = room.port()
    config = room.write("sentinel.conf", f"port {port}\nbind 127.0.0.1\n")
    with room.running("redis-server", config, "--sentinel", ready=listening(port)):
        yield port
