"""Resolve names to addresses: from the hosts file, by the system's name servers, or by a module's own."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import aiodns
from pycares import AAAARecordData, ARecordData

from probe_exporter.addresses.literals import is_name, literal, to_ascii, version
from probe_exporter.prober.deadline import Deadline
from probe_exporter.prober.failure import ProbeFailed, Reason

HOSTS = Path("/etc/hosts")

_TYPES = {4: "A", 6: "AAAA"}
_FAMILIES = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}

# c-ares' error numbers (ares.h) that say something more than "it failed".
_ENODATA, _ENOTFOUND, _ETIMEOUT = 1, 4, 12

MEMORY = 1.0
"""Seconds for which an answer of DNS may be given again: for the probes of one moment, not for the next scrape."""

ROUNDS = 2
"""How often each server of a module's own is asked before a lookup is given up."""

_remembering: WeakSet[aiodns.DNSResolver] = WeakSet()
_resolvers: WeakKeyDictionary[asyncio.AbstractEventLoop, aiodns.DNSResolver] = WeakKeyDictionary()


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


class Resolver:
    """Name servers that a module's names are asked of, and the channels to them: one for each event loop.

    Made by `resolver`; modules with equal settings share one, which closes its channels when the last of them is gone.
    """

    def __init__(self, servers: tuple[str, ...], timeout: float) -> None:
        self._servers = servers
        self._timeout = timeout
        self._channels: WeakKeyDictionary[asyncio.AbstractEventLoop, aiodns.DNSResolver] = WeakKeyDictionary()

    async def ask(self, name: str, family: int) -> list[str]:
        """The addresses of a name, which stands for itself: no search domains, no hosts file.

        Raises:
            ProbeFailed: with one of the ``dns_…`` reasons.
        """
        loop = asyncio.get_running_loop()
        channel = self._channels.get(loop)
        if channel is None:
            channel = self._channels[loop] = self._open(loop)
        _remembering_little(channel)
        types = [_TYPES[one] for one in (4, 6) if family in (0, one)]
        try:
            with Deadline(loop.time() + self._timeout):
                answers = await asyncio.gather(*[_query(channel, name, type_) for type_ in types])
        except TimeoutError:
            asked = f"no answer for {name} from {', '.join(self._servers)} within {self._timeout:g} s"
            raise ProbeFailed(Reason.DNS_TIMEOUT, asked) from None
        addresses = [address for answer in answers if isinstance(answer, list) for address in answer]
        failures = [answer for answer in answers if isinstance(answer, ProbeFailed)]
        if not addresses and failures:  # of one type there may be none; what else went wrong says more
            raise min(failures, key=lambda failed: failed.reason is Reason.DNS_NO_ADDRESS)
        return addresses

    def _open(self, loop: asyncio.AbstractEventLoop) -> aiodns.DNSResolver:
        # c-ares gives a server twice the time in the second round: with so much, all have had both before the timeout.
        # It takes more options (to look at no file), but what pycares hands over for those is freed before it is read.
        return aiodns.DNSResolver(self._servers, loop, timeout=self._timeout / (4 * len(self._servers)), tries=ROUNDS)


_own: WeakValueDictionary[tuple[tuple[str, ...], float], Resolver] = WeakValueDictionary()


def resolver(servers: tuple[str, ...], timeout: float) -> Resolver:
    """The resolver that asks some servers, the same for everybody who wants it at one time.

    Args:
        servers: addresses with ports, ``127.0.0.1:53`` or ``[::1]:53``; the next is asked if one does not answer.
        timeout: seconds for a lookup, all servers together.
    """
    found = _own.get((servers, timeout))
    if found is None:
        found = _own[servers, timeout] = Resolver(servers, timeout)
    return found


async def lookup(
    host: str, family: int = 0, *, resolver: Resolver | None = None, as_written: bool = False
) -> list[str]:
    """The addresses of `host`, in the resolver's order.

    Args:
        host: a name; anything beyond ASCII is encoded by IDNA (UTS 46).
        family: 4, 6, or 0 for both.
        resolver: who is asked, in place of the hosts file and the system's name servers.
        as_written: the name is whole: the system's search domains are not tried.

    Raises:
        ProbeFailed: with one of the ``dns_…`` reasons.
    """
    try:
        name = to_ascii(host)
    except ValueError as error:
        raise ProbeFailed(Reason.DNS_RESOLUTION, str(error)) from None
    addresses = list(in_hosts_file(name)) if resolver is None else []
    if not addresses:
        if not is_name(name):
            raise ProbeFailed(Reason.DNS_RESOLUTION, f"{host!r} is not a host name")
        if resolver is not None:
            addresses = await resolver.ask(name, family)
        else:
            addresses = await _ask(_system(), name.rstrip(".") + "." if as_written else name, family)
    wanted = [address for address in addresses if family in (0, version(address))]
    if not wanted:
        kind = f"IPv{family} address" if family else "address"
        raise ProbeFailed(Reason.DNS_NO_ADDRESS, f"{host} has no {kind}")
    return wanted


def _system() -> aiodns.DNSResolver:
    """The running loop's channel to the system's name servers."""
    loop = asyncio.get_running_loop()
    channel = _resolvers.get(loop)
    if channel is None:
        channel = _resolvers[loop] = aiodns.DNSResolver(loop=loop)
    return _remembering_little(channel)


def _remembering_little(channel: aiodns.DNSResolver) -> aiodns.DNSResolver:
    """The channel, which will forget what it is told.

    c-ares remembers answers for as long as they allow, and nothing says otherwise but reading its configuration again.
    A second after it was first asked we let it do that, so that no later probe is answered from memory.
    """
    if channel not in _remembering:
        _remembering.add(channel)
        asyncio.get_running_loop().call_later(MEMORY, _forget, channel)
    return channel


def _forget(channel: aiodns.DNSResolver) -> None:
    _remembering.discard(channel)
    with suppress(RuntimeError):  # closed meanwhile
        channel._channel.reinit()  # noqa: SLF001  # aiodns has no door to it


async def _query(channel: aiodns.DNSResolver, name: str, type_: str) -> list[str] | ProbeFailed:
    """The addresses of one type in the answer to a query, aliases followed by the server; or why there are none."""
    try:
        answer = await channel.query_dns(name, type_)
    except aiodns.error.DNSError as error:
        return _failed(error, name)
    data = [record.data for record in answer.answer]
    return [one.addr for one in data if isinstance(one, ARecordData | AAAARecordData)]


async def _ask(channel: aiodns.DNSResolver, name: str, family: int) -> list[str]:
    """Ask name servers, and say in our terms how it failed."""
    try:
        answer = await channel.getaddrinfo(name, family=_FAMILIES[family], type=socket.SOCK_STREAM)
    except aiodns.error.DNSError as error:
        raise _failed(error, name) from None
    return [_text(node.addr[0]) for node in answer.nodes]


def _failed(error: aiodns.error.DNSError, name: str) -> ProbeFailed:
    number, text = (*error.args, "")[:2]
    return ProbeFailed(_reason(number), f"looking up {name.rstrip('.')} failed: {text}")


def _reason(number: object) -> Reason:
    if number == _ENOTFOUND:
        return Reason.DNS_NAME_NOT_FOUND
    if number == _ENODATA:
        return Reason.DNS_NO_ADDRESS
    return Reason.DNS_TIMEOUT if number == _ETIMEOUT else Reason.DNS_RESOLUTION


def _text(address: bytes | str) -> str:
    return address.decode("ascii") if isinstance(address, bytes) else address
