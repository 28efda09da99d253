"""MariaDB (mariadbd) over TCP and TLS: a single server, and a source with its replica."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import NOBODY, Room, listening, server

USER, PASSWORD = "probe", "hunter2"  # may only log in
MONITOR = "monitor"  # with the same password, may also read the replication status
TLS_ONLY = "careful"  # with the same password, may log in over TLS only
OTHERWISE = "otherwise"  # with the same password, uses MariaDB's own authentication (ed25519)
MOST_CONNECTIONS = 10
LOG_SIZE = "4M"
_REPLICATOR = "replicator"

_USERS = f"""\
SET sql_log_bin = 0;
CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
CREATE USER '{MONITOR}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
GRANT REPLICA MONITOR ON *.* TO '{MONITOR}'@'127.0.0.1';
CREATE USER '{TLS_ONLY}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL;
CREATE USER '{OTHERWISE}'@'127.0.0.1' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}');
CREATE USER '{_REPLICATOR}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
GRANT REPLICATION REPLICA ON *.* TO '{_REPLICATOR}'@'127.0.0.1';
"""


@dataclass(frozen=True)
class MariaDb:
    """A running mariadbd: `USER` and others log in with `PASSWORD` (mysql_native_password)."""

    port: int


@dataclass(frozen=True)
class MariaDbPair:
    """A running source and its read-only replica: their ports."""

    source: int
    replica: int


@server
def mariadb(room: Room) -> Iterator[MariaDb]:
    with _running(room, _installed(room, "data"), _USERS) as port:
        yield MariaDb(port)


@server
def mariadb_pair(room: Room) -> Iterator[MariaDbPair]:
    ours = _installed(room, "source")
    theirs = _installed(room, "replica")
    with _running(room, ours, _USERS, "--log-bin=binlog", "--server-id=1") as source:
        follow = (
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {source}, MASTER_USER = '{_REPLICATOR}', "
            f"MASTER_PASSWORD = '{PASSWORD}', MASTER_USE_GTID = slave_pos;\nSTART REPLICA;\n"
        )
        with _running(room, theirs, _USERS + follow, "--server-id=2", "--read-only") as replica:
            yield MariaDbPair(source, replica)


@contextmanager
def _running(room: Room, data: Path, first: str, *more: str) -> Iterator[int]:
    """Run one mariadbd with the databases of a directory, after the SQL in `first`; yield its port."""
    port = room.port()
    certificate, key = room.certificate()
    options = {
        "datadir": data, "port": port, "bind-address": "127.0.0.1", "socket": f"{data}.sock", "pid-file": f"{data}.pid",
        "ssl-cert": certificate, "ssl-key": key, "init-file": room.write(f"{data.name}.sql", first),
        "max-connections": MOST_CONNECTIONS, "plugin-load-add": "auth_ed25519", "innodb-buffer-pool-size": "8M",
        "innodb-log-file-size": LOG_SIZE,
    }  # fmt: skip
    arguments = [f"--{name}={value}" for name, value in options.items()]
    ready = listening(port)
    with room.running("mariadbd", "--no-defaults", "--skip-name-resolve", *arguments, *more, ready=ready, user=NOBODY):
        yield port


def _installed(room: Room, name: str) -> Path:
    room.needs("mariadbd", "mariadb-install-db", files=("/usr/lib*/**/plugin/auth_ed25519.so",))
    return room.copy_of("empty", _install).rename(room.directory / name)


def _install(room: Room) -> None:
    room.run(
        "mariadb-install-db", "--no-defaults", f"--datadir={room.directory / 'empty'}", "--skip-test-db",
        "--skip-name-resolve", "--auth-root-authentication-method=normal", f"--innodb-log-file-size={LOG_SIZE}",
        user=NOBODY,
    )  # fmt: skip
