"""The mysql prober: check that a MySQL or MariaDB server accepts connections; with a login, run a query.

* The protocol is MySQL's (dev.mysql.com and mariadb.com, "Client/Server Protocol"). A packet is a length of three
  bytes, a sequence number and a body. The server speaks first: its greeting has its version and capabilities.
* Without a `user` the probe logs in as `probe_exporter`, which the server refuses. It does not leave before: MySQL
  counts such clients and blocks their address after `max_connect_errors` (100).
* With a `user` the server names a plugin and a nonce; `_Login` answers. A query is answered by the number of columns,
  their definitions, and the rows; or by OK (0x00) or an error (0xFF).
* Whether the server is read-only and what it replicates are optional questions: they fail the probe only if `writable`,
  `role` or `max_lag` need an answer. Proxies and servers that merely speak the protocol don't know them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Literal, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from probe_exporter import (
    CertificateSettings,
    Connection,
    Duration,
    Metric,
    OwnReason,
    Probe,
    ProbeFailed,
    Prober,
    Reason,
    Secret,
    SourceSettings,
    Text,
    TLSSettings,
    connect,
    host_and_port,
    needs,
    start_tls,
    with_server_name,
)

PORT = 3306
MAX_PACKET_BYTES = 1024 * 1024
MAX_KEY_BYTES = 8192  # of a server's RSA key as PEM
MAX_KEY_BITS = 8192
MAX_LABEL_CHARACTERS = 128
MAX_COLUMNS = 4096  # MySQL's own limit
MAX_STATUS_COLUMNS = 256  # of the prober's own questions; SHOW REPLICA STATUS has about 60
MAX_STATUS_ROWS = 256  # MySQL's own limit for replication channels
MAX_VALUE_BYTES = 1000
MAX_LOGIN_PACKETS = 10

DURATION = Metric("probe_mysql_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=7)
SERVER = Metric("probe_mysql_server_info", "Version of the server.", ("version",), type="info")
READ_ONLY = Metric("probe_mysql_read_only", "1 if the server is read-only for ordinary users, otherwise 0.")
IO_RUNNING = Metric(
    "probe_mysql_replica_io_running",
    "1 if this replica is connected to the source of the channel, otherwise 0.",
    ("channel",),
)
SQL_RUNNING = Metric(
    "probe_mysql_replica_sql_running",
    "1 if this replica applies what it receives on the channel, otherwise 0.",
    ("channel",),
)
LAG = Metric(
    "probe_mysql_replica_lag_seconds",
    "Seconds that this replica is behind its source, as the server reports it; absent while replication is stopped.",
    ("channel",),
)

HOST_BLOCKED = OwnReason(
    "mysql_host_blocked",
    "The server refuses connections from the exporter's address.",
    advice=(
        "Run `FLUSH HOSTS` or `TRUNCATE performance_schema.host_cache` on the server, then find what connects "
        "and hangs up. Or allow the exporter's address: the user may exist for other hosts only."
    ),
)

# Error numbers (both manuals' "Server Error Reference") with a more specific reason than `target_error`.
_REASONS: Mapping[int, Reason | OwnReason] = {
    **dict.fromkeys((1044, 1045, 1142, 1143, 1227, 1251, 1698, 1820, 1862, 3118, 4151), Reason.AUTHENTICATION),
    **dict.fromkeys((1053, 1077, 1079, 3032), Reason.TARGET_NOT_READY),  # shutting down, or offline mode
    **dict.fromkeys((1040, 1203, 1226), Reason.TARGET_FULL),  # for all users, or for this one
    **dict.fromkeys((1129, 1130), HOST_BLOCKED),
    3159: Reason.TLS_REQUIRED,
}
_CLOSED = (Reason.TARGET_NOT_READY, Reason.TARGET_FULL, HOST_BLOCKED)
"""Reasons of errors by which a server accepts no connections."""
_SYNTAX = 1064

# Capabilities of client and server.
_WITH_DATABASE, _PROTOCOL_41, _TLS, _LONG_NONCE = 0x8, 0x200, 0x800, 0x8000
_PLUGINS, _ATTRIBUTES = 0x80000, 0x100000
_UTF8 = 45  # utf8mb4_general_ci
_QUERY = b"\x03"
_QUIT = b"\x01\0\0\0\x01"

Row = Mapping[str, str | None]


class MysqlSettings(CertificateSettings, SourceSettings):
    """The ``mysql`` block of a module.

    Args:
        writable: the server must accept writes.
        fetch_server_key: without TLS, let caching_sha2_password encrypt the password with an RSA key that the server
            sends. The key is not authenticated, so a man in the middle can read the password.
        tls: use TLS; a server without it fails the probe.
        tls_config: settings of TLS.
        user: user name; without one, there is no login.
        password: password.
        database: database to open.
        query: one statement that must succeed; empty for none.
        role: role that the server must have.
        max_lag: maximum lag of each channel of a replica, which must run.
    """

    rules = (
        needs(
            ("database", "query", "role", "max_lag", "writable", "fetch_server_key"),
            ("user",),
            "needs a login: a `user`, and a `password` if the server wants one",
        ),
        needs(("password",), ("user",), "a `password` needs a `user`"),
    )
    tls: bool = False
    tls_config: TLSSettings = TLSSettings()
    user: Text = ""
    password: Secret = Secret("")
    database: Text = ""
    query: Text = "SELECT 1"
    role: Literal["", "primary", "replica"] = ""
    max_lag: Duration = 0.0
    writable: bool = False
    fetch_server_key: bool = False


async def probe_mysql(probe: Probe, settings: MysqlSettings) -> None:
    """Asks a MySQL or MariaDB server for a connection and, with a login, runs a query."""
    host, port = host_and_port(probe.target, PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        packets = _Packets(connection)
        with probe.phase("greeting", DURATION):
            greeting = _greeting(await packets.receive())
        probe.set(SERVER, 1, greeting.version[:MAX_LABEL_CHARACTERS])
        if settings.tls:
            await _start_tls(probe, settings, packets, greeting, host)
        with probe.phase("auth", DURATION):
            try:
                await _log_in(settings, packets, greeting)
            except ProbeFailed as failed:
                if settings.user or not _accepts_connections(failed):
                    raise
                return
        if settings.user:
            await _ask(probe, settings, packets, greeting)
        connection.close(_QUIT)


def _accepts_connections(failed: ProbeFailed) -> bool:
    """Return whether a refused login shows that the server accepts connections."""
    is_refusal = failed.reason is Reason.AUTHENTICATION or "code" in failed.fields
    return is_refusal and failed.reason not in _CLOSED


async def _start_tls(probe: Probe, settings: MysqlSettings, packets: _Packets, greeting: Greeting, host: str) -> None:
    if not greeting.capabilities & _TLS:
        raise ProbeFailed(Reason.TLS_REQUIRED, "the server has no TLS, and the module requires it")
    await packets.send(_ssl_request(settings, greeting))
    if packets.connection.waiting:  # plaintext that follows could be injected
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server sent plaintext where TLS begins")
    await start_tls(probe, packets.connection, settings.tls_config, host, seconds=DURATION)


async def _log_in(settings: MysqlSettings, packets: _Packets, greeting: Greeting) -> None:
    """Log in with the plugin that the server asks for.

    Raises:
        ProbeFailed: the server refuses the login, or its packets are not a login.
    """
    login = _Login(settings)
    plugin = greeting.plugin if greeting.plugin in _SCRAMBLES else _NATIVE  # the server may switch to another one
    proof = login.begin(plugin, greeting.nonce)
    await packets.send(_ssl_request(settings, greeting) + _handshake_response(settings, greeting, plugin, proof))
    for _ in range(MAX_LOGIN_PACKETS):
        body = await packets.receive()
        kind, rest = body[:1], body[1:]
        if kind == b"\x00":
            return
        if kind == b"\xfe":
            name, _, nonce = rest.partition(b"\0")
            await packets.send(login.begin(name, nonce[:20]))
        elif kind == b"\x01":
            if answer := login.go_on(rest):
                await packets.send(answer)
        else:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the reply to the login is not a MySQL packet")
    raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the login did not end within {MAX_LOGIN_PACKETS} packets")


async def _ask(probe: Probe, settings: MysqlSettings, packets: _Packets, greeting: Greeting) -> None:
    """Run the module's query, then ask for the server's state; check it against the module's settings."""
    with probe.phase("query", DURATION):
        if settings.query:
            await _query(packets, settings.query)
    with probe.phase("state", DURATION):
        read_only = False
        with probe.optional("read_only", needed=settings.writable):
            read_only = await _read_only(packets)
            probe.set(READ_ONLY, read_only)
        sources: list[Row] = []
        with probe.optional("replication", needed=bool(settings.role or settings.max_lag)):
            sources = await _sources(packets, greeting)
            _report(probe, sources)
        _check(settings, read_only, sources)


