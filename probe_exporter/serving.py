"""The life of the exporter as a server: listen, obey signals, end in order.

SIGHUP reloads. SIGTERM and SIGINT refuse new probes and wait for the running ones; a second one waits no longer.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack

from aiohttp.web import Server, ServerRunner, SockSite

from probe_exporter.configuration import REFUSALS, Configuration
from probe_exporter.listening import BACKLOG
from probe_exporter.web import Web

log = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""For answers on their way when everything else has ended."""


async def serve(
    web: Web,
    configuration: Configuration,
    sockets: list[socket.socket],
    *,
    drain_timeout: float,
    reload_interval: float = 0.0,
) -> None:
    """Serve until a signal says to end.

    Args:
        web: answers the requests.
        configuration: what SIGHUP and the timer reload.
        sockets: bound and listening.
        drain_timeout: the seconds that running probes have to finish.
        reload_interval: seconds between looks for a changed config; 0 means never.
    """
    async with AsyncExitStack() as cleanup:
        background = Background()
        cleanup.callback(background.cancel)
        runner = ServerRunner(
            Server(web, handler_cancellation=True, access_log=None, lingering_time=1.0),
            shutdown_timeout=GRACE_SECONDS,
        )
        await runner.setup()
        cleanup.push_async_callback(runner.cleanup)
        ending = _obey_signals(configuration, background)
        for listener in sockets:
            await SockSite(runner, listener, backlog=BACKLOG).start()
            log.info("Listening", extra={"fields": {"address": _name(listener)}})
        if reload_interval > 0:
            background.start(_reload_regularly(configuration, reload_interval))
        received = await ending.get()
        log.info("Ending: no new probes are taken", extra={"fields": {"signal": received}})
        await _drain(web, ending, drain_timeout)


class Background:
    """Tasks that nobody awaits; kept, so that they are not lost, and cancelled at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run something beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Stop all of it."""
        for task in self._tasks:
            task.cancel()


def raise_file_limit() -> None:
    """The soft limit on open files to the hard one: 2,000 probes that hang need 4,000."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("The limit on open files stays as it is", extra={"fields": {"err": error}})


def _obey_signals(configuration: Configuration, background: Background) -> asyncio.Queue[str]:
    """SIGHUP reloads from now on; the others that end the process arrive in the queue."""
    ending: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for end in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(end, ending.put_nowait, end.name)
    loop.add_signal_handler(signal.SIGHUP, lambda: background.start(_reload(configuration.reload())))
    return ending


async def _drain(web: Web, ending: asyncio.Queue[str], seconds: float) -> None:
    """Wait for running probes: all of them, or `seconds`, or another signal."""
    drained = asyncio.ensure_future(web.drain())
    impatience = asyncio.ensure_future(ending.get())
    done, _ = await asyncio.wait((drained, impatience), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for waiting in (drained, impatience):
        waiting.cancel()
    if drained in done:
        log.info("All probes have ended")
    else:
        web.abandon()


async def _reload_regularly(configuration: Configuration, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        await _reload(configuration.reload_if_changed())


async def _reload(reloading: Coroutine[None, None, None]) -> None:
    """A reload that nobody waits for: what is wrong goes to the log."""
    try:
        await reloading
    except REFUSALS as refusal:
        log.error("The configuration was not reloaded", extra={"fields": {"err": refusal}})
    except Exception as error:
        log.error("Reloading met a bug: please report this", exc_info=error)


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
