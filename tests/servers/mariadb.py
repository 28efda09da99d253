"""mariadbd of MariaDB, over TCP and TLS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers import NOBODY, Room, listening, server

USER, PASSWORD = "probe", "hunter2"


@dataclass(frozen=True)
class MariaDb:
    """A running mariadbd, where `USER` logs in with `PASSWORD` (mysql_native_password): its port."""

    port: int


@server
def mariadb(room: Room) -> Iterator[MariaDb]:
    made = MariaDb(room.port())
    certificate, key = room.certificate()
    data = room.directory / "data"
    first = room.write("first.sql", f"CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n")
    room.run(
        "mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", "--skip-name-resolve",
        "--auth-root-authentication-method=normal", user=NOBODY,
    )  # fmt: skip
    options = {
        "datadir": data, "port": made.port, "bind-address": "127.0.0.1", "socket": room.directory / "mariadb.sock",
        "ssl-cert": certificate, "ssl-key": key, "init-file": first, "pid-file": room.directory / "pid",
        "innodb-buffer-pool-size": "8M", "innodb-log-file-size": "4M",
    }  # fmt: skip
    arguments = [f"--{name}={value}" for name, value in options.items()]
    ready = listening(made.port)
    with room.running("mariadbd", "--no-defaults", "--skip-name-resolve", *arguments, ready=ready, user=NOBODY):
        yield made
