"""Write the runs of a probe, and the certificates that they received, as lines of text for the debug page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from probe_exporter.runner import Result
from probe_exporter.telemetry.logs import pairs
from probe_exporter.telemetry.masking import Mask

if TYPE_CHECKING:
    from probe_exporter.runs.several import Run


def sections(result: Result, mask: Mask) -> str:
    """Return the sections of the debug page; empty for a probe with one run, whose log and metrics say it all."""
    if not result.runs:
        return ""
    runs = "".join([f"{_run(run, mask)}\n" for run in result.runs])
    handshakes = [evidence.data(mask.text) for evidence in result.probe.evidence]
    sent = "".join([f"{line}\n" for handshake in handshakes for line in _certificates(handshake)])
    return f"Runs of the probe:\n{runs}\n\n" + (f"Certificates of the runs:\n{sent}\n\n" if sent else "")


def _run(run: Run, mask: Mask) -> str:
    """Return the line of a run; it ends with the seconds of its phases."""
    failure = {"reason": run.reason, "phase": run.phase, "err": mask.text(run.message)} if run.reason else {}
    seconds = {f"{phase}_seconds": spent for phase, spent in run.phases.items()}
    address = {"address": run.address} if run.address else {}
    result = "failure" if run.reason else "success"
    fields = {"attempt": run.attempt, "result": result, "decides": run.decides, **failure}
    return pairs({**address, **fields, "start_seconds": run.start, "duration_seconds": run.seconds, **seconds})


def _certificates(handshake: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each certificate of a handshake: what sent it, and what is wrong with it."""
    sender = {key: handshake[key] for key in ("address", "run", "attempt", "server_name") if handshake[key]}
    for position, one in enumerate(handshake["certificates"]):
        errors = {"errors": ",".join(one["errors"])} if one["errors"] else {}
        expires = f"{datetime.fromtimestamp(one['not_after'], UTC):%Y-%m-%dT%H:%M:%SZ}"
        shown = {"subject": one["subject"], "fingerprint_sha256": one["fingerprint_sha256"], "expires": expires}
        yield pairs({**sender, "chain_pos": position, **shown, **errors})
