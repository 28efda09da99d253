"""MySQL and MariaDB: a server that takes connections; with a login, one that answers a query, and what it replicates.

The protocol is MySQL's (dev.mysql.com and mariadb.com, "Client/Server Protocol"): packets of a length, a number and a
body, and the server speaks first. Without a login a user that nobody knows knocks, and is refused: who leaves before
that is counted by a MySQL (`max_connect_errors`), and locked out after a hundred times.
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
LONGEST_PACKET = 1024 * 1024
LONGEST_KEY = 8192
"""Of a server's RSA key as PEM, and of its modulus in bits."""
LONGEST_LABEL = 128
MOST_COLUMNS = 4096  # MySQL's own limit
MOST_ROWS = 256
"""Of an answer, that are kept: more channels than a replica has (256 is MySQL's own limit)."""
MOST_TURNS = 10

DURATION = Metric("probe_mysql_duration_seconds", "How long each phase took.", ("phase",))
SERVER = Metric("probe_mysql_server_info", "What the server says of itself.", ("version",), type="info")
READ_ONLY = Metric("probe_mysql_read_only", "1 on a server that takes no writes but from replication and its masters.")
IO_RUNNING = Metric(
    "probe_mysql_replica_io_running", "Whether this replica is connected to its source, by channel.", ("channel",)
)
SQL_RUNNING = Metric(
    "probe_mysql_replica_sql_running", "Whether this replica applies what comes, by channel.", ("channel",)
)
LAG = Metric(
    "probe_mysql_replica_lag_seconds", "How far this replica is behind its source, by its own account.", ("channel",)
)

HOST_BLOCKED = OwnReason("mysql_host_blocked", "The server takes no connections from where we are.")

# Error numbers (both manuals' "Server Error Reference") that say more than that something is wrong.
_REASONS: Mapping[int, Reason | OwnReason] = {
    **dict.fromkeys((1044, 1045, 1142, 1143, 1227, 1251, 1698, 1820, 1862, 3118, 4151), Reason.AUTHENTICATION),
    **dict.fromkeys((1053, 1077, 1079, 3032), Reason.TARGET_NOT_READY),  # it shuts down, or is taken offline
    **dict.fromkeys((1040, 1203, 1226), Reason.TARGET_FULL),  # in all, or of our user
    **dict.fromkeys((1129, 1130), HOST_BLOCKED),
    3159: Reason.TLS_REQUIRED,
}
_SYNTAX = 1064

# Capabilities: what both sides can do.
_WITH_DATABASE, _PROTOCOL_41, _TLS, _LONG_NONCE = 0x8, 0x200, 0x800, 0x8000
_PLUGINS, _ATTRIBUTES = 0x80000, 0x100000
_UTF8 = 45  # utf8mb4_general_ci
_QUERY = b"\x03"
_GOODBYE = b"\x01\0\0\0\x01"

Row = Mapping[str, str | None]


