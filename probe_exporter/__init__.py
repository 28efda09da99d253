"""The plugin API: everything that a prober file needs, and nothing else.

``docs/writing-a-prober.md`` teaches it; ``tests/golden/api.txt`` pins it, and with it every change to it.
"""

from probe_exporter.addressing import AddressSettings, ConnectSettings, SourceSettings
from probe_exporter.connection import Connection
from probe_exporter.datagrams import Datagrams
from probe_exporter.dialogue import DialogueSettings, Step
from probe_exporter.endpoints import host_and_port, split_host_port
from probe_exporter.fields import Duration, FilePath, Match, Port, Regexp, Secret, Size, Text
from probe_exporter.lines import converse
from probe_exporter.metrics import Metric
from probe_exporter.net import connect, connect_udp, dial_udp, dial_unix, resolve, start_tls
from probe_exporter.prober import OwnReason, Probe, ProbeFailed, Prober, Reason, Settings
from probe_exporter.rules import exclusive, needs, required
from probe_exporter.tls import TLSSettings, with_server_name

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
