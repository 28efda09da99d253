"""The page of a probe: one that a browser has requested, or one of the history.

Both are made of a `Report`, in a thread: a large probe takes longer than one turn of the event loop may take.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlencode

from probe_exporter.config.module import Config
from probe_exporter.config.reloading import Configuration
from probe_exporter.history.memory import Query
from probe_exporter.history.record import HistoryEntry
from probe_exporter.report.report import Report, of_entry, of_result
from probe_exporter.report.snippets import EXPORTER, query, source_options
from probe_exporter.runner import Result
from probe_exporter.settings.secrets import MASK
from probe_exporter.telemetry.masking import CROSSED_OUT
from probe_exporter.web.answers import Answer, Handler, Refused
from probe_exporter.web.history import HistoryPages
from probe_exporter.web.html.negotiation import wants_html
from probe_exporter.web.html.rendering import Renderer
from probe_exporter.web.listening import Place
from probe_exporter.web.module_selection import UnknownModule, similar_module
from probe_exporter.web.parameters import decode_query
from probe_exporter.web.request import WebRequest

MAX_LISTED_MODULES = 500
"""Modules on the page about an unknown one; `/modules` has all."""

MAX_HISTORY_SECONDS = 1.0
"""Seconds that a page waits for the history to find its probe and earlier ones."""

MAX_SEARCHED = 500
MAX_SEARCHED_BYTES = 1 << 20
"""Entries of the history, among which a page looks for its probe and for earlier ones, and bytes of their texts."""

MAX_EARLIER = 20
"""Earlier results on the page of a probe."""

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")


class ReportView(NamedTuple):
    """A report on a page.

    Attributes:
        again: the query of the request that repeats the probe; empty if something in it is masked.
        masked: whether a password or a secret is masked in the target or in a parameter, and so in the texts to copy.
        earlier: earlier results of the same module and target, newest first; `last_success` may be older than these.
        newer: the newest result of the same module and target, if that is a newer one.
    """

    report: Report
    again: str
    masked: bool
    earlier: tuple[HistoryEntry, ...]
    last_success: HistoryEntry | None
    newer: HistoryEntry | None


class ProbePages:
    """The handlers of the pages about probes."""

    def __init__(self, configuration: Configuration, history: HistoryPages, renderer: Renderer, place: Place) -> None:
        self._configuration = configuration
        self._history = history
        self._renderer = renderer
        self._place = place

    async def probe(self, request: WebRequest, results: Sequence[Result]) -> Answer:
        """Return the page of the probes of one request, each module in its own section."""
        exporter, options = exporter_url(request, self._place), source_options(self._configuration.source)
        newest = await self._newest()

        def make() -> list[ReportView]:
            reports = [of_result(result, exporter=exporter, options=options) for result in results]
            return [_view(report, newest) for report in reports]

        return await self._page(request, await self._renderer.in_thread(make), "probe")

    def history(self, otherwise: Handler) -> Handler:
        """Return the handler of ``/history``: a browser gets one entry as a page.

        Args:
            otherwise: answers all other requests.
        """

        async def answer(request: WebRequest, query: str) -> Answer:
            parameters = decode_query(query)
            if [*parameters] != ["id"] or not wants_html(request):
                return await otherwise(request, query)
            return await self._entry(request, parameters["id"])

        return answer

    async def _entry(self, request: WebRequest, id: str) -> Answer:
        entry, document = await self._history.entry(id)
        exporter, options = exporter_url(request, self._place), source_options(self._configuration.source)
        config, newest = self._configuration.current, await self._newest()

        def make() -> list[ReportView]:
            module = config.modules.get(entry.module)
            return [_view(of_entry(entry, document.details, module, exporter=exporter, options=options), newest)]

        return await self._page(request, await self._renderer.in_thread(make), "history")

    async def _page(self, request: WebRequest, views: Sequence[ReportView], section: str) -> Answer:
        failed = sum(not one.report.success for one in views)
        values = {"probes": views, "failed": failed, "section": section}
        return await self._renderer.page(request, "probe.html", values)

    async def _newest(self) -> list[HistoryEntry]:
        """Return the newest entries of the history, newest first; none if it can't be read in time."""
        try:
            async with asyncio.timeout(MAX_HISTORY_SECONDS):
                return await self._history.select(Query(limit=MAX_SEARCHED, max_bytes=MAX_SEARCHED_BYTES))
        except (Refused, TimeoutError):
            return []

    async def unknown_module(self, request: WebRequest, unknown: UnknownModule) -> Answer:
        """Return the page about a module that is not in the configuration: the nearest name, and all names."""
        given = decode_query(request.raw_path.partition("?")[2])
        values = await self._renderer.in_thread(_unknown_module, self._configuration.current, unknown, given)
        return await self._renderer.page(request, "unknown_module.html", values, unknown.status)


def exporter_url(request: WebRequest, place: Place) -> str:
    """Return the exporter's URL, with a slash at the end: the external one, or the one that the client used."""
    if "://" in place.front:
        return place.front.rstrip("/") + "/"
    host = request.headers.get("Host", "")
    if not _HOST.fullmatch(host):
        return EXPORTER.rstrip("/") + place.prefix
    return f"{'https' if request.tls else 'http'}://{host}{place.prefix}"


def _unknown_module(config: Config, unknown: UnknownModule, given: Mapping[str, str]) -> Mapping[str, object]:
    """Return the values of the page: each name with the query of the request that has it in place of the unknown."""
    others = {name: value for name, value in given.items() if name != "module"}
    names = sorted(config.modules)

    def with_module(name: str) -> str:
        return urlencode({"module": name, **others}, errors="surrogateescape")

    return {
        "name": unknown.name,
        "nearest": [(name, with_module(name)) for name in [similar_module(unknown.name, config)] if name],
        "modules": [(name, with_module(name)) for name in names[:MAX_LISTED_MODULES]],
        "left_out": max(0, len(names) - MAX_LISTED_MODULES),
    }


def _view(report: Report, newest: Sequence[HistoryEntry]) -> ReportView:
    """Return a report with what its page shows beside it.

    Args:
        newest: the newest entries of the history, newest first.
    """
    same = [one for one in newest if (one.module, one.target) == (report.module, report.target)]
    numbers = [one.id for one in same if (one.started, one.duration) == (report.started, report.duration)]
    if report.id is None and numbers:
        report = replace(report, id=numbers[0])
    earlier = [one for one in same if one.started < report.started]
    masked = CROSSED_OUT in report.target or any(MASK in value for value in report.parameters.values())
    return ReportView(
        report,
        again="" if masked else query(report.module, report.target, report.parameters, debug="true"),
        masked=masked,
        earlier=tuple(earlier[:MAX_EARLIER]),
        last_success=next((one for one in earlier if one.success), None),
        newer=same[0] if same and same[0].started > report.started else None,
    )