async def _read_only(packets: _Packets) -> bool:
    answer = await _query(packets, "SELECT @@global.read_only AS read_only", rows=1)
    said = answer[0].get("read_only") if answer else None
    if said is None:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server does not say whether it is read-only")
    return said not in ("0", "OFF")  # MariaDB 12 has words for it


async def _sources(packets: _Packets, greeting: Greeting) -> list[Row]:
    """Return a row for each source that the server replicates from."""
    mariadb = ("SHOW ALL SLAVES STATUS",)
    mysql = ("SHOW REPLICA STATUS", "SHOW SLAVE STATUS")  # since 8.0.22, until 8.3
    *first, last = mariadb if "MariaDB" in greeting.version else mysql
    for statement in first:
        try:
            return await _query(packets, statement, rows=MAX_STATUS_ROWS)
        except ProbeFailed as failed:
            if failed.fields.get("code") != _SYNTAX:
                raise
    return await _query(packets, last, rows=MAX_STATUS_ROWS)


def _report(probe: Probe, sources: list[Row]) -> None:
    for source in sources:
        channel = (source.get("channel_name") or source.get("connection_name") or "")[:MAX_LABEL_CHARACTERS]
        probe.set(IO_RUNNING, source.get("replica_io_running") == "Yes", channel)
        probe.set(SQL_RUNNING, source.get("replica_sql_running") == "Yes", channel)
        lag = _lag(source)
        if lag is not None:
            probe.set(LAG, lag, channel)


