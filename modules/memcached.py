"""memcached: a server that says its version, and what it counts (protocol.txt of memcached, the text protocol)."""

from __future__ import annotations

from probe_exporter import (
    Connection,
    ConnectSettings,
    Metric,
    Probe,
    ProbeFailed,
    Prober,
    Reason,
    connect,
    host_and_port,
    with_server_name,
)

PORT = 11211
LONGEST_LINE = 2048
LONGEST_LABEL = 128
MOST_LINES = 1000

DURATION = Metric("probe_memcached_duration_seconds", "How long each phase took.", ("phase",))
SERVER = Metric("probe_memcached_server_info", "What the server says of itself.", ("version",), type="info")
UPTIME = Metric("probe_memcached_uptime_seconds", "How long the server has been running.")
CONNECTIONS = Metric(
    "probe_memcached_connections", "How many clients are connected to the server, this probe included."
)
ITEMS = Metric("probe_memcached_items", "How many items the server holds.")
BYTES = Metric("probe_memcached_bytes", "How much memory those items take.")
LIMIT = Metric("probe_memcached_limit_bytes", "How much memory items may take.")
EVICTIONS = Metric("probe_memcached_evictions_total", "Items thrown out to make room for others.", type="counter")

_STATS = {
    "uptime": UPTIME,
    "curr_connections": CONNECTIONS,
    "curr_items": ITEMS,
    "bytes": BYTES,
    "limit_maxbytes": LIMIT,
    "evictions": EVICTIONS,
}


class MemcachedSettings(ConnectSettings):
    """The ``memcached`` block of a module."""

    stats: bool = True


async def probe_memcached(probe: Probe, settings: MemcachedSettings) -> None:
    """Asks a memcached for its version and its statistics."""
    host, port = host_and_port(probe.target, PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        with probe.phase("version", DURATION):
            await connection.write(b"version\r\n")
            version = _words(await _line(connection), "VERSION", 2)[1]
            probe.set(SERVER, 1, version[:LONGEST_LABEL])
        if settings.stats:
            with probe.phase("stats", DURATION):
                await _report_stats(probe, connection)


async def _report_stats(probe: Probe, connection: Connection) -> None:
    await connection.write(b"stats\r\n")
    for _ in range(MOST_LINES):
        line = await _line(connection)
        if line == "END":
            return
        _, name, value = _words(line, "STAT", 3)
        if metric := _STATS.get(name):
            if not value.isdecimal():
                raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the statistic {name} is no number", value=value[:100])
            probe.set(metric, float(value))
    raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the statistics have more than {MOST_LINES} lines")


async def _line(connection: Connection) -> str:
    return (await connection.until(b"\r\n", limit=LONGEST_LINE)).decode("utf-8", "replace")


def _words(line: str, first: str, number: int) -> list[str]:
    """The words of a line that begins with `first`, the last of them with all blanks that follow."""
    words = line.split(" ", number - 1)
    if words[0] in ("ERROR", "CLIENT_ERROR", "SERVER_ERROR"):
        reason = Reason.TARGET_FULL if "Too many open connections" in line else Reason.TARGET_ERROR
        raise ProbeFailed(reason, f"the server answers with an error: {line[:200]}")
    if words[0] != first or len(words) != number:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the answer is not of memcached's protocol", answer=line[:100])
    return words


prober = Prober("memcached", MemcachedSettings, probe_memcached, with_hostname=with_server_name)
