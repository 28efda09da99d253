"""The plugin API: everything that a prober file needs, and nothing else."""

from probe_exporter.addressing import AddressSettings, SourceSettings
from probe_exporter.endpoints import host_and_port, split_host_port
from probe_exporter.fields import Duration, FilePath, Port, Regexp, Secret, Size, Text
from probe_exporter.metrics import Metric
from probe_exporter.net import Connection, Datagrams, connect, dial_udp, resolve, start_tls
from probe_exporter.prober import OwnReason, Probe, ProbeFailed, Prober, Reason, Settings
from probe_exporter.tls import TLSSettings

__all__ = [
    "AddressSettings",
    "Connection",
    "Datagrams",
    "Duration",
    "FilePath",
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
    "TLSSettings",
    "Text",
    "connect",
    "dial_udp",
    "host_and_port",
    "resolve",
    "split_host_port",
    "start_tls",
]
