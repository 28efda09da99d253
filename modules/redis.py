"""The redis prober: send PING to a Redis server, report its version, role and replication lag.

It works with Redis, Valkey, KeyDB and Sentinel. The protocol is RESP2 (redis.io/docs, "Redis serialization protocol"):
a command is an array of strings; a reply is one line, or a string that follows its length.

PING is the probe. INFO is optional: proxies and restricted users don't have it. It fails the probe only if `role` or
`max_lag` need its answer.
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
MAX_LINE_BYTES = 64 * 1024
MAX_STRING_BYTES = 1024 * 1024  # INFO usually takes a few kilobytes
MAX_INFO_LINES = 2000  # in each section
MAX_REPLICA_FIELDS = 32
MAX_REPLICAS = 256
MAX_LABEL_CHARACTERS = 128

DURATION = Metric("probe_redis_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=6)
SERVER = Metric(
    "probe_redis_server_info", "Software, version and mode of the server.", ("software", "version", "mode"), type="info"
)
ROLE = Metric(
    "probe_redis_role_info", "Role of the server in replication: master, slave or sentinel.", ("role",), type="info"
)
REPLICAS = Metric("probe_redis_connected_replicas", "Number of replicas connected to the server.")
LAG_BYTES = Metric(
    "probe_redis_replica_lag_bytes",
    "Bytes of the replication stream that the replica has not acknowledged.",
    ("replica",),
)
LAG_SECONDS = Metric(
    "probe_redis_replica_lag_seconds", "Seconds since the replica's last acknowledgement.", ("replica",)
)
LINK_UP = Metric("probe_redis_master_link_up", "1 if this replica is connected to its master, otherwise 0.")
LINK_SILENT = Metric(
    "probe_redis_master_silent_seconds",
    "Seconds since this replica last heard from its master, or since it lost the connection.",
)

_REASONS = {
    Reason.AUTHENTICATION: (
        "NOAUTH", "WRONGPASS", "NOPERM", "ERR AUTH", "ERR invalid password", "ERR Client sent AUTH", "DENIED"
    ),
    Reason.TARGET_NOT_READY: ("LOADING", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"),
    Reason.TARGET_FULL: ("ERR max number of clients",),
}  # fmt: skip
"""First words of errors that have a more specific reason than `target_error`; DENIED is protected mode."""


class RedisSettings(ConnectSettings):
    """The ``redis`` block of a module.

    Args:
        username: user name of the ACL; needs a password.
        password: password.
        role: role that the server must have.
        max_lag: maximum time since each replica acknowledged data, or since a replica heard from its master.
    """

    username: Text = ""
    password: Secret = Secret("")
    role: Literal["", "master", "slave", "sentinel"] = ""
    max_lag: Duration = 0.0

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.username and not self.password.reveal():
            yield "username", "has no effect without a `password`"


async def probe_redis(probe: Probe, settings: RedisSettings) -> None:
    """Sends PING to a Redis server, then reads its role and the state of its replication."""
    host, port = host_and_port(probe.target, PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        if password := settings.password.reveal():
            with probe.phase("auth", DURATION):
                await _request(connection, "AUTH", *filter(None, [settings.username]), password)
        with probe.phase("ping", DURATION):
            answer = await _request(connection, "PING")
            if answer != "PONG":
                raise ProbeFailed(Reason.PROTOCOL_ERROR, "the reply to PING is not PONG", answer=answer[:100])
        with probe.phase("info", DURATION):
            info = await _info(probe, settings, connection)
            _report(probe, info)
            _check(settings, info)


async def _info(probe: Probe, settings: RedisSettings, connection: Connection) -> Mapping[str, str]:
    """Return the fields of INFO about server and replication; of a section that fails, none.

    Raises:
        ProbeFailed: a section failed that `role` or `max_lag` need.
    """
    info: dict[str, str] = {}
    is_sentinel = settings.role == "sentinel"
    needed = {"server": is_sentinel, "replication": bool(settings.max_lag or (settings.role and not is_sentinel))}
    for section, is_needed in needed.items():
        with probe.optional(f"INFO {section}", needed=is_needed):
            info |= _fields(await _request(connection, "INFO", section))
    return info


def _fields(text: str) -> Mapping[str, str]:
    lines = text.split("\r\n", MAX_INFO_LINES)[:MAX_INFO_LINES]
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _report(probe: Probe, info: Mapping[str, str]) -> None:
    """Set the metrics whose fields are present; older servers and proxies leave fields out."""
    if "redis_version" in info:
        software = info.get("server_name", "redis")
        version = info.get(f"{software}_version", info["redis_version"])  # Valkey also sends a redis_version
        probe.set(SERVER, 1, *[text[:MAX_LABEL_CHARACTERS] for text in (software, version, _mode(info))])
    if _role(info):
        probe.set(ROLE, 1, _role(info))
    _set(probe, REPLICAS, _number(info.get("connected_slaves")))
    written = _number(info.get("master_repl_offset"))
    for replica in _replicas(info):
        address = replica.get("ip", "")
        host = f"[{address}]" if ":" in address else address
        name = f"{host}:{replica.get('port', '')}"[:MAX_LABEL_CHARACTERS]
        acknowledged = _number(replica.get("offset"))
        if written is not None and acknowledged is not None:
            probe.set(LAG_BYTES, written - acknowledged, name)
        _set(probe, LAG_SECONDS, _number(replica.get("lag")), name)
    if "master_link_status" in info:
        probe.set(LINK_UP, info["master_link_status"] == "up")
        _set(probe, LINK_SILENT, _silence(info))


def _set(probe: Probe, metric: Metric, value: float | None, *labels: str) -> None:
    if value is not None:
        probe.set(metric, value, *labels)


def _check(settings: RedisSettings, info: Mapping[str, str]) -> None:
    """Check the server's role and lag against the module's settings."""
    role = _role(info)
    if settings.role and settings.role != role:
        what = f"is a {role}, not a {settings.role}" if role else "reports no role"
        raise ProbeFailed(Reason.EXPECTATION, f"the server {what}")
    if not settings.max_lag:
        return
    lags = [_number(replica.get("lag")) for replica in _replicas(info)]
    if "master_link_status" in info:
        if info["master_link_status"] != "up":
            raise ProbeFailed(Reason.EXPECTATION, "the replica is not connected to its master")
        lags.append(_silence(info))
    known = [lag for lag in lags if lag is not None]
    if len(known) < len(lags):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "INFO has no valid number for the replication lag")
    if max(known, default=0) > settings.max_lag:
        raise ProbeFailed(Reason.EXPECTATION, f"replication lags by {max(known):g} s")


def _role(info: Mapping[str, str]) -> str:
    return "sentinel" if _mode(info) == "sentinel" else info.get("role", "")[:MAX_LABEL_CHARACTERS]


def _mode(info: Mapping[str, str]) -> str:
    return info.get("redis_mode") or info.get("server_mode", "")


def _replicas(info: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Yield the fields of the lines ``slave0:ip=…,port=…,state=…,offset=…,lag=…``."""
    for number in range(MAX_REPLICAS):
        if value := info.get(f"slave{number}"):
            pairs = value.split(",", MAX_REPLICA_FIELDS)[:MAX_REPLICA_FIELDS]
            yield dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _silence(info: Mapping[str, str]) -> float | None:
    """Return the seconds since the master was last heard; while the link is down, since it was lost."""
    return _number(info.get("master_link_down_since_seconds") or info.get("master_last_io_seconds_ago"))