class MysqlSettings(SourceSettings):
    """The ``mysql`` block of a module.

    Args:
        writable: the server must take writes.
        fetch_server_key: without TLS, a caching_sha2_password may go to the server by an RSA key that it sends, which
            nobody vouches for; whoever sits in between can read it.
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
    """Asks a MySQL or MariaDB for a connection, and with a login a query."""
    host, port = host_and_port(probe.target, PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        packets = _Packets(connection)
        with probe.phase("greeting", DURATION):
            greeting = _greeting(await packets.receive())
        probe.set(SERVER, 1, greeting.version[:LONGEST_LABEL])
        if settings.tls:
            await _start_tls(probe, settings, packets, greeting, host)
        with probe.phase("auth", DURATION):
            try:
                await _log_in(settings, packets, greeting)
            except ProbeFailed as failed:
                if settings.user or failed.reason is not Reason.AUTHENTICATION:
                    raise
                return  # a server that does not know us is one that takes connections
        if settings.user:
            await _ask(probe, settings, packets, greeting)
        connection.close(_GOODBYE)


async def _start_tls(probe: Probe, settings: MysqlSettings, packets: _Packets, greeting: Greeting, host: str) -> None:
    if not greeting.capabilities & _TLS:
        raise ProbeFailed(Reason.TLS_REQUIRED, "the server has no TLS, and the module wants it")
    await packets.send(_introduction(settings, greeting))
    if packets.connection.waiting:  # what comes in clear would be taken for the server's inside TLS
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server goes on in clear where TLS begins")
    await start_tls(probe, packets.connection, settings.tls_config, host, seconds=DURATION)


async def _log_in(settings: MysqlSettings, packets: _Packets, greeting: Greeting) -> None:
    """Say who we are in the way the server wants it, until it welcomes us."""
    login = _Login(settings)
    plugin = greeting.plugin if greeting.plugin in _SCRAMBLES else _NATIVE  # another one will be asked for by name
    await packets.send(
        _introduction(settings, greeting) + _names(settings, greeting, plugin, login.begin(plugin, greeting.nonce))
    )
    for _ in range(MOST_TURNS):
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
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the answer to our login is not of MySQL's protocol")
    raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's login does not come to an end")


async def _ask(probe: Probe, settings: MysqlSettings, packets: _Packets, greeting: Greeting) -> None:
    """The module's query, and what the server is; both held against what the module expects."""
    with probe.phase("query", DURATION):
        if settings.query:
            await _query(packets, settings.query)
    with probe.phase("state", DURATION):
        answer = await _query(packets, "SELECT @@global.read_only AS read_only")
        said = answer[0].get("read_only") if answer else None
        if said is None:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server does not say whether it takes writes")
        read_only = said not in ("0", "OFF")  # MariaDB 12 has words for it
        probe.set(READ_ONLY, read_only)
        sources = await _sources(probe, settings, packets, greeting)
        _report(probe, sources)
        _check(settings, read_only, sources)


async def _sources(probe: Probe, settings: MysqlSettings, packets: _Packets, greeting: Greeting) -> list[Row]:
    """Whom the server replicates from; nobody where the user may not ask and the module does not need it."""
    mariadb = ("SHOW ALL SLAVES STATUS",)
    mysql = ("SHOW REPLICA STATUS", "SHOW SLAVE STATUS")  # since 8.0.22, until 8.3
    statements = mariadb if "MariaDB" in greeting.version else mysql
    for statement in statements:
        try:
            return await _query(packets, statement)
        except ProbeFailed as failed:
            if failed.fields.get("code") == _SYNTAX and statement != statements[-1]:
                continue
            if failed.reason is not Reason.AUTHENTICATION or settings.role or settings.max_lag:
                raise
            probe.log("The user may not ask for the state of replication", err=failed.message)
    return []


def _report(probe: Probe, sources: list[Row]) -> None:
    for source in sources:
        channel = (source.get("channel_name") or source.get("connection_name") or "")[:LONGEST_LABEL]
        probe.set(IO_RUNNING, source.get("replica_io_running") == "Yes", channel)
        probe.set(SQL_RUNNING, source.get("replica_sql_running") == "Yes", channel)
        lag = _lag(source)
        if lag is not None:
            probe.set(LAG, lag, channel)


def _check(settings: MysqlSettings, read_only: bool, sources: list[Row]) -> None:
    role = "replica" if sources else "primary"
    if settings.role and settings.role != role:
        raise ProbeFailed(Reason.EXPECTATION, f"the server is a {role}, not a {settings.role}")
    if settings.writable and read_only:
        raise ProbeFailed(Reason.EXPECTATION, "the server is read-only")
    for lag in map(_lag, sources):
        if settings.max_lag and (lag is None or lag > settings.max_lag):
            what = "does not run" if lag is None else f"lags by {lag:g} s, more than {settings.max_lag:g} s"
            raise ProbeFailed(Reason.EXPECTATION, f"replication {what}")


def _lag(source: Row) -> float | None:
    """Seconds; None while replication does not run."""
    text = source.get("seconds_behind_source")
    if text is not None and not text.isdecimal():
        raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the lag is no number: {text[:100]!r}")
    return None if text is None else float(text)


# --- packets -----------------------------------------------------------------------------------------------


