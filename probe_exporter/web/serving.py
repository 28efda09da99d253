"""Run the web server: listen, handle signals, shut down in order.

SIGHUP reloads. SIGTERM and SIGINT refuse new probes and wait for the running ones; a second signal cancels those.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from probe_exporter.config.reloading import REFUSALS
from probe_exporter.flags import FILES_PER_PROBE, RESERVED_FILES
from probe_exporter.runner import identify
from probe_exporter.telemetry.garbage_collection import Collector
from probe_exporter.telemetry.memory import Trimmer, refill_loop
from probe_exporter.telemetry.watchdog import Watchdog
from probe_exporter.web import leftovers
from probe_exporter.web.accepting import Acceptor
from probe_exporter.web.connections import Connections, Limits
from probe_exporter.web.listening import Listener
from probe_exporter.web.reload_queue import Reloads
from probe_exporter.web.routes import Web
from probe_exporter.workers.worker import StopRequests, SupervisorClient

if TYPE_CHECKING:
    from probe_exporter.web.access import AccessControl
    from probe_exporter.web.config_file import LiveWebConfig

log = logging.getLogger(__name__)


async def serve(
    web: Web,
    listeners: Callable[[], Sequence[Listener]],
    *,
    live: LiveWebConfig | None = None,
    supervisor: SupervisorClient | None = None,
    drain_timeout: float,
    max_connection_age: float = 0.0,
    reload_interval: float = 0.0,
) -> None:
    """Serve until a signal ends it.

    Args:
        web: the handler of requests.
        listeners: opens the sockets to listen on; all of them, or there is no start.
        live: the web config file, where there is one.
        supervisor: the other workers, if this process is a worker.
        drain_timeout: seconds that running probes have to finish.
        max_connection_age: seconds after which a client's connection is closed with its next response; 0 means never.
        reload_interval: seconds between checks for a changed configuration; 0 means never.

    Raises:
        ListenError: an address can't be used.
    """
    async with AsyncExitStack() as cleanup:
        background = Background()
        cleanup.callback(background.cancel)
        answer = _controlled(web, live, supervisor.number if supervisor else 1, cleanup) if live else web
        connections = Connections(answer, Limits(age=max_connection_age))
        cleanup.push_async_callback(connections.close)
        _start_watching(web, connections, background, cleanup)
        if supervisor is not None:
            await supervisor.connect()
        stop_requests = StopRequests()
        _obey_signals(web.reloads, background, stop_requests, supervisor)
        # Signals are handled before the first client can connect.
        for listener in listeners():
            cleanup.callback(listener.close)
            _accept(listener, connections, live, cleanup)
        web.health.started()
        if reload_interval > 0:
            background.start(_reload_regularly(web.reloads, reload_interval))
        received = await stop_requests.wait()
        log.info("Shutting down: new probes are refused", extra={"fields": {"signal": received}})
        await _drain(web, stop_requests, drain_timeout)


def _start_watching(web: Web, connections: Connections, background: Background, cleanup: AsyncExitStack) -> None:
    """Start what watches connections, the event loop and memory, until the cleanup."""
    probes = web.probing.running
    collector = Collector(lambda: len(probes) + connections.number)
    cleanup.enter_context(collector.instead_of_python())
    watches = Watches(background, [connections.watch, web.telemetry.lag.watch, collector.watch])
    trimmer = Trimmer(lambda: len(probes), [web.history.recreate], [leftovers.renew, watches.restart])
    background.start(trimmer.watch())
    watchdog = Watchdog(web.telemetry.lag, identify)
    watchdog.start()
    cleanup.callback(watchdog.stop)


def _controlled(web: Web, live: LiveWebConfig, workers: int, cleanup: AsyncExitStack) -> AccessControl:
    """Return the access control of a web config file, until the cleanup."""
    from probe_exporter.web.access import AccessControl  # noqa: PLC0415  # without a file, nothing needs bcrypt

    access = AccessControl(web, web.count, live, workers)
    cleanup.callback(access.close)
    return access


def _accept(listener: Listener, connections: Connections, live: LiveWebConfig | None, cleanup: AsyncExitStack) -> None:
    """Accept connections from now until the cleanup."""
    tls, context = live is not None and live.current.context is not None, None
    if live is not None and tls:
        from probe_exporter.web.tls import LiveContext  # noqa: PLC0415  # the file of `live` imports it

        context = LiveContext(lambda: live.context)
    acceptor = Acceptor(listener.socket, connections, context)
    cleanup.callback(acceptor.close)
    acceptor.start()
    log.info("Listening", extra={"fields": {"address": listener.name, "tls": tls}})


class Background:
    """Background tasks: referenced here, so that they are not garbage collected, and cancelled at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Start a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()


