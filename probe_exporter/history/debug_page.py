"""The debug page of a finished probe as text, for `/probe?debug=true` and `/logs`: log, runs, metrics, settings."""

from __future__ import annotations

from collections.abc import Sequence

from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.formats import TEXT
from probe_exporter.history import run_lines
from probe_exporter.history.details import effective_settings, mask_of, masked_samples
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.runner import Result
from probe_exporter.telemetry.masking import Identity


def debug_pages(results: Sequence[Result], log: ProbeLog) -> str:
    """Return the debug pages of the probes of one request; several have their modules' names as headings."""
    if len(results) == 1:
        return debug_page(results[0], log)
    return "\n\n".join([f"Module {result.module.name}\n\n{debug_page(result, log)}" for result in results])


def debug_page(result: Result, log: ProbeLog) -> str:
    """Return the debug page of a result: log, runs, metrics and settings of its module, with secrets masked."""
    mask = mask_of(result)
    metrics = encode(masked_samples(result.probe.samples, mask), TEXT).decode()
    return (
        f"Logs for the probe:\n{log.text(result)}\n\n\n"
        f"{run_lines.sections(result, mask)}"
        f"Metrics that would have been returned:\n{metrics}\n\n\n"
        f"Module configuration:\n{effective_settings(Identity(result.module)).text}"
    )
