"""Redis and what speaks like it (Valkey, KeyDB, Sentinel): a PING that is answered, and the state of replication.

The protocol is RESP2 (redis.io/docs, "Redis serialization protocol"): a command is an array of strings, and each of the
replies that can come here is one line, or a string with its length before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from probe_exporter import (
    Connection,
    ConnectSettings,
    Duration,
    Metric,
    Probe,
    ProbeFailed,
    Prober,
    Reason,
    Secret,
    Text,
    connect,
    host_and_port,
    with_server_name,
)

PORT = 6379
LONGEST_LINE = 64 * 1024
LONGEST_STRING = 1024 * 1024  # an INFO is some kilobytes
LONGEST_LABEL = 128
MOST_REPLICAS = 256

DURATION = Metric("probe_redis_duration_seconds", "How long each phase took.", ("phase",))
SERVER = Metric(
    "probe_redis_server_info", "What the server says of itself.", ("software", "version", "mode"), type="info"
)
ROLE = Metric(
    "probe_redis_role_info", "The server's part in replication: master, slave or sentinel.", ("role",), type="info"
)
REPLICAS = Metric("probe_redis_connected_replicas", "How many replicas the server has.")
LAG_BYTES = Metric(
    "probe_redis_replica_lag_bytes", "How much of the server's stream a replica has still to confirm.", ("replica",)
)
LAG_SECONDS = Metric(
    "probe_redis_replica_lag_seconds", "How long ago a replica of the server confirmed anything.", ("replica",)
)
LINK_UP = Metric("probe_redis_master_link_up", "Whether this replica is connected to its master.")
LINK_SILENT = Metric("probe_redis_master_silent_seconds", "How long ago this replica last heard from its master.")

_REASONS = {
    Reason.AUTHENTICATION: (
        "NOAUTH", "WRONGPASS", "NOPERM", "ERR AUTH", "ERR invalid password", "ERR Client sent AUTH", "DENIED"
    ),
    Reason.TARGET_NOT_READY: ("LOADING", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"),
    Reason.TARGET_FULL: ("ERR max number of clients",),
}  # fmt: skip
"""What errors begin with that say more than that something is wrong; DENIED: nobody has set a password at all."""


class RedisSettings(ConnectSettings):
    """The ``redis`` block of a module."""

    username: Text = ""
    password: Secret = Secret("")
    role: Literal["", "master", "slave", "sentinel"] = ""
    max_lag: Duration = 0.0

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.username and not self.password.reveal():
            yield "username", "has no effect without a `password`"


async def probe_redis(probe: Probe, settings: RedisSettings) -> None:
    """Sends PING to a Redis, and looks at its role and at the state of its replication."""
    host, port = host_and_port(probe.target, PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        if password := settings.password.reveal():
            with probe.phase("auth", DURATION):
                await _ask(connection, "AUTH", *filter(None, [settings.username]), password)
        with probe.phase("ping", DURATION):
            answer = await _ask(connection, "PING")
            if answer != "PONG":
                raise ProbeFailed(Reason.PROTOCOL_ERROR, "the answer to PING is not PONG", answer=answer[:100])
        with probe.phase("info", DURATION):
            info = await _info(probe, settings, connection)
            _report(probe, info)
            _check(settings, info)


async def _info(probe: Probe, settings: RedisSettings, connection: Connection) -> Mapping[str, str]:
    """What INFO says of server and replication; nothing where the user may not ask and the module does not need it."""
    text = ""
    for section in ("server", "replication"):
        try:
            text += await _ask(connection, "INFO", section)
        except ProbeFailed as failed:
            if failed.reason is not Reason.AUTHENTICATION or settings.role or settings.max_lag:
                raise
            probe.log("The user may not ask for INFO", err=failed.message)
            return {}
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _report(probe: Probe, info: Mapping[str, str]) -> None:
    if "redis_version" in info:
        software = info.get("server_name", "redis")
        version = info.get(f"{software}_version", info["redis_version"])  # Valkey says which Redis it is like, too
        probe.set(SERVER, 1, *[text[:LONGEST_LABEL] for text in (software, version, _mode(info))])
    if _role(info):
        probe.set(ROLE, 1, _role(info))
    if "connected_slaves" in info:
        probe.set(REPLICAS, _number(info["connected_slaves"]))
    for replica in _replicas(info):
        address = replica.get("ip", "")
        host = f"[{address}]" if ":" in address else address
        name = f"{host}:{replica.get('port', '')}"[:LONGEST_LABEL]
        probe.set(LAG_BYTES, _number(info.get("master_repl_offset", "")) - _number(replica.get("offset", "")), name)
        probe.set(LAG_SECONDS, _number(replica.get("lag", "")), name)
    if "master_link_status" in info:
        probe.set(LINK_UP, info["master_link_status"] == "up")
        probe.set(LINK_SILENT, _silence(info))


def _check(settings: RedisSettings, info: Mapping[str, str]) -> None:
    """Hold what the server says against what the module expects."""
    if settings.role and settings.role != _role(info):
        raise ProbeFailed(Reason.EXPECTATION, f"the server is a {_role(info)}, not a {settings.role}")
    if not settings.max_lag:
        return
    lags = [_number(replica.get("lag", "")) for replica in _replicas(info)]
    if "master_link_status" in info:
        if info["master_link_status"] != "up":
            raise ProbeFailed(Reason.EXPECTATION, "the replica has lost its master")
        lags.append(_silence(info))
    if max(lags, default=0) > settings.max_lag:
        raise ProbeFailed(Reason.EXPECTATION, f"replication lags by {max(lags):g} s")


def _role(info: Mapping[str, str]) -> str:
    return "sentinel" if _mode(info) == "sentinel" else info.get("role", "")[:LONGEST_LABEL]


def _mode(info: Mapping[str, str]) -> str:
    return info.get("redis_mode") or info.get("server_mode", "")


def _replicas(info: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """The lines ``slave0:ip=…,port=…,state=…,offset=…,lag=…``."""
    for number in range(MOST_REPLICAS):
        if value := info.get(f"slave{number}"):
            yield dict(pair.split("=", 1) for pair in value.split(",") if "=" in pair)


def _silence(info: Mapping[str, str]) -> float:
    """Seconds since the master was heard; while the link is down, since it went."""
    return _number(info.get("master_link_down_since_seconds") or info.get("master_last_io_seconds_ago", ""))


def _number(text: str) -> float:
    try:
        return float(int(text))
    except (ValueError, OverflowError):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, f"INFO has no number where one belongs: {text[:100]!r}") from None


async def _ask(connection: Connection, *words: str) -> str:
    """Send a command, and wait for its reply.

    Raises:
        ProbeFailed: the reply is an error, or no reply.
    """
    parts = [word.encode("utf-8", "surrogateescape") for word in words]
    await connection.write(b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%s\r\n" % (len(one), one) for one in parts]))
    line = await connection.until(b"\r\n", limit=LONGEST_LINE)
    kind, rest = line[:1], line[1:]
    if kind == b"+":
        return rest.decode("utf-8", "replace")
    if kind == b"-":
        raise _error(rest.decode("utf-8", "replace"))
    if kind != b"$" or not (rest.isdigit() and len(rest) < 10 and int(rest) <= LONGEST_STRING):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the answer is not of Redis' protocol", answer=repr(line[:100]))
    text = await connection.exactly(int(rest) + 2)
    if not text.endswith(b"\r\n"):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "a string of the answer is longer than it says")
    return text[:-2].decode("utf-8", "replace")


def _error(words: str) -> ProbeFailed:
    found = [reason for reason, beginnings in _REASONS.items() if words.startswith(beginnings)]
    return ProbeFailed(found[0] if found else Reason.TARGET_ERROR, f"the server answers with an error: {words[:200]}")


prober = Prober("redis", RedisSettings, probe_redis, with_hostname=with_server_name)
