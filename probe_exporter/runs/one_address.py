"""`OneAddress`: the network of a run that probes one given address of the target's name.

The first run looks the name up, and `TargetAddresses` keeps what it finds. Each further run gets its address as the
result of the same lookup, so no prober knows about it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from probe_exporter.addresses import literals
from probe_exporter.addresses.spellings import normal
from probe_exporter.network.policy import NetworkPolicy, RunNetwork
from probe_exporter.prober.failure import ProbeFailed, Reason


class TargetAddresses:
    """The addresses of the target, as the first run finds them.

    Attributes:
        name: the target's name; an address or the path of a socket if the target is one; empty before the lookup.
        addresses: those to probe, in the order of the runs.
        total: number of all addresses of the name.
        tell: called once, when they are known.
    """

    __slots__ = ("_max", "addresses", "name", "tell", "total")

    def __init__(self, max: int) -> None:
        """
        Args:
            max: most addresses to probe.
        """
        self._max = max
        self.name = ""
        self.addresses: list[str] = []
        self.total = 0
        self.tell: Callable[[], None] = lambda: None

    def keep(self, name: str, addresses: Sequence[str], chosen: str) -> None:
        """Keep the addresses, sorted: servers rotate them, and every probe should take the same ones.

        Args:
            chosen: the address that one run alone would probe; addresses of its version come first.
        """
        version = literals.version(chosen)
        every = sorted(set(addresses), key=lambda address: (literals.version(address) != version, _number(address)))
        self.name, self.total, self.addresses = normal(name), len(every), every[: self._max]
        self.tell()

    def keep_path(self, path: str) -> None:
        """Keep the path of a Unix socket, which is the only address of its target."""
        self.name, self.total, self.addresses = path, 1, [path]


def _number(address: str) -> tuple[int, str]:
    ip = ipaddress.ip_address(address)
    return int(ip), address  # the same IPv6 address can have several zones


class OneAddress(RunNetwork):
    """The network of one run.

    Attributes:
        address: the address that it probes; empty in a first run that has not looked the name up.
    """

    __slots__ = ("_found", "address")

    def __init__(self, policy: NetworkPolicy, found: TargetAddresses, address: str = "") -> None:
        super().__init__(policy)
        self._found = found
        self.address = address

    async def lookup(self, host: str, family: int) -> list[str]:
        """Return the run's address if `host` is the target's name, without another lookup.

        Raises:
            ProbeFailed: as `RunNetwork.lookup` does.
        """
        if not self._is_target(host) or family not in (0, literals.version(self.address)):
            return await super().lookup(host, family)
        self._found_by[self.address] = host
        return [self.address]

    def target_address(self, host: str, addresses: Sequence[str], chosen: str) -> str:
        """Return the run's address; the first run learns here which addresses there are."""
        if not self._found.name:
            self._found.keep(host, addresses, chosen)
            self.address = self._found.addresses[0]
        return self.address if self._is_target(host) else chosen

    def check_proxied(self, host: str, port: int) -> None:
        """Refuse a proxy that looks the target's name up itself: it would choose the address.

        Raises:
            ProbeFailed: it does, or the policy denies the host.
        """
        if self._is_target(host) and literals.literal(host) is None:
            why = "addresses: this proxy looks the target's name up itself, so it chooses the address"
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"{why}; use a proxy with socks5://, or no proxy")
        super().check_proxied(host, port)

    def check_path(self, path: str) -> str:
        """Check the path of a Unix socket, and keep it as the address of the target.

        Raises:
            ProbeFailed: the policy denies it.
        """
        if not self._found.name:
            self._found.keep_path(path)
            self.address = path
        return super().check_path(path)

    def _is_target(self, host: str) -> bool:
        return bool(self.address) and normal(host) == self._found.name
