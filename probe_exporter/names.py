"""Names to addresses: literals without a lookup, the hosts file, then DNS by c-ares. No thread pool, no cache.

Order as the original's: the hosts file wins whole (a name found there is not looked for in DNS), then the
system's resolver configuration with its servers and search domains, sorted as RFC 6724 has it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary, WeakSet

import aiodns
import idna

from probe_exporter.prober import ProbeFailed, Reason

HOSTS = Path("/etc/hosts")

# What DNS is asked for: labels of letters, digits, underscores, and hyphens within. Digits alone are an address
# misspelt (127.1, 127.0.0.01), at which c-ares would guess.
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\.?$)(?=.*[A-Za-z_-]){_LABEL}(?:\.{_LABEL})*\.?|\.")

_FAMILIES = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}

# c-ares' error numbers (ares.h) that say something more than "it failed".
_ENODATA, _ENOTFOUND, _ETIMEOUT = 1, 4, 12

MEMORY = 1.0
"""Seconds for which an answer of DNS may be given again: for the probes of one moment, not for the next scrape."""

_remembering: WeakSet[aiodns.DNSResolver] = WeakSet()
_resolvers: WeakKeyDictionary[asyncio.AbstractEventLoop, aiodns.DNSResolver] = WeakKeyDictionary()


@lru_cache(maxsize=4096)
def literal(host: str) -> str | None:
    """`host` as an address in its usual spelling if it is one (a mapped IPv4 address as IPv4), else None."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def version(address: str) -> int:
    """4 or 6, of an address in text form."""
    return 6 if ":" in address else 4


@lru_cache(maxsize=4096)
def fingerprint(address: str) -> int:
    """The value of ``probe_ip_addr_hash``: FNV-1a, 32 bits, over the address's 4 or 16 bytes."""
    value = 2166136261
    for byte in ipaddress.ip_address(address).packed:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


@lru_cache(maxsize=1024)
def _parse_hosts(path: Path, stamp: tuple[int, int]) -> dict[str, tuple[str, ...]]:
    """The hosts file as name -> addresses; `stamp` is its size and time, so that a change is read anew."""
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
    """What the hosts file says about `host`; empty if nothing."""
    try:
        status = HOSTS.stat()
        return _parse_hosts(HOSTS, (status.st_size, status.st_mtime_ns)).get(host.lower().rstrip("."), ())
    except OSError:
        return ()


async def lookup(host: str, family: int = 0) -> list[str]:
    """The addresses of `host`, in the resolver's order.

    Args:
        host: a name; anything beyond ASCII is encoded by IDNA (UTS 46).
        family: 4, 6, or 0 for both.

    Raises:
        ProbeFailed: with one of the ``dns_…`` reasons.
    """
    try:
        name = to_ascii(host)
    except ValueError as error:
        raise ProbeFailed(Reason.DNS_RESOLUTION, str(error)) from None
    addresses = list(in_hosts_file(name))
    if not addresses:
        if not _DNS_NAME.fullmatch(name):
            raise ProbeFailed(Reason.DNS_RESOLUTION, f"{host!r} is not a host name")
        addresses = await _ask(name, family)
    wanted = [address for address in addresses if family in (0, version(address))]
    if not wanted:
        raise ProbeFailed(Reason.DNS_NO_ADDRESS, f"{host} has no IPv{family} address")
    return wanted


def to_ascii(host: str) -> str:
    """A host name as DNS, TLS and HTTP carry it: encoded by IDNA (UTS 46) where it needs to be.

    Raises:
        ValueError: it can't be a host name.
    """
    if host.isascii():
        return host
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"{host!r} is not a host name: {error}") from None


def _resolver() -> aiodns.DNSResolver:
    """The running loop's resolver.

    c-ares remembers answers for as long as they allow, and nothing says otherwise but reading its configuration again.
    A second after it was first asked we let it do that, so that no later probe is answered from memory.
    """
    loop = asyncio.get_running_loop()
    resolver = _resolvers.get(loop)
    if resolver is None:
        resolver = _resolvers[loop] = aiodns.DNSResolver(loop=loop)
    if resolver not in _remembering:
        _remembering.add(resolver)
        loop.call_later(MEMORY, _forget, resolver)
    return resolver


def _forget(resolver: aiodns.DNSResolver) -> None:
    _remembering.discard(resolver)
    with suppress(RuntimeError):  # closed meanwhile
        resolver._channel.reinit()  # noqa: SLF001  # aiodns has no door to it


async def _ask(name: str, family: int) -> list[str]:
    """Ask the system's name servers, and say in our terms how it failed."""
    resolver = _resolver()
    try:
        answer = await resolver.getaddrinfo(name, family=_FAMILIES[family], type=socket.SOCK_STREAM)
    except aiodns.error.DNSError as error:
        number, text = (*error.args, "")[:2]
        raise ProbeFailed(_reason(number), f"looking up {name} failed: {text}") from None
    return [_text(node.addr[0]) for node in answer.nodes]


def _reason(number: object) -> Reason:
    if number == _ENOTFOUND:
        return Reason.DNS_NAME_NOT_FOUND
    if number == _ENODATA:
        return Reason.DNS_NO_ADDRESS
    return Reason.DNS_TIMEOUT if number == _ETIMEOUT else Reason.DNS_RESOLUTION


def _text(address: bytes | str) -> str:
    return address.decode("ascii") if isinstance(address, bytes) else address
