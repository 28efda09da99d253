"""Resolve names to addresses: from the hosts file, by the system's name servers, or by a module's own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from probe_exporter.addresses.host_names import is_name, to_ascii
from probe_exporter.addresses.literals import literal, version
from probe_exporter.network import resolv_conf
from probe_exporter.network.address_order import in_order
from probe_exporter.network.dns_query import Question
from probe_exporter.network.name_servers import Plan, Server, ask
from probe_exporter.prober.failure import ProbeFailed, Reason, check_files

HOSTS = Path("/etc/hosts")

PORT = 53

ROUNDS = 2
"""How often a lookup asks each of a module's own name servers before it fails."""

_LOOPBACK = ("127.0.0.1", "::1")
_NEXT_ROTATION = itertools.count()


@lru_cache(maxsize=4)
def _parse_hosts(path: Path, stamp: tuple[int, int]) -> dict[str, tuple[str, ...]]:
    """The hosts file as name -> addresses; `stamp` is its size and time, so that it is read again after a change."""
    names: dict[str, tuple[str, ...]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        address, *aliases = line.partition("#")[0].split() or [""]
        known = literal(address)
        if known is None:
            continue
        for alias in aliases:
            key = alias.lower().rstrip(".")
            names[key] = (*names.get(key, ()), known)
    return names


def in_hosts_file(host: str) -> tuple[str, ...]:
    """Return the addresses of `host` in the hosts file; empty if it is not there."""
    try:
        status = HOSTS.stat()
        return _parse_hosts(HOSTS, (status.st_size, status.st_mtime_ns)).get(host.lower().rstrip("."), ())
    except OSError as error:
        check_files(error, f"reading {HOSTS}")
        return ()


@dataclass(frozen=True, slots=True)
class Resolver:
    """A module's own name servers.

    Args:
        servers: addresses and ports; the next is asked if one does not answer.
        timeout: seconds for a lookup, all servers together.
    """

    servers: tuple[Server, ...]
    timeout: float

    async def ask(self, name: str, family: int) -> list[str]:
        """Return the addresses of a name, asked for as it is written: no search domains, no hosts file.

        Raises:
            ProbeFailed: with one of the ``dns_…`` reasons.
        """
        return [address for addresses in await _ask_each(name, family, self.plan) for address in addresses]

    @property
    def plan(self) -> Plan:
        """The rules for asking these servers."""
        return Plan(self.servers, self.timeout / (ROUNDS * len(self.servers)), ROUNDS)


async def lookup(
    host: str, family: int = 0, *, resolver: Resolver | None = None, as_written: bool = False
) -> list[str]:
    """Return the addresses of `host`: those of A records before those of AAAA records, each in the resolver's order.

    Args:
        host: a name; anything beyond ASCII is encoded by IDNA (UTS 46).
        family: 4, 6, or 0 for both.
        resolver: asked in place of the hosts file and the system's name servers.
        as_written: the name is complete; do not try the system's search domains.

    Raises:
        ProbeFailed: with one of the ``dns_…`` reasons.
    """
    try:
        name = to_ascii(host)
    except ValueError as error:
        raise ProbeFailed(Reason.DNS_RESOLUTION, str(error)) from None
    if resolver is None:
        addresses = await _ask_system(name, family, as_written=as_written)
    else:
        _check_name(name)
        addresses = await resolver.ask(name, family)
    wanted = [address for address in addresses if family in (0, version(address))]
    if not wanted:
        kind = f"IPv{family} address" if family else "address"
        raise ProbeFailed(Reason.DNS_NO_ADDRESS, f"{host} has no {kind}")
    return wanted


def _check_name(name: str) -> None:
    if not is_name(name):
        raise ProbeFailed(Reason.DNS_RESOLUTION, f"{name!r} is not a host name")


async def _ask_system(name: str, family: int, *, as_written: bool) -> Iterable[str]:
    """Return the addresses of a name as this machine looks names up.

    Raises:
        ProbeFailed: no source knows the name.
    """
    failures: list[ProbeFailed] = []
    for source in resolv_conf.sources():
        if source == resolv_conf.FILES:
            if found := in_hosts_file(name):
                return found
            continue
        _check_name(name)
        if _is_localhost(name):
            return _LOOPBACK
        try:
            return await _ask_name_servers(name, family, as_written=as_written)
        except ProbeFailed as failed:
            failures.append(failed)
    if failures:
        raise failures[0]
    raise ProbeFailed(Reason.DNS_NAME_NOT_FOUND, f"{name} is not in the hosts file, and DNS is not used for names here")


def system_plan() -> Plan:
    """Return the rules for asking this machine's name servers."""
    conf = resolv_conf.resolv_conf()
    first = next(_NEXT_ROTATION) % len(conf.servers) if conf.rotate else 0
    servers = [(address, PORT) for address in (*conf.servers[first:], *conf.servers[:first])]
    return Plan(servers, conf.timeout, conf.attempts, conf.tcp)


def _is_localhost(name: str) -> bool:
    """Whether a name stands for this host by definition (RFC 6761, 6.3)."""
    return name.lower().rstrip(".").rpartition(".")[2] == "localhost"


async def _ask_name_servers(name: str, family: int, *, as_written: bool) -> list[str]:
    """Return the addresses of the first of a name's candidates that has any: the name itself, or in a search domain."""
    conf, plan = resolv_conf.resolv_conf(), system_plan()
    failures: list[ProbeFailed] = []
    for candidate in [f"{name.rstrip('.')}."] if as_written else conf.names(name):
        try:
            answers = await _ask_each(candidate, family, plan)
        except ProbeFailed as failed:
            failures.append(failed)
            continue
        if any(answers):
            return [address for addresses in answers for address in in_order(addresses)]
        failures.append(ProbeFailed(Reason.DNS_NO_ADDRESS, f"{candidate.rstrip('.')} has no address"))
    if not failures:
        raise ProbeFailed(Reason.DNS_NAME_NOT_FOUND, f"{name} is a name that DNS is not asked for")
    raise _most_specific(failures)


async def _ask_each(name: str, family: int, plan: Plan) -> list[tuple[str, ...]]:
    """Ask for A and AAAA at the same time, if both are wanted; ignore a failure of one if the other has an address.

    Raises:
        ProbeFailed: there is no address, and not because the name has none.
    """
    questions = [Question(name, one) for one in (4, 6) if family in (0, one)]
    if len(questions) == 1:
        return [await ask(questions[0], plan)]
    outcomes = await asyncio.gather(*[ask(question, plan) for question in questions], return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, ProbeFailed)]
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, ProbeFailed):
            raise outcome
    addresses = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    if failures and not any(addresses):
        raise _most_specific(failures)
    return addresses


_LEAST_SPECIFIC = (Reason.DNS_NAME_NOT_FOUND, Reason.DNS_NO_ADDRESS)


def _most_specific(failures: list[ProbeFailed]) -> ProbeFailed:
    """Return the first failure to look up; if there is none, that a name has no address; or else that there is none."""
    return max(failures, key=lambda failed: (*_LEAST_SPECIFIC, failed.reason).index(failed.reason))
