"""Read the system's resolver settings for lookups: /etc/resolv.conf and the line `hosts:` of /etc/nsswitch.conf.

Options, limits and defaults are those of Go's resolver, which the original uses. The environment does not count.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from probe_exporter.addresses import literals
from probe_exporter.addresses.host_names import is_name
from probe_exporter.prober.failure import check_files

RESOLV_CONF = Path("/etc/resolv.conf")
NSSWITCH_CONF = Path("/etc/nsswitch.conf")

MAX_SERVERS = 3
MAX_NAME_BYTES = 254
"""Bytes of a name with its last dot."""

_DEFAULT_SERVERS = ("127.0.0.1", "::1")
_MAX_NDOTS = 15


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """The settings of /etc/resolv.conf.

    Attributes:
        servers: their addresses.
        search: domains that are appended to short names, without dots at their ends.
        ndots: a name with fewer dots is tried with `search` first.
        timeout: seconds that one server gets to answer one question, at least.
        attempts: how often each server is asked.
        rotate: begin with another server each time.
        tcp: use no UDP.
    """

    servers: tuple[str, ...] = _DEFAULT_SERVERS
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: float = 5.0
    attempts: int = 2
    rotate: bool = False
    tcp: bool = False

    def names(self, host: str) -> list[str]:
        """Return the names to ask for, in order, each with its last dot."""
        if host.endswith("."):
            names = [host]
        else:
            searched = [f"{host}.{domain}." for domain in self.search]
            whole = f"{host}."
            names = [whole, *searched] if host.count(".") >= self.ndots else [*searched, whole]
        return [name for name in names if len(name) <= MAX_NAME_BYTES and not _is_onion(name)]


def _is_onion(name: str) -> bool:
    """Whether DNS must not see a name (RFC 7686)."""
    return name.lower().endswith(".onion.")


def resolv_conf() -> ResolvConf:
    """Return the current settings of /etc/resolv.conf; the defaults if it can't be read."""
    try:
        status = RESOLV_CONF.stat()
        return _read_resolv_conf(RESOLV_CONF, (status.st_size, status.st_mtime_ns))
    except OSError as error:
        check_files(error, f"reading {RESOLV_CONF}")
        return ResolvConf(search=_domain_of_this_machine())


@lru_cache(maxsize=4)
def _read_resolv_conf(path: Path, stamp: tuple[int, int]) -> ResolvConf:
    """Read the file; `stamp` is its size and time, so that it is read again after a change."""
    found = _ParsedLines()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith((";", "#")):
            found.take(line.split())
    return ResolvConf(
        tuple(found.servers) or _DEFAULT_SERVERS,
        _domain_of_this_machine() if found.search is None else found.search,
        found.number("ndots", 1, 0, _MAX_NDOTS),
        found.number("timeout", 5, 1, 3600),
        found.number("attempts", 2, 1, 100),
        "rotate" in found.options,
        not {"use-vc", "usevc", "tcp"}.isdisjoint(found.options),
    )


@dataclass(slots=True)
class _ParsedLines:
    servers: list[str] = field(default_factory=list)
    search: tuple[str, ...] | None = None
    options: dict[str, str] = field(default_factory=dict)

    def take(self, words: list[str]) -> None:
        """Read the words of one line; the last `search` or `domain` replaces earlier ones."""
        match words:
            case ["nameserver", address, *_]:
                known = literals.literal(address)
                if known is not None and len(self.servers) < MAX_SERVERS:
                    self.servers.append(known)
            case ["domain", domain, *_]:
                self.search = _domains([domain])
            case ["search", *domains]:
                self.search = _domains(domains)
            case ["options", *options]:
                self.options.update((name, value) for name, _, value in (one.partition(":") for one in options))

    def number(self, option: str, default: int, least: int, most: int) -> int:
        """Return the value of an option, clamped to its limits; the default if it is absent or not a number."""
        value = self.options.get(option, "")
        return min(max(int(value[:6]), least), most) if value.isascii() and value.isdigit() else default


def _domains(words: list[str]) -> tuple[str, ...]:
    return tuple(word.strip(".") for word in words if is_name(word) and word != ".")


def _domain_of_this_machine() -> tuple[str, ...]:
    return _domains([socket.gethostname().partition(".")[2]])


FILES, DNS = "files", "dns"


def sources() -> tuple[str, ...]:
    """Return where names are looked up, in order: `FILES` (/etc/hosts), `DNS`, or one of them alone."""
    try:
        status = NSSWITCH_CONF.stat()
        return _read_sources(NSSWITCH_CONF, (status.st_size, status.st_mtime_ns))
    except OSError as error:
        check_files(error, f"reading {NSSWITCH_CONF}")
        return FILES, DNS


@lru_cache(maxsize=4)
def _read_sources(path: Path, stamp: tuple[int, int]) -> tuple[str, ...]:
    """Read the file; return the default order if it names neither source, or has actions that we don't support."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition("#")[0].partition(":")
        if key.strip() == "hosts":
            known = tuple(dict.fromkeys(word for word in value.split() if word in (FILES, DNS)))
            unknown = "[" in value or len(known) < len(set(value.split()))
            return (FILES, DNS) if unknown or not known else known
    return FILES, DNS
