"""PostgreSQL over TCP and TLS: a server, a standby without a primary, a primary with its standby, and PgBouncer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import NOBODY, Room, having_said, listening, server

USER, PASSWORD, DATABASE = "probe", "hunter2", "postgres"
MOST_CLIENTS = 4
READ_ONLY = "ready to accept read-only connections"


@dataclass(frozen=True)
class PostgreSql:
    """A running postgres: `USER` logs in to `DATABASE` with `PASSWORD` (SCRAM)."""

    port: int


@dataclass(frozen=True)
class PostgreSqlPair:
    """A running primary and its standby: their ports."""

    primary: int
    standby: int


@server
def postgresql(room: Room) -> Iterator[PostgreSql]:
    with _running(room, _made(room)) as port:
        yield PostgreSql(port)


@server
def postgresql_standby(room: Room) -> Iterator[PostgreSql]:
    data = _made(room)
    (data / "standby.signal").touch()
    with _running(room, data, READ_ONLY) as port:
        yield PostgreSql(port)


@server
def postgresql_pair(room: Room) -> Iterator[PostgreSqlPair]:
    room.needs("pg_basebackup")
    copy = room.directory / "copy"
    with _running(room, _made(room)) as primary:
        source = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{primary}"
        room.run("pg_basebackup", "-d", source, "-D", copy, "-R", "--checkpoint=fast", "--no-sync", user=NOBODY)
        with _running(room, copy, READ_ONLY) as standby:
            yield PostgreSqlPair(primary, standby)


@server
def pgbouncer(room: Room) -> Iterator[PostgreSql]:
    """A transaction pool for `USER` and `DATABASE` only, with at most `MOST_CLIENTS` clients."""
    with _running(room, _made(room)) as behind, _pooled(room, f"port={behind}", "scram-sha-256") as port:
        yield PostgreSql(port)


@server
def pgbouncer_any(room: Room) -> Iterator[PostgreSql]:
    """A pool that takes any user with any password, and logs in to `DATABASE` itself."""
    with _running(room, _made(room)) as behind:
        login = f"port={behind} user={USER} password={PASSWORD}"
        with _pooled(room, login, "any") as port:
            yield PostgreSql(port)


@server
def pgbouncer_alone(room: Room) -> Iterator[PostgreSql]:
    """The same pool as `pgbouncer_any`, without a server behind it."""
    with _pooled(room, f"port={room.port()} user={USER} password={PASSWORD}", "any") as port:
        yield PostgreSql(port)


@contextmanager
def _pooled(room: Room, behind: str, auth_type: str) -> Iterator[int]:
    """Run PgBouncer before a server; yield its port."""
    room.needs("pgbouncer")
    port, (certificate, key) = room.port(), room.certificate()
    users = room.write("users.txt", f'"{USER}" "{PASSWORD}"\n')
    settings = {
        "listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "pool_mode": "transaction",
        "auth_type": auth_type, "auth_file": users, "client_tls_sslmode": "allow",
        "client_tls_cert_file": certificate, "client_tls_key_file": key,
        "max_client_conn": MOST_CLIENTS,
    }  # fmt: skip
    lines = [f"{name} = {value}\n" for name, value in settings.items()]
    pool = f"[databases]\n{DATABASE} = host=127.0.0.1 {behind}\n[pgbouncer]\n"
    config = room.write("pgbouncer.ini", pool + "".join(lines))
    with room.running("pgbouncer", config, ready=listening(port), user=NOBODY):
        yield port


def _made(room: Room) -> Path:
    """Make a directory with empty databases."""
    room.needs("initdb", "postgres")
    return room.copy_of("data", _initdb)


def _initdb(room: Room) -> None:
    data = room.directory / "data"
    word = room.write("password", PASSWORD)
    room.run(
        "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", "--pwfile", word, "-E", "UTF8", "--no-locale",
        "--no-sync", user=NOBODY,
    )  # fmt: skip


@contextmanager
def _running(room: Room, data: Path, ready: str = "ready to accept connections") -> Iterator[int]:
    """Run one postgres with the databases of a directory; yield its port."""
    port = room.port()
    certificate, key = room.certificate()
    log = room.write(f"{data.name}.log", "")
    settings = {
        "port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
        "ssl": "on", "ssl_cert_file": certificate, "ssl_key_file": key, "shared_buffers": "1MB",
        "client_connection_check_interval": "100ms",  # so that a query without a client does not delay the shutdown
        "logging_collector": "on", "log_directory": room.directory, "log_filename": log.name,
    }  # fmt: skip
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with room.running("postgres", "-D", data, *options, ready=having_said(ready, log), user=NOBODY):
        yield port
