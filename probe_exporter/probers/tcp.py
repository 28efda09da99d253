"""The tcp prober: its settings. This version checks ``tcp`` modules and does not probe them yet."""

from __future__ import annotations

from probe_exporter.addressing import SourceSettings
from probe_exporter.dialogue import DialogueSettings
from probe_exporter.prober import Probe, ProbeFailed, Prober, Reason
from probe_exporter.tls import TLSSettings


class TcpSettings(DialogueSettings, SourceSettings):
    """The ``tcp`` block of a module."""

    tls: bool = False
    tls_config: TLSSettings = TLSSettings()


def with_hostname(settings: TcpSettings, hostname: str) -> TcpSettings:
    """The request's ``hostname`` is the TLS server name where the module gives none."""
    if settings.tls_config.server_name:
        return settings
    return settings.model_copy(update={"tls_config": settings.tls_config.model_copy(update={"server_name": hostname})})


async def probe_tcp(probe: Probe, settings: TcpSettings) -> None:
    """Connect to ``host:port``, and hold the dialogue of ``query_response``."""
    raise ProbeFailed(Reason.SETTINGS_UNSUPPORTED, "this version checks tcp modules but does not probe them yet")


prober = Prober("tcp", TcpSettings, probe_tcp, with_hostname=with_hostname)
