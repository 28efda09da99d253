"""The entries of the tables of hostile peers: a `Case` is one peer against one prober, a `Part` is what a peer does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from probe_exporter.prober.failure import TIMEOUTS, Reason

MEBIBYTE = 2**20
ENDLESS = 1 << 40

LONG_SECONDS = 20.0
"""The timeout of a probe that ends for another reason."""

SHORT_SECONDS = 0.5
"""The timeout of a probe whose peer never stops."""

MAX_MEMORY_BYTES = 64 * MEBIBYTE
"""By how much the process may grow during a probe, unless a case says otherwise."""

TIMED_OUT = frozenset(reason.value for reason in (*TIMEOUTS.values(), Reason.TIMEOUT_PROBE))
"""Every reason of a probe that ran out of time."""

SUCCESS = "success"


@dataclass(frozen=True, slots=True)
class Hear:
    """Read until these bytes have arrived."""

    until: bytes


@dataclass(frozen=True, slots=True)
class Flood:
    """Send the same bytes again and again, as fast as they are taken."""

    data: bytes
    times: int = ENDLESS


@dataclass(frozen=True, slots=True)
class Drip:
    """Send one byte after another, with a pause before each; then start again."""

    data: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Send nothing more and read until the client closes."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """Become a TLS server.

    Args:
        chain: a PEM file with the certificates, and `key`, the file of the key; those of the tests' own PKI if empty.
        alpn: the protocols to choose from.
    """

    chain: str = ""
    key: str = ""
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """Read a DNS query over TCP, and send a message with its length; ``@@`` at its start means the id of the query."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Read a request and agree to speak WebSocket."""


Part = bytes | Answer | Upgrade | Hear | Flood | Drip | Hold | Handshake

Open = Callable[[Path], AbstractContextManager[Mapping[str, str]]]
"""Starts a peer, given a directory with certificates, and yields the words that a case's target and settings need."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One hostile peer against one prober.

    Args:
        peer: what the peer does, in a few words.
        client: the name of the prober, and how it meets the peer: ``http through a proxy``.
        start: starts the peer.
        ends: the reasons of which the probe must have one; `SUCCESS` where a success is right, too.
        target: of the probe, with words such as ``{port}``.
        settings: of the module, with the same words.
        timeout: seconds that a probe gets.
        memory: bytes by which the process may grow.
        probes: how many run at once.
        family: the file of the peer.
        known: why the case fails at present; empty if it passes.
    """

    peer: str
    client: str
    start: Open
    ends: frozenset[str]
    target: str = "127.0.0.1:{port}"
    settings: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = LONG_SECONDS
    memory: int = MAX_MEMORY_BYTES
    probes: int = 1
    family: str = ""
    known: str = ""

    @property
    def name(self) -> str:
        """A name that no other case has."""
        return f"{self.family}: {self.peer} / {self.client}"

    @property
    def prober(self) -> str:
        """The name of the prober."""
        return self.client.partition(" ")[0]

    def of(self, family: str) -> Case:
        """Return the same case as one of a family."""
        return replace(self, family=family)


def ends(*reasons: str) -> frozenset[str]:
    """Return a set of reasons; each is one of the probers' own or of the closed list."""
    return frozenset(reasons)


Make = Callable[[], Sequence[Part]]
"""Makes what a peer does; called in the process of the peers only, since it may take many megabytes."""


def playing(*parts: Part) -> Make:
    """Return what makes a peer of parts that take no memory."""
    return lambda: parts


Clients = Mapping[str, Mapping[str, Any]]
"""What a table of peers is for: by the name of the client, the rest of the arguments of `Case`."""


def against(clients: Clients, peers: Mapping[str, Mapping[str, Any]]) -> Iterator[Case]:
    """Yield a case for each peer and each client; what a peer says takes precedence."""
    for peer, details in peers.items():
        for name, client in clients.items():
            merged = {**client, **details}
            merged["settings"] = {**client.get("settings", {}), **details.get("settings", {})}
            yield Case(peer=peer, client=name, **merged)
