"""The plugin API: everything that a prober file needs, and nothing else.

``docs/writing-a-prober.md`` teaches it; ``tests/golden/api.txt`` pins it, and with it every change to it.
"""

from probe_exporter.addresses.endpoints import host_and_port, split_host_port
from probe_exporter.network.connection import Connection
from probe_exporter.network.datagrams import Datagrams
from probe_exporter.network.opening import connect, connect_udp, dial_udp, dial_unix, resolve, start_tls
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
from probe_exporter.tls.settings import TLSSettings, with_server_name

__all__ = [
    "AddressSettings",
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
