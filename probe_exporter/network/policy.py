"""The network policy of a run: which name servers to ask, where to send from, which addresses are allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from probe_exporter.addresses import literals
from probe_exporter.addresses.guard import Guard
from probe_exporter.addresses.spellings import normal

if TYPE_CHECKING:
    from probe_exporter.network.lookup import Resolver


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """How the probes of a module use the network.

    Args:
        guard: the allow and deny rules; None to allow everything.
        resolver: the module's name servers; None for the system's.
        source_ip_address: the local address to connect from unless the prober's settings have one; empty for any.
        source_interface: the interface that packets leave and arrive through; empty for any.
    """

    guard: Guard | None = None
    resolver: Resolver | None = None
    source_ip_address: str = ""
    source_interface: str = ""

    def for_run(self) -> RunNetwork:
        """Return the network of one run."""
        return RunNetwork(self)


class RunNetwork:
    """The network of one run: applies a module's policy, and remembers which name each address was found by.

    It is a `prober.run.Network`.
    """

    __slots__ = ("_found_by", "_policy")

    def __init__(self, policy: NetworkPolicy) -> None:
        self._policy = policy
        self._found_by: dict[str, str] = {}  # the last name that led to each address

    @property
    def source_ip_address(self) -> str:
        """The local address to connect from, as in the policy."""
        return self._policy.source_ip_address

    @property
    def source_interface(self) -> str:
        """The interface to send through, as in the policy."""
        return self._policy.source_interface

    @property
    def identity(self) -> int:
        """A number that is the same for two runs of one policy."""
        return id(self._policy)

    async def lookup(self, host: str, family: int) -> list[str]:
        """Return the addresses of a name, as `lookup.lookup` gives them, if the policy permits to look it up.

        Raises:
            ProbeFailed: the policy denies the name, or it does not resolve.
        """
        from probe_exporter.network import lookup  # noqa: PLC0415  # not needed to load a configuration

        guard, resolver = self._policy.guard, self._policy.resolver
        if guard is None:
            return await lookup.lookup(host, family, resolver=resolver)
        guard.check_name(host)
        addresses = await lookup.lookup(host, family, resolver=resolver, as_written=guard.has_names)
        self._found_by.update(dict.fromkeys(addresses, host))
        return addresses

    def target_address(self, host: str, addresses: Sequence[str], chosen: str) -> str:
        """Return the address to probe: the one that the prober's settings choose."""
        return chosen

    def forget(self, address: str) -> None:
        """Forget the name that an address was found by."""
        self._found_by.pop(address, None)

    def check(self, address: str, port: int) -> None:
        """Check an address, and the name that `lookup` found it by, before anything is sent to it.

        Raises:
            ProbeFailed: the policy denies it.
        """
        guard = self._policy.guard
        if guard is not None:
            guard.check_address(address, port, self._found_by.get(address, ""))

    def check_proxied(self, host: str, port: int) -> None:
        """Check a host before a proxy is told to connect to it.

        Raises:
            ProbeFailed: the policy denies it.
        """
        guard = self._policy.guard
        if guard is None:
            return
        literal = literals.literal(host)
        if literal is not None:
            self.check(literal, port)
        else:
            known = [address for address, name in self._found_by.items() if normal(name) == normal(host)]
            guard.check_proxied(host, port, known)

    def check_path(self, path: str) -> str:
        """Check the path of a Unix socket, and return the path to connect to, with symbolic links resolved.

        Raises:
            ProbeFailed: the policy denies it.
        """
        guard = self._policy.guard
        return path if guard is None else guard.check_path(path)

    def for_another_run(self) -> RunNetwork:
        """Return a network of the same policy that remembers nothing of this run."""
        return RunNetwork(self._policy)
