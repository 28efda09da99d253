"""Allow and deny rules: check addresses, host names and Unix sockets against the entries of ``targets:``.

How it works:

* A block (`Lists`) is one ``targets:``; a `Guard` has all blocks of a module, and each of them has to permit a target.
* An address is checked as a number, so that its spelling does not matter, and together with every address that it may
  stand for (`spellings.interpret`): a match of any of them denies it, but only a match of the address itself allows it.
* A name is checked before the lookup, and again with the address that it led to, right before connecting. So a name
  that resolves to another address the second time is checked by that address.
* An `allow` entry for a name permits no loopback or multicast address, since the owner of a name chooses its address.
* Link-local and metadata addresses need an entry of their own (`spellings.OWN_ENTRY`), metadata names too.
* The only I/O is to resolve the symbolic links in the path of a Unix socket.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from probe_exporter.addresses import literals
from probe_exporter.addresses.host_names import is_name
from probe_exporter.addresses.spellings import Address, Interpretation, Network, interpret, normal, readings
from probe_exporter.prober.failure import ProbeFailed, Reason

METADATA_NAMES = frozenset(
    {"metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
    | {"metadata.tencentyun.com", "api.metadata.cloud.ibm.com"}
)
"""Names of clouds' metadata services, which a proxy would look up."""

# --- entries -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetEntry:
    """One entry of a list.

    Args:
        text: the entry as written.
        port: the only port that it applies to; 0 for any.
    """

    text: str
    port: int = 0

    def for_port(self, port: int | None) -> bool:
        """Whether it applies to a port: 0 if there are no ports, None if the port is not known yet."""
        return self.port in (0, port)

    def for_address(self, address: Address) -> bool:
        """Whether it applies to an address."""
        return False

    def for_name(self, name: str) -> bool:
        """Whether it applies to a normalised name."""
        return False

    def for_path(self, path: str) -> bool:
        """Whether it applies to the real path of a Unix socket, or to an abstract name."""
        return False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Anything(TargetEntry):
    """``*``: every address and every name."""

    def for_address(self, address: Address) -> bool:
        return True

    def for_name(self, name: str) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Range(TargetEntry):
    """An address or a range of them."""

    network: Network = field(kw_only=True)

    def for_address(self, address: Address) -> bool:
        return address in self.network

    def is_for_its_own(self, network: Network, address: Address) -> bool:
        """Whether it applies to an address, and to nothing outside of a network."""
        own = self.network
        return address in own and own.version == network.version and own.subnet_of(network)  # type: ignore[arg-type]  # both of one version


@dataclass(frozen=True, slots=True)
class Pattern(TargetEntry):
    """A name, or all names below one."""

    name: str = field(kw_only=True)
    below: bool = field(kw_only=True)

    def for_name(self, name: str) -> bool:
        return name.endswith("." + self.name) if self.below else name == self.name

    def is_just(self, name: str) -> bool:
        """Whether it applies to a name and to no other."""
        return name == self.name and not self.below


@dataclass(frozen=True, slots=True)
class Socket(TargetEntry):
    """The path of a Unix socket, or a prefix of paths."""

    path: str = field(kw_only=True)
    beginning: bool = field(kw_only=True)

    def for_path(self, path: str) -> bool:
        own = self.path
        if own.startswith("/"):  # resolve links: /var/run is one on most machines
            directory, _, last = own.rpartition("/")
            own = os.path.realpath(directory or "/").rstrip("/") + "/" + last
            if not self.beginning:
                own = os.path.realpath(own)
        return path.startswith(own) if self.beginning else path == own


_BRACKETED = re.compile(r"\[(?P<host>[^\[\]]*)\](?::(?P<port>.*))?")
_MAPPED = IPv6Network("::ffff:0:0/96")