class _Packets:
    """Packets over a connection, which both sides number alike."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._number = 0

    async def receive(self) -> bytes:
        """The body of the next packet, of at least one byte.

        Raises:
            ProbeFailed: it is an error, or no packet.
        """
        head = await self.connection.exactly(4)
        size = int.from_bytes(head[:3], "little")
        if not 1 <= size <= LONGEST_PACKET:
            raise ProbeFailed(
                Reason.PROTOCOL_ERROR, f"a packet of {size} bytes is none of MySQL's, or beyond what we take"
            )
        self._number = head[3] + 1
        body = await self.connection.exactly(size)
        if body[0] == 0xFF:
            raise _error(body)
        return body

    async def send(self, body: bytes) -> None:
        """Answer what was received last."""
        number, self._number = self._number & 0xFF, self._number + 1
        await self.connection.write(len(body).to_bytes(3, "little") + bytes([number]) + body)

    async def command(self, body: bytes) -> None:
        """Begin anew."""
        self._number = 0
        await self.send(body)


def _error(body: bytes) -> ProbeFailed:
    code = int.from_bytes(body[1:3], "little")
    words = body[9:] if body[3:4] == b"#" else body[3:]  # with an SQLSTATE or, before the login, without
    reason = _REASONS.get(code, Reason.TARGET_ERROR)
    return ProbeFailed(reason, f"the server answers with an error: {_decode(words)[:200]}", code=code)


class Greeting(NamedTuple):
    """What a server begins with."""

    version: str
    capabilities: int
    plugin: bytes
    nonce: bytes


def _greeting(body: bytes) -> Greeting:
    """Version 10 of it, which there has been since MySQL 3.21."""
    version, _, rest = body[1:].partition(b"\0")
    if body[0] != 10 or len(rest) < 43:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the greeting is not of MySQL's protocol", began=repr(body[:20]))
    capabilities = int.from_bytes(rest[13:15] + rest[18:20], "little")
    if not capabilities & _PROTOCOL_41 or not capabilities & _LONG_NONCE:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server is older than MySQL 4.1")
    plugin = rest[31 + max(13, rest[20] - 8) :].partition(b"\0")[0] if capabilities & _PLUGINS else _NATIVE
    # MariaDB calls itself a 5.5.5 first, for replicas that would not follow a 10.
    return Greeting(_decode(version).removeprefix("5.5.5-"), capabilities, plugin, rest[4:12] + rest[31:43])


def _introduction(settings: MysqlSettings, greeting: Greeting) -> bytes:
    """The first half of who we are, which also asks for TLS."""
    capabilities = _PROTOCOL_41 | _LONG_NONCE | greeting.capabilities & (_PLUGINS | _ATTRIBUTES)
    capabilities |= (_TLS if settings.tls else 0) | (_WITH_DATABASE if settings.database else 0)
    return struct.pack("<IIB23x", capabilities, LONGEST_PACKET, _UTF8)


def _names(settings: MysqlSettings, greeting: Greeting, plugin: bytes, proof: bytes) -> bytes:
    """The second half, which is the login's."""
    body = _encode(settings.user or "probe_exporter") + b"\0" + _counted(proof)
    if settings.database:
        body += _encode(settings.database) + b"\0"
    if greeting.capabilities & _PLUGINS:
        body += plugin + b"\0"
    if greeting.capabilities & _ATTRIBUTES:
        body += _counted(_counted(b"program_name") + _counted(b"probe_exporter"))
    return body


async def _query(packets: _Packets, query: str) -> list[Row]:
    """The rows of a query's answer, but no more than `MOST_ROWS`, by the columns' names: small letters, in MySQL's
    words of today."""
    await packets.command(_QUERY + _encode(query))
    body = await packets.receive()
    if body[0] == 0:
        return []
    if body[0] == 0xFB:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server asks for a file of ours")
    count = int.from_bytes(body[1:] if body[0] == 0xFC else body, "little")
    if count > MOST_COLUMNS:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the answer to the query is not of MySQL's protocol")
    names = [_column(await packets.receive()) for _ in range(count)]
    await packets.receive()  # the end of the columns
    rows: list[Row] = []
    while not _ends(body := await packets.receive()):
        if len(rows) < MOST_ROWS:
            values = [None if value is None else _decode(value) for value in _strings(body)]
            if len(values) != count:
                raise ProbeFailed(Reason.PROTOCOL_ERROR, "a row has not as many values as there are columns")
            rows.append(dict(zip(names, values, strict=True)))
    return rows


