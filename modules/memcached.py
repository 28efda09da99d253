"""The memcached prober: ask a memcached server for its version and its statistics (text protocol, protocol.txt).

The version is the probe. The statistics are optional: proxies don't have them, and no setting depends on them.
"""

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
MAX_LINE_BYTES = 2048
MAX_STATS_LINES = 1000
MAX_LABEL_CHARACTERS = 128

DURATION = Metric("probe_memcached_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=5)
SERVER = Metric("probe_memcached_server_info", "Version of the server.", ("version",), type="info")
UPTIME = Metric("probe_memcached_uptime_seconds", "Seconds since the server started.")
CONNECTIONS = Metric("probe_memcached_connections", "Number of clients connected to the server, including this probe.")
ITEMS = Metric("probe_memcached_items", "Number of items stored.")
BYTES = Metric("probe_memcached_bytes", "Bytes of memory used by the items.")
LIMIT = Metric("probe_memcached_limit_bytes", "Bytes of memory that items may use.")
EVICTIONS = Metric("probe_memcached_evictions_total", "Items evicted to make room for others.", type="counter")

_STATS = {
    "uptime": UPTIME,
    "curr_connections": CONNECTIONS,
    "curr_items": ITEMS,
    "bytes": BYTES,
    "limit_maxbytes": LIMIT,
    "evictions": EVICTIONS,
}


class MemcachedSettings(ConnectSettings):
    """The ``memcached`` block of a module.

    Args:
        stats: also ask for the statistics.
    """

    stats: bool = True


async def probe_memcached(probe: Probe, settings: MemcachedSettings) -> None:
    """Asks a memcached server for its version and its statistics."""
    host, port = host_and_port(probe.target, PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        with probe.phase("version", DURATION):
            await connection.write(b"version\r\n")
            version = _words(await _line(connection), "VERSION", 2)[1]
            probe.set(SERVER, 1, version[:MAX_LABEL_CHARACTERS])
        if settings.stats:
            with probe.phase("stats", DURATION), probe.optional("stats"):
                await _report_stats(probe, connection)


async def _report_stats(probe: Probe, connection: Connection) -> None:
    await connection.write(b"stats\r\n")
    for _ in range(MAX_STATS_LINES):
        line = await _line(connection)
        if line == "END":
            return
        _, name, value = _words(line, "STAT", 3)
        metric = _STATS.get(name)
        if metric and value.isdecimal():
            probe.set(metric, float(value))
    raise ProbeFailed(Reason.PROTOCOL_ERROR, f"the statistics have more than {MAX_STATS_LINES} lines")


async def _line(connection: Connection) -> str:
    return (await connection.until(b"\r\n", limit=MAX_LINE_BYTES)).decode("utf-8", "replace")


def _words(line: str, first: str, number: int) -> list[str]:
    """Split a line that begins with `first` into `number` words; the last one keeps its blanks.

    Raises:
        ProbeFailed: the line is an error, or not what was expected.
    """
    words = line.split(" ", number - 1)
    if words[0] in ("ERROR", "CLIENT_ERROR", "SERVER_ERROR"):
        reason = Reason.TARGET_FULL if "Too many open connections" in line else Reason.TARGET_ERROR
        raise ProbeFailed(reason, f"the server replied with an error: {line[:200]}")
    if words[0] != first or len(words) != number:
        raise ProbeFailed(Reason.PROTOCOL_ERROR, "the reply is not a memcached reply", answer=line[:100])
    return words


prober = Prober("memcached", MemcachedSettings, probe_memcached, with_hostname=with_server_name)