def _check(settings: MysqlSettings, read_only: bool, sources: list[Row]) -> None:
    """Check the server's state against the module's settings."""
    role = "replica" if sources else "primary"
    if settings.role and settings.role != role:
        raise ProbeFailed(Reason.EXPECTATION, f"the server is a {role}, not a {settings.role}")
    if settings.writable and read_only:
        raise ProbeFailed(Reason.EXPECTATION, "the server is read-only")
    for lag in map(_lag, sources) if settings.max_lag else ():
        if lag is None or lag > settings.max_lag:
            what = "is stopped" if lag is None else f"lags by {lag:g} s; at most {settings.max_lag:g} s are allowed"
            raise ProbeFailed(Reason.EXPECTATION, f"replication {what}")


def _lag(source: Row) -> float | None:
    """Return the lag in seconds; None while replication is stopped, or if it is not a number."""
    text = source.get("seconds_behind_source")
    return float(text) if text is not None and text.isdecimal() else None


# --- packets -----------------------------------------------------------------------------------------------


class _Packets:
    """Packets over a connection, with the sequence numbers that both sides count."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._number = 0
        self._is_answered = True

    async def receive(self) -> bytes:
        """Return the body of the next packet, at least one byte.

        Raises:
            ProbeFailed: it is an error packet, or not a packet.
        """
        head = await self.connection.exactly(4)
        size = int.from_bytes(head[:3], "little")
        if not 1 <= size <= MAX_PACKET_BYTES:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, f"a packet has {size} bytes; 1 to {MAX_PACKET_BYTES} are allowed")
        self._number = head[3] + 1
        body = await self.connection.exactly(size)
        if body[0] == 0xFF:
            self._is_answered = True
            raise _error(body)
        return body

    async def send(self, body: bytes) -> None:
        """Send a packet in reply to the one received last."""
        number, self._number = self._number & 0xFF, self._number + 1
        await self.connection.write(len(body).to_bytes(3, "little") + bytes([number]) + body)

    async def command(self, body: bytes) -> None:
        """Send a command; `answered` has to be called once its reply is complete.

        Raises:
            ProbeFailed: the reply to the previous command is incomplete, so the next one would be mistaken for it.
        """
        if not self._is_answered:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the reply to the previous query is incomplete")
        self._is_answered = False
        self._number = 0
        await self.send(body)

    def answered(self) -> None:
        """Note that the reply to the last command is complete."""
        self._is_answered = True


def _error(body: bytes) -> ProbeFailed:
    code = int.from_bytes(body[1:3], "little")
    words = body[9:] if body[3:4] == b"#" else body[3:]  # the SQLSTATE is missing before the login
    reason = _REASONS.get(code, Reason.TARGET_ERROR)
    return ProbeFailed(reason, f"the server replied with an error: {_decode(words)[:200]}", code=code)


class Greeting(NamedTuple):
    """The server's first packet."""

    version: str
    capabilities: int
    plugin: bytes
    nonce: bytes


