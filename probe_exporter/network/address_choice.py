"""Choose the address of a target to probe: preferred IP version, fallback, allowed targets; and report the choice."""

from __future__ import annotations

import time

from probe_exporter.addresses import literals
from probe_exporter.network import lookup as network_lookup
from probe_exporter.network.settings import AddressSettings
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric, whole_nanoseconds
from probe_exporter.prober.run import Probe, note_phase

LOOKUP_TIME = Metric("probe_dns_lookup_time_seconds", "Seconds that resolving the target's name took.")
IP_PROTOCOL = Metric("probe_ip_protocol", "IP version of the target's address: 4 or 6; 0 if it has none.")
IP_HASH = Metric("probe_ip_addr_hash", "Hash of the target's resolved address; changes when the address changes.")


async def choose_address(probe: Probe, host: str, settings: AddressSettings, seconds: Metric | None = None) -> str:
    """Return the address to probe, chosen as the prober's settings say, and report the choice.

    Args:
        host: a name or an address (IPv6 without brackets).
        settings: the prober's own, derived from `AddressSettings`.
        seconds: a metric with the one label ``phase``, which gets how long ``resolve`` took unless it failed.

    Raises:
        ProbeFailed: the name does not resolve, or to no permitted address.
    """
    address = await resolve(
        probe, host, preferred=settings.preferred_ip_protocol, fallback=settings.ip_protocol_fallback
    )
    if seconds is not None:
        probe.samples.set_phase(seconds, "resolve", probe.samples.plain[LOOKUP_TIME])
    return address


async def resolve(probe: Probe, host: str, *, preferred: str = "ip6", fallback: bool = True) -> str:
    """Choose the address to probe, and report the choice.

    Args:
        host: a name or an address (IPv6 without brackets).
        preferred: the family wanted; ``ip6`` or empty is IPv6, anything else IPv4, as the original has it.
        fallback: take the other family's first address where there is none of the wanted one.

    Raises:
        ProbeFailed: the name does not resolve, or to no permitted address.
    """
    family = 6 if preferred in ("", "ip6") else 4
    started = time.perf_counter()
    address = ""
    try:
        if fallback and probe.network is None and (known := literals.literal(host)) is not None:
            address = known  # nothing can fail
            note_phase(probe, "resolve", started, host)
        else:
            with probe.phase("resolve") as phase:
                phase.about = host
                address = _given(probe, host, family, fallback) or await _found(probe, host, family, fallback)
    finally:
        plain = probe.samples.plain  # `set` would check what these are
        plain[LOOKUP_TIME] = whole_nanoseconds(time.perf_counter() - started)
        plain[IP_PROTOCOL] = literals.version(address) if address else 0
        plain[IP_HASH] = literals.fingerprint(address) if address else 0
    probe.log("Resolved target address", host=host, ip=address)
    return address


def _given(probe: Probe, host: str, family: int, fallback: bool) -> str:
    """Return the address if the host is one; empty for a name.

    Raises:
        ProbeFailed: the address is of the wrong family.
    """
    known = literal(probe, host)
    if known is None:
        return ""
    if not fallback and literals.version(known) != family:
        raise ProbeFailed(Reason.DNS_NO_ADDRESS, f"{host} is not an IPv{family} address")
    return known if probe.network is None else probe.network.target_address(host, [known], known)


async def _found(probe: Probe, host: str, family: int, fallback: bool) -> str:
    """Return an address of a name."""
    if not host:
        raise ProbeFailed(Reason.TARGET_INVALID, "the target names no host")
    addresses = await lookup(probe, host, 0 if fallback else family)
    chosen = next((a for a in addresses if literals.version(a) == family), addresses[0])
    return chosen if probe.network is None else probe.network.target_address(host, addresses, chosen)


async def resolve_all(probe: Probe, host: str, *, preferred: str) -> list[str]:
    """Return every address of a host that a redirect leads to, the preferred family's first; report no metrics."""
    known = literal(probe, host)
    if known is not None:
        return [known]
    family = 6 if preferred in ("", "ip6") else 4
    with probe.phase("resolve") as phase:
        phase.about = host
        addresses = await lookup(probe, host)
    return sorted(addresses, key=lambda address: literals.version(address) != family)


async def lookup(probe: Probe, host: str, family: int = 0) -> list[str]:
    """Return the addresses of a name, from the module's name servers or the system's; report no metrics.

    Args:
        family: 4, 6, or 0 for both.

    Raises:
        ProbeFailed: the name does not resolve, or may not be looked up.
    """
    network = probe.network
    return await (network_lookup.lookup(host, family) if network is None else network.lookup(host, family))


def literal(probe: Probe, host: str) -> str | None:
    """Return the address if the host is one, else None; forget any name that the address was found by."""
    known = literals.literal(host)
    if known is not None and probe.network is not None:
        probe.network.forget(known)
    return known