def parse(text: str) -> TargetEntry:
    """Parse an entry: an address, a range, a name, ``*.name`` or ``*``, with ``:port`` or without; or ``unix:path``.

    Raises:
        ValueError: it is none of them, with a message for the author of the configuration.
    """
    if text.startswith("unix:"):
        return _socket(text)
    host, port = _host_and_port(text)
    if host == "*":
        return Anything(text, port)
    if "/" in host or ":" in host:
        return Range(text, port, network=_network(host))
    known = literals.literal(host)
    if known is not None:
        return Range(text, port, network=_network(known))
    name = normal(host.removeprefix("*."))
    if meant := readings(name):
        raise ValueError(f"{host!r} is not how an address is written here: is {' or '.join(meant)} meant?")
    if "*" in name:
        raise ValueError(f"{host!r}: a `*` stands for everything, or before a name: *.example.org")
    if not is_name(name):
        raise ValueError(f"{host!r} is neither an address, a range of addresses nor a host name")
    return Pattern(text, port, name=name, below=host.startswith("*."))


def _host_and_port(text: str) -> tuple[str, int]:
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed is not None:
        if ":" not in bracketed["host"]:
            raise ValueError(f"{text!r}: only IPv6 addresses stand in brackets")
        host, port = bracketed["host"], bracketed["port"]
    elif text.count(":") == 1:
        host, port = text.split(":")
    else:
        host, port = text, None
    if port is None:
        return host, 0
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError(f"{port!r} in {text!r} is not a port")
    return host, int(port)


def _network(host: str) -> Network:
    """Return a range; of an address, the range that has just it."""
    if "%" in host:
        raise ValueError(f"{host!r}: an entry is for an address in every zone, and names none")
    try:
        network = ipaddress.ip_network(host, strict=False)
    except ValueError:
        raise ValueError(f"{host!r} is neither an address nor a range of addresses") from None
    address = ipaddress.ip_address(host.partition("/")[0])
    if address != network.network_address:
        raise ValueError(f"{host!r} is a range that begins at another address: is {network} meant, or {address}?")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


def _socket(text: str) -> Socket:
    path = text.removeprefix("unix:")
    beginning = path.endswith("*")
    path = path.removesuffix("*")
    if "*" in path:
        raise ValueError(f"{text!r}: a `*` stands at the end, for all that begins so")
    if not (path.startswith(("/", "@")) or (beginning and not path)):
        raise ValueError(f"{text!r}: expected an absolute path, or a name that begins with @")
    return Socket(text, path=path, beginning=beginning)


# --- checking ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lists:
    """One ``targets:`` block.

    Args:
        allow: permit these only; None to permit all that is not denied.
        where: the block's name in messages.
    """

    allow: tuple[TargetEntry, ...] | None = None
    deny: tuple[TargetEntry, ...] = ()
    where: str = "targets"

    @property
    def has_names(self) -> bool:
        """Whether an entry applies to names."""
        return any(isinstance(entry, Pattern) for entry in (*(self.allow or ()), *self.deny))

    def of_address(self, found: Interpretation, port: int | None, name: str) -> str:
        """Return why connecting to an address is denied; empty if it is not.

        Args:
            name: the normalised name that led to the address; empty if there was none.
        """
        if denied := self._denial(name, (found,), port):
            return denied
        if self.allow is None or any(one.for_port(port) and one.for_address(found.address) for one in self.allow):
            return ""
        for entry in self.allow:
            if name and entry.for_port(port) and entry.for_name(name):
                return "" if found.by_name else _by_name_only(entry, found)
        return "no entry of `allow` is for it"

    def of_name(self, name: str) -> str:
        """Return why looking up a name is denied; empty if it is not. Its addresses and the port are not known yet."""
        if denied := self._denial(name, (), None):
            return denied
        if self.allow is None or any(isinstance(one, Range) or one.for_name(name) for one in self.allow):
            return ""
        return "no entry of `allow` is for it"

    def of_proxied_name(self, name: str, known: Sequence[Interpretation], port: int) -> str:
        """Return why having a proxy connect to a name is denied; empty if it is not.

        The proxy may find another address than we do. So entries for addresses can't allow it, but can deny it.
        """
        if denied := self._denial(name, known, port):
            return denied
        fit = [one for one in self.allow or () if one.for_port(port) and one.for_name(name)]
        unfit = next((one for one in known if not one.by_name), None)
        if self.allow is None or any(isinstance(one, Anything) for one in fit) or (fit and unfit is None):
            return ""
        return _by_name_only(fit[0], unfit) if fit and unfit else "no entry of `allow` is for it, as a name"

    def of_path(self, path: str) -> str:
        """Return why connecting to a Unix socket is denied; empty if it is not."""
        for entry in self.deny:
            if entry.for_path(path):
                return f"`{entry}` denies it"
        if self.allow is None or any(entry.for_path(path) for entry in self.allow):
            return ""
        return "no entry of `allow` is for it"

    def _denial(self, name: str, known: Sequence[Interpretation], port: int | None) -> str:
        """Return why a destination is denied even if `allow` has an entry for it; empty if it is not denied."""
        for entry in self.deny:
            if entry.for_port(port) and (
                (name and entry.for_name(name))
                or any(map(entry.for_address, itertools.chain.from_iterable(one.meanings for one in known)))
            ):
                return f"`{entry}` denies it"
        allow = self.allow or ()
        for network, meaning in itertools.chain.from_iterable(one.own for one in known):
            if not any(
                isinstance(one, Range) and one.for_port(port) and one.is_for_its_own(network, meaning) for one in allow
            ):
                return f"{meaning} is reached only where `allow` has an entry within {network}"
        if name in METADATA_NAMES and not any(isinstance(one, Pattern) and one.is_just(name) for one in allow):
            return "a cloud's metadata service is reached only where `allow` has an entry of just this name"
        return ""


