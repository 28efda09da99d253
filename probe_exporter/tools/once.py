"""``probe-exporter run``: run one probe from a terminal and print its metrics."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

from probe_exporter.config.module import Module
from probe_exporter.config.single import NotRun
from probe_exporter.exposition.encoding import encode
from probe_exporter.history import record
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.runner import run_in_new_loop
from probe_exporter.settings.fields import nearest

DEFAULT_TIMEOUT = 10.0  # seconds


def run(module: Module, target: str, parameters: Mapping[str, str], timeout: float | None, *, debug: bool) -> int:
    """Probe once; print metrics to stdout and the reason of a failure to stderr. Return the exit code.

    Args:
        parameters: parameters of a request: those that the module declares, and ``hostname``.
        timeout: seconds; None for the module's timeout.
        debug: print the debug document instead of the metrics.

    Raises:
        NotRun: the module does not accept the parameters.
    """
    known = ["hostname", *module.parameters]
    for name in parameters:
        if name not in known:
            raise NotRun(f"module {module.name} has no parameter {name}{nearest(name, known)}")
    try:
        filled = module.prepared(parameters)
    except ValueError as conflict:
        raise NotRun(str(conflict)) from None
    result = run_in_new_loop(filled, target, timeout or module.timeout or DEFAULT_TIMEOUT)
    if debug:
        sys.stdout.write(record.debug_document(result, ProbeLog(logging.DEBUG, "logfmt")))
    else:
        sys.stdout.write(encode(result.probe.samples).decode())
    sys.stdout.flush()
    if result.failure is None:
        return 0
    told = record.entry(0, result)
    phase = f" in phase {told.phase}" if told.phase else ""
    sys.stderr.write(f"The probe failed{phase}: {told.reason}: {told.message}\n  {result.failure.reason.meaning}\n")
    return 1
