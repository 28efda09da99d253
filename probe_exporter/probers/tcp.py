"""The tcp prober: connect to a TCP port, with TLS if the module asks for it, and hold a dialogue."""

from __future__ import annotations

from probe_exporter.addresses.endpoints import port_number, split_host_port
from probe_exporter.network.address_choice import choose_address
from probe_exporter.network.opening import dial
from probe_exporter.network.settings import SourceSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.dialogue.lines import StreamSettings, hold
from probe_exporter.tls.settings import with_server_name


class TcpSettings(StreamSettings, SourceSettings):
    """The ``tcp`` block of a module."""


DURATION = Metric("probe_tcp_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=4)


async def probe_tcp(probe: Probe, settings: TcpSettings) -> None:
    """Connects to ``host:port``, and holds the dialogue of ``query_response``."""
    host, port = split_host_port(probe.target)
    address = await choose_address(probe, host, settings, DURATION)
    connection = await dial(probe, [address], port_number(port), source=settings.source_ip_address)
    await hold(probe, connection, settings, host, DURATION)


prober = Prober("tcp", TcpSettings, probe_tcp, with_hostname=with_server_name)
