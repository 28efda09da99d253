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


def overview() -> Dashboard:
    """Return the dashboard of all targets."""
    s = '{job=~"$job"}'
    return Dashboard(
        "overview",
        "Probes: overview",
        {"job": "label_values(probe_success, job)"},
        {
            "Now": (
                stat("Targets", f"count(probe_success{s})"),
                stat("Failing", f"sum(probe_success{s} == bool 0)", steps=GREEN_TO_RED),
                stat("Succeeded within an hour", f"avg(avg_over_time(probe_success{s}[1h]))", unit="percentunit"),
                stat(
                    "Certificates that expire within 14 days",
                    f"sum(probe_ssl_earliest_cert_expiry{s} - time() < bool 14 * 86400)",
                    steps=GREEN_TO_RED,
                ),
                table("Failing targets, with the reason", f"probe_failure_info{s}", links=True),
                table(
                    "Alerts",
                    'ALERTS{alertname=~"(Probe|Certificate).+"}',
                    about="Alerts of deploy/mixin/rules.yml, pending or firing.",
                ),
            ),
            "Over time": (
                graph(
                    "Share of targets that are up", ("{{job}}", f"avg by (job) (probe_success{s})"), unit="percentunit"
                ),
                graph(
                    "Failing targets by reason",
                    ("{{reason}}", f"count by (reason) (probe_failure_info{s})"),
                    stacked=True,
                ),
                graph("Duration of probes, mean", ("{{job}}", f"avg by (job) (probe_duration_seconds{s})"), unit="s"),
                table(
                    "Slowest targets",
                    f"topk(20, avg_over_time(probe_duration_seconds{s}[10m]))",
                    unit="s",
                    links=True,
                ),
                table("Targets that flap", f"topk(20, changes(probe_success{s}[6h]))", links=True),
                table(
                    "Certificates by time left",
                    f"bottomk(20, probe_ssl_earliest_cert_expiry{s} - time())",
                    unit="s",
                    links=True,
                ),
            ),
            "Objectives": (
                graph(
                    "Share of failed probes within an hour",
                    ("{{job}}", f"job:probes_bad:ratio1h{s}"),
                    ("{{job}}: allowed in the long run", f"1 - job:probe_objective:ratio{s}"),
                    unit="percentunit",
                ),
                graph(
                    "Budget for failures that is left of 30 days",
                    ("{{job}}", f"1 - job:probes_bad:ratio30d{s} / (1 - job:probe_objective:ratio{s})"),
                    unit="percentunit",
                    about="1 is untouched, 0 is used up, and below 0 the objective is missed.",
                ),
            ),
        },
    )


def target() -> Dashboard:
    """Return the dashboard of one target."""
    s = '{job=~"$job",instance=~"$instance"}'
    phases = '{__name__=~"probe_[a-z0-9]+_duration_seconds",phase!="",job=~"$job",instance=~"$instance"}'
    return Dashboard(
        "target",
        "Probes: target",
        {
            "job": "label_values(probe_success, job)",
            "instance": 'label_values(probe_success{job=~"$job"}, instance)',
        },
        {
            "Result": (
                stat("Up", f"min(probe_success{s})", steps=RED_TO_GREEN),
                stat("Succeeded", f"avg(avg_over_time(probe_success{s}[$__range]))", unit="percentunit"),
                named("Reason of the failure", "{{reason}} ({{phase}})", f"probe_failure_info{s}"),
                stat(
                    "Certificate expires in",
                    f"min(probe_ssl_earliest_cert_expiry{s} - time())",
                    unit="s",
                    steps=(("red", None), ("orange", 2 * 86400), ("green", 14 * 86400)),
                ),
                graph("Success", ("{{instance}} {{module}}", f"probe_success{s}"), kind="state-timeline", width=24),
                graph("Reasons", ("{{reason}} ({{phase}})", f"probe_failure_info{s}"), kind="state-timeline", width=24),
            ),
            "Time": (
                graph(
                    "Duration",
                    ("{{instance}} {{module}}", f"probe_duration_seconds{s}"),
                    ("timeout", f"min(probe_timeout_seconds{s})"),
                    unit="s",
                ),
                graph("Duration by phase", ("{{phase}}", f"sum by (phase) ({phases})"), unit="s", stacked=True),
                graph("DNS lookup", ("{{instance}}", f"probe_dns_lookup_time_seconds{s}"), unit="s"),
                graph("Changes of the address within an hour", ("{{instance}}", f"changes(probe_ip_addr_hash{s}[1h])")),
            ),
            "HTTP": (
                graph("Status code", ("{{instance}}", f"probe_http_status_code{s}"), unit="none"),
                graph("Body", ("{{instance}}", f"probe_http_uncompressed_body_length{s}"), unit="bytes"),
                graph("Redirects", ("{{instance}}", f"probe_http_redirects{s}"), unit="none", width=8),
                graph("HTTP version", ("{{instance}}", f"probe_http_version{s}"), unit="none", width=8),
                graph("IP version", ("{{instance}}", f"probe_ip_protocol{s}"), unit="none", width=8),
            ),
            "TLS": (
                table("Certificate", f"probe_ssl_last_chain_info{s}", width=24, height=5),
                table("Errors of the certificate's verification", f"probe_ssl_verify_error_info{s}"),
                table("TLS version", f"probe_tls_version_info{s}"),
                graph(
                    "Time left of the certificate",
                    ("{{instance}}", f"probe_ssl_earliest_cert_expiry{s} - time()"),
                    unit="s",
                ),
                graph(
                    "Lifetime of the certificate that is used",
                    ("{{instance}}", f"instance:probe_ssl_earliest_cert_expiry:lifetime_used_ratio{s}"),
                    unit="percentunit",
                    about="Since Prometheus first saw the certificate; too low for one that is older.",
                ),
            ),
            "Ping": (
                graph(
                    "Round trip",
                    ("{{instance}}", f'probe_icmp_duration_seconds{{phase="rtt",{s[1:]}'),
                    unit="s",
                ),
                graph("Lost packets", ("{{instance}}", f"probe_icmp_packet_loss_ratio{s}"), unit="percentunit"),
            ),
        },
    )