def _greeting(body: bytes) -> Greeting:
    """Parse a greeting of version 10, which servers have sent since MySQL 3.21."""
    version, _, rest = body[1:].partition(b"\0")
    if body[0] != 10 or len(rest) < 43:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the greeting is not a MySQL greeting", began=repr(body[:20]))
    capabilities = int.from_bytes(rest[13:15] + rest[18:20], "little")
    if not capabilities & _PROTOCOL_41 or not capabilities & _LONG_NONCE:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server is older than MySQL 4.1")
    plugin = rest[31 + max(13, rest[20] - 8) :].partition(b"\0")[0] if capabilities & _PLUGINS else _NATIVE
    # MariaDB puts "5.5.5-" in front, because old replicas refuse to follow a version 10.
    return Greeting(_decode(version).removeprefix("5.5.5-"), capabilities, plugin, rest[4:12] + rest[31:43])


def _ssl_request(settings: MysqlSettings, greeting: Greeting) -> bytes:
    """Return the first half of a login; alone it asks for TLS (SSLRequest)."""
    capabilities = _PROTOCOL_41 | _LONG_NONCE | greeting.capabilities & (_PLUGINS | _ATTRIBUTES)
    capabilities |= (_TLS if settings.tls else 0) | (_WITH_DATABASE if settings.database else 0)
    return struct.pack("<IIB23x", capabilities, MAX_PACKET_BYTES, _UTF8)


def _handshake_response(settings: MysqlSettings, greeting: Greeting, plugin: bytes, proof: bytes) -> bytes:
    """Return the second half of a login: user, proof of the password, database, plugin, attributes."""
    body = _encode(settings.user or "probe_exporter") + b"\0" + _counted(proof)
    if settings.database:
        body += _encode(settings.database) + b"\0"
    if greeting.capabilities & _PLUGINS:
        body += plugin + b"\0"
    if greeting.capabilities & _ATTRIBUTES:
        body += _counted(_counted(b"program_name") + _counted(b"probe_exporter"))
    return body


async def _query(packets: _Packets, query: str, *, rows: int = 0) -> list[Row]:
    """Run a query; return its first `rows` rows by column name, in lower case and in the words of MySQL 8.0.22.

    Raises:
        ProbeFailed: the query fails, or its reply is not valid.
    """
    await packets.command(_QUERY + _encode(query))
    found: list[Row] = []
    body = await packets.receive()
    if body[0] == 0xFB:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server asks for a local file")
    if body[0] != 0:
        count = int.from_bytes(body[1:9] if body[0] == 0xFC else body[:9], "little")
        if count > (MAX_STATUS_COLUMNS if rows else MAX_COLUMNS):
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the reply to the query is not a MySQL result")
        names: list[str] = []
        for _ in range(count):
            definition = await packets.receive()
            if rows:
                names.append(_column(definition))
        await packets.receive()  # the end of the columns
        while not _ends(body := await packets.receive()):
            if len(found) < rows:
                found.append(_row(names, body))
    packets.answered()
    return found


def _row(names: list[str], body: bytes) -> Row:
    values = list(islice(_strings(body), len(names) + 1))
    if len(values) != len(names):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "a row has another number of values than there are columns")
    decoded = [None if value is None else _decode(value) for value in values]
    return dict(zip(names, decoded, strict=True))


def _ends(body: bytes) -> bool:
    return body[0] == 0xFE and len(body) < 9


def _column(definition: bytes) -> str:
    parts = list(islice(_strings(definition), 5))
    name = parts[4] if len(parts) == 5 else None
    if name is None:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "a column of the result has no name")
    return _decode(name).lower().replace("slave", "replica").replace("master", "source")


