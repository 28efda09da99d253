"""The grpc prober: its settings. This version checks ``grpc`` modules and does not probe them yet."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import Field

from probe_exporter.addressing import AddressSettings
from probe_exporter.fields import Text
from probe_exporter.prober import Probe, ProbeFailed, Prober, Reason
from probe_exporter.tls import TLSSettings

_METADATA_KEY = re.compile(r"[0-9a-z._-]+")


class GrpcSettings(AddressSettings):
    """The ``grpc`` block of a module."""

    service: Text = ""
    tls: bool = False
    tls_config: TLSSettings = TLSSettings()
    metadata: dict[Text, tuple[Text, ...]] = Field(default_factory=dict)

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        for key in self.metadata:
            if not _METADATA_KEY.fullmatch(key):
                yield "metadata", f"{key} has characters other than 0-9 a-z . _ -: every call will fail"


async def probe_grpc(probe: Probe, settings: GrpcSettings) -> None:
    """Ask a gRPC server for its health (grpc.health.v1)."""
    raise ProbeFailed(Reason.SETTINGS_UNSUPPORTED, "this version checks grpc modules but does not probe them yet")


prober = Prober("grpc", GrpcSettings, probe_grpc)
