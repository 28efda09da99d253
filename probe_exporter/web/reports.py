"""The pages about probes: a probe that was asked for in a browser, and an entry of the history.

Both are made of a `Report`, in a thread: a large probe takes longer than one turn of the event loop may take.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from aiohttp.web import BaseRequest

from probe_exporter.config.current import Configuration
from probe_exporter.config.module import Config
from probe_exporter.history.memory import Query
from probe_exporter.report.report import Report, of_entry, of_result
from probe_exporter.report.snippets import EXPORTER, query, source_options
from probe_exporter.runner import Result
from probe_exporter.settings.secrets import MASK
from probe_exporter.telemetry.masking import CROSSED_OUT
from probe_exporter.web.answers import Answer, Handler, Refused
from probe_exporter.web.histories import Histories
from probe_exporter.web.html.negotiation import wants_html
from probe_exporter.web.html.rendering import Renderer
from probe_exporter.web.listening import Place
from probe_exporter.web.parameters import decode_query
from probe_exporter.web.selection import UnknownModule, similar

MAX_LISTED_MODULES = 500
"""Modules on the page about an unknown one; `/modules` has all."""

MAX_HISTORY_SECONDS = 1.0
"""Seconds that a page waits for the history to find the number of a probe."""

MAX_SEARCHED = 200
"""The newest entries of the history, among which a page looks for its probe."""

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")


class Shown(NamedTuple):
    """A report on a page.

    Attributes:
        again: the query of the request that repeats the probe; empty if something in it is masked.
        masked: whether a password or a secret is masked in the target or in a parameter, and so in the texts to copy.
    """

    report: Report
    again: str
    masked: bool


class Reports:
    """The handlers of the pages about probes."""

    def __init__(self, configuration: Configuration, histories: Histories, renderer: Renderer, place: Place) -> None:
        self._configuration = configuration
        self._histories = histories
        self._renderer = renderer
        self._place = place

    async def probe(self, request: BaseRequest, results: Sequence[Result]) -> Answer:
        """Return the page of the probes of one request, each module in its own section."""
        exporter, options = exporter_url(request, self._place), source_options(self._configuration.source)
        numbers = await self._numbers(results)

        def make() -> list[Shown]:
            return [
                _shown(of_result(result, id=number, exporter=exporter, options=options))
                for result, number in zip(results, numbers, strict=True)
            ]

        return await self._page(request, await asyncio.to_thread(make), "probe")

    def history(self, otherwise: Handler) -> Handler:
        """Return the handler of ``/history``: a browser gets one entry as a page.

        Args:
            otherwise: answers all other requests.
        """

        async def answer(request: BaseRequest, query: str) -> Answer:
            parameters = decode_query(query)
            if [*parameters] != ["id"] or not wants_html(request):
                return await otherwise(request, query)
            return await self._entry(request, parameters["id"])

        return answer

    async def _entry(self, request: BaseRequest, id: str) -> Answer:
        entry, document = await self._histories.entry(id)
        exporter, options = exporter_url(request, self._place), source_options(self._configuration.source)
        config = self._configuration.current

        def make() -> list[Shown]:
            module = config.modules.get(entry.module)
            return [_shown(of_entry(entry, document.details, module, exporter=exporter, options=options))]

        return await self._page(request, await asyncio.to_thread(make), "history")

    async def _page(self, request: BaseRequest, shown: Sequence[Shown], section: str) -> Answer:
        failed = sum(not one.report.success for one in shown)
        values = {"probes": shown, "failed": failed, "section": section}
        return await self._renderer.page(request, "probe.html", values)

    async def _numbers(self, results: Sequence[Result]) -> list[int | None]:
        """Return the numbers of new probes in the history; None for those that are not found at once."""
        try:
            async with asyncio.timeout(MAX_HISTORY_SECONDS):
                newest = await self._histories.select(Query(limit=MAX_SEARCHED))
        except (Refused, TimeoutError):
            newest = []
        found = {(one.module, one.started, one.duration): one.id for one in newest}
        return [found.get((one.module.name, one.started, one.duration)) for one in results]

    async def unknown_module(self, request: BaseRequest, unknown: UnknownModule) -> Answer:
        """Return the page about a module that is not in the configuration: the nearest name, and all names."""
        given = decode_query(request.raw_path.partition("?")[2])
        values = await asyncio.to_thread(_unknown_module, self._configuration.current, unknown, given)
        return await self._renderer.page(request, "unknown_module.html", values, unknown.status)


def exporter_url(request: BaseRequest, place: Place) -> str:
    """Return the exporter's URL, with a slash at the end: the external one, or the one that the client used."""
    if "://" in place.front:
        return place.front.rstrip("/") + "/"
    host = request.headers.get("Host", "")
    if not _HOST.fullmatch(host):
        return EXPORTER.rstrip("/") + place.prefix
    return f"{request.scheme}://{host}{place.prefix}"


def _unknown_module(config: Config, unknown: UnknownModule, given: Mapping[str, str]) -> Mapping[str, object]:
    """Return the values of the page: each name with the query of the request that has it in place of the unknown."""
    others = {name: value for name, value in given.items() if name != "module"}
    names = sorted(config.modules)

    def with_module(name: str) -> str:
        return urlencode({"module": name, **others}, errors="surrogateescape")

    return {
        "name": unknown.name,
        "nearest": [(name, with_module(name)) for name in [similar(unknown.name, config)] if name],
        "modules": [(name, with_module(name)) for name in names[:MAX_LISTED_MODULES]],
        "left_out": max(0, len(names) - MAX_LISTED_MODULES),
    }


def _shown(report: Report) -> Shown:
    masked = CROSSED_OUT in report.target or any(MASK in value for value in report.parameters.values())
    again = "" if masked else query(report.module, report.target, report.parameters, debug="true")
    return Shown(report, again, masked)
