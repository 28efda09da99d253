"""Format the log lines of finished probes, for stderr and as text for `/logs` and `debug=true`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from probe_exporter.prober.run import Event
from probe_exporter.runner import Result
from probe_exporter.telemetry import log_output
from probe_exporter.telemetry.logs import FORMATS, FormatName
from probe_exporter.telemetry.masking import Mask, mask_urls


def source_of(event: Event) -> str:
    """Return where an event was logged, as ``http.py:120``."""
    return f"{PurePath(event.code.co_filename).name}:{event.line}"


@dataclass(frozen=True, slots=True)
class ProbeLog:
    """Formats the events that probes logged.

    Args:
        level: events below this level are left out.
        format: the key of `FORMATS`.
    """

    level: int = logging.INFO
    format: FormatName = "logfmt"

    def write(self, result: Result) -> None:
        """Write a finished probe's lines to stderr; most probes have none."""
        if self.level <= logging.DEBUG:  # the level of the lines that every probe has
            log_output.write(self.text(result))
            return
        for line in result.probe.lines:
            if line[1] >= self.level:
                log_output.write(self.text(result))
                return

    def text(self, result: Result) -> str:
        """Return a finished probe's lines, each with its module and target."""
        return "".join([f"{line}\n" for line in self._lines(result)])

    def _lines(self, result: Result) -> Iterable[str]:
        line = FORMATS[self.format]
        mask = Mask(result.target, result.module.settings)
        of_probe = {"module": result.module.name, "target": mask_urls(result.target)}
        for event in result.probe.events:
            if event.level >= self.level:
                noted = {key: mask.plain(value) for key, value in event.fields.items() if key not in of_probe}
                yield line(event.time, event.level, source_of(event), mask.text(event.message), of_probe | noted)
