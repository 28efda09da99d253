"""Generate docs/metrics.md, docs/reference/ and parts of docs/migration.md from the code: `make docs`.

metrics.md lists the metrics and reasons that the probers declare. migration.md lists the differences that the
side-by-side tests allow. A test fails if a page is not up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docs import reference_pages
from probe_exporter import runner
from probe_exporter.network import address_choice
from probe_exporter.plugins.inventory import declared
from probe_exporter.plugins.loader import load_probers
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.metrics import Metric
from probe_exporter.protocols.dialogue import steps
from probe_exporter.protocols.pki import crl_check, ocsp_check, renewal
from probe_exporter.report import advice
from probe_exporter.report.advice import Explanation
from probe_exporter.runs import several
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.tls import certificate_details
from probe_exporter.tls import metrics as tls_metrics
from tests.peers.config_cases import KINDER, STRICTER
from tests.peers.differences import DIFFERENCES, SECTIONS

HERE = Path(__file__).parent

INTRODUCTION = """\
# Metrics and reasons

`make docs` generates this page from the code. Edit the declarations there.

Metrics of a probe are gauges, unless the table names a type. Metrics that blackbox_exporter 0.28 has too have the same
names, labels and values.
"""

FAILURE = """\
## Why a probe failed

A probe that fails has `probe_failure_info{reason="…",phase="…"} 1`. It is absent on success. The reason is that of the
first failure.

| phase | the probe failed while it |
| --- | --- |
| `resolve` | looked up the target's name |
| `token` | fetched an OAuth 2.0 token |
| `proxy` | connected to a proxy, or through it |
| `connect` | connected |
| `tls` | made the TLS handshake |
| `processing` | waited for the response |
| `transfer` | received the response |
| `dialogue` | ran the steps of `query_response` |
| `validation` | checked the response against the module |

A prober may have other phases, or none. It may also have its own reasons; they are listed with the prober above, and
begin with its name.

To alert on a reason:

```promql
probe_success == 0 and on (job, instance) probe_failure_info{reason=~"certificate_.*"}
```

The link of a reason leads to what to check.

| reason | meaning |
| --- | --- |
"""

REASONS = """\
# Reasons and what to do

`make docs` generates this page from the code. Edit the declarations there.

