"""The unix prober: its settings. This version checks ``unix`` modules and does not probe them yet."""

from __future__ import annotations

from probe_exporter.dialogue import DialogueSettings
from probe_exporter.prober import Probe, ProbeFailed, Prober, Reason
from probe_exporter.tls import TLSSettings


class UnixSettings(DialogueSettings):
    """The ``unix`` block of a module."""

    tls: bool = False
    tls_config: TLSSettings = TLSSettings()


async def probe_unix(probe: Probe, settings: UnixSettings) -> None:
    """Connect to a Unix socket, and hold the dialogue of ``query_response``."""
    raise ProbeFailed(Reason.SETTINGS_UNSUPPORTED, "this version checks unix modules but does not probe them yet")


prober = Prober("unix", UnixSettings, probe_unix)
