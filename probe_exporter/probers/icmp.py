"""The icmp prober: its settings. This version checks ``icmp`` modules and does not probe them yet."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le

from probe_exporter.addressing import SourceSettings
from probe_exporter.prober import Probe, ProbeFailed, Prober, Reason


class IcmpSettings(SourceSettings):
    """The ``icmp`` block of a module."""

    payload_size: Annotated[int, Ge(0)] = 0
    dont_fragment: bool = False
    ttl: Annotated[int, Ge(0), Le(255)] = 64


async def probe_icmp(probe: Probe, settings: IcmpSettings) -> None:
    """Send one ICMP echo request and wait for its reply."""
    raise ProbeFailed(Reason.SETTINGS_UNSUPPORTED, "this version checks icmp modules but does not probe them yet")


prober = Prober("icmp", IcmpSettings, probe_icmp)
