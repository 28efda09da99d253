"""Settings that choose the address to probe and the address to probe from, for all probers that use IP."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from probe_exporter.fields import Text
from probe_exporter.prober import Settings


class AddressSettings(Settings):
    """Which of a name's addresses is probed: ``ip6`` or empty prefers IPv6, anything else IPv4."""

    preferred_ip_protocol: Text = "ip6"
    ip_protocol_fallback: bool = True

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.preferred_ip_protocol not in ("", "ip4", "ip6"):
            yield "preferred_ip_protocol", "neither ip4 nor ip6: taken as ip4"


class SourceSettings(AddressSettings):
    """The same, and the local address to probe from."""

    source_ip_address: Text = ""

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.source_ip_address and not _is_address(self.source_ip_address):
            yield "source_ip_address", "not an IP address: every probe of this module will fail"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
