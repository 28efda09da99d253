"""The config in use, and how it is replaced: one reference, swapped when a new config has proved to be good."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from probe_exporter.config.files import config_files
from probe_exporter.config.loading import digest, load
from probe_exporter.config.module import Config, ConfigError
from probe_exporter.config.stand_ins import stand_ins, without
from probe_exporter.plugins.loader import Broken, LoaderError, find_probers, library, load_probers
from probe_exporter.telemetry.counters import Telemetry

log = logging.getLogger(__name__)

REFUSALS = (ConfigError, LoaderError, OSError)
"""What reading a config can raise; each says why in words for a person."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a config comes from: what the flags say, read anew each time."""

    files: tuple[str, ...] = ()  # files, directories and globs; empty means the default
    directories: tuple[Path, ...] = ()  # of the user's own probers and modules
    expand_env: bool = False
    strict: bool = False
    ignore_errors: bool = False  # of probers: go on without those that are broken

    def read(self) -> Config:
        """Load probers and modules.

        Raises:
            ConfigError, LoaderError, OSError: they are not good.
        """
        broken: list[Broken] = []
        if self.ignore_errors:
            probers, broken = find_probers(self.directories)
        else:
            probers = load_probers(self.directories)
        files = config_files(self.files, self.directories)
        config = load(
            files,
            probers | stand_ins(broken),
            expand_env=self.expand_env,
            strict=self.strict,
            deferred=() if self.files else [file for file in files if file.parent == library()],
        )
        return without(config, probers, broken, strict=self.strict) if broken else config

    def digest(self) -> str:
        """A checksum over all that `read` would read, probers included."""
        code = [path for directory in self.directories for path in sorted(directory.glob("*.py"))]
        return digest([*config_files(self.files, self.directories), *code])


class Configuration:
    """The current `Config`; running probes keep the one that they began with.

    Attributes:
        current: the config in use.
        loaded: when that was read, in Unix seconds.
        last_error: why a later one was refused; empty while all is well.
    """

    def __init__(self, source: Source, telemetry: Telemetry) -> None:
        """Load for the first time.

        Raises:
            ConfigError, LoaderError, OSError: there is no good config to start with.
        """
        self._source = source
        self._telemetry = telemetry
        self._one_at_a_time = asyncio.Lock()
        self._seen = self._fingerprint()  # of the last attempt, good or not
        self._good = True
        self.current = source.read()
        self.last_error = ""
        self._report("Loaded the configuration")

    async def reload(self) -> None:
        """Read the config again, because somebody asked; without a change, only note that all is well.

        Raises:
            ConfigError, LoaderError, OSError: it is not good; the one before stays in use.
        """
        async with self._one_at_a_time:
            if await self._read(again=True):
                self._report("Reloaded the configuration")
            else:
                self._telemetry.reload_succeeded()
                log.info("The configuration has not changed")

    async def reload_if_changed(self) -> None:
        """The timer's tick: silent without a change, and a bad config is refused once, not every time.

        Raises:
            ConfigError, LoaderError, OSError: it has changed and is not good.
        """
        async with self._one_at_a_time:
            if await self._read(again=False):
                self._report("The configuration has changed and was reloaded")

    def follow(self) -> None:
        """Read, without an event loop, what others have reloaded; what is no good changes nothing, and they say so."""
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
        self._telemetry.configured(self.current.modules)

    async def _read(self, *, again: bool) -> bool:
        """Swap in what the source holds now. False if that is in use already.

        Args:
            again: whether to read once more what has been refused.
        """
        # Off the event loop: a large config takes longer to check than a probe may be held up.
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
        (await asyncio.to_thread(_tls_contexts)).forget_contexts()  # else those of settings that are gone would stay
        self._good = True
        return True

    def _fingerprint(self) -> str:
        try:
            return self._source.digest()
        except REFUSALS as refusal:
            return f"unreadable: {refusal}"  # what is wrong is said by the reading that follows

    def _report(self, message: str) -> None:
        self._telemetry.reload_succeeded()
        self.last_error = ""
        self.loaded = time.time()
        config = self.current
        self._telemetry.configured(config.modules)
        files = ",".join([str(file) for file in config.files])
        log.info(message, extra={"fields": {"files": files, "modules": len(config.modules)}})
        for warning in config.warnings:
            log.warning(str(warning))


def _tls_contexts() -> ModuleType:
    """The file that keeps TLS contexts. Running probes keep the contexts that they began with."""
    from probe_exporter.tls import context  # noqa: PLC0415  # OpenSSL is loaded by the first probe or reload

    return context
