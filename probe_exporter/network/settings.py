"""Network settings: IP version, source address, name servers, allowed targets.

A prober reads its own settings. A module's settings apply to every connection of its probes, and become one
`NetworkPolicy`. The runner makes a `RunNetwork` of it for each run; `opening`, `quic` and `icmp` apply it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from probe_exporter.addresses import guard, literals
from probe_exporter.addresses.endpoints import join_host_port, split_host_port
from probe_exporter.addresses.guard import Guard, Lists, TargetEntry
from probe_exporter.network.policy import NetworkPolicy
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import SCALAR_TYPES, Duration, Text, Written, positive
from probe_exporter.settings.rules import required
from probe_exporter.tls.settings import CertificateSettings, TLSSettings

if TYPE_CHECKING:
    from probe_exporter.network.lookup import Resolver


class AddressSettings(Settings):
    """IP version: the address of a host name to probe.

    Args:
        preferred_ip_protocol: ``ip6`` or empty prefers IPv6, anything else IPv4, as the original has it.
        ip_protocol_fallback: use an address of the other version if the name has none of the preferred one.
    """

    preferred_ip_protocol: Text = "ip6"
    ip_protocol_fallback: bool = True

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.preferred_ip_protocol not in ("", "ip4", "ip6"):
            yield "preferred_ip_protocol", "neither ip4 nor ip6: taken as ip4"


class SourceSettings(AddressSettings):
    """IP version and source address.

    Args:
        source_ip_address: an address of this machine; empty for the system's choice, or the module's.
    """

    source_ip_address: Text = ""

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.source_ip_address and not _is_address(self.source_ip_address):
            yield "source_ip_address", "not an IP address: every probe of this module will fail"


class ConnectSettings(CertificateSettings, SourceSettings):
    """IP version, source address and TLS: the settings that `connect` needs.

    Args:
        tls: start TLS as soon as the connection is open.
        tls_config: settings of TLS, with `tls` and `start_tls`.
    """

    tls: bool = False
    tls_config: TLSSettings = TLSSettings()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# --- of a module -------------------------------------------------------------------------------------------

_SERVER = re.compile(r"\[(?P<v6>[^\[\]]*)\](?::(?P<port6>.*))?|(?P<v4>[^:]*):(?P<port4>.*)", re.DOTALL)


def _server(text: str) -> str:
    """Return a name server as ``address:port``.

    Raises:
        ValueError: the text is not an address with or without a port.
    """
    parts = _SERVER.fullmatch(text)
    host, port = text, "53"
    if literals.literal(text) is None and parts is not None:
        host, port = (parts["v6"], parts["port6"]) if parts["v6"] else (parts["v4"] or "", parts["port4"])
        port = "53" if port is None else port
    known = literals.literal(host)
    if known is None or "%" in known or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError(f"{text!r} is not the address of a name server, such as 127.0.0.1, 127.0.0.1:53 or [::1]:53")
    return join_host_port(known, int(port))


class ResolverSettings(Settings):
    """A module's ``resolver``: name servers to use in place of the hosts file and the system's resolver.

    Args:
        servers: addresses with ports or without, tried in turn. Names are looked up without search domains.
        timeout: seconds for a lookup, in which each server is asked twice.
    """

    rules = (required("servers"),)
    servers: tuple[Annotated[Text, AfterValidator(_server)], ...]
    timeout: Annotated[Duration, AfterValidator(positive)] = 5.0

    def resolver(self) -> Resolver:
        """Return the resolver that asks these servers."""
        from probe_exporter.network.lookup import Resolver  # noqa: PLC0415  # few configurations need it at load

        servers = map(split_host_port, self.servers)
        return Resolver(tuple((host, int(port)) for host, port in servers), self.timeout)


def _entry(value: object) -> TargetEntry:
    if isinstance(value, TargetEntry):
        return value
    if not isinstance(value, str):
        raise ValueError("expected a string")
    return guard.parse(value)


Target = Annotated[
    TargetEntry,
    Written("target", "10.0.0.0/8, *.example.org:443 or unix:/run/*"),
    PlainValidator(_entry, json_schema_input_type=str),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": SCALAR_TYPES}),
]
"""An entry of ``targets:``, kept as written."""


class TargetsSettings(Settings):
    """``targets`` of a module or of a whole file: the allow list and the deny list of probes.

    Args:
        allow: the only targets that probes may connect to; None for every target.
        deny: targets that probes never connect to, even if `allow` has them.
    """

    allow: tuple[Target, ...] | None = None
    deny: tuple[Target, ...] = ()

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.allow == ():
            yield "allow", "an empty list permits nothing: every probe will fail"

    def lists(self, where: str) -> Lists:
        """Return these lists as a block of a `Guard`."""
        return Lists(self.allow, self.deny, where)


_INTERFACE = re.compile(r"[^\s/]{0,15}")


def _interface(name: str) -> str:
    if not _INTERFACE.fullmatch(name):
        raise ValueError(f"{name!r} can't be the name of an interface")
    return name


def _source(text: str) -> str:
    if text and literals.literal(text) is None:
        raise ValueError(f"{text!r} is not an IP address")
    return text


class NetworkSettings(Settings):
    """The network settings of a module, for every prober."""

    resolver: ResolverSettings | None = Field(None, description="Name servers to use in place of the system's.")
    source_interface: Annotated[Text, AfterValidator(_interface)] = Field(
        "", description="Network interface to probe through."
    )
    source_ip_address: Annotated[Text, AfterValidator(_source)] = Field(
        "", description="Local address to probe from, unless the prober's own settings have one."
    )
    targets: TargetsSettings | None = Field(None, description="Targets that probes may connect to.")

    def policy(self, of_all: tuple[Lists, ...] = ()) -> NetworkPolicy | None:
        """Return the policy for the module's probes; None if nothing is configured.

        Args:
            of_all: blocks of targets that apply to every module.
        """
        blocks = (*of_all, self.targets.lists("`targets` of the module")) if self.targets else of_all
        if not (blocks or self.resolver or self.source_interface or self.source_ip_address):
            return None
        asked = None if self.resolver is None else self.resolver.resolver()
        return NetworkPolicy(Guard(blocks) if blocks else None, asked, self.source_ip_address, self.source_interface)
