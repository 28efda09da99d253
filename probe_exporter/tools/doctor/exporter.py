"""Check what the exporter itself needs: its configuration, its addresses to listen on, the file of its history."""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from probe_exporter.addresses.endpoints import port_number, split_host_port
from probe_exporter.config.reloading import REFUSALS, Source
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.settings.quantities import format_size
from probe_exporter.tools.doctor.finding import Finding

UNIX = "unix:"

MAX_PORT = 65535

ANSWER_SECONDS = 5.0
"""Seconds that the program on an address has to answer."""


def configuration(source: Source) -> list[Finding]:
    """Load the configuration; return a finding for each problem, or one that all is well."""
    try:
        config = source.read()
    except REFUSALS as refusal:
        fix = "correct the file; `probe-exporter --config.check` with the same flags checks it"
        return [Finding("configuration", "fail", line, fix) for line in str(refusal).splitlines()]
    fix = "`probe-exporter --config.check --config.strict` refuses warnings"
    warnings = [Finding("configuration", "warn", str(warning), fix) for warning in config.warnings]
    first, *others = [str(file) for file in config.files] or ["no file"]
    more = f" and {len(others)} more files" if others else ""
    return warnings or [Finding("configuration", "pass", f"{len(config.modules)} modules of {first}{more}")]


def listen_addresses(addresses: Sequence[str]) -> list[Finding]:
    """Check that the exporter could listen on each address."""
    return [_listen_at_path(one) if one.startswith(UNIX) else _listen(one) for one in addresses]


def _listen(address: str) -> Finding:
    try:
        host, port = _host_and_port(address)
    except ProbeFailed as refused:
        return Finding("listen", "fail", f"{address}: {refused.message}", "--web.listen-address=HOST:PORT")
    everywhere = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if ":" in host or everywhere else socket.AF_INET
    try:
        socket.create_server((host, port), family=family, dualstack_ipv6=everywhere).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _serves(host, port):
            return Finding("listen", "pass", f"an exporter listens on {address} already")
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        return Finding("listen", "fail", f"{address}: {reason}", _mend_listening(error, address))
    return Finding("listen", "pass", f"{address} is free")


def _host_and_port(address: str) -> tuple[str, int]:
    """Split an address to listen on; an empty host means every address.

    Raises:
        ProbeFailed: it has another form, or there is no such port.
    """
    host, port = split_host_port(address)
    number = port_number(port)
    if not 0 <= number <= MAX_PORT:
        raise ProbeFailed(Reason.TARGET_INVALID, f"ports end at {MAX_PORT}")
    return host, number


def _serves(host: str, port: int) -> bool:
    """Return whether an exporter answers at an address of this machine."""
    connection = http.client.HTTPConnection(host or "localhost", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/-/healthy")
        return connection.getresponse().read(100).startswith(b"Healthy")
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _mend_listening(error: OSError, address: str) -> str:
    port = address.rpartition(":")[2]
    match error:
        case PermissionError():
            return f"sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
        case OSError(errno=errno.EADDRINUSE):
            return f"ss -ltnp 'sport = :{port}' shows the program; stop it, or use another --web.listen-address"
        case _:
            return "--web.listen-address with an address of this machine: `ip address` lists them"


def _listen_at_path(address: str) -> Finding:
    directory = Path(address.removeprefix(UNIX).removeprefix("//")).absolute().parent
    problem = _unwritable(directory)
    return Finding("listen", "fail", *problem) if problem else Finding("listen", "pass", f"{address} can be created")


def history(path: str, max_bytes: int) -> Finding:
    """Check that the file of the history can be written, or created.

    Args:
        path: as --history.path; empty for a history in memory.
        max_bytes: as --history.max-bytes.
    """
    if not path:
        return Finding("history", "pass", "kept in memory (--history.path keeps it over restarts)")
    file = Path(os.path.realpath(path))
    problem = _unwritable(file.parent) or _unusable(file)
    if problem:
        return Finding("history", "fail", *problem)
    free = shutil.disk_usage(file.parent).free
    if free < max_bytes:
        message = f"{file.parent} has {format_size(free)} left, less than --history.max-bytes"
        return Finding("history", "warn", message, f"free some space, or --history.max-bytes={free // 2}")
    return Finding("history", "pass", f"{file} can be written")


def _unwritable(directory: Path) -> tuple[str, str] | None:
    """Return why no file can be created in a directory, and how to fix it; None if it can."""
    if not directory.is_dir():
        return f"{directory} is no directory", f"mkdir -p {directory}"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"{directory} can't be written", f"chown {os.geteuid()} {directory}"
    return None


def _unusable(file: Path) -> tuple[str, str] | None:
    """Return why a file can't be used as a history, and how to fix it; None if it can, or if there is none."""
    from probe_exporter.history.file import verify  # noqa: PLC0415  # SQLite, for those who have a file
    from probe_exporter.history.memory import HistoryError  # noqa: PLC0415  # the same

    try:
        if file.exists() or file.is_symlink():  # only a link to itself is left as a link
            verify(file)
    except HistoryError as error:
        return str(error), f"mv {file} {file}.old"
    return None
