"""The unix prober: connect to a Unix socket, and hold a dialogue as the tcp prober does."""

from __future__ import annotations

from collections.abc import Iterator

from probe_exporter.network.opening import dial_unix
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.dialogue.lines import StreamSettings, hold


class UnixSettings(StreamSettings):
    """The ``unix`` block of a module."""

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        secure = self.tls or any(step.starttls for step in self.query_response)
        if secure and not (self.tls_config.server_name or self.tls_config.insecure_skip_verify):
            yield "tls_config", "a Unix socket has no host name: without `server_name` no certificate verifies"


DURATION = Metric("probe_unix_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=3)


async def probe_unix(probe: Probe, settings: UnixSettings) -> None:
    """Connects to a Unix socket, and holds the dialogue of ``query_response``."""
    connection = await dial_unix(probe, probe.target)
    await hold(probe, connection, settings, "", DURATION)


prober = Prober("unix", UnixSettings, probe_unix)
