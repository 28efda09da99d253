"""``/modules`` and ``/reasons``: what the modules of the configuration do, and what each reason for failure means.

What depends on the configuration alone is computed once for each configuration, in a thread: it imports all probers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote

from probe_exporter import runner
from probe_exporter.config.catalogue import metric_info, module_info
from probe_exporter.config.dump import module_to_yaml
from probe_exporter.config.module import Config, Module
from probe_exporter.config.reloading import Configuration
from probe_exporter.history.memory import Query
from probe_exporter.history.record import HistoryEntry
from probe_exporter.plugins.inventory import declared, measured
from probe_exporter.report import advice
from probe_exporter.report.advice import Explanation
from probe_exporter.report.snippets import snippets, source_options
from probe_exporter.settings.fields import shorten
from probe_exporter.settings.secrets import MASK
from probe_exporter.web.answers import Answer, Refused
from probe_exporter.web.history import HistoryPages
from probe_exporter.web.html.rendering import Renderer
from probe_exporter.web.listening import Place
from probe_exporter.web.module_selection import UnknownModule
from probe_exporter.web.parameters import decode_query
from probe_exporter.web.probe_page import exporter_url
from probe_exporter.web.request import WebRequest

MAX_RECENT = 20
"""Results on the page of a module."""

MAX_LISTED_MODULES = 2000
"""Modules on one page."""

MAX_SETTINGS_CHARACTERS = 262144
"""Of the settings on the page of a module; `/config?module=` has all."""

MAX_HISTORY_SECONDS = 1.0
"""Seconds that a page waits for the history, which another process may have locked."""

EXAMPLE_TARGET = "example.org"
"""The target in the texts to copy."""


class ModuleRow(NamedTuple):
    """A row of the list of modules."""

    name: str
    prober: str
    description: str
    parameters: tuple[str, ...]


class _Descriptions(NamedTuple):
    """What depends on the configuration alone; None until it is first asked for."""

    config: Config
    modules: list[ModuleRow] | None = None
    reasons: list[tuple[str, list[Explanation]]] | None = None


class ModulePages:
    """The handlers of ``/modules``, ``/modules/NAME`` and ``/reasons``."""

    def __init__(self, configuration: Configuration, history: HistoryPages, renderer: Renderer, place: Place) -> None:
        self._configuration = configuration
        self._history = history
        self._renderer = renderer
        self._place = place
        self._descriptions = _Descriptions(configuration.current)

    async def modules(self, request: WebRequest, query: str) -> Answer:
        """Return the list of modules; with the parameter ``prober``, those that use it."""
        modules = self._current().modules
        if modules is None:
            modules = await self._renderer.in_thread(_modules, self._current().config)
            self._descriptions = self._current()._replace(modules=modules)
        wanted = decode_query(query).get("prober", "")
        found = [module for module in modules if wanted in ("", module.prober)]
        values = {
            "wanted": wanted,
            "modules": found[:MAX_LISTED_MODULES],
            "left_out": max(0, len(found) - MAX_LISTED_MODULES),
        }
        return await self._renderer.page(request, "modules.html", values)

    async def module(self, request: WebRequest, query: str) -> Answer:
        """Return the page of the module that the path names.

        Raises:
            Refused: with 404: there is no such module.
        """
        config = self._configuration.current
        name = module_name(request.raw_path)
        if name not in config.modules:
            raise Refused(404, UnknownModule(name, config).line)
        recent = await self._recent(name)
        make = partial(_module, config, name, exporter_url(request, self._place), self._options())
        values = {**await self._renderer.in_thread(make), "recent": recent}
        return await self._renderer.page(request, "module.html", values)

    async def reasons(self, request: WebRequest, query: str) -> Answer:
        """Return the page of all reasons for failure."""
        reasons = self._current().reasons
        if reasons is None:
            reasons = await self._renderer.in_thread(_reasons, self._current().config)
            self._descriptions = self._current()._replace(reasons=reasons)
        return await self._renderer.page(request, "reasons.html", {"groups": reasons})

    def _current(self) -> _Descriptions:
        """Return what is known of the configuration in use."""
        if self._descriptions.config is not self._configuration.current:
            self._descriptions = _Descriptions(self._configuration.current)
        return self._descriptions

    def _options(self) -> list[str]:
        return source_options(self._configuration.source)

    async def _recent(self, name: str) -> list[HistoryEntry] | None:
        """Return the newest results of a module; None if the history can't be read in time."""
        try:
            async with asyncio.timeout(MAX_HISTORY_SECONDS):
                return await self._history.select(Query(module=name, limit=MAX_RECENT))
        except (Refused, TimeoutError):
            return None


def module_name(raw_path: str) -> str:
    """Return the name of a module from the path of its page, in which slashes of the name are escaped."""
    return unquote(raw_path.partition("?")[0].rpartition("/")[2], errors="surrogateescape")


def _modules(config: Config) -> list[ModuleRow]:
    found = (config.modules[name] for name in sorted(config.modules))
    return [ModuleRow(one.name, one.prober.name, _description(one), tuple(one.parameters)) for one in found]


def _description(module: Module) -> str:
    """Return the description of a module, or else that of its prober."""
    return module.description or module.prober.summary.replace("``", "`")


def _module(config: Config, name: str, exporter: str, options: list[str]) -> Mapping[str, object]:
    """Return the values of the page of a module."""
    module = config.modules[name]
    defaults = {name: module.shown_default(name) for name in module.parameters}
    # A request without the parameter has the same default, and no secret.
    parameters = {name: default or "VALUE" for name, default in defaults.items() if MASK not in (default or "")}
    return {
        "module": module_info(module),
        "summary": module.prober.summary.replace("``", "`"),
        "place": str(module.place),
        "timeout": module.timeout,
        "parameters": module_info(module).parameters,
        "settings": shorten(module_to_yaml(module), MAX_SETTINGS_CHARACTERS),
        "metrics": [metric_info(metric) for metric in (*declared(runner), *measured(module.prober))],
        "reasons": advice.own(module.prober.reasons),
        "example": EXAMPLE_TARGET,
        "snippets": snippets(
            name, EXAMPLE_TARGET, parameters, timeout=module.timeout, exporter=exporter, options=options
        ),
    }


def _reasons(config: Config) -> list[tuple[str, list[Explanation]]]:
    """Return the common reasons under an empty name, and the own reasons of each prober under its name."""
    own = [(name, advice.own(config.probers[name].reasons)) for name in sorted(config.probers)]
    return [("", advice.common()), *[(name, reasons) for name, reasons in own if reasons]]
