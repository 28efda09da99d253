"""The sources of targets that a configuration names: look them up for a request, and cache the targets.

* An answer of DNS is kept for its TTL, a failure for `FAILURE_SECONDS`. A file is read again when it has changed.
* Requests that arrive while a source is looked up wait for the same lookup.
* A reload of the configuration forgets everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from probe_exporter.config.discovery import DiscoverySettings
from probe_exporter.config.module import Config
from probe_exporter.config.reloading import Configuration
from probe_exporter.discovery import dns
from probe_exporter.discovery.files import FileOfTargets
from probe_exporter.discovery.groups import DiscoveryError, encode
from probe_exporter.prober.sharing import shared_result

FAILURE_SECONDS = 15.0
"""Seconds for which a failed lookup is not repeated: less than a usual refresh interval, which is a minute."""


class UnknownSource(Exception):
    """No source has this name."""


class Sources:
    """The sources of the configuration in use."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._config: Config | None = None
        self._sources: Mapping[str, Source] = {}

    async def targets(self, name: str) -> bytes:
        """Return the targets of a source as JSON.

        Raises:
            UnknownSource: there is no source of this name.
            DiscoveryError: its targets can't be found.
        """
        config = self._configuration.current
        if config is not self._config:
            self._config = config
            self._sources = {one: Source(one, settings, config) for one, settings in config.discovery.items()}
        source = self._sources.get(name)
        if source is None:
            raise UnknownSource(name)
        return await source.targets()


class Source:
    """One source, and what was found last."""

    def __init__(self, name: str, settings: DiscoverySettings, config: Config) -> None:
        self._name = name
        self._settings = settings
        self._config = config
        self._file = FileOfTargets(name, settings, config.modules) if settings.file else None
        self._lookup: asyncio.Task[None] | None = None
        self._outcome: bytes | DiscoveryError = b"[]"
        self._until = 0.0

    async def targets(self) -> bytes:
        """Return the targets as JSON.

        Raises:
            DiscoveryError: they can't be found.
        """
        loop = asyncio.get_running_loop()
        if self._lookup is None and loop.time() >= self._until:
            self._lookup = loop.create_task(self._look_up())
        if self._lookup is not None:
            await shared_result(self._lookup)  # a client that disconnects does not end it for the others
        if isinstance(self._outcome, DiscoveryError):
            raise self._outcome
        return self._outcome

    async def _look_up(self) -> None:
        """Find the targets, and set until when they are kept."""
        loop = asyncio.get_running_loop()
        try:
            self._outcome, seconds = await self._find()
        except DiscoveryError as error:
            self._outcome, seconds = error, 0.0 if self._file else FAILURE_SECONDS
        finally:
            self._lookup = None
        self._until = loop.time() + seconds

    async def _find(self) -> tuple[bytes, float]:
        if self._file is not None:
            return await asyncio.to_thread(self._file.read), 0.0
        policies = [self._config.modules[module].network for module in self._settings.modules]
        found = await dns.find(self._settings, policies)
        return encode(self._name, found.targets), found.seconds