def _ends(body: bytes) -> bool:
    return body[0] == 0xFE and len(body) < 9


def _column(definition: bytes) -> str:
    parts = list(islice(_strings(definition), 5))
    name = parts[4] if len(parts) == 5 else None
    if name is None:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "a column has no name")
    return _decode(name).lower().replace("slave", "replica").replace("master", "source")


def _strings(body: bytes) -> Iterator[bytes | None]:
    """Strings with their lengths before them, in as few bytes as will do; None for NULL."""
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
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "a value is longer than what it is in")
        yield body[place : place + size]
        place += size


def _counted(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape").replace(b"\0", b"")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")


# --- passwords ---------------------------------------------------------------------------------------------


def _scramble(password: bytes, nonce: bytes, algorithm: str, *, nonce_first: bool) -> bytes:
    """That we know the password, to one that knows its double hash."""
    once = hashlib.new(algorithm, password, usedforsecurity=False).digest()
    twice = hashlib.new(algorithm, once, usedforsecurity=False).digest()
    mixed = hashlib.new(algorithm, nonce + twice if nonce_first else twice + nonce, usedforsecurity=False).digest()
    return bytes(one ^ other for one, other in zip(once, mixed, strict=True))


_NATIVE, _CACHING = b"mysql_native_password", b"caching_sha2_password"
_SCRAMBLES = {_NATIVE: ("sha1", True), _CACHING: ("sha256", False)}


class _Login:
    """The half of a login that is ours: what to say to what the server asks."""

    def __init__(self, settings: MysqlSettings) -> None:
        self._password = _encode(settings.password.reveal())
        self._tls = settings.tls
        self._fetch_key = settings.fetch_server_key
        self._plugin = b""
        self._nonce = b""
        self._awaits_key = False

    def begin(self, plugin: bytes, nonce: bytes) -> bytes:
        """The proof that a plugin wants; without a password nothing, whatever the plugin.

        Raises:
            ProbeFailed: it wants what we can't give, or won't, such as the password in clear.
        """
        self._plugin, self._nonce = plugin, nonce
        if not self._password:
            return b""
        if plugin not in _SCRAMBLES:
            name = _decode(plugin)[:100]
            raise ProbeFailed(Reason.AUTHENTICATION, f"the server wants a login of a kind that we lack: {name!r}")
        if len(nonce) != 20:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's challenge is too short")
        algorithm, nonce_first = _SCRAMBLES[plugin]
        return _scramble(self._password, nonce, algorithm, nonce_first=nonce_first)

    def go_on(self, request: bytes) -> bytes:
        """What caching_sha2_password wants beyond the proof; nothing where it only tells that the proof is good.

        Raises:
            ProbeFailed: it wants the password itself, and nothing keeps that secret on its way.
        """
        if self._plugin != _CACHING or not self._password:
            raise ProbeFailed(Reason.AUTHENTICATION, "the server wants more than a password")
        if self._awaits_key:
            self._awaits_key = False
            return _encrypted(self._password + b"\0", self._nonce, request)
        if request == b"\x03":
            return b""
        if request != b"\x04":
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "what the server wants is not of caching_sha2_password")
        if self._tls:
            return self._password + b"\0"
        if not self._fetch_key:
            raise ProbeFailed(
                Reason.AUTHENTICATION, "the server wants the password itself: that takes `tls`, or `fetch_server_key`"
            )
        self._awaits_key = True
        return b"\x02"


def _encrypted(password: bytes, nonce: bytes, pem: bytes) -> bytes:
    """The password for the owner of a key.

    Raises:
        ProbeFailed: it is none that can be used.
    """
    mixed = bytes(letter ^ nonce[place % len(nonce)] for place, letter in enumerate(password))
    try:
        key = load_pem_public_key(pem) if len(pem) <= LONGEST_KEY else None
        if isinstance(key, rsa.RSAPublicKey) and key.key_size <= LONGEST_KEY:
            return key.encrypt(mixed, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None))
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's key can't be used")


prober = Prober("mysql", MysqlSettings, probe_mysql, with_hostname=with_server_name, reasons=(HOST_BLOCKED,))
