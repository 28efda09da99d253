"""Serve ``/metadata``: the exporter's version, its configuration, and its modules and probers with their metrics."""

from __future__ import annotations

import asyncio
import platform
import re
from datetime import UTC, datetime
from importlib import metadata as packages
from typing import NamedTuple

from pydantic import BaseModel

from probe_exporter import runner
from probe_exporter.config.catalogue import MetricInfo, ModuleInfo, ProberInfo, metric_info, module_info, prober_info
from probe_exporter.config.module import Config
from probe_exporter.config.reloading import Configuration
from probe_exporter.plugins.inventory import declared
from probe_exporter.version import VERSION, revision
from probe_exporter.web.answers import Answer, json_model
from probe_exporter.web.html.negotiation import wants_html
from probe_exporter.web.html.rendering import MAX_LISTED_MODULES, Renderer
from probe_exporter.web.request import WebRequest

NAME = "probe-exporter"


class PythonInfo(BaseModel, frozen=True):
    """The Python that runs the exporter."""

    version: str
    implementation: str


class ConfigInfo(BaseModel, frozen=True):
    """The files of the configuration in use; `last_error` is why the last reload was refused, or empty."""

    files: list[str]
    sha256: str
    loaded: str
    last_error: str


class Metadata(BaseModel, frozen=True):
    """The whole document; `metrics` are those that every probe has, times are in RFC 3339."""

    name: str
    version: str
    revision: str
    python: PythonInfo
    libraries: dict[str, str]
    started: str
    config: ConfigInfo
    modules: list[ModuleInfo]
    metrics: list[MetricInfo]
    probers: list[ProberInfo]


class _Description(NamedTuple):
    """The part of the document that is slow to compute and changes only with the configuration."""

    config: Config
    modules: list[ModuleInfo]
    probers: list[ProberInfo]
    libraries: dict[str, str]


class MetadataPage:
    """The handler of ``/metadata``. It computes what depends on the configuration once per configuration."""

    def __init__(self, configuration: Configuration, renderer: Renderer) -> None:
        self._configuration = configuration
        self._renderer = renderer
        self._started = _rfc3339(datetime.now(UTC).timestamp())
        self._description: _Description | None = None

    async def metadata(self, request: WebRequest, query: str) -> Answer:
        """Return the document as JSON, or as a page for a browser."""
        description = await self._describe()
        document = Metadata(
            name=NAME,
            version=VERSION,
            revision=revision(),
            python=PythonInfo(version=platform.python_version(), implementation=platform.python_implementation()),
            libraries=description.libraries,
            started=self._started,
            config=_config(self._configuration),
            modules=description.modules,
            metrics=[metric_info(metric) for metric in declared(runner)],
            probers=description.probers,
        )
        if wants_html(request):
            return await self._renderer.page(request, "metadata.html", {"about": document, "most": MAX_LISTED_MODULES})
        return json_model(document)

    async def _describe(self) -> _Description:
        config = self._configuration.current
        description = self._description
        if description is None or description.config is not config:
            # In a thread: to make the schemas of all probers would block the event loop, and delay probes, too long.
            description = self._description = await asyncio.to_thread(_describe_config, config)
        return description


def _describe_config(config: Config) -> _Description:
    return _Description(
        config,
        [module_info(config.modules[name]) for name in sorted(config.modules)],
        [prober_info(config.probers[name]) for name in sorted(config.probers)],
        _libraries(),
    )


def _config(configuration: Configuration) -> ConfigInfo:
    config = configuration.current
    return ConfigInfo(
        files=[str(file) for file in config.files],
        sha256=config.sha256,
        loaded=_rfc3339(configuration.loaded),
        last_error=configuration.last_error,
    )


def _libraries() -> dict[str, str]:
    """Return the versions of the packages that this one requires; empty if it runs without being installed."""
    try:
        required = packages.requires(NAME) or []
    except packages.PackageNotFoundError:
        return {}
    names = sorted({re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line})
    return {name: packages.version(name) for name in names}


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
