"""Remember which certificates verified, so that the next handshake with them does not check their signatures again.

What is remembered depends on nothing but the context's authorities, the certificates that the peer sent, and the time:

* The peer's certificates are identified by their SHA-256 fingerprints, all of them and in order.
* A success counts for an hour at most, while no certificate of the chain expires, and not if the clock was set back.
* A failure is not remembered. The name is not part of it: it is compared in each handshake, as is the signature by
  which the peer proves that it has the certificate's key.
* The memory of all contexts is limited in bytes. Certificates are not kept alive, but for the trusted authorities.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

from probe_exporter.tls import certificates
from probe_exporter.tls.certificates import Certificate

MAX_VERIFIED_BYTES = 16 << 20
"""The estimated bytes of all remembered successes; enough for those of 20,000 targets."""

MAX_VERIFIED_CERTIFICATES = 16
"""A peer that sends more certificates is verified in each handshake."""

REMEMBERED_SECONDS = 3600

_ENTRY_BYTES = 500  # objects and slots of the dict, without fingerprints and links
_LINK_BYTES = 8


class Success(NamedTuple):
    """A chain that verified, and the time during which this counts, in Unix seconds.

    Attributes:
        links: from the peer's own certificate to the authority: the place of each certificate among those sent, or the
            certificate itself if the peer did not send it.
    """

    links: tuple[int | Certificate, ...]
    since: float
    until: float

    def chain(self, sent: Sequence[Certificate]) -> tuple[Certificate, ...]:
        """Return the chain, with the certificates that were sent this time."""
        return tuple([sent[link] if isinstance(link, int) else link for link in self.links])


class Verifications:
    """The successes with one context."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        self._number = next(self._numbers)

    def find(self, sent: Sequence[Certificate]) -> Success | None:
        """Return the success of exactly these certificates, if it still counts."""
        found = memory.known.get((self._number, _fingerprints(sent)))
        return found if found is not None and found.since <= time.time() < found.until else None

    def add(self, sent: Sequence[Certificate], verified: Sequence[Certificate]) -> None:
        """Remember that the certificates that the peer sent verified just now, with this chain."""
        if not verified or len(sent) > MAX_VERIFIED_CERTIFICATES or any(certificate.large for certificate in sent):
            return
        places = {sent[place].fingerprint: place for place in reversed(range(len(sent)))}
        links = tuple([places.get(certificate.fingerprint, certificate) for certificate in verified])
        now = time.time()
        until = min(now + REMEMBERED_SECONDS, certificates.earliest_expiry(verified))
        memory.add((self._number, _fingerprints(sent)), Success(links, now, until))


class _Memory:
    """The successes with all contexts, which share the limit. All are forgotten when they take too much."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, bytes], Success] = {}
        self.bytes = 0

    def add(self, key: tuple[int, bytes], success: Success) -> None:
        """Remember a success in place of an earlier one of the same certificates."""
        if key not in self.known:
            size = _ENTRY_BYTES + len(key[1]) + _LINK_BYTES * len(success.links)
            if self.bytes + size > MAX_VERIFIED_BYTES:
                self.forget()
            self.bytes += size
        self.known[key] = success

    def forget(self) -> None:
        """Forget all successes; the next handshake with each peer verifies everything."""
        self.known.clear()
        self.bytes = 0


memory = _Memory()


def _fingerprints(sent: Sequence[Certificate]) -> bytes:
    return b"".join([certificate.fingerprint for certificate in sent])