def _strings(body: bytes) -> Iterator[bytes | None]:
    """Yield length-encoded strings; None is NULL."""
    place = 0
    while place < len(body):
        size = body[place]
        place += 1
        if size == 0xFB:
            yield None
            continue
        if size > 0xFB:
            width = {0xFC: 2, 0xFD: 3}.get(size, 8)
            size = int.from_bytes(body[place : place + width], "little")
            place += width
        if size > len(body) - place:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "a value of the result is longer than its packet")
        yield body[place : place + size]
        place += size


def _counted(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape").replace(b"\0", b"")


def _decode(data: bytes) -> str:
    return data[:MAX_VALUE_BYTES].decode("utf-8", "replace")


# --- passwords ---------------------------------------------------------------------------------------------


def _scramble(password: bytes, nonce: bytes, algorithm: str, *, nonce_first: bool) -> bytes:
    """Return a proof of the password for a server that has its double hash."""
    once = hashlib.new(algorithm, password, usedforsecurity=False).digest()
    twice = hashlib.new(algorithm, once, usedforsecurity=False).digest()
    mixed = hashlib.new(algorithm, nonce + twice if nonce_first else twice + nonce, usedforsecurity=False).digest()
    return bytes(one ^ other for one, other in zip(once, mixed, strict=True))


_NATIVE, _CACHING = b"mysql_native_password", b"caching_sha2_password"
_SCRAMBLES = {_NATIVE: ("sha1", True), _CACHING: ("sha256", False)}


class _Login:
    """The client's half of a login: the reply to each request of the server."""

    def __init__(self, settings: MysqlSettings) -> None:
        self._password = _encode(settings.password.reveal())
        self._tls = settings.tls
        self._fetch_key = settings.fetch_server_key
        self._plugin = b""
        self._nonce = b""
        self._awaits_key = False

    def begin(self, plugin: bytes, nonce: bytes) -> bytes:
        """Return the proof of the password that a plugin asks for; empty without a password.

        Raises:
            ProbeFailed: the plugin is unsupported, or would send the password in clear.
        """
        self._plugin, self._nonce = plugin, nonce
        if not self._password:
            return b""
        if plugin not in _SCRAMBLES:
            name = _decode(plugin)[:100]
            raise ProbeFailed(Reason.AUTHENTICATION, f"the server asks for an unsupported login plugin: {name!r}")
        if len(nonce) != 20:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's nonce does not have 20 bytes")
        algorithm, nonce_first = _SCRAMBLES[plugin]
        return _scramble(self._password, nonce, algorithm, nonce_first=nonce_first)

    def go_on(self, request: bytes) -> bytes:
        """Return the reply to a further request of caching_sha2_password; empty if it needs none.

        Raises:
            ProbeFailed: the plugin asks for the password itself, and neither TLS nor a key protects it.
        """
        if self._plugin != _CACHING or not self._password:
            raise ProbeFailed(Reason.AUTHENTICATION, "the server asks for more than a password")
        if self._awaits_key:
            self._awaits_key = False
            return _encrypted(self._password + b"\0", self._nonce, request)
        if request == b"\x03":
            return b""
        if request != b"\x04":
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's request is not one of caching_sha2_password")
        if self._tls:
            return self._password + b"\0"
        if not self._fetch_key:
            raise ProbeFailed(
                Reason.AUTHENTICATION,
                "the server asks for the password itself; set `tls: true`, or `fetch_server_key: true`",
            )
        self._awaits_key = True
        return b"\x02"


def _encrypted(password: bytes, nonce: bytes, pem: bytes) -> bytes:
    """Return the password encrypted with a server's RSA key.

    Raises:
        ProbeFailed: the key is invalid, too large, or not RSA.
    """
    mixed = bytes(letter ^ nonce[place % len(nonce)] for place, letter in enumerate(password))
    try:
        key = load_pem_public_key(pem) if len(pem) <= MAX_KEY_BYTES else None
        if isinstance(key, rsa.RSAPublicKey) and key.key_size <= MAX_KEY_BITS:
            return key.encrypt(mixed, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None))
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's key is not a usable RSA key")


prober = Prober("mysql", MysqlSettings, probe_mysql, with_hostname=with_server_name, reasons=(HOST_BLOCKED,))
