"""``/config``: the configuration in use, as YAML for programs and by sections for people; secrets are masked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from probe_exporter.config.dump import module_to_yaml, modules_to_yaml, targets_to_yaml, to_yaml
from probe_exporter.config.module import Config, Module
from probe_exporter.config.reloading import Configuration
from probe_exporter.web.answers import Answer, Refused, plain
from probe_exporter.web.html.negotiation import wants_html
from probe_exporter.web.html.rendering import Renderer
from probe_exporter.web.module_selection import UnknownModule, modules_named, with_parameters
from probe_exporter.web.parameters import decode_query
from probe_exporter.web.request import WebRequest

MAX_SECTIONS = 200
"""Modules whose settings one page shows. Beyond this number the page has links to each."""


class ConfigPage:
    """The handler of `/config`."""

    def __init__(self, configuration: Configuration, renderer: Renderer) -> None:
        self._configuration = configuration
        self._renderer = renderer

    async def config(self, request: WebRequest, query: str) -> Answer:
        """Return the configuration, or some of its modules with a request's parameters."""
        config, parameters = self._configuration.current, decode_query(query)
        modules = _asked(config, parameters)
        if wants_html(request):
            values = await self._renderer.in_thread(_sections, config, modules)
            facts = {"loaded": self._configuration.loaded, "last_error": self._configuration.last_error}
            return await self._renderer.page(request, "config.html", {**values, **facts})
        if modules is None:
            return plain(await asyncio.to_thread(to_yaml, config))  # thousands of modules take seconds
        return plain(modules_to_yaml(modules))


def _asked(config: Config, parameters: Mapping[str, str]) -> Sequence[Module] | None:
    """Return the modules that a request names, with its parameters; None if it names none.

    Raises:
        Refused: a module is unknown, or a parameter can't be used.
    """
    asked = parameters.get("module")
    if not asked:
        return None
    try:
        modules = modules_named(config, asked)
    except UnknownModule as unknown:
        raise Refused(404, unknown.line) from None
    return [with_parameters(module, parameters) for module in modules]


def _sections(config: Config, asked: Sequence[Module] | None) -> Mapping[str, object]:
    """Return what the page shows; call it in a thread."""
    names = sorted(config.modules)
    few = len(names) <= MAX_SECTIONS
    shown = asked if asked is not None else [config.modules[name] for name in names] if few else []
    return {
        "files": [str(file) for file in config.files],
        "number": len(names),
        "asked": asked is not None,
        "targets": targets_to_yaml(config),
        "sections": [(module.name, module_to_yaml(module)) for module in shown],
        "names": names if asked is None and not few else [],
    }
