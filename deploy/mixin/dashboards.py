"""Write the Grafana dashboards in dashboards/: overview, target and exporter.

Run it as a program after a change: ``python -m deploy.mixin.dashboards``, or ``make docs``. Each dashboard is a list of
rows, and each row a list of panels with their queries. A test holds the files to this script, and asks a real
Prometheus for every query.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).with_name("dashboards")
COLUMNS = 24  # of Grafana's grid
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

TARGET_LINK = {
    "title": "Show this target",
    "url": "/d/probe-exporter-target?var-job=${__data.fields.job}&var-instance=${__data.fields.instance}",
}

Json = dict[str, Any]
GREEN_TO_RED = (("green", None), ("red", 1))
RED_TO_GREEN = (("red", None), ("green", 1))


@dataclass(frozen=True)
class Panel:
    """A panel: what it shows, and how.

    Args:
        title: its heading.
        queries: queries of PromQL by their legend.
        kind: Grafana's type of panel.
        unit: Grafana's unit of the values.
        width, height: in cells of the grid.
        about: the text that Grafana shows beside the heading.
        steps: colours, each from a value on.
        stacked: whether the series are stacked.
        links: links of a table's rows to the dashboard of the target.
    """

    title: str
    queries: dict[str, str]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 12
    height: int = 8
    about: str = ""
    steps: tuple[tuple[str, float | None], ...] = (("green", None),)
    stacked: bool = False
    links: bool = False

    def json(self, number: int, x: int, y: int) -> Json:
        """Return the panel as Grafana reads it, at a place of the grid."""
        made: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.about,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [self._target(*one) for one in enumerate(self.queries.items())],
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
        }
        if self.kind == "table":
            hidden = dict.fromkeys(("Time", "__name__"), True)
            made["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
        return made

    def _target(self, number: int, query: tuple[str, str]) -> Json:
        legend, expression = query
        moment = self.kind in {"stat", "table"}
        return {
            "refId": "ABCDEFGH"[number],
            "expr": expression,
            "legendFormat": legend,
            "datasource": SOURCE,
            "instant": moment,
            "range": not moment,
            "format": "table" if self.kind == "table" else "time_series",
        }

    def _defaults(self) -> Json:
        steps = [{"color": colour, "value": value} for colour, value in self.steps]
        made: Json = {"unit": self.unit, "thresholds": {"mode": "absolute", "steps": steps}}
        if self.kind == "timeseries":
            stacking = {"mode": "normal" if self.stacked else "none"}
            made["custom"] = {"fillOpacity": 30 if self.stacked else 0, "showPoints": "never", "stacking": stacking}
        if self.links:
            made["links"] = [TARGET_LINK]
        return made

    def _options(self) -> Json:
        if self.kind == "stat":
            name = "{{" in next(iter(self.queries))
            return {"textMode": "name" if name else "value", "reduceOptions": {"calcs": ["lastNotNull"]}}
        if self.kind == "timeseries":
            return {"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi", "sort": "desc"}}
        return {}


@dataclass(frozen=True)
class Dashboard:
    """A dashboard: its variables, and its panels by the heading of their row.

    Args:
        name: of its file, and the end of its uid.
        title: its heading.
        variables: queries for the values of each variable.
        rows: panels by heading.
    """

    name: str
    title: str
    variables: dict[str, str]
    rows: dict[str, tuple[Panel, ...]]

    def json(self) -> Json:
        """Return the dashboard as Grafana reads it."""
        return {
            "uid": f"probe-exporter-{self.name}",
            "title": self.title,
            "tags": ["probe-exporter"],
            "schemaVersion": 39,
            "version": 1,
            "editable": True,
            "refresh": "1m",
            "time": {"from": "now-6h", "to": "now"},
            "timezone": "",
            "graphTooltip": 1,
            "links": [{"type": "dashboards", "tags": ["probe-exporter"], "title": "probe-exporter", "keepTime": True}],
            "templating": {"list": [self._source(), *(self._variable(*one) for one in self.variables.items())]},
            "annotations": {"list": []},
            "panels": self._panels(),
        }

    def _source(self) -> Json:
        return {"name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus"}

    def _variable(self, name: str, query: str) -> Json:
        return {
            "name": name,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": "All", "value": "$__all"},
        }

    def _panels(self) -> list[Json]:
        panels: list[Json] = []
        y = 0
        for heading, row in self.rows.items():
            place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
            panels.append(
                {"id": len(panels) + 1, "type": "row", "title": heading, "collapsed": False, "gridPos": place}
            )
            x, y, tallest = 0, y + 1, 0
            for panel in row:
                if x + panel.width > COLUMNS:
                    x, y, tallest = 0, y + tallest, 0
                panels.append(panel.json(len(panels) + 1, x, y))
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest
        return panels


def stat(title: str, query: str, **settings: Any) -> Panel:
    """Return a panel of one number."""
    return Panel(title, {"": query}, "stat", **{"width": 6, "height": 4} | settings)


def named(title: str, legend: str, query: str, **settings: Any) -> Panel:
    """Return a panel of one word: the legend of its series."""
    return Panel(title, {legend: query}, "stat", **{"width": 6, "height": 4} | settings)


def table(title: str, query: str, **settings: Any) -> Panel:
    """Return a table of series and their values."""
    return Panel(title, {"": query}, "table", **settings)


def graph(title: str, *queries: tuple[str, str], **settings: Any) -> Panel:
    """Return a graph of queries, each with its legend."""
    return Panel(title, dict(queries), **settings)


JOB = '{job=~"$job"}'
"""Selects the series of the jobs that are chosen."""

INSTANCE = '{job=~"$job",instance=~"$instance"}'
"""Selects the series of the jobs and instances that are chosen."""


def _rate(metric: str, by: str, selector: str = INSTANCE) -> str:
    return f"sum by ({by}) (rate({metric}{selector}[$__rate_interval]))"


def _quantile(share: float, metric: str, by: str) -> str:
    return f"histogram_quantile({share}, {_rate(f'{metric}_bucket', f'le, {by}')})"


def _overview_now() -> tuple[Panel, ...]:
    """Return the numbers of now, the failing targets and the alerts."""
    return (
        stat("Targets", f"count(probe_success{JOB})"),
        stat("Failing", f"sum(probe_success{JOB} == bool 0)", steps=GREEN_TO_RED),
        stat("Succeeded within an hour", f"avg(avg_over_time(probe_success{JOB}[1h]))", unit="percentunit"),
        stat(
            "Certificates that expire within 14 days",
            f"sum(probe_ssl_earliest_cert_expiry{JOB} - time() < bool 14 * 86400)",
            steps=GREEN_TO_RED,
        ),
        table("Failing targets, with the reason", f"probe_failure_info{JOB}", links=True),
        table(
            "Alerts",
            'ALERTS{alertname=~"(Probe|Certificate).+"}',
            about="Alerts of deploy/mixin/rules.yml, pending or firing.",
        ),
    )


def _overview_history() -> tuple[Panel, ...]:
    """Return graphs of all targets, and tables of the worst."""
    return (
        graph("Share of targets that are up", ("{{job}}", f"avg by (job) (probe_success{JOB})"), unit="percentunit"),
        graph(
            "Failing targets by reason",
            ("{{reason}}", f"count by (reason) (probe_failure_info{JOB})"),
            stacked=True,
        ),
        graph("Duration of probes, mean", ("{{job}}", f"avg by (job) (probe_duration_seconds{JOB})"), unit="s"),
        table(
            "Slowest targets",
            f"topk(20, avg_over_time(probe_duration_seconds{JOB}[10m]))",
            unit="s",
            links=True,
        ),
        table("Targets that flap", f"topk(20, changes(probe_success{JOB}[6h]))", links=True),
        table(
            "Certificates by time left",
            f"bottomk(20, probe_ssl_earliest_cert_expiry{JOB} - time())",
            unit="s",
            links=True,
        ),
    )


def _overview_objectives() -> tuple[Panel, ...]:
    """Return graphs of the recording rules of objectives."""
    return (
        graph(
            "Share of failed probes within an hour",
            ("{{job}}", f"job:probes_bad:ratio1h{JOB}"),
            ("{{job}}: allowed in the long run", f"1 - job:probe_objective:ratio{JOB}"),
            unit="percentunit",
        ),
        graph(
            "Budget for failures that is left of 30 days",
            ("{{job}}", f"1 - job:probes_bad:ratio30d{JOB} / (1 - job:probe_objective:ratio{JOB})"),
            unit="percentunit",
            about="1 is untouched, 0 is used up, and below 0 the objective is missed.",
        ),
    )


def overview() -> Dashboard:
    """Return the dashboard of all targets."""
    return Dashboard(
        "overview",
        "Probes: overview",
        {"job": "label_values(probe_success, job)"},
        {
            "Now": _overview_now(),
            "Over time": _overview_history(),
            "Objectives": _overview_objectives(),
        },
    )


def _target_result() -> tuple[Panel, ...]:
    """Return what the target answers now and over time."""
    return (
        stat("Up", f"min(probe_success{INSTANCE})", steps=RED_TO_GREEN),
        stat("Succeeded", f"avg(avg_over_time(probe_success{INSTANCE}[$__range]))", unit="percentunit"),
        named("Reason of the failure", "{{reason}} ({{phase}})", f"probe_failure_info{INSTANCE}"),
        stat(
            "Certificate expires in",
            f"min(probe_ssl_earliest_cert_expiry{INSTANCE} - time())",
            unit="s",
            steps=(("red", None), ("orange", 2 * 86400), ("green", 14 * 86400)),
        ),
        graph("Success", ("{{instance}} {{module}}", f"probe_success{INSTANCE}"), kind="state-timeline", width=24),
        graph("Reasons", ("{{reason}} ({{phase}})", f"probe_failure_info{INSTANCE}"), kind="state-timeline", width=24),
    )


def _target_durations() -> tuple[Panel, ...]:
    """Return graphs of durations and lookups."""
    phases = f'{{__name__=~"probe_[a-z0-9]+_duration_seconds",phase!="",{INSTANCE[1:]}'
    return (
        graph(
            "Duration",
            ("{{instance}} {{module}}", f"probe_duration_seconds{INSTANCE}"),
            ("timeout", f"min(probe_timeout_seconds{INSTANCE})"),
            unit="s",
        ),
        graph("Duration by phase", ("{{phase}}", f"sum by (phase) ({phases})"), unit="s", stacked=True),
        graph("DNS lookup", ("{{instance}}", f"probe_dns_lookup_time_seconds{INSTANCE}"), unit="s"),
        graph("Changes of the address within an hour", ("{{instance}}", f"changes(probe_ip_addr_hash{INSTANCE}[1h])")),
    )


def _target_http() -> tuple[Panel, ...]:
    """Return graphs of the http prober."""
    return (
        graph("Status code", ("{{instance}}", f"probe_http_status_code{INSTANCE}"), unit="none"),
        graph("Body", ("{{instance}}", f"probe_http_uncompressed_body_length{INSTANCE}"), unit="bytes"),
        graph("Redirects", ("{{instance}}", f"probe_http_redirects{INSTANCE}"), unit="none", width=8),
        graph("HTTP version", ("{{instance}}", f"probe_http_version{INSTANCE}"), unit="none", width=8),
        graph("IP version", ("{{instance}}", f"probe_ip_protocol{INSTANCE}"), unit="none", width=8),
    )


def _target_tls() -> tuple[Panel, ...]:
    """Return tables and graphs of the certificate."""
    return (
        table("Certificate", f"probe_ssl_last_chain_info{INSTANCE}", width=24, height=5),
        table("Errors of the certificate's verification", f"probe_ssl_verify_error_info{INSTANCE}"),
        table("TLS version", f"probe_tls_version_info{INSTANCE}"),
        graph(
            "Time left of the certificate",
            ("{{instance}}", f"probe_ssl_earliest_cert_expiry{INSTANCE} - time()"),
            unit="s",
        ),
        graph(
            "Lifetime of the certificate that is used",
            ("{{instance}}", f"instance:probe_ssl_earliest_cert_expiry:lifetime_used_ratio{INSTANCE}"),
            unit="percentunit",
            about="Since Prometheus first saw the certificate; too low for one that is older.",
        ),
    )


def _target_ping() -> tuple[Panel, ...]:
    """Return graphs of the icmp prober."""
    return (
        graph(
            "Round trip",
            ("{{instance}}", f'probe_icmp_duration_seconds{{phase="rtt",{INSTANCE[1:]}'),
            unit="s",
        ),
        graph("Lost packets", ("{{instance}}", f"probe_icmp_packet_loss_ratio{INSTANCE}"), unit="percentunit"),
    )


def target() -> Dashboard:
    """Return the dashboard of one target."""
    return Dashboard(
        "target",
        "Probes: target",
        {
            "job": "label_values(probe_success, job)",
            "instance": 'label_values(probe_success{job=~"$job"}, instance)',
        },
        {
            "Result": _target_result(),
            "Time": _target_durations(),
            "HTTP": _target_http(),
            "TLS": _target_tls(),
            "Ping": _target_ping(),
        },
    )


def _exporter_state() -> tuple[Panel, ...]:
    """Return version and configuration of the exporters."""
    return (
        stat("Exporters that answer", f"sum(up{INSTANCE})", steps=RED_TO_GREEN),
        named(
            "Version",
            "{{version}} ({{revision}})",
            f"count by (version, revision) (probe_exporter_build_info{INSTANCE})",
        ),
        stat(
            "Configuration is loaded",
            f"min(blackbox_exporter_config_last_reload_successful{INSTANCE})",
            steps=RED_TO_GREEN,
        ),
        stat(
            "Age of the configuration",
            f"time() - min(blackbox_exporter_config_last_reload_success_timestamp_seconds{INSTANCE})",
            unit="s",
        ),
    )


def _exporter_probes() -> tuple[Panel, ...]:
    """Return graphs of the probes by module and reason."""
    return (
        graph(
            "Probes by module",
            ("{{module}}", _rate("probe_exporter_probes_total", "module")),
            unit="ops",
            stacked=True,
        ),
        graph(
            "Failed probes by reason",
            ("{{reason}}", _rate("probe_exporter_probes_total", "reason", f'{INSTANCE[:-1]},result="failure"}}')),
            unit="ops",
            stacked=True,
        ),
        graph(
            "Duration of probes",
            ("median {{module}}", _quantile(0.5, "probe_exporter_probe_duration_seconds", "module")),
            ("99 % {{module}}", _quantile(0.99, "probe_exporter_probe_duration_seconds", "module")),
            unit="s",
        ),
        graph(
            "Running and waiting probes",
            ("running {{instance}}", f"sum by (instance) (probe_exporter_probes_in_flight{INSTANCE})"),
            ("waiting {{instance}}", f"probe_exporter_probes_waiting{INSTANCE}"),
        ),
    )


def _exporter_load() -> tuple[Panel, ...]:
    """Return graphs of what the exporters use."""
    return (
        graph(
            "Delay of the event loop",
            ("{{instance}}", f"probe_exporter_event_loop_lag_seconds{INSTANCE}"),
            unit="s",
            about="Durations of probes include it. Above 0.1 s, add workers or replicas.",
        ),
        graph(
            "Wait for a slot, 99 %",
            ("{{instance}}", _quantile(0.99, "probe_exporter_probe_wait_seconds", "instance")),
            unit="s",
        ),
        graph("CPU", ("{{instance}}", _rate("process_cpu_seconds_total", "instance")), unit="none"),
        graph("Memory", ("{{instance}}", f"process_resident_memory_bytes{INSTANCE}"), unit="bytes"),
        graph(
            "Open files, share of the limit",
            ("{{instance}}", f"process_open_fds{INSTANCE} / process_max_fds{INSTANCE}"),
            unit="percentunit",
        ),
        graph(
            "Requests by path and status",
            ("{{handler}} {{code}}", _rate("probe_exporter_http_requests_total", "handler, code")),
            unit="reqps",
        ),
    )


def _exporter_errors() -> tuple[Panel, ...]:
    """Return graphs of refused requests, losses and restarts."""
    return (
        graph(
            "Requests that were not probed",
            ("rejected, because too many run", _rate("probe_exporter_probes_rejected_total", "job")),
            ("unknown module", _rate("blackbox_module_unknown_total", "job")),
            ("target denied", _rate("probe_exporter_targets_denied_total", "job")),
            ("address denied", _rate("probe_exporter_addresses_denied_total", "job")),
            unit="reqps",
        ),
        graph(
            "Losses and errors",
            ("internal errors", _rate("probe_exporter_internal_errors_total", "job")),
            ("lines of the log", _rate("probe_exporter_log_lines_dropped_total", "job")),
            ("history: {{cause}}", _rate("probe_exporter_history_lost_total", "cause")),
            unit="ops",
        ),
        graph(
            "Starts within an hour",
            ("{{instance}}", f"changes(process_start_time_seconds{INSTANCE}[1h])"),
            ("workers of {{instance}}", f"increase(probe_exporter_worker_restarts_total{INSTANCE}[1h])"),
        ),
        graph("Probers that failed to load", ("{{instance}}", f"probe_exporter_probers_not_loaded{INSTANCE}")),
    )


def exporter() -> Dashboard:
    """Return the dashboard of the exporter itself."""
    return Dashboard(
        "exporter",
        "Probes: exporter",
        {
            "job": "label_values(probe_exporter_build_info, job)",
            "instance": 'label_values(probe_exporter_build_info{job=~"$job"}, instance)',
        },
        {
            "State": _exporter_state(),
            "Probes": _exporter_probes(),
            "Load": _exporter_load(),
            "What went wrong": _exporter_errors(),
        },
    )


def files() -> dict[str, str]:
    """Return the content of every dashboard by the name of its file."""
    made = (overview(), target(), exporter())
    return {f"{one.name}.json": json.dumps(one.json(), indent=1) + "\n" for one in made}


def main() -> None:
    """Write the dashboards."""
    DIRECTORY.mkdir(exist_ok=True)
    for name, text in files().items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
