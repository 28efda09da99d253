"""The plugin API: everything that a prober file needs, and nothing else."""

from probe_exporter.fields import Duration, FilePath, Port, Regexp, Secret, Size, Text
from probe_exporter.metrics import Metric
from probe_exporter.net import Connection, Datagrams, connect, dial_udp, resolve, split_host_port, start_tls
from probe_exporter.prober import OwnReason, Probe, ProbeFailed, Prober, Reason, Settings
from probe_exporter.tls import TLSSettings

__all__ = [
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
    "TLSSettings",
    "Text",
    "connect",
    "dial_udp",
    "resolve",
    "split_host_port",
    "start_tls",
]
