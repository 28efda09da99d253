"""Serve probes until a signal arrives: open the history and the sockets, then run the server or its workers."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import math
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from probe_exporter import flags
from probe_exporter.config.reloading import REFUSALS, Configuration
from probe_exporter.flags import Flags
from probe_exporter.history.memory import History, HistoryError, MemoryHistory
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.telemetry import log_output, logs
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.telemetry.delays import Delays
from probe_exporter.web.listening import Listener, ListenError, Place, inherit, open_all, open_for_workers, place
from probe_exporter.web.probing import DEFAULT_MODULE
from probe_exporter.web.routes import Web
from probe_exporter.web.serving import raise_file_limit, serve
from probe_exporter.workers.worker import SupervisorClient

if TYPE_CHECKING:
    from probe_exporter.web.config_file import LiveWebConfig

log = logging.getLogger(__name__)

Serving = Coroutine[None, None, None]

SECONDS_TO_END = 10.0
"""Seconds that workers have after --web.drain-timeout before they are killed."""


def run(given: Flags, configuration: Configuration, telemetry: Telemetry, live: LiveWebConfig | None) -> int:
    """Serve until a signal arrives; log an error and return 1 if an address or the history can't be used.

    Args:
        live: the web config file, where there is one.
    """
    try:
        return _run(given, configuration, telemetry, live)
    except (ListenError, HistoryError) as error:
        log.error("The exporter can't start", extra={"fields": {"err": error}})
        return 1


def _run(given: Flags, configuration: Configuration, telemetry: Telemetry, live: LiveWebConfig | None) -> int:
    """Listen and serve until a signal arrives; return the exit code.

    Args:
        live: the web config file, where there is one.

    Raises:
        ListenError: an address or the external URL can't be used.
        HistoryError: the file of the history can't be used.
    """
    probe_log = ProbeLog(_level_of_probes(given.log_prober), given.log_format)
    addresses = [] if given.web_systemd_socket else given.web_listen_address or [flags.DEFAULT_ADDRESS]
    where = _place(given, addresses)
    if not configuration.current.guarded:
        log.info("Anything may be probed that this machine can reach: no `targets` in the configuration say otherwise")
    number = _workers(given)
    max_probes = raise_file_limit(math.ceil(given.probe_max_concurrent / number))
    supervisor = SupervisorClient(telemetry, number) if number > 1 else None
    history = open_history(given, telemetry, probe_log, supervisor)
    web = Web(
        configuration,
        telemetry,
        history,
        probe_log,
        timeout_offset=given.timeout_offset,
        max_probes=max_probes,
        place=where,
        workers=supervisor,
        live=live,
        delays=Delays() if given.probe_event_loop_delay else None,
    )
    serving = partial(
        serve,
        web,
        live=live,
        supervisor=supervisor,
        drain_timeout=given.web_drain_timeout,
        max_connection_age=given.web_max_connection_age,
        reload_interval=_reload_interval(given),
    )
    if supervisor is not None:
        _load_common_prober(configuration)
    gc.freeze()  # the collector need not look at what was loaded: nearly all of it stays
    gc.enable()
    if supervisor is not None:
        return supervise(given, configuration, history, supervisor, serving)
    listeners = inherit if given.web_systemd_socket else partial(open_all, addresses)
    with log_output.queued(), closing(history):
        uvloop.run(serving(listeners))
    return 0


def _place(given: Flags, addresses: Sequence[str]) -> Place:
    """Return the paths and the URL under which clients reach the server.

    Raises:
        ListenError: an address or the external URL can't be used.
    """
    if given.web_systemd_socket and not given.web_external_url:
        raise ListenError("--web.systemd-socket needs --web.external-url, as a passed socket has no URL")
    where, external_url = place(given.web_external_url, given.web_route_prefix, addresses)
    log.debug("Reached at", extra={"fields": {"external_url": external_url, "prefix": where.prefix}})
    return where


def supervise(
    given: Flags,
    configuration: Configuration,
    history: History,
    supervisor: SupervisorClient,
    serving: Callable[..., Serving],
) -> int:
    """Serve with several processes on the same addresses; return the exit code.

    Raises:
        ListenError: an address can't be used.
    """
    from probe_exporter.workers.supervisor import Supervisor  # noqa: PLC0415  # for several workers alone

    number = supervisor.number
    if not given.history_path:
        log.info("The results of a worker that exits are lost: --history.path keeps them")
    if given.web_systemd_socket:
        shares = [inherit()] * number
    else:
        shares = open_for_workers(given.web_listen_address or [flags.DEFAULT_ADDRESS], number)

    def work(one: int, channel: socket.socket) -> int:
        own = {listener.socket for listener in shares[one]}
        for listener in itertools.chain(*shares):
            if listener.socket not in own:
                listener.socket.close()
        supervisor.join(channel, one)
        with log_output.queued(), closing(history):
            uvloop.run(serving(lambda: [Listener(listener.socket) for listener in shares[one]]))
        return 0

    try:
        patience = given.web_drain_timeout + SECONDS_TO_END
        interval = _reload_interval(given)
        return Supervisor(number, work, configuration.follow, follow_interval=interval, patience=patience).run()
    finally:
        for listener in shares[0]:
            listener.close()


def _load_common_prober(configuration: Configuration) -> None:
    """Make the module that most probes use, so that workers share the memory of its prober, of TLS and of lookups.

    A module of a configuration file is made already, and a shipped one at its first probe: then each worker would load
    what it needs for itself.
    """
    from probe_exporter.tls.loading import load_now  # noqa: PLC0415  # for several workers alone

    with contextlib.suppress(KeyError, *REFUSALS):  # a broken shipped module is reported by its first probe
        _ = configuration.current.modules[DEFAULT_MODULE]
    load_now()


def _workers(given: Flags) -> int:
    """Return the number of processes that serve."""
    if given.workers != flags.AUTO_WORKERS:
        return given.workers
    from probe_exporter.workers.cores import usable_cores  # noqa: PLC0415  # for --workers=auto alone

    number = usable_cores()
    log.info("As many workers as whole cores that this process may use", extra={"fields": {"workers": number}})
    return number


def _reload_interval(given: Flags) -> int:
    return given.config_auto_reload_interval if given.config_enable_auto_reload else 0


def open_history(
    given: Flags, telemetry: Telemetry, probe_log: ProbeLog, supervisor: SupervisorClient | None
) -> History:
    """Open the history of finished probes. Several workers share it, in the file or through the supervisor.

    Raises:
        HistoryError: the file can't be used.
    """
    lost = telemetry.history_lost
    if not given.history_path:
        own = MemoryHistory(given.history_limit, given.history_max_bytes, probe_log, lost)
        if supervisor is None:
            return own
        from probe_exporter.workers.shared_history import SharedHistory  # noqa: PLC0415  # for several workers alone

        return SharedHistory(own, supervisor)
    from probe_exporter.history.file import FileHistory  # noqa: PLC0415  # SQLite, for those who want a file

    history = FileHistory(Path(given.history_path), given.history_limit, given.history_max_bytes, probe_log, lost)
    log.info("The history is kept in a file", extra={"fields": {"path": given.history_path}})
    return history


def _level_of_probes(name: str) -> int:
    level = logs.LEVELS.get(name.lower())
    if level is None:
        log.warning("--log.prober has no such level; info is used", extra={"fields": {"given": name}})
        return logging.INFO
    return level
