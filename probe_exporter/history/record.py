"""What the history keeps of a finished probe: its entry in lists, and its document with all details; secrets masked."""

from __future__ import annotations

from typing import NamedTuple

from probe_exporter.history.debug_page import debug_page
from probe_exporter.history.details import details_of, mask_of
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.runner import Result
from probe_exporter.telemetry.masking import mask_urls


class HistoryEntry(NamedTuple):
    """A finished probe in a list."""

    id: int
    module: str
    target: str  # without the password of a URL
    started: float  # Unix seconds
    duration: float  # seconds
    timeout: float  # seconds
    reason: str  # why it failed; empty if it did not
    phase: str  # where it failed
    message: str

    @property
    def success(self) -> bool:
        return not self.reason

    def data(self) -> dict[str, object]:
        """Return the entry as a JSON object; a success has null for reason, phase and message."""
        return {
            "id": self.id,
            "module": self.module,
            "target": self.target,
            "result": "success" if self.success else "failure",
            "reason": self.reason or None,
            "phase": None if self.success else self.phase,
            "message": None if self.success else self.message,
            "started": self.started,
            "duration_seconds": self.duration,
            "timeout_seconds": self.timeout,
        }


class HistoryDocument(NamedTuple):
    """The details of a finished probe: the data that its entry lacks, and its debug page as text."""

    details: dict[str, object]
    debug: str


def entry(id: int, result: Result) -> HistoryEntry:
    """Return the entry of a result."""
    failure = result.failure
    return HistoryEntry(
        id=id,
        module=result.module.name,
        target=mask_urls(result.target),
        started=result.started,
        duration=result.duration,
        timeout=result.timeout,
        reason=failure.reason.value if failure else "",
        phase=result.phase if failure else "",
        message=mask_of(result).text(failure.message) if failure else "",
    )


def document(result: Result, log: ProbeLog) -> HistoryDocument:
    """Return the document of a result, with secrets masked."""
    return HistoryDocument(details_of(result), debug_page(result, log))
