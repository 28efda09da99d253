"""postgres of PostgreSQL, over TCP and TLS: a primary, a standby that never hears of one; a primary with PgBouncer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.servers import NOBODY, Room, having_said, listening, server

USER, PASSWORD, DATABASE = "probe", "hunter2", "postgres"


@dataclass(frozen=True)
class PostgreSql:
    """A running postgres, where `USER` logs in to `DATABASE` with `PASSWORD` (SCRAM): its port."""

    port: int


@server
def postgresql(room: Room) -> Iterator[PostgreSql]:
    with _running(room, "ready to accept connections") as made:
        yield made


@server
def postgresql_standby(room: Room) -> Iterator[PostgreSql]:
    with _running(room, "ready to accept read-only connections", standby=True) as made:
        yield made


@server
def pgbouncer(room: Room) -> Iterator[PostgreSql]:
    """A pool for transactions; it knows `USER`, and no database but `DATABASE`."""
    with _running(room, "ready to accept connections") as behind:
        made = PostgreSql(room.port())
        users = room.write("users.txt", f'"{USER}" "{PASSWORD}"\n')
        settings = {
            "listen_addr": "127.0.0.1", "listen_port": made.port, "unix_socket_dir": "", "pool_mode": "transaction",
            "auth_type": "scram-sha-256", "auth_file": users, "client_tls_sslmode": "allow",
            "client_tls_cert_file": room.directory / "leaf.pem", "client_tls_key_file": room.directory / "leaf.key",
        }  # fmt: skip
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        pool = f"[databases]\n{DATABASE} = host=127.0.0.1 port={behind.port}\n[pgbouncer]\n"
        config = room.write("pgbouncer.ini", pool + "".join(lines))
        with room.running("pgbouncer", config, ready=listening(made.port), user=NOBODY):
            yield made


@contextmanager
def _running(room: Room, ready: str, *, standby: bool = False) -> Iterator[PostgreSql]:
    made = PostgreSql(room.port())
    certificate, key = room.certificate()
    data = room.directory / "data"
    word = room.write("password", PASSWORD)
    room.run(
        "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", "--pwfile", word, "-E", "UTF8", "--no-locale",
        "--no-sync", user=NOBODY,
    )  # fmt: skip
    if standby:
        room.write("data/standby.signal", "")
    settings = {
        "port": made.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
        "ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key, "shared_buffers": "1MB",
    }  # fmt: skip
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    arguments = ("-D", data, *options)
    with room.running("postgres", *arguments, ready=having_said(ready, room.log("postgres")), user=NOBODY):
        yield made
