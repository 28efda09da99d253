"""Reload the configuration for signals, requests and the timer: one reload runs at a time, and at most one waits.

Reading a large configuration takes a second. All requests that arrive while a reload runs share the next one. It starts
after they arrived, so it reads what their clients have written. Ten thousand signals cause two reloads.
"""

from __future__ import annotations

import asyncio

from probe_exporter.config.reloading import Configuration
from probe_exporter.prober.sharing import shared_result


class Reloads:
    """Runs the reloads of one process."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._running: asyncio.Task[None] | None = None
        self._pending: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether a reload waits already, so that one more request changes nothing."""
        return self._pending is not None

    async def reload(self) -> None:
        """Read the configuration again, in a reload that begins from now on.

        Raises:
            ConfigError, LoaderError, OSError: it is invalid; the one in use stays.
        """
        if self._running is None:
            task = self._running = self._start(None)
        elif self._pending is None:
            task = self._pending = self._start(self._running)
        else:
            task = self._pending
        await shared_result(task)  # a client that disconnects must not end it for the others

    async def reload_if_changed(self) -> None:
        """Read the configuration again if its files have changed, and no reload is running.

        Raises:
            ConfigError, LoaderError, OSError: it has changed and is invalid.
        """
        if self._running is None:
            await self._configuration.reload_if_changed()

    def _start(self, before: asyncio.Task[None] | None) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._run(before))
        task.add_done_callback(self._finished)
        return task

    async def _run(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        await self._configuration.reload()

    def _finished(self, task: asyncio.Task[None]) -> None:
        if task is self._running:
            self._running, self._pending = self._pending, None
        if not task.cancelled():
            task.exception()  # seen by those who asked, if they are still there