What each reason of `probe_failure_info` means, and what to check. The terminal, the pages of the exporter and the debug
document show the same, with the host and port of the target in the commands. If you have a symptom and no reason, see
[Troubleshoot](../how-to/troubleshoot.md#a-probe-fails).

"""


EXAMINED = (certificate_details.METRICS, crl_check.METRICS, ocsp_check.METRICS, renewal.METRICS)
"""Metrics that the runner sets after a probe, if the module asks for them."""


def table(metrics: Iterable[Metric]) -> str:
    rows = ["| metric | labels | meaning |", "| --- | --- | --- |"]
    rows += [f"| `{m.name}` | {', '.join(f'`{label}`' for label in m.labels)} | {meaning(m)} |" for m in metrics]
    return "\n".join(rows) + "\n"


def meaning(metric: Metric) -> str:
    """Return the help text of a metric, with the type if it is neither a gauge nor an info metric."""
    return metric.help if metric.type in ("gauge", "info") else f"{metric.help} ({metric.type})"


def metrics() -> str:
    """Return metrics.md."""
    parts = [INTRODUCTION, "## Every probe\n", table(declared(runner))]
    parts += ["Of modules with [`addresses`](how-to/several-addresses.md):\n", table(several.OF_ADDRESSES)]
    parts += [
        "Of modules with [`attempts`](how-to/several-addresses.md#repeat-a-failed-run):\n",
        table(several.OF_ATTEMPTS),
    ]
    parts += ["## Probes over the network\n", "The target's address:\n", table(declared(address_choice))]
    parts += ["TLS handshakes, also if the certificate does not verify:\n", table(declared(tls_metrics))]
    parts += [
        "The same, with the keys of [a closer look at certificates](how-to/certificates.md):\n",
        table(metric for metrics in EXAMINED for metric in metrics),
    ]
    parts += [
        "Dialogues (`query_response`); the websocket prober has only the first of these:\n",
        table(declared(steps)),
    ]
    for name, prober in sorted(load_probers([]).items()):
        parts += [f"## Prober `{name}`\n", *own_tables(prober)]
    parts.append(FAILURE + "".join(map(reason_row, advice.common())))
    parts += ["## The exporter itself\n", "On `/metrics`, in addition to `process_*` and `python_*`:\n", own_metrics()]
    return "\n".join(parts)


def own_tables(prober: Prober[Any]) -> list[str]:
    """Return the tables of a prober: its own metrics and reasons."""
    page = f"modules/{prober.name}.md"
    tables = [f"{prober.summary.replace('``', '`')}{f' [More]({page}).' if (HERE / page).exists() else ''}\n"]
    own = declared(sys.modules[prober.probe.__module__])
    if own:
        tables.append(table(own))
    if prober.reasons:
        rows = [reason_row(reason) for reason in advice.own(prober.reasons)]
        tables.append("| own reason | meaning |\n| --- | --- |\n" + "".join(rows))
    return tables


def reason_row(reason: Explanation) -> str:
    """Return the row of a reason; a bar would end the cell."""
    meaning = reason.meaning.replace("|", "\\|")
    return f"| [`{reason.reason}`](reference/reasons.md#{reason.reason}) | {meaning} |\n"


def reasons() -> str:
    """Return reasons.md: a section for each reason."""
    parts = [
        REASONS,
        "## Reasons of every prober\n\n",
        *map(reason_section, advice.common()),
        "## Reasons of single probers\n\n",
    ]
    parts.append("## Reasons of single probers\n\nA prober may add reasons of its own. They begin with its name.\n\n")
    for _, prober in sorted(load_probers([]).items()):
        parts += map(reason_section, advice.own(prober.reasons))
    return "".join(parts).rstrip("\n") + "\n"


def reason_section(reason: Explanation) -> str:
    """Return the section of a reason. Its heading is the anchor that other pages link to."""
    check = "" if reason.advice == reason.meaning else f"{reason.advice}\n\n"
    return f"### {reason.reason}\n\n{reason.meaning}\n\n{check}"


def own_metrics() -> str:
    """Return the table of the exporter's own metrics, after one probe and one request."""
    telemetry = Telemetry()
    telemetry.configured(["http_2xx"])
    telemetry.tally("http_2xx").start()
    telemetry.answered("/probe", 200)
    rows = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for family in sorted(telemetry.collect(), key=lambda family: family.name):
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        shown = ", ".join(f"`{label}`" for label in labels)
        rows.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
    return "\n".join(rows) + "\n"


def migration() -> str:
    """Return migration.md with new tables."""
    text = (HERE / "migration.md").read_text(encoding="utf-8")
    rows = [f"| {what} | refused |" for what in STRICTER] + [f"| {what} | accepted |" for what in KINDER]
    text = between(text, "configuration", ["| what | here |", "| --- | --- |", *rows])
    listed: set[str] = set()
    for section in SECTIONS:
        lines = [line for line in differences(section) if line not in listed]
        listed.update(lines)
        text = between(text, section, lines)
    return text


def differences(section: str) -> list[str]:
    """Return the differences of a section of migration.md."""
    return [
        f"* {entry.why}{f' ({entry.source})' if entry.source else ''}"
        for entry in DIFFERENCES
        if entry.section == section
    ]


def between(text: str, name: str, lines: list[str]) -> str:
    """Return `text` with `lines` between the markers of `name`. Raise ValueError if the markers are missing."""
    before, marker, rest = text.partition(f"<!-- generated: {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not marker or not end:
        raise ValueError(f"migration.md has no markers for {name}")
    return before + marker + "\n".join(lines) + "\n" + end + after


PAGES = {
    "metrics.md": metrics,
    "migration.md": migration,
    "reference/configuration.md": reference_pages.configuration,
    "reference/flags.md": reference_pages.flag_page,
    "reference/http-api.md": reference_pages.http_api,
    "reference/reasons.md": reasons,
}

if __name__ == "__main__":
    for name, write in PAGES.items():
        (HERE / name).write_text(write(), encoding="utf-8")
