"""The exporter's own metrics, on a registry of their own.

The names that dashboards and alerts of the original read are kept; ours begin with ``probe_exporter_``.
"""

from __future__ import annotations

import platform
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Info, ProcessCollector

from probe_exporter.version import VERSION, revision

PREFIX = "blackbox_exporter"


class Telemetry:
    """What the exporter says about itself on ``/metrics``."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.reload_successful = Gauge(
            f"{PREFIX}_config_last_reload_successful",
            "1 if the configuration in use is the one last read, 0 if that was refused.",
            registry=registry,
        )
        self.reload_timestamp = Gauge(
            f"{PREFIX}_config_last_reload_success_timestamp_seconds",
            "When the configuration was last read and found good.",
            registry=registry,
        )
        self.unknown_modules = Counter(
            "blackbox_module_unknown_total",
            "Requests that named a module which the configuration does not have.",
            registry=registry,
        )
        self.internal_errors = Counter(
            "probe_exporter_internal_errors_total",
            "Probes and requests that met a bug of the exporter or of a prober; the log has the traceback.",
            registry=registry,
        )
        self.scrapes = Counter(
            "promhttp_metric_handler_requests_total",
            "Answers of /metrics itself.",
            ["code"],
            registry=registry,
        )
        for code in ("200", "500", "503"):
            self.scrapes.labels(code)
        self._describe_the_build()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

    def _describe_the_build(self) -> None:
        build = {"version": VERSION, "revision": revision()}
        python = {"python": platform.python_version(), "implementation": platform.python_implementation()}
        ours = Info("probe_exporter_build", "What this exporter is and runs on.", registry=self.registry)
        ours.info(build | python)
        theirs = Gauge(
            f"{PREFIX}_build_info",
            "This exporter's version, under the name that dashboards of blackbox_exporter look for.",
            [*build],
            registry=self.registry,
        )
        theirs.labels(**build).set(1)

    def reload_succeeded(self) -> None:
        """The configuration was read, or found unchanged, and is good."""
        self.reload_successful.set(1)
        self.reload_timestamp.set(time.time())

    def reload_failed(self) -> None:
        """The configuration was refused; the one before it stays in use."""
        self.reload_successful.set(0)