def exporter() -> Dashboard:
    """Return the dashboard of the exporter itself."""
    s = '{job=~"$job",instance=~"$instance"}'
    many = '{job=~"$job",instance=~"$instance",'

    def rate(metric: str, by: str, selector: str = s) -> str:
        return f"sum by ({by}) (rate({metric}{selector}[$__rate_interval]))"

    def quantile(share: float, metric: str, by: str) -> str:
        return f"histogram_quantile({share}, {rate(f'{metric}_bucket', f'le, {by}')})"

    return Dashboard(
        "exporter",
        "Probes: exporter",
        {
            "job": "label_values(probe_exporter_build_info, job)",
            "instance": 'label_values(probe_exporter_build_info{job=~"$job"}, instance)',
        },
        {
            "State": (
                stat("Exporters that answer", f"sum(up{s})", steps=RED_TO_GREEN),
                named(
                    "Version",
                    "{{version}} ({{revision}})",
                    f"count by (version, revision) (probe_exporter_build_info{s})",
                ),
                stat(
                    "Configuration is loaded",
                    f"min(blackbox_exporter_config_last_reload_successful{s})",
                    steps=RED_TO_GREEN,
                ),
                stat(
                    "Age of the configuration",
                    f"time() - min(blackbox_exporter_config_last_reload_success_timestamp_seconds{s})",
                    unit="s",
                ),
            ),
            "Probes": (
                graph(
                    "Probes by module",
                    ("{{module}}", rate("probe_exporter_probes_total", "module")),
                    unit="ops",
                    stacked=True,
                ),
                graph(
                    "Failed probes by reason",
                    ("{{reason}}", rate("probe_exporter_probes_total", "reason", f'{many}result="failure"}}')),
                    unit="ops",
                    stacked=True,
                ),
                graph(
                    "Duration of probes",
                    ("median {{module}}", quantile(0.5, "probe_exporter_probe_duration_seconds", "module")),
                    ("99 % {{module}}", quantile(0.99, "probe_exporter_probe_duration_seconds", "module")),
                    unit="s",
                ),
                graph(
                    "Running and waiting probes",
                    ("running {{instance}}", f"sum by (instance) (probe_exporter_probes_in_flight{s})"),
                    ("waiting {{instance}}", f"probe_exporter_probes_waiting{s}"),
                ),
            ),
            "Load": (
                graph(
                    "Delay of the event loop",
                    ("{{instance}}", f"probe_exporter_event_loop_lag_seconds{s}"),
                    unit="s",
                    about="Durations of probes include it. Above 0.1 s, add workers or replicas.",
                ),
                graph(
                    "Wait for a slot, 99 %",
                    ("{{instance}}", quantile(0.99, "probe_exporter_probe_wait_seconds", "instance")),
                    unit="s",
                ),
                graph("CPU", ("{{instance}}", rate("process_cpu_seconds_total", "instance")), unit="none"),
                graph("Memory", ("{{instance}}", f"process_resident_memory_bytes{s}"), unit="bytes"),
                graph(
                    "Open files, share of the limit",
                    ("{{instance}}", f"process_open_fds{s} / process_max_fds{s}"),
                    unit="percentunit",
                ),
                graph(
                    "Requests by path and status",
                    ("{{handler}} {{code}}", rate("probe_exporter_http_requests_total", "handler, code")),
                    unit="reqps",
                ),
            ),
            "What went wrong": (
                graph(
                    "Requests that were not probed",
                    ("rejected, because too many run", rate("probe_exporter_probes_rejected_total", "job")),
                    ("unknown module", rate("blackbox_module_unknown_total", "job")),
                    ("target denied", rate("probe_exporter_targets_denied_total", "job")),
                    ("address denied", rate("probe_exporter_addresses_denied_total", "job")),
                    unit="reqps",
                ),
                graph(
                    "Losses and errors",
                    ("internal errors", rate("probe_exporter_internal_errors_total", "job")),
                    ("lines of the log", rate("probe_exporter_log_lines_dropped_total", "job")),
                    ("history: {{cause}}", rate("probe_exporter_history_lost_total", "cause")),
                    unit="ops",
                ),
                graph(
                    "Starts within an hour",
                    ("{{instance}}", f"changes(process_start_time_seconds{s}[1h])"),
                    ("workers of {{instance}}", f"increase(probe_exporter_worker_restarts_total{s}[1h])"),
                ),
                graph("Probers that failed to load", ("{{instance}}", f"probe_exporter_probers_not_loaded{s}")),
            ),
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