def _by_name_only(entry: TargetEntry, found: Interpretation) -> str:
    return f"`{entry}` is for a name, and {found.address} needs an entry of its own"


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules of a module: all of its blocks have to permit a target.

    The methods raise `ProbeFailed` with reason ``target_denied`` if one does not.
    """

    blocks: tuple[Lists, ...]

    @property
    def has_names(self) -> bool:
        """Whether it matters which name led to an address."""
        return any(block.has_names for block in self.blocks)

    def check_address(self, address: str, port: int, name: str = "") -> None:
        """Check an address before anything is sent to it.

        Args:
            port: 0 if the protocol has none.
            name: the name that led to the address; empty if there was none.
        """
        found = _interpreted(address)
        shown = f"{name} ({address})" if name else address
        self._refuse(shown, port, ((block, block.of_address(found, port, normal(name))) for block in self.blocks))

    def check_name(self, host: str) -> None:
        """Check a name before it is looked up, when its addresses and perhaps the port are not known."""
        name = normal(host)
        self._refuse(host, None, ((block, block.of_name(name)) for block in self.blocks))
        for reading in readings(name):
            self._check_reading(host, reading, None)

    def check_proxied(self, host: str, port: int, known: Sequence[str]) -> None:
        """Check a host before a proxy is asked to connect to it.

        Args:
            host: as the proxy gets it; not an address in its usual spelling.
            known: addresses that the host is known to have.
        """
        name = normal(host)
        literal = literals.literal(name)  # digits beyond ASCII become digits
        meant = [literal] if literal else readings(name)
        for reading in meant:
            self._check_reading(host, reading, port)
        if not meant:
            meant_by_all = [_interpreted(one) for one in known]
            self._refuse(
                host, port, ((block, block.of_proxied_name(name, meant_by_all, port)) for block in self.blocks)
            )

    def check_path(self, path: str) -> str:
        """Check a Unix socket before connecting; return the path to connect to, with links resolved."""
        real = path if path.startswith("@") else os.path.realpath(path)
        self._refuse(path, 0, ((block, block.of_path(real)) for block in self.blocks))
        return real

    def _check_reading(self, host: str, reading: str, port: int | None) -> None:
        shown = host if host == reading else f"{host} ({reading})"
        self._refuse(shown, port, ((block, block.of_address(interpret(reading), port, "")) for block in self.blocks))

    def _refuse(self, shown: str, port: int | None, wrong: Iterable[tuple[Lists, str]]) -> None:
        for block, what in wrong:
            if what:
                at = f", port {port}" if port else ""
                raise ProbeFailed(Reason.TARGET_DENIED, f"{block.where} does not permit {shown}{at}: {what}")


def _interpreted(address: str) -> Interpretation:
    try:
        return interpret(address)
    except ValueError:
        raise ProbeFailed(Reason.TARGET_INVALID, f"{address!r} is not an address") from None
