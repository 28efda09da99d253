"""The postgres prober: check that a PostgreSQL server accepts connections; with a login, run a query.

* The protocol is version 3.0 (postgresql.org/docs, "Frontend/Backend Protocol"). A message is a letter, a length of
  four bytes, and a body. Only the client's first message and the request for TLS have no letter.
* Without a `user` the probe does what `pg_isready` does: it sends a startup message with the user `probe_exporter`.
  Any reply shows that the server accepts connections, an error too; only the error 57P03 (cannot_connect_now) does not.
* With a `user` the server asks for a password (`_Login`), then sends parameters, then ReadyForQuery (Z). A query is
  answered by rows (D) and again by ReadyForQuery.
* The state of replication is optional: it fails the probe only if `role` or `max_lag` need it. Poolers and servers that
  merely speak the protocol don't have it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import math
import secrets
import struct
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

from probe_exporter import (
    CertificateSettings,
    Connection,
    Duration,
    Metric,
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

PORT = 5432
MAX_MESSAGE_BYTES = 1024 * 1024
MAX_ERROR_FIELDS = 32
MAX_CHALLENGE_BYTES = 4096
MAX_SALT_BYTES = 1024
MAX_LABEL_CHARACTERS = 128
MAX_MESSAGES = 1000
MAX_ITERATIONS = 100_000
"""Rounds of a password's hash that a server may ask for: 35 ms of CPU time. PostgreSQL asks for 4096."""
MAX_ITERATIONS_IN_LOOP = 10_000
"""More than these (3.5 ms) are computed in a thread, so that other probes go on."""

