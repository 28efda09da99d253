"""Start the exporter: load the configuration, then check it, print its JSON Schema, or serve.

Functions return exit codes: 0 after a good check or a signal, 1 for anything that can't be used.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from probe_exporter.config.module import ConfigError
from probe_exporter.config.reloading import REFUSALS, Configuration, Source
from probe_exporter.flags import Flags
from probe_exporter.plugins.loader import LoaderError, load_probers
from probe_exporter.telemetry import logs
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.version import VERSION, revision

if TYPE_CHECKING:
    from probe_exporter.web.config_file import LiveWebConfig

log = logging.getLogger(__name__)

IGNORED_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""Signals that would end a Python program. Go programs, and so the original, ignore them."""


def run_command(given: Flags) -> int:
    """Do what the command line asks for; return the exit code."""
    logs.setup(logs.LEVELS[given.log_level], given.log_format)
    if given.command != ("config", "schema"):
        return start(given)
    try:
        return print_schema(given)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def print_schema(given: Flags) -> int:
    """Print the JSON Schema of a configuration, the user's own probers included (``config schema``)."""
    try:
        from probe_exporter.config.schema import json_schema  # noqa: PLC0415  # only for this command

        schema = json_schema(load_probers([Path(directory) for directory in given.modules_dir]))
    except LoaderError as refusal:
        log.error("The schema can't be made", extra={"fields": {"err": refusal}})
        return 1
    json.dump(schema, sys.stdout, indent=2)
    sys.stdout.write("\n")
    sys.stdout.flush()
    return 0


def start(given: Flags) -> int:
    """Load the config, then serve unless ``--config.check`` is set; return the exit code."""
    build = {"version": VERSION, "revision": revision(), "python": platform.python_version()}
    log.info("Starting probe-exporter", extra={"fields": build})
    _ignore_signals()
    unsupported = _unsupported(given)
    if unsupported:
        log.error(unsupported)
        return 1
    telemetry = Telemetry()
    configuration = load(given, telemetry)
    if configuration is None:
        return 1
    try:
        live = web_config(given)
    except ConfigError as refusal:
        _log_problems("The web configuration can't be used", refusal)
        return 1
    if given.config_check:
        log.info("The configuration is good")
        return 0
    from probe_exporter import exporter  # noqa: PLC0415  # a check needs no server

    return exporter.run(given, configuration, telemetry, live)


def _ignore_signals() -> None:
    """Ignore `IGNORED_SIGNALS`, and SIGHUP until the server handles it. Worker processes inherit this."""
    for ignored in (signal.SIGHUP, *IGNORED_SIGNALS):
        signal.signal(ignored, signal.SIG_IGN)


def web_config(given: Flags) -> LiveWebConfig | None:
    """Read ``--web.config.file``; return None without that flag.

    Raises:
        ConfigError: the file can't be used.
    """
    if not given.web_config_file:
        return None
    from probe_exporter.web.config_file import LiveWebConfig  # noqa: PLC0415  # it imports the web server

    return LiveWebConfig(Path(given.web_config_file), strict=given.config_strict)


def load(given: Flags, telemetry: Telemetry) -> Configuration | None:
    """Load the configuration; log its errors and return None if it has any."""
    directories = tuple([Path(directory) for directory in given.modules_dir])
    source = Source(
        tuple(given.config_file),
        directories,
        given.config_expand_env,
        given.config_strict,
        ignore_errors=given.modules_ignore_errors and not given.config_check,
    )
    try:
        return Configuration(source, telemetry)
    except REFUSALS as refusal:
        _log_problems("The configuration can't be used", refusal)
        return None


def _log_problems(message: str, refusal: Exception) -> None:
    for problem in str(refusal).splitlines():
        log.error(message, extra={"fields": {"err": problem}})


def _unsupported(given: Flags) -> str:
    """Return an error for flags that this version does not support; empty if there are none."""
    if any(address.startswith("vsock:") for address in given.web_listen_address):
        return "Listening on vsock:// is not in this version: use host:port"
    return ""
