"""``/``: the status page for people. It shows what is broken, since when and why, and the most recent probes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from aiohttp.web import BaseRequest

from probe_exporter.config.current import Configuration
from probe_exporter.history.memory import Query
from probe_exporter.history.record import HistoryEntry
from probe_exporter.web.answers import Answer, Refused
from probe_exporter.web.histories import Histories
from probe_exporter.web.html.rendering import Renderer
from probe_exporter.web.parameters import decode_query
from probe_exporter.web.status import StatusFilter, TargetStatus, summarise

MAX_HISTORY_SECONDS = 1.0
"""Seconds that the status page waits for the history, which another process may have locked."""

MAX_ENTRIES = 5000
MAX_ENTRIES_BYTES = 8 << 20
"""Results that the status page reads from the history: number, and bytes of their targets and messages."""

MAX_ROWS = 200
"""Targets on one status page; failures come first, and filters find the others."""

MAX_RECENT = 100
"""Recent probes on the status page; `/history` has more."""

FILTERS = ("module", "target", "result", "reason")


class Pages:
    """The handler of the status page."""

    def __init__(self, configuration: Configuration, histories: Histories, renderer: Renderer) -> None:
        self._configuration = configuration
        self._histories = histories
        self._renderer = renderer

    async def status(self, request: BaseRequest, query: str) -> Answer:
        """Return the status page; without targets if the history can't be read now."""
        wanted = _filter(decode_query(query))
        entries = await self._entries()
        states = None if entries is None else await asyncio.to_thread(summarise, entries)
        return await self._renderer.page(request, "status.html", self._values(wanted, entries, states))

    async def _entries(self) -> list[HistoryEntry] | None:
        """Return the newest results, newest first; None if the history can't be read in time."""
        try:
            async with asyncio.timeout(MAX_HISTORY_SECONDS):
                return await self._histories.select(Query(limit=MAX_ENTRIES, max_bytes=MAX_ENTRIES_BYTES))
        except (Refused, TimeoutError):
            return None

    def _values(
        self,
        wanted: StatusFilter,
        entries: Sequence[HistoryEntry] | None,
        states: Sequence[TargetStatus] | None,
    ) -> Mapping[str, object]:
        shown = wanted.select(states or ())
        return {
            "wanted": wanted,
            "filtered": wanted != StatusFilter(),
            "readable": entries is not None,
            "targets": shown[:MAX_ROWS],
            "found": len(shown),
            "failing": sum(not state.success for state in states or ()),
            "total": len(states or ()),
            "recent": (entries or ())[:MAX_RECENT],
            "modules": sorted(self._configuration.current.modules),
        }


def _filter(parameters: Mapping[str, str]) -> StatusFilter:
    """Return the filter of a request; unknown parameters and results are ignored, so that a page always appears."""
    given = {name: parameters.get(name, "").strip() for name in FILTERS}
    if given["result"] not in ("success", "failure"):
        given["result"] = ""
    return StatusFilter(**given)
