"""PostgreSQL: a server that takes connections; with a login, one that answers a query, and its part in replication.

The protocol is 3.0 (postgresql.org/docs, "Frontend/Backend Protocol"): messages of a letter, a length and a body.
Without a login nothing is asked but what `pg_isready` asks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Literal

from probe_exporter import (
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
LONGEST_MESSAGE = 1024 * 1024
LONGEST_SALT = 1024
LONGEST_LABEL = 128
MOST_MESSAGES = 1000
MOST_ROUNDS = 100_000
"""Of a password's hash, 35 ms: a server that asks for more only wants our time. PostgreSQL asks for 4096."""

DURATION = Metric("probe_postgres_duration_seconds", "How long each phase took.", ("phase",))
SERVER = Metric("probe_postgres_server_info", "What the server says of itself.", ("version",), type="info")
IN_RECOVERY = Metric("probe_postgres_in_recovery", "1 on a standby, 0 on a primary.")
REPLAY_LAG = Metric(
    "probe_postgres_replay_lag_seconds",
    "How old the last transaction is that the standby has replayed; 0 if it follows and has replayed all that came.",
)

_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_PROTOCOL = 196608  # 3.0
_STATE = (
    "SELECT pg_is_in_recovery(), CASE"
    " WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0"
    " ELSE EXTRACT(EPOCH FROM now() - pg_last_xact_replay_timestamp()) END"
)
"""Where nobody writes, the last transaction grows old and nothing is amiss; so it may, while WAL is being received."""

# The classes and codes of SQLSTATE (appendix A of the manual) that say more than that something is wrong.
_REASONS = {
    "28": Reason.AUTHENTICATION,
    "42501": Reason.AUTHENTICATION,  # the user may not
    "53300": Reason.TARGET_FULL,
    **dict.fromkeys(("57P01", "57P02", "57P03"), Reason.TARGET_NOT_READY),
}

# PgBouncer says 08P01 of everything; its words tell.
_POOLED = {"authentication failed": Reason.AUTHENTICATION, "no more connections allowed": Reason.TARGET_FULL}

Message = tuple[bytes, bytes]


class PostgresSettings(SourceSettings):
    """The ``postgres`` block of a module."""

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


async def probe_postgres(probe: Probe, settings: PostgresSettings) -> None:
    """Asks a PostgreSQL for a connection, and with a login a query."""
    host, port = host_and_port(probe.target, PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        if settings.tls:
            await _start_tls(probe, settings, connection, host)
        with probe.phase("startup", DURATION):
            await connection.write(_startup(settings))
            first = await _receive(connection, refusal_is_fine=not settings.user)
        if not settings.user:
            return
        with probe.phase("auth", DURATION):
            await _log_in(probe, settings, connection, first)
        with probe.phase("query", DURATION):
            await _query(connection, settings.query)
            state = await _query(connection, _STATE)
        connection.close(_message(b"X"))
    _judge(probe, settings, state)


async def _start_tls(probe: Probe, settings: PostgresSettings, connection: Connection, host: str) -> None:
    await connection.write(_SSL_REQUEST)
    answer = await connection.exactly(1)
    if answer == b"N":
        raise ProbeFailed(Reason.TLS_REQUIRED, "the server has no TLS, and the module wants it")
    if answer != b"S" or connection.waiting:  # what comes in clear would be taken for the server's inside TLS
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the answer to the question for TLS is not PostgreSQL's")
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
    """Say who we are in the way the server wants it, and wait until it takes queries."""
    login = _Login(settings.user, settings.password.reveal(), tls=settings.tls)
    for _ in range(MOST_MESSAGES):
        kind, body = message
        if kind == b"Z":
            return
        if kind == b"R":
            answer = login.answer(int.from_bytes(body[:4], "big"), body[4:])
            if answer:
                await connection.write(_message(b"p", answer))
        elif kind == b"S" and body.startswith(b"server_version\0"):
            probe.set(SERVER, 1, body.split(b"\0")[1].decode("utf-8", "replace")[:LONGEST_LABEL])
        message = await _receive(connection)
    raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's login does not come to an end")


async def _query(connection: Connection, query: str) -> list[bytes | None]:
    """The first row of a query's answer; empty if it has none."""
    await connection.write(_message(b"Q", _text(query)))
    row: list[bytes | None] | None = None
    while True:
        kind, body = await _receive(connection)
        if kind == b"D" and row is None:
            row = list(_columns(body))
        if kind == b"Z":
            return row or []


def _columns(body: bytes) -> Iterator[bytes | None]:
    place = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        size = int.from_bytes(body[place : place + 4], "big", signed=True)
        place += 4
        if size > len(body) - place:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "a column is longer than its row")
        yield None if size < 0 else body[place : place + size]
        place += max(size, 0)


def _judge(probe: Probe, settings: PostgresSettings, state: list[bytes | None]) -> None:
    """Report the server's part in replication, and hold it against what the module expects."""
    try:
        recovering, lag = state
        age = None if lag is None else float(lag)
    except ValueError:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the answer about recovery is none") from None
    standby = recovering == b"t"
    probe.set(IN_RECOVERY, standby)
    if standby and age is not None:
        probe.set(REPLAY_LAG, age)
    role = "standby" if standby else "primary"
    if settings.role and settings.role != role:
        raise ProbeFailed(Reason.EXPECTATION, f"the server is a {role}, not a {settings.role}")
    if standby and settings.max_lag and (age is None or age > settings.max_lag):
        raise ProbeFailed(Reason.EXPECTATION, f"the standby lags by {age} s, more than {settings.max_lag:g} s")


# --- messages ----------------------------------------------------------------------------------------------