class Watches:
    """Background tasks that sleep most of the time, and can be started anew at any moment."""

    def __init__(self, background: Background, watches: Sequence[Callable[[], Coroutine[None, None, None]]]) -> None:
        """Start the tasks."""
        self._background = background
        self._watches = watches
        self._start()

    def _start(self) -> None:
        self._tasks = [self._background.start(watch()) for watch in self._watches]

    async def restart(self) -> object:
        """Start the tasks anew and cancel the old ones; return objects for `telemetry.memory.Trimmer`."""
        old = self._tasks
        self._start()
        await asyncio.sleep(0)
        kept = await refill_loop()  # so that the loop has no room for the timers of the old tasks
        for task in old:
            task.cancel()
        await asyncio.wait(old)
        return kept


def raise_file_limit(probes: int) -> int:
    """Raise the soft limit on open files to the hard one, and return how many probes may run at once.

    A probe without a file to open would say that a healthy target is down, and a client without one is cut off. So
    there are no more probes than files for all of them, and those beyond wait, then get 503.

    Args:
        probes: how many should run at once.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("The limit on open files stays as it is", extra={"fields": {"err": error}})
        hard, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = (hard - RESERVED_FILES) // FILES_PER_PROBE
    if hard == resource.RLIM_INFINITY or probes <= enough:
        return probes
    allowed = max(1, enough)
    fields = {"files": hard, "wanted": probes, "allowed": allowed}
    log.warning(
        "Fewer probes run at once than --probe.max-concurrent allows: raise the limit on open files (ulimit -n)",
        extra={"fields": fields},
    )
    return allowed


def _obey_signals(
    reloads: Reloads, background: Background, stop_requests: StopRequests, supervisor: SupervisorClient | None
) -> None:
    """Handle SIGHUP (reload), SIGTERM and SIGINT (end). A worker gets all but SIGTERM from its supervisor."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop_requests.signal, signal.SIGTERM.name)
    if supervisor is not None:
        background.start(supervisor.answer_requests(reloads.reload, stop_requests))
        return
    loop.add_signal_handler(signal.SIGINT, stop_requests.signal, signal.SIGINT.name)

    def reload() -> None:
        if not reloads.full:
            background.start(_reload(reloads.reload()))

    loop.add_signal_handler(signal.SIGHUP, reload)


async def _drain(web: Web, stop_requests: StopRequests, seconds: float) -> None:
    """Wait until all running probes have ended, or some seconds have passed, or another signal comes."""
    drained = asyncio.ensure_future(web.probing.drain())
    second_request = asyncio.ensure_future(stop_requests.wait())
    done, _ = await asyncio.wait((drained, second_request), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for waiting in (drained, second_request):
        waiting.cancel()
    if drained in done:
        log.info("All probes have ended")
    else:
        web.probing.abandon()


async def _reload_regularly(reloads: Reloads, interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        await _reload(reloads.reload_if_changed())


async def _reload(reloading: Coroutine[None, None, None]) -> None:
    """Await a reload, and log its error if it has one."""
    try:
        await reloading
    except REFUSALS as refusal:
        log.error("The configuration was not reloaded", extra={"fields": {"err": refusal}})
    except Exception as error:
        log.error("Unexpected exception in a reload", exc_info=error)
