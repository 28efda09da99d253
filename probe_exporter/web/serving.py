"""The life of the exporter as a server: listen, obey signals, end in order.

SIGHUP reloads. SIGTERM and SIGINT refuse new probes and wait for the running ones; a second one waits no longer.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import Server, ServerRunner, SockSite

from probe_exporter.configuration import REFUSALS, Configuration
from probe_exporter.web.listening import BACKLOG, listen
from probe_exporter.web.routes import Web

log = logging.getLogger(__name__)

LONGEST_LINE = 64 * 1024
"""Bytes of a request line or header; aiohttp's 8 KiB are too few for some targets."""

GRACE_SECONDS = 1.0
"""For answers on their way when everything else has ended."""


async def serve(
    web: Web,
    configuration: Configuration,
    addresses: Sequence[str],
    *,
    drain_timeout: float,
    reload_interval: float = 0.0,
) -> None:
    """Serve until a signal says to end.

    Args:
        web: answers the requests.
        configuration: what SIGHUP and the timer reload.
        addresses: where to listen; all of them, or there is no start.
        drain_timeout: the seconds that running probes have to finish.
        reload_interval: seconds between looks for a changed config; 0 means never.

    Raises:
        ListenError: an address can't be had.
    """
    async with AsyncExitStack() as cleanup:
        background = Background()
        cleanup.callback(background.cancel)
        runner = ServerRunner(_server(web), shutdown_timeout=GRACE_SECONDS)
        await runner.setup()
        cleanup.push_async_callback(runner.cleanup)
        ending = _obey_signals(configuration, background)
        # Whoever can connect can also rely on the signals.
        for listener in [listen(address) for address in addresses]:
            await SockSite(runner, listener, backlog=BACKLOG).start()
            log.info("Listening", extra={"fields": {"address": _name(listener)}})
        if reload_interval > 0:
            background.start(_reload_regularly(configuration, reload_interval))
        received = await ending.get()
        log.info("Ending: no new probes are taken", extra={"fields": {"signal": received}})
        await _drain(web, ending, drain_timeout)


def _server(web: Web) -> Server:
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    return Server(
        web,
        handler_cancellation=True,  # a client that hangs up cancels its probe
        access_log=None,
        lingering_time=1.0,
        max_line_size=LONGEST_LINE,
        max_field_size=LONGEST_LINE,
    )


def _is_ours(record: logging.LogRecord) -> bool:
    """Leaves requests that are no HTTP out of the log: anybody can send them, and they have got their 400."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


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
    drained = asyncio.ensure_future(web.probing.drain())
    impatience = asyncio.ensure_future(ending.get())
    done, _ = await asyncio.wait((drained, impatience), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for waiting in (drained, impatience):
        waiting.cancel()
    if drained in done:
        log.info("All probes have ended")
    else:
        web.probing.abandon()


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