def _message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape").replace(b"\0", b"") + b"\0"


async def _receive(connection: Connection, *, refusal_is_fine: bool = False) -> Message:
    """The next message that is not only a notice.

    Args:
        refusal_is_fine: a server that does not know us is one that takes connections.

    Raises:
        ProbeFailed: it is an error, or no message.
    """
    for _ in range(MOST_MESSAGES):
        kind, size = struct.unpack("!cI", await connection.exactly(5))
        if kind not in b"RSKZTDCENIA" or not 4 <= size <= LONGEST_MESSAGE:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the answer is not of PostgreSQL's protocol", began=repr(kind))
        body = await connection.exactly(size - 4)
        if kind == b"E":
            failed = _error(body)
            if not (refusal_is_fine and failed.reason is Reason.AUTHENTICATION):
                raise failed
        if kind not in b"NA":  # notices, and what others notify
            return kind, body
    raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server says nothing but notices")


def _error(body: bytes) -> ProbeFailed:
    fields: Mapping[str, str] = {
        part[:1].decode("latin-1"): part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part
    }
    code, words = fields.get("C", ""), fields.get("M", "")[:200]
    reason = _REASONS.get(code) or _REASONS.get(code[:2]) or Reason.TARGET_ERROR
    if code == "08P01":
        reason = next((reason for part, reason in _POOLED.items() if part in words), reason)
    return ProbeFailed(reason, f"the server answers with an error: {words}", sqlstate=code)


# --- passwords ---------------------------------------------------------------------------------------------


class _Login:
    """The half of a login that is ours: what to say to each of the server's requests (by their numbers)."""

    def __init__(self, user: str, password: str, *, tls: bool) -> None:
        self._user = user.encode("utf-8", "surrogateescape")
        # Beyond ASCII a password is prepared (RFC 4013); normalizing it is all that matters of that in practice.
        self._password = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogateescape")
        self._tls = tls
        self._scram: _Scram | None = None

    def answer(self, request: int, rest: bytes) -> bytes:
        """What to send back; nothing where nothing is wanted.

        Raises:
            ProbeFailed: the server wants what we can't give, or won't, or is not who it should be.
        """
        if request == 3:
            if not self._tls:  # or anybody on the way has only to ask
                raise ProbeFailed(Reason.AUTHENTICATION, "the server wants the password in clear: that takes `tls`")
            return self._password + b"\0"
        if request == 5:
            return self._md5(rest[:4])
        if request == 10 and b"SCRAM-SHA-256" in rest.split(b"\0"):
            self._scram = _Scram(self._password)
            return self._scram.first()
        if request == 11 and self._scram is not None:
            return self._scram.final(rest)
        if request == 12 and self._scram is not None:
            self._scram.check(rest)
        elif request != 0:
            raise ProbeFailed(Reason.AUTHENTICATION, f"the server wants a login of a kind (no. {request}) that we lack")
        elif self._scram is not None and not self._scram.checked:
            raise ProbeFailed(Reason.AUTHENTICATION, "the server does not prove that it knows the password")
        return b""

    def _md5(self, salt: bytes) -> bytes:
        inner = hashlib.md5(self._password + self._user, usedforsecurity=False).hexdigest()
        outer = hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest()
        return f"md5{outer}".encode() + b"\0"


@lru_cache(maxsize=256)  # the same password, salted by the same server, probe after probe: 1.3 ms saved
def _salted(password: bytes, salt: bytes, rounds: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password, salt, rounds)


class _Scram:
    """One login with SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding.

    Attributes:
        checked: the server has proved that it knows the password too.
    """

    def __init__(self, password: bytes) -> None:
        self.checked = False
        self._password = password
        self._nonce = base64.b64encode(secrets.token_bytes(18))
        self._bare = b"n=,r=" + self._nonce
        self._proof_of_server = b""

    def first(self) -> bytes:
        """What begins it."""
        data = b"n,," + self._bare
        return b"SCRAM-SHA-256\0" + struct.pack("!I", len(data)) + data

    def final(self, challenge: bytes) -> bytes:
        """The answer to what the server makes of it."""
        try:
            parts = dict(part.split(b"=", 1) for part in challenge.split(b","))
            nonce, salt, rounds = parts[b"r"], base64.b64decode(parts[b"s"]), int(parts[b"i"])
        except (ValueError, KeyError):
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's challenge is not of SCRAM") from None
        in_bounds = 1 <= rounds <= MOST_ROUNDS and len(salt) <= LONGEST_SALT
        if self._proof_of_server or not nonce.startswith(self._nonce) or not in_bounds:
            raise ProbeFailed(Reason.PROTOCOL_ERROR, "the server's challenge is not an answer to ours")
        salted = _salted(self._password, salt, rounds)
        without_proof = b"c=biws,r=" + nonce
        signed = b",".join([self._bare, challenge, without_proof])
        client, server = (hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key"))
        signature = hmac.digest(hashlib.sha256(client).digest(), signed, "sha256")
        self._proof_of_server = base64.b64encode(hmac.digest(server, signed, "sha256"))
        proof = bytes(one ^ other for one, other in zip(client, signature, strict=True))
        return without_proof + b",p=" + base64.b64encode(proof)

    def check(self, outcome: bytes) -> None:
        """Raises: ProbeFailed: the server does not know the password."""
        if not hmac.compare_digest(outcome, b"v=" + self._proof_of_server):
            raise ProbeFailed(Reason.AUTHENTICATION, "the server does not know the password that it asks for")
        self.checked = True


prober = Prober("postgres", PostgresSettings, probe_postgres, with_hostname=with_server_name)