DURATION = Metric("probe_postgres_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=6)
SERVER = Metric("probe_postgres_server_info", "Version of the server; with a login.", ("version",), type="info")
IN_RECOVERY = Metric("probe_postgres_in_recovery", "1 on a standby, 0 on a primary.")
REPLAY_LAG = Metric(
    "probe_postgres_replay_lag_seconds",
    "Age of the last transaction that the standby replayed; 0 if it is streaming and has replayed all it received.",
)

_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_PROTOCOL = 196608  # 3.0
_IN_RECOVERY = "SELECT pg_is_in_recovery()"
_LAG = (
    "SELECT CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()"
    " AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0"
    " ELSE EXTRACT(EPOCH FROM now() - pg_last_xact_replay_timestamp()) END"
)
"""Without writes on the primary the last transaction grows old, so a standby that has replayed all has no lag."""

_CANNOT_CONNECT_NOW = "57P03"

# The classes and codes of SQLSTATE (appendix A of the manual) with a more specific reason than `target_error`.
_REASONS = {
    "28": Reason.AUTHENTICATION,
    "42501": Reason.AUTHENTICATION,  # insufficient_privilege
    "53300": Reason.TARGET_FULL,
    **dict.fromkeys(("57P01", "57P02", _CANNOT_CONNECT_NOW), Reason.TARGET_NOT_READY),
}

# PgBouncer reports every error as 08P01; only the message tells them apart.
_POOLED = {"authentication failed": Reason.AUTHENTICATION, "no more connections allowed": Reason.TARGET_FULL}

Message = tuple[bytes, bytes]


class PostgresSettings(CertificateSettings, SourceSettings):
    """The ``postgres`` block of a module.

    Args:
        tls: use TLS; a server without it fails the probe.
        tls_config: settings of TLS.
        user: user name; without one, there is no login.
        password: password.
        database: database to open; the user name by default.
        query: query that must succeed.
        role: role that the server must have.
        max_lag: maximum replay lag of a standby.
    """

    rules = (
        needs(
            ("query", "role", "max_lag"), ("user",), "needs a login: a `user`, and a `password` if the server wants one"
        ),
        needs(("password",), ("user",), "a `password` needs a `user`"),
    )
    tls: bool = False
    tls_config: TLSSettings = TLSSettings()
    user: Text = ""
    password: Secret = Secret("")
    database: Text = "postgres"
    query: Text = "SELECT 1"
    role: Literal["", "primary", "standby"] = ""
    max_lag: Duration = 0.0


class State(NamedTuple):
    """Replication state of a server: whether it is a standby, and its lag in seconds. None is unknown."""

    standby: bool | None = None
    lag: float | None = None


async def probe_postgres(probe: Probe, settings: PostgresSettings) -> None:
    """Asks a PostgreSQL server for a connection and, with a login, runs a query."""
    host, port = host_and_port(probe.target, PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        if settings.tls:
            await _start_tls(probe, settings, connection, host)
        with probe.phase("startup", DURATION):
            await connection.write(_startup(settings))
            first = await _receive(connection, error_passes=not settings.user)
            if first[0] not in b"RE":
                raise ProbeFailed(
                    Reason.PROTOCOL_ERROR, "the reply to the startup message is neither a login nor an error"
                )
        if not settings.user:
            return
        with probe.phase("auth", DURATION):
            await _log_in(probe, settings, connection, first)
        with probe.phase("query", DURATION):
            await _query(connection, settings.query)
            state = await _state(probe, settings, connection)
        connection.close(_message(b"X"))
    _report(probe, state)
    _check(settings, state)


async def _start_tls(probe: Probe, settings: PostgresSettings, connection: Connection, host: str) -> None:
    await connection.write(_SSL_REQUEST)
    answer = await connection.exactly(1)
    if answer == b"N":
        raise ProbeFailed(Reason.TLS_REQUIRED, "the server has no TLS, and the module requires it")
    if answer != b"S" or connection.waiting:  # plaintext that follows could be injected (CVE-2021-23222)
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the reply to the request for TLS is not a PostgreSQL reply")
    await start_tls(probe, connection, settings.tls_config, host, seconds=DURATION)


def _startup(settings: PostgresSettings) -> bytes:
    parameters = {
        "user": settings.user or "probe_exporter",
        "database": settings.database,
        "application_name": "probe_exporter",
        "client_encoding": "UTF8",
    }
    pairs = b"".join([_text(name) + _text(value) for name, value in parameters.items()])
    body = struct.pack("!I", _PROTOCOL) + pairs + b"\0"
    return struct.pack("!I", len(body) + 4) + body


async def _log_in(probe: Probe, settings: PostgresSettings, connection: Connection, message: Message) -> None:
    """Log in with the method that the server asks for; return when it is ready for queries.

    Args:
        message: the server's first message.

    Raises:
        ProbeFailed: the server refuses the login, asks for an unsupported method, or never gets ready.
    """
    login = _Login(settings.user, settings.password.reveal(), tls=settings.tls)
    for _ in range(MAX_MESSAGES):
        kind, body = message
        if kind == b"Z":
            return
        if kind == b"R":
            answer = await login.answer(int.from_bytes(body[:4], "big"), body[4:])
            if answer:
                await connection.write(_message(b"p", answer))
        elif kind == b"S" and body.startswith(b"server_version\0"):
            version = body.split(b"\0", 2)[1][: 4 * MAX_LABEL_CHARACTERS]
            probe.set(SERVER, 1, version.decode("utf-8", "replace")[:MAX_LABEL_CHARACTERS])
        message = await _receive(connection)
    raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the login did not end within {MAX_MESSAGES} messages")


async def _state(probe: Probe, settings: PostgresSettings, connection: Connection) -> State:
    """Ask for the state of replication; what no setting needs may stay unknown.

    Raises:
        ProbeFailed: `role` or `max_lag` need an answer that the server did not give.
    """
    state = State()
    with probe.optional("pg_is_in_recovery()", needed=bool(settings.role or settings.max_lag)):
        state = State(await _query(connection, _IN_RECOVERY, columns=1) == [b"t"])
    if state.standby:
        with probe.optional("replay lag", needed=bool(settings.max_lag)):
            (lag,) = await _query(connection, _LAG, columns=1)
            state = State(True, None if lag is None else _seconds(lag))
    return state


def _seconds(text: bytes) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the replay lag is not a number: {text[:100]!r}")
    return seconds


async def _query(connection: Connection, query: str, *, columns: int = 0) -> list[bytes | None]:
    """Run a query; return the first columns of its first row.

    Raises:
        ProbeFailed: the query fails, or there are fewer columns, or no row although columns are wanted.
    """
    await connection.write(_message(b"Q", _text(query)))
    row: list[bytes | None] | None = None
    while True:
        kind, body = await _receive(connection)
        if kind == b"D" and row is None:
            row = _columns(body, columns)
        if kind == b"Z":
            if columns and row is None:
                raise ProbeFailed(Reason.PROTOCOL_ERROR, "the reply to a query of the prober has no row")
            return row or []


def _columns(body: bytes, count: int) -> list[bytes | None]:
    """Return the first `count` columns of a row; None is NULL."""
    found: list[bytes | None] = []
    place = 2
    for _ in range(count):
        size = int.from_bytes(body[place : place + 4], "big", signed=True)
        place += 4
        if count > int.from_bytes(body[:2], "big") or size > len(body) - place:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "a row of the reply is too short")
        found.append(None if size < 0 else body[place : place + size])
        place += max(size, 0)
    return found


def _report(probe: Probe, state: State) -> None:
    if state.standby is not None:
        probe.set(IN_RECOVERY, state.standby)
    if state.lag is not None:
        probe.set(REPLAY_LAG, state.lag)


def _check(settings: PostgresSettings, state: State) -> None:
    """Check the server's role and lag against the module's settings."""
    role = "standby" if state.standby else "primary"
    if settings.role and settings.role != role:
        raise ProbeFailed(Reason.EXPECTATION, f"the server is a {role}, not a {settings.role}")
    if state.standby and settings.max_lag and (state.lag is None or state.lag > settings.max_lag):
        lag = "has an unknown lag" if state.lag is None else f"lags by {state.lag:g} s"
        raise ProbeFailed(Reason.EXPECTATION, f"the standby {lag}; at most {settings.max_lag:g} s are allowed")


# --- messages ----------------------------------------------------------------------------------------------


def _message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape").replace(b"\0", b"") + b"\0"


async def _receive(connection: Connection, *, error_passes: bool = False) -> Message:
    """Return the next message; skip notices and notifications.

    Args:
        error_passes: return an error message too, if it shows that the server accepts connections.

    Raises:
        ProbeFailed: the message is an error, or not of this protocol.
    """
    for _ in range(MAX_MESSAGES):
        kind, size = struct.unpack("!cI", await connection.exactly(5))
        if kind not in b"RSKZTDCENIA" or not 4 <= size <= MAX_MESSAGE_BYTES:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the reply is not a PostgreSQL message", began=repr(kind))
        body = await connection.exactly(size - 4)
        if kind == b"E":
            failed = _error(body)
            if not (error_passes and _accepts_connections(failed)):
                raise failed
        if kind not in b"NA":  # NoticeResponse, NotificationResponse
            return kind, body
    raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the server sent {MAX_MESSAGES} notices and nothing else")


def _accepts_connections(failed: ProbeFailed) -> bool:
    """Return what `pg_isready` concludes from an error: only 57P03, or one without SQLSTATE, means no."""
    code = str(failed.fields["sqlstate"])
    return len(code) == 5 and code != _CANNOT_CONNECT_NOW


def _error(body: bytes) -> ProbeFailed:
    """Return the failure for an ErrorResponse: fields of a letter and a text, each with a NUL at its end."""
    parts = body.split(b"\0", MAX_ERROR_FIELDS)[:MAX_ERROR_FIELDS]
    fields: Mapping[str, str] = {
        part[:1].decode("latin-1"): part[1:1000].decode("utf-8", "replace") for part in parts if part
    }
    code, words = fields.get("C", "")[:10], fields.get("M", "")[:200]
    reason = _REASONS.get(code) or _REASONS.get(code[:2]) or Reason.TARGET_ERROR
    if code == "08P01":
        reason = next((reason for part, reason in _POOLED.items() if part in words), reason)
    return ProbeFailed(reason, f"the server replied with an error: {words}", sqlstate=code)


# --- passwords ---------------------------------------------------------------------------------------------


class _Login:
    """The client's half of a login: the reply to each authentication request of the server."""

    def __init__(self, user: str, password: str, *, tls: bool) -> None:
        self._user = user.encode("utf-8", "surrogateescape")
        # SASLprep (RFC 4013) changes passwords beyond ASCII; of its steps only the normalisation matters in practice.
        self._password = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogateescape")
        self._tls = tls
        self._scram: _Scram | None = None

    async def answer(self, request: int, rest: bytes) -> bytes:
        """Return the reply to a request; empty if it needs none.

        Args:
            request: the number of the request, as the protocol defines it.
            rest: the data that follows it.

        Raises:
            ProbeFailed: the method is unsupported or unsafe, or the server does not prove that it knows the password.
        """
        if request == 3:  # AuthenticationCleartextPassword
            if not self._tls:  # otherwise anyone on the network path could ask for the password
                raise ProbeFailed(Reason.AUTHENTICATION, "the server asks for the password in clear; set `tls: true`")
            return self._password + b"\0"
        if request == 5:  # AuthenticationMD5Password
            return self._md5(rest[:4])
        if request == 10 and b"SCRAM-SHA-256" in rest[:MAX_CHALLENGE_BYTES].split(b"\0"):
            if self._scram is not None:  # each login costs the client a hash
                raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server starts a second login")
            self._scram = _Scram(self._password)
            return self._scram.first()
        if request == 11 and self._scram is not None:
            return await self._scram.final(rest)
        if request == 12 and self._scram is not None:
            self._scram.check(rest)
        elif request != 0:
            raise ProbeFailed(Reason.AUTHENTICATION, f"the server asks for an unsupported login method (no. {request})")
        elif self._scram is not None and not self._scram.checked:
            raise ProbeFailed(Reason.AUTHENTICATION, "the server does not prove that it knows the password")
        return b""

    def _md5(self, salt: bytes) -> bytes:
        inner = hashlib.md5(self._password + self._user, usedforsecurity=False).hexdigest()
        outer = hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest()
        return f"md5{outer}".encode() + b"\0"


@lru_cache(maxsize=256)  # a server salts a password the same way each time: saves 1.3 ms a probe
def _salted(password: bytes, salt: bytes, rounds: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password, salt, rounds)


class _Scram:
    """One login with SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding.

    Attributes:
        checked: the server has proved that it knows the password.
    """

    def __init__(self, password: bytes) -> None:
        self.checked = False
        self._password = password
        self._nonce = base64.b64encode(secrets.token_bytes(18))
        self._bare = b"n=,r=" + self._nonce
        self._proof_of_server = b""

    def first(self) -> bytes:
        """Return the client-first-message."""
        data = b"n,," + self._bare
        return b"SCRAM-SHA-256\0" + struct.pack("!I", len(data)) + data

    async def final(self, challenge: bytes) -> bytes:
        """Return the client-final-message for the server's challenge.

        Raises:
            ProbeFailed: the challenge is invalid, too expensive, or not the first.
        """
        try:
            parts = dict(part.split(b"=", 1) for part in challenge[:MAX_CHALLENGE_BYTES].split(b","))
            nonce, salt, rounds = parts[b"r"], base64.b64decode(parts[b"s"]), int(parts[b"i"])
        except (ValueError, KeyError):
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's challenge is not a SCRAM challenge") from None
        in_bounds = 1 <= rounds <= MAX_ITERATIONS and len(salt) <= MAX_SALT_BYTES
        if self._proof_of_server or not nonce.startswith(self._nonce) or not in_bounds:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's challenge does not answer the client's message")
        salted = await self._salt(salt, rounds)
        without_proof = b"c=biws,r=" + nonce
        signed = b",".join([self._bare, challenge, without_proof])
        client, server = (hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key"))
        signature = hmac.digest(hashlib.sha256(client).digest(), signed, "sha256")
        self._proof_of_server = base64.b64encode(hmac.digest(server, signed, "sha256"))
        proof = bytes(one ^ other for one, other in zip(client, signature, strict=True))
        return without_proof + b",p=" + base64.b64encode(proof)

    async def _salt(self, salt: bytes, rounds: int) -> bytes:
        if rounds <= MAX_ITERATIONS_IN_LOOP:
            return _salted(self._password, salt, rounds)
        return await asyncio.to_thread(_salted, self._password, salt, rounds)

    def check(self, outcome: bytes) -> None:
        """Check the server-final-message.

        Raises:
            ProbeFailed: the server does not know the password.
        """
        if not hmac.compare_digest(outcome, b"v=" + self._proof_of_server):
            raise ProbeFailed(Reason.AUTHENTICATION, "the server does not know the password that it asks for")
        self.checked = True


prober = Prober("postgres", PostgresSettings, probe_postgres, with_hostname=with_server_name)
