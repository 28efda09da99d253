"""The tcp prober: what a module may ask of a port, and the story of asking."""

from __future__ import annotations

import time

from probe_exporter.addresses.endpoints import port_number, split_host_port
from probe_exporter.network.opening import dial, resolve
from probe_exporter.network.settings import SourceSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.dialogue.lines import StreamSettings, hold
from probe_exporter.tls.settings import with_server_name


class TcpSettings(StreamSettings, SourceSettings):
    """The ``tcp`` block of a module."""


DURATION = Metric("probe_tcp_duration_seconds", "How long each phase took.", ("phase",))


async def probe_tcp(probe: Probe, settings: TcpSettings) -> None:
    """Connects to ``host:port``, and holds the dialogue of ``query_response``."""
    host, port = split_host_port(probe.target)
    started = time.perf_counter()
    address = await resolve(
        probe, host, preferred=settings.preferred_ip_protocol, fallback=settings.ip_protocol_fallback
    )
    probe.set(DURATION, round(time.perf_counter() - started, 9), "resolve")
    connection = await dial(probe, [address], port_number(port), source=settings.source_ip_address)
    await hold(probe, connection, settings, host, DURATION)


prober = Prober("tcp", TcpSettings, probe_tcp, with_hostname=with_server_name)
