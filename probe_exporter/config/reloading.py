"""`Configuration`: the config in use, and reloads. A new config replaces it only if it has no errors."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from probe_exporter.config.broken_probers import replacements, without_broken
from probe_exporter.config.changes import Change
from probe_exporter.config.files import config_files
from probe_exporter.config.loading import digest, load
from probe_exporter.config.module import Config, ConfigError
from probe_exporter.plugins.loader import BrokenProber, LoaderError, find_probers, library, load_probers
from probe_exporter.telemetry.counters import Telemetry

log = logging.getLogger(__name__)

REFUSALS = (ConfigError, LoaderError, OSError)
"""Exceptions of reading a config; each has a message for users."""


@dataclass(frozen=True, slots=True)
class Source:
    """The files and directories of a config, as the flags name them."""

    files: tuple[str, ...] = ()  # files, directories and globs; empty means the default
    directories: tuple[Path, ...] = ()  # of the user's own probers and modules
    expand_env: bool = False
    strict: bool = False
    ignore_errors: bool = False  # start without broken probers
    change: Change | None = None  # of a module, for one probe from a terminal

    def read(self) -> Config:
        """Load probers and modules.

        Raises:
            ConfigError, LoaderError, OSError: they can't be used.
        """
        broken: list[BrokenProber] = []
        if self.ignore_errors:
            probers, broken = find_probers(self.directories)
        else:
            probers = load_probers(self.directories)
        files = config_files(self.files, self.directories)
        config = load(
            files,
            probers | replacements(broken),
            expand_env=self.expand_env,
            strict=self.strict,
            deferred=() if self.files else [file for file in files if file.parent == library()],
            change=self.change,
        )
        return without_broken(config, probers, broken, strict=self.strict) if broken else config

    def digest(self) -> str:
        """Return a checksum of all files that `read` would read, including users' probers."""
        code = [path for directory in self.directories for path in sorted(directory.glob("*.py"))]
        return digest([*config_files(self.files, self.directories), *code])


class Configuration:
    """The current `Config`. Running probes keep the config that they began with.

    Attributes:
        current: the config in use.
        loaded: when that was read, in Unix seconds.
        last_error: why the last reload failed; empty if it did not.
    """

    def __init__(self, source: Source, telemetry: Telemetry) -> None:
        """Load the config for the first time.

        Raises:
            ConfigError, LoaderError, OSError: it can't be used.
        """
        self._source = source
        self._telemetry = telemetry
        self._one_at_a_time = asyncio.Lock()
        self._seen = self._fingerprint()  # of the last attempt, whether it succeeded or not
        self._good = True
        self.current = source.read()
        self.last_error = ""
        self._report("Loaded the configuration")

    @property
    def source(self) -> Source:
        """The files and directories that it is read from."""
        return self._source

    async def reload(self) -> None:
        """Reload the config, as a signal or a request demands. If nothing has changed, log only that.

        Raises:
            ConfigError, LoaderError, OSError: it can't be used; the previous config remains in use.
        """
        async with self._one_at_a_time:
            if await self._read(again=True):
                self._report("Reloaded the configuration")
            else:
                self._telemetry.reload_succeeded()
                log.info("The configuration has not changed")

    async def reload_if_changed(self) -> None:
        """Reload the config if files have changed since the last attempt. A bad config is reported once.

        Raises:
            ConfigError, LoaderError, OSError: it has changed and can't be used.
        """
        async with self._one_at_a_time:
            if await self._read(again=False):
                self._report("The configuration has changed and was reloaded")

    def follow(self) -> None:
        """Read what the workers have reloaded, for new workers. It needs no event loop; the workers log errors."""
        found = self._fingerprint()
        if found == self._seen:
            return
        try:
            self.current = self._source.read()
        except REFUSALS:
            return
        self._seen = found
        self.loaded = time.time()
        self._telemetry.reload_succeeded()
        self._telemetry.configured(self.current.modules, self.current.probers_not_loaded)

    async def _read(self, *, again: bool) -> bool:
        """Read the source and use the result. Return False if nothing has changed.

        Args:
            again: whether to read unchanged files that were refused before.
        """
        # In a thread: the check of a large config takes longer than the event loop may be blocked.
        found = await asyncio.to_thread(self._fingerprint)
        if found == self._seen and (self._good or not again):
            return False
        self._seen = found
        self._good = False
        try:
            self.current = await asyncio.to_thread(self._source.read)
        except Exception as error:
            self._telemetry.reload_failed()
            self.last_error = str(error)
            raise
        context = sys.modules.get("probe_exporter.tls.context")
        if context is not None:  # no probe has needed TLS otherwise
            context.forget_contexts()  # contexts of removed settings would remain
        self._good = True
        return True

    def _fingerprint(self) -> str:
        try:
            return self._source.digest()
        except REFUSALS as refusal:
            return f"unreadable: {refusal}"  # reading it will report the error

    def _report(self, message: str) -> None:
        self._telemetry.reload_succeeded()
        self.last_error = ""
        self.loaded = time.time()
        config = self.current
        self._telemetry.configured(config.modules, config.probers_not_loaded)
        files = ",".join([str(file) for file in config.files])
        log.info(message, extra={"fields": {"files": files, "modules": len(config.modules)}})
        for warning in config.warnings:
            log.warning(str(warning))
