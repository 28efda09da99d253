"""The plugin API: all names that a prober's file may import.

``docs/writing-a-prober.md`` explains it. ``tests/golden/api.txt`` pins it, so that every change is deliberate.

A name's file is imported when the name is first used: ``import probe_exporter`` alone imports nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe_exporter.addresses.endpoints import host_and_port, split_host_port
    from probe_exporter.network.address_choice import resolve
    from probe_exporter.network.connection import Connection
    from probe_exporter.network.datagrams import Datagrams
    from probe_exporter.network.opening import connect, connect_udp, dial_udp, dial_unix, start_tls
    from probe_exporter.network.settings import AddressSettings, ConnectSettings, SourceSettings
    from probe_exporter.prober.declaration import Prober
    from probe_exporter.prober.failure import OwnReason, ProbeFailed, Reason
    from probe_exporter.prober.metrics import Metric
    from probe_exporter.prober.run import Probe
    from probe_exporter.protocols.dialogue.lines import converse
    from probe_exporter.protocols.dialogue.steps import DialogueSettings, Step
    from probe_exporter.settings.block import Settings
    from probe_exporter.settings.fields import Duration, FilePath, Port, Size, Text
    from probe_exporter.settings.regexps import Match, Regexp
    from probe_exporter.settings.rules import exclusive, needs, required
    from probe_exporter.settings.secrets import Secret
    from probe_exporter.tls.settings import CertificateSettings, TLSSettings, with_server_name

__all__ = [
    "AddressSettings",
    "CertificateSettings",
    "ConnectSettings",
    "Connection",
    "Datagrams",
    "DialogueSettings",
    "Duration",
    "FilePath",
    "Match",
    "Metric",
    "OwnReason",
    "Port",
    "Probe",
    "ProbeFailed",
    "Prober",
    "Reason",
    "Regexp",
    "Secret",
    "Settings",
    "Size",
    "SourceSettings",
    "Step",
    "TLSSettings",
    "Text",
    "connect",
    "connect_udp",
    "converse",
    "dial_udp",
    "dial_unix",
    "exclusive",
    "host_and_port",
    "needs",
    "required",
    "resolve",
    "split_host_port",
    "start_tls",
    "with_server_name",
]

_FILES = {
    "CertificateSettings": "tls.settings",
    "ConnectSettings": "network.settings",
    "FilePath": "settings.fields",
    "Port": "settings.fields",
    "ProbeFailed": "prober.failure",
    "Reason": "prober.failure",
    "Regexp": "settings.regexps",
    "Size": "settings.fields",
    "SourceSettings": "network.settings",
    "Step": "protocols.dialogue.steps",
    "Text": "settings.fields",
    "connect_udp": "network.opening",
    "dial_udp": "network.opening",
    "dial_unix": "network.opening",
    "needs": "settings.rules",
    "required": "settings.rules",
    "resolve": "network.address_choice",
    "split_host_port": "addresses.endpoints",
    "start_tls": "network.opening",
    "with_server_name": "tls.settings",
    "AddressSettings": "network.settings",
    "Connection": "network.connection",
    "Datagrams": "network.datagrams",
    "DialogueSettings": "protocols.dialogue.steps",
    "Duration": "settings.fields",
    "Match": "settings.regexps",
    "Metric": "prober.metrics",
    "OwnReason": "prober.failure",
    "Probe": "prober.run",
    "Prober": "prober.declaration",
    "Secret": "settings.secrets",
    "Settings": "settings.block",
    "TLSSettings": "tls.settings",
    "connect": "network.opening",
    "converse": "protocols.dialogue.lines",
    "exclusive": "settings.rules",
    "host_and_port": "addresses.endpoints",
}
"""The file of each name, below this package; a test holds it to the imports above."""


def __getattr__(name: str) -> object:
    """Import a name of the API on first use (PEP 562)."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=import_module(__name__))
    value: object = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
