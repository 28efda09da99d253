"""Find targets by DNS: all addresses of a name, or the hosts of the MX or NS records of a zone.

Names are looked up as they are written: without the hosts file, and without search domains. The name servers are those
of the module that probes the targets (`resolver`), or this machine's. What the module's `targets` deny is left out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from probe_exporter.addresses import literals
from probe_exporter.addresses.endpoints import join_host_port
from probe_exporter.addresses.guard import Guard
from probe_exporter.addresses.host_names import is_name
from probe_exporter.config.discovery import DiscoverySettings
from probe_exporter.discovery.groups import DiscoveryError, Target
from probe_exporter.network import lookup
from probe_exporter.network.dns_query import encode_question
from probe_exporter.network.name_servers import Plan, exchange
from probe_exporter.network.policy import NetworkPolicy
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.protocols.dns.codes import TYPES
from probe_exporter.protocols.dns.message import Record, decode
from probe_exporter.protocols.dns.wire import Malformed

log = logging.getLogger(__name__)

MAX_RECORDS = 1000
"""Records of an answer that are used; a round robin has a few dozen."""

RECORD_TYPES = {"addresses": ("A", "AAAA"), "mx": ("MX",), "ns": ("NS",)}
ONLY = {"ip4": ("A",), "ip6": ("AAAA",)}

MIN_SECONDS, MAX_SECONDS = 5.0, 3600.0
"""The shortest and the longest time for which records are kept, whatever their TTL is."""


class FoundTargets(NamedTuple):
    """Targets, and for how many seconds they hold."""

    targets: list[Target]
    seconds: float


async def find(settings: DiscoverySettings, policies: Sequence[NetworkPolicy | None]) -> FoundTargets:
    """Look up the targets of a source.

    Args:
        policies: the network policies of the modules that probe the targets; the first has the name servers.

    Raises:
        DiscoveryError: the lookup failed, or is denied.
    """
    guards = [policy.guard for policy in policies if policy is not None and policy.guard is not None]
    resolver = policies[0].resolver if policies and policies[0] is not None else None
    try:
        for guard in guards:
            guard.check_name(settings.name)
        records = await _records(settings, resolver.plan if resolver else lookup.system_plan())
    except ProbeFailed as failed:
        raise DiscoveryError(str(failed)) from None
    details = dict(_hosts(records))
    # Sorted, as servers rotate their records, and Prometheus would take each order for a change.
    targets = [_target(host, details[host], settings) for host in _permitted(sorted(details), settings, guards)]
    seconds = min([float(record.ttl) for record in records])
    return FoundTargets(targets, min(max(seconds, MIN_SECONDS), MAX_SECONDS))


async def _records(settings: DiscoverySettings, plan: Plan) -> list[Record]:
    """Return the records of an answer, aliases included; ignore a failure if there are records of another type.

    Raises:
        ProbeFailed: no name server answered, or the name does not exist.
        DiscoveryError: an answer is not DNS, or has none of the records.
    """
    wanted = ONLY.get(settings.ip_protocol) or RECORD_TYPES[settings.kind]
    outcomes = await asyncio.gather(*[_ask(settings.name, TYPES[one], plan) for one in wanted], return_exceptions=True)
    records = [record for outcome in outcomes if isinstance(outcome, list) for record in outcome]
    complete = any(record.type == TYPES[one] for one in wanted for record in records)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not (complete and isinstance(outcome, ProbeFailed)):
            raise outcome
    if not complete:
        raise DiscoveryError(f"{settings.name} has no {' or '.join(wanted)} record")
    return records


async def _ask(name: str, type: int, plan: Plan) -> list[Record]:
    rooted = f"{name.rstrip('.')}."
    try:
        response = decode((await exchange(rooted, encode_question(rooted, type), plan)).message)
    except Malformed as error:
        raise DiscoveryError(f"the answer for {name} is malformed: {error}") from None
    return list(response.answer[:MAX_RECORDS])


def _hosts(records: Sequence[Record]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the host that each record names, and labels about it; leave out what is neither an address nor a name."""
    types = {TYPES[one] for kind in RECORD_TYPES.values() for one in kind}
    for record in records:
        if record.type not in types:  # an alias
            continue
        fields = record.text.rpartition("\t")[2].split(" ")
        host = fields[-1].rstrip(".").lower()
        if literals.literal(host) is not None or (host and is_name(host)):  # not the root: RFC 7505
            preference = {"__meta_probe_mx_preference": fields[0]} if record.type == TYPES["MX"] else {}
            yield host, preference


def _permitted(hosts: Sequence[str], settings: DiscoverySettings, guards: Sequence[Guard]) -> list[str]:
    """Return the hosts that all guards permit.

    Raises:
        DiscoveryError: there are hosts, and all of them are denied.
    """
    permitted, denials = [], []
    for host in hosts:
        try:
            for guard in guards:
                if literals.literal(host) is None:
                    guard.check_name(host)
                else:
                    guard.check_address(host, settings.port or 0, settings.name)
            permitted.append(host)
        except ProbeFailed as denied:
            denials.append(str(denied))
    if denials and not permitted:
        raise DiscoveryError(denials[0], 403)
    if denials:
        log.warning("Targets were left out", extra={"fields": {"number": len(denials), "err": denials[0]}})
    return permitted


def _target(host: str, about: dict[str, str], settings: DiscoverySettings) -> Target:
    where = f"[{host}]" if settings.scheme and ":" in host else host
    if settings.port:
        where = join_host_port(host, settings.port)
    text = f"{settings.scheme}://{where}{settings.path}" if settings.scheme else where
    params = {"hostname": settings.name} if settings.hostname else {}
    meta = {"__meta_probe_name": settings.name, "__meta_probe_host": host, **about}
    return Target(text, settings.module, params, {**meta, **settings.labels})
