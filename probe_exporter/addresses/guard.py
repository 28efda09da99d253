"""Who may be probed: the entries of ``targets:`` and what they say of an address, a name or a Unix socket.

An address is judged by its number, however it was spelt, and together with every address that may lie behind it; a name
is judged as it was asked for. The only I/O is to ask where a socket's path really leads.
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
from probe_exporter.addresses.spellings import Address, Network, Sight, look, normal, readings
from probe_exporter.prober.failure import ProbeFailed, Reason

METADATA_NAMES = frozenset(
    {"metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
    | {"metadata.tencentyun.com", "api.metadata.cloud.ibm.com"}
)
"""Names of the same services, for where a proxy would look them up."""

# --- entries -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a list.

    Args:
        text: as it was written.
        port: the only one it is for; 0 for any.
    """

    text: str
    port: int = 0

    def for_port(self, port: int | None) -> bool:
        """Whether it is for a port: 0 where there are no ports; None where it is not known yet, so for any."""
        return self.port in (0, port)

    def for_address(self, address: Address) -> bool:
        """Whether it is for an address."""
        return False

    def for_name(self, name: str) -> bool:
        """Whether it is for a name in its normal form."""
        return False

    def for_path(self, path: str) -> bool:
        """Whether it is for the real path of a Unix socket, or its name without a file."""
        return False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Anything(Entry):
    """``*``: every address, and every name whatever its address."""

    def for_address(self, address: Address) -> bool:
        return True

    def for_name(self, name: str) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Range(Entry):
    """An address or a range of them."""

    network: Network = field(kw_only=True)

    def for_address(self, address: Address) -> bool:
        return address in self.network

    def is_for_its_own(self, network: Network, address: Address) -> bool:
        """Whether it is for an address and for nothing beyond a network."""
        own = self.network
        return address in own and own.version == network.version and own.subnet_of(network)  # type: ignore[arg-type]  # both of one version


@dataclass(frozen=True, slots=True)
class Pattern(Entry):
    """A name, or all names below one."""

    name: str = field(kw_only=True)
    below: bool = field(kw_only=True)

    def for_name(self, name: str) -> bool:
        return name.endswith("." + self.name) if self.below else name == self.name

    def is_just(self, name: str) -> bool:
        """Whether it is for a name and for no other."""
        return name == self.name and not self.below


@dataclass(frozen=True, slots=True)
class Socket(Entry):
    """The path of a Unix socket, or what paths begin with."""

    path: str = field(kw_only=True)
    beginning: bool = field(kw_only=True)

    def for_path(self, path: str) -> bool:
        own = self.path
        if own.startswith("/"):  # where it leads now: /var/run is a link on most machines
            directory, _, last = own.rpartition("/")
            own = os.path.realpath(directory or "/").rstrip("/") + "/" + last
            if not self.beginning:
                own = os.path.realpath(own)
        return path.startswith(own) if self.beginning else path == own


_BRACKETED = re.compile(r"\[(?P<host>[^\[\]]*)\](?::(?P<port>.*))?")
_MAPPED = IPv6Network("::ffff:0:0/96")


