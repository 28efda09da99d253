"""Render the landing page as HTML. All values are escaped, links are relative."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from urllib.parse import urlencode

from probe_exporter.config.module import Config
from probe_exporter.history.record import HistoryEntry
from probe_exporter.version import VERSION

EXAMPLE = {"target": "prometheus.io", "module": "http_2xx"}

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #cf222e; --dim: #777; }
@media (prefers-color-scheme: dark) { :root { --good: #3fb950; --bad: #ff7b72; --dim: #999; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h1 small { font-size: .9rem; font-weight: normal; color: var(--dim); }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
nav { display: flex; flex-wrap: wrap; gap: 0 1.25rem; margin: .25rem 0 1.5rem; }
form { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
input[name=target] { flex: 1 1 18rem; }
input, select, button { font: inherit; padding: .25rem .5rem; }
table { border-collapse: collapse; width: 100%; }
.wide { overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--dim); } td.target { word-break: break-all; min-width: 16rem; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.success { color: var(--good); } .failure { color: var(--bad); font-weight: 600; }
p.none { color: var(--dim); }
""".strip()

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>probe-exporter</title>
<style>{style}</style>
</head>
<body>
<h1>probe-exporter <small>{version}</small></h1>
<nav><a href="metrics">Metrics</a><a href="config">Configuration</a>\
<a href="history">History</a><a href="health">Health</a><a href="metadata">Metadata</a>\
<a href="openapi.json">API</a>\
<a href="probe?{example}">Probe {target}</a><a href="probe?{example}&amp;debug=true">Debug it</a></nav>
<form action="probe" method="get">
<select name="module" aria-label="Module">{modules}</select>
<input name="target" aria-label="Target" placeholder="Target, such as {target}" required>
<label><input type="checkbox" name="debug" value="true" checked> debug</label>
<button>Probe</button>
</form>
<h2>Recent probes</h2>
{recent}
</body>
</html>
"""

_TABLE = """<div class="wide"><table>
<thead><tr><th>Finished</th><th>Module</th><th>Target</th><th>Result</th><th>Why</th><th>Seconds</th>\
<th>Debug</th></tr></thead>
<tbody>
{rows}
</tbody>
</table></div>"""


def landing(config: Config, recent: Iterable[HistoryEntry] | None) -> str:
    """Return the page at the root: a form, links, and a table of recent probes.

    Args:
        recent: newest first; None if the history can't be read.
    """
    rows = [_row(entry) for entry in recent or ()]
    none = "The history can't be read now." if recent is None else "None yet."
    return _PAGE.format(
        style=_STYLE,
        version=escape(VERSION),
        target=escape(EXAMPLE["target"]),
        example=escape(urlencode(EXAMPLE)),
        modules="".join([_option(name) for name in sorted(config.modules)]),
        recent=_TABLE.format(rows="\n".join(rows)) if rows else f'<p class="none">{none}</p>',
    )


def _option(name: str) -> str:
    selected = " selected" if name == EXAMPLE["module"] else ""
    return f"<option{selected}>{escape(name)}</option>"


def _row(entry: HistoryEntry) -> str:
    finished = datetime.fromtimestamp(entry.started + entry.duration, UTC).astimezone()
    today = finished.date() == datetime.now(UTC).astimezone().date()
    verdict = "Success" if entry.success else "Failure"
    return (
        f'<tr><td class="number"><time datetime="{finished.isoformat(timespec="milliseconds")}">'
        f"{finished:{'' if today else '%Y-%m-%d '}%H:%M:%S}</time></td>"
        f"<td>{escape(entry.module)}</td>"
        f'<td class="target">{escape(entry.target)}</td>'
        f'<td class="{verdict.lower()}">{verdict}</td>'
        f'<td title="{escape(entry.message)}">{escape(entry.reason)}</td>'
        f'<td class="number">{entry.duration:.3g}</td>'
        f'<td class="number"><a href="logs?id={entry.id}">Logs</a> <a href="history?id={entry.id}">JSON</a></td></tr>'
    )
