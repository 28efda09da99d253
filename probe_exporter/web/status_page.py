"""``/``: the status page for people. It shows what is broken, since when and why, and the most recent probes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from probe_exporter.config.module import Config
from probe_exporter.config.reloading import Configuration
from probe_exporter.history.memory import Query
from probe_exporter.history.record import HistoryEntry
from probe_exporter.prober.failure import Reason
from probe_exporter.telemetry.lag import Lag
from probe_exporter.web.answers import Answer, Refused
from probe_exporter.web.health import Health
from probe_exporter.web.history import HistoryPages
from probe_exporter.web.html.rendering import MAX_LISTED_MODULES, Renderer
from probe_exporter.web.parameters import decode_query
from probe_exporter.web.request import WebRequest
from probe_exporter.web.target_status import StatusFilter, strip, summarise
from probe_exporter.workers.worker import Workers

MAX_HISTORY_SECONDS = 1.0
"""Seconds that the status page waits for the history, which another process may have locked."""

MAX_ENTRIES = 5000
MAX_ENTRIES_BYTES = 8 << 20
"""Results that the status page reads from the history: number, and bytes of their targets and messages."""

MAX_ROWS = 200
"""Targets on one status page; failures come first, and filters find the others."""

MAX_RECENT = 50
"""Recent probes on the status page; `/history` has more."""

FILTERS = ("module", "target", "result", "reason")

_MEANINGS = {reason.value: reason.meaning for reason in Reason}


class StatusPage:
    """The handler of the status page."""

    def __init__(
        self,
        configuration: Configuration,
        history: HistoryPages,
        health: Health,
        lag: Lag,
        workers: Workers,
        renderer: Renderer,
    ) -> None:
        self._configuration = configuration
        self._history = history
        self._health = health
        self._lag = lag
        self._workers = workers
        self._renderer = renderer
        self._started = time.time()

    async def status(self, request: WebRequest, query: str) -> Answer:
        """Return the status page; without targets if the history can't be read now."""
        wanted = _filter(decode_query(query))
        entries = await self._entries()
        config = self._configuration.current
        values = await self._renderer.in_thread(_targets, config, wanted, entries or ())
        return await self._renderer.page(
            request, "status.html", {**values, **self._exporter(), "readable": entries is not None}
        )

    async def _entries(self) -> list[HistoryEntry] | None:
        """Return the newest results, newest first; None if the history can't be read in time."""
        try:
            async with asyncio.timeout(MAX_HISTORY_SECONDS):
                return await self._history.select(Query(limit=MAX_ENTRIES, max_bytes=MAX_ENTRIES_BYTES))
        except (Refused, TimeoutError):
            return None

    def _exporter(self) -> Mapping[str, object]:
        """Return what the page says about the exporter itself."""
        report = self._health.report()
        return {
            "health": report.status,
            "problems": [check for check in report.checks.values() if check.status != "pass"],
            "uptime": time.time() - self._started,
            "files": [str(file) for file in self._configuration.current.files],
            "loaded": self._configuration.loaded,
            "workers": self._workers.number,
            "lag": self._lag.worst(),
        }


def _targets(config: Config, wanted: StatusFilter, entries: Sequence[HistoryEntry]) -> Mapping[str, object]:
    """Return what the page says about targets and probes; call it in a thread.

    Args:
        entries: newest first.
    """
    states = summarise(entries)
    shown = wanted.select(states)
    recent = entries[:MAX_RECENT]
    failures = [state.latest for state in shown[:MAX_ROWS]] + list(recent)
    return {
        "wanted": wanted,
        "filtered": wanted != StatusFilter(),
        "targets": [(state, strip(state)) for state in shown[:MAX_ROWS]],
        "found": len(shown),
        "failing": sum(not state.success for state in states),
        "total": len(states),
        "reasons": Counter(state.latest.reason for state in states if not state.success),
        "meanings": {(entry.module, entry.reason): meaning(config, entry) for entry in failures if entry.reason},
        "recent": recent,
        "modules": sorted(config.modules)[:MAX_LISTED_MODULES],
    }


def meaning(config: Config, entry: HistoryEntry) -> str:
    """Return the sentence about the reason of a failure; empty for a reason that the configuration does not have."""
    if entry.reason in _MEANINGS:
        return _MEANINGS[entry.reason]
    module = config.modules.get(entry.module)
    own = module.prober.reasons if module is not None else ()
    return next((reason.meaning for reason in own if reason.value == entry.reason), "")


def _filter(parameters: Mapping[str, str]) -> StatusFilter:
    """Return the filter of a request; unknown parameters and results are ignored, so that a page always appears."""
    given = {name: parameters.get(name, "").strip() for name in FILTERS}
    if given["result"] not in ("success", "failure"):
        given["result"] = ""
    return StatusFilter(**given)