def parse(text: str) -> Entry:
    """An entry: an address, a range, a name, ``*.name`` or ``*``, each with ``:port`` or without; or ``unix:path``.

    Raises:
        ValueError: it is none of them; the message is for the author of the configuration.
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
    if not literals.is_name(name):
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
    """A range, or an address as the range that it is alone in."""
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


# --- judging -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lists:
    """One ``targets:`` block.

    Args:
        allow: what is permitted; None for all that is not denied.
        where: whose block it is, as messages say it.
    """

    allow: tuple[Entry, ...] | None = None
    deny: tuple[Entry, ...] = ()
    where: str = "targets"

    @property
    def has_names(self) -> bool:
        """Whether an entry is for names."""
        return any(isinstance(entry, Pattern) for entry in (*(self.allow or ()), *self.deny))

    def of_address(self, sight: Sight, port: int | None, name: str) -> str:
        """What is wrong with connecting to an address; empty if nothing.

        Args:
            name: the one that the address was found by, in its normal form; empty if there was none.
        """
        if denied := self._denial(name, (sight,), port):
            return denied
        if self.allow is None or any(one.for_port(port) and one.for_address(sight.address) for one in self.allow):
            return ""
        for entry in self.allow:
            if name and entry.for_port(port) and entry.for_name(name):
                return "" if sight.by_name else _by_name_only(entry, sight)
        return "no entry of `allow` is for it"

    def of_name(self, name: str) -> str:
        """What is wrong with looking a name up, whatever its addresses and the port."""
        if denied := self._denial(name, (), None):
            return denied
        if self.allow is None or any(isinstance(one, Range) or one.for_name(name) for one in self.allow):
            return ""
        return "no entry of `allow` is for it"

    def of_proxied_name(self, name: str, known: Sequence[Sight], port: int) -> str:
        """What is wrong with having a proxy connect to a name. What the proxy takes its address for nobody knows, so
        that no entry for addresses allows it; but those that are known may speak against it."""
        if denied := self._denial(name, known, port):
            return denied
        fit = [one for one in self.allow or () if one.for_port(port) and one.for_name(name)]
        unfit = next((one for one in known if not one.by_name), None)
        if self.allow is None or any(isinstance(one, Anything) for one in fit) or (fit and unfit is None):
            return ""
        return _by_name_only(fit[0], unfit) if fit and unfit else "no entry of `allow` is for it, as a name"

    def of_path(self, path: str) -> str:
        """What is wrong with connecting to a Unix socket."""
        for entry in self.deny:
            if entry.for_path(path):
                return f"`{entry}` denies it"
        if self.allow is None or any(entry.for_path(path) for entry in self.allow):
            return ""
        return "no entry of `allow` is for it"

    def _denial(self, name: str, known: Sequence[Sight], port: int | None) -> str:
        """What speaks against a destination, whatever is allowed."""
        for entry in self.deny:
            if entry.for_port(port) and (
                (name and entry.for_name(name)) or any(entry.for_address(face) for one in known for face in one.faces)
            ):
                return f"`{entry}` denies it"
        allow = self.allow or ()
        for network, face in itertools.chain.from_iterable(one.own for one in known):
            if not any(
                isinstance(one, Range) and one.for_port(port) and one.is_for_its_own(network, face) for one in allow
            ):
                return f"{face} is reached only where `allow` has an entry within {network}"
        if name in METADATA_NAMES and not any(isinstance(one, Pattern) and one.is_just(name) for one in allow):
            return "a cloud's metadata service is reached only where `allow` has an entry of just this name"
        return ""


def _by_name_only(entry: Entry, sight: Sight) -> str:
    return f"`{entry}` is for a name, and {sight.address} needs an entry of its own"


@dataclass(frozen=True, slots=True)
class Guard:
    """What a module may connect to: all of its blocks have to permit it. None of them asks for more than it is told.

    Its methods raise `ProbeFailed` with reason ``target_denied`` where a block does not.
    """

    blocks: tuple[Lists, ...]

    @property
    def has_names(self) -> bool:
        """Whether it matters by which name an address was found."""
        return any(block.has_names for block in self.blocks)

    def check_address(self, address: str, port: int, name: str = "") -> None:
        """Before anything is sent to an address.

        Args:
            port: 0 where the protocol has none.
            name: the one that the address was found by; empty if there was none.
        """
        sight = _look(address)
        shown = f"{name} ({address})" if name else address
        self._refuse(shown, port, ((block, block.of_address(sight, port, normal(name))) for block in self.blocks))

    def check_name(self, host: str) -> None:
        """Before a name is looked up, when its addresses and perhaps the port are not known."""
        name = normal(host)
        self._refuse(host, None, ((block, block.of_name(name)) for block in self.blocks))
        for reading in readings(name):
            self._check_reading(host, reading, None)

    def check_proxied(self, host: str, port: int, known: Sequence[str]) -> None:
        """Before a proxy is asked to connect to a host.

        Args:
            host: as the proxy is told; no address in its usual spelling.
            known: the addresses that we know it by.
        """
        name = normal(host)
        literal = literals.literal(name)  # digits beyond ASCII become digits
        meant = [literal] if literal else readings(name)
        for reading in meant:
            self._check_reading(host, reading, port)
        if not meant:
            sights = [_look(one) for one in known]
            self._refuse(host, port, ((block, block.of_proxied_name(name, sights, port)) for block in self.blocks))

    def check_path(self, path: str) -> str:
        """Before connecting to a Unix socket; the path to connect to, links followed."""
        real = path if path.startswith("@") else os.path.realpath(path)
        self._refuse(path, 0, ((block, block.of_path(real)) for block in self.blocks))
        return real

    def _check_reading(self, host: str, reading: str, port: int | None) -> None:
        shown = host if host == reading else f"{host} ({reading})"
        self._refuse(shown, port, ((block, block.of_address(look(reading), port, "")) for block in self.blocks))

    def _refuse(self, shown: str, port: int | None, wrong: Iterable[tuple[Lists, str]]) -> None:
        for block, what in wrong:
            if what:
                at = f", port {port}" if port else ""
                raise ProbeFailed(Reason.TARGET_DENIED, f"{block.where} does not permit {shown}{at}: {what}")


def _look(address: str) -> Sight:
    try:
        return look(address)
    except ValueError:
        raise ProbeFailed(Reason.TARGET_INVALID, f"{address!r} is not an address") from None