def _number(text: str | None) -> float | None:
    """Return an integer of INFO; None if it is missing or invalid."""
    try:
        return None if text is None else float(int(text))
    except (ValueError, OverflowError):
        return None


async def _request(connection: Connection, *words: str) -> str:
    """Send a command and return its reply.

    Raises:
        ProbeFailed: the reply is an error, or not RESP2.
    """
    parts = [word.encode("utf-8", "surrogateescape") for word in words]
    await connection.write(b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%s\r\n" % (len(one), one) for one in parts]))
    line = await connection.until(b"\r\n", limit=MAX_LINE_BYTES)
    kind, rest = line[:1], line[1:]
    if kind == b"+":
        return rest.decode("utf-8", "replace")
    if kind == b"-":
        raise _error(rest[:1000].decode("utf-8", "replace"))
    if kind != b"$" or not (rest.isdigit() and len(rest) < 10 and int(rest) <= MAX_STRING_BYTES):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the reply is not a Redis reply", answer=repr(line[:100]))
    text = await connection.exactly(int(rest) + 2)
    if not text.endswith(b"\r\n"):
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "a string of the reply is longer than its length says")
    return text[:-2].decode("utf-8", "replace")


def _error(words: str) -> ProbeFailed:
    found = [reason for reason, beginnings in _REASONS.items() if words.startswith(beginnings)]
    return ProbeFailed(found[0] if found else Reason.TARGET_ERROR, f"the server replied with an error: {words[:200]}")


prober = Prober("redis", RedisSettings, probe_redis, with_hostname=with_server_name)
