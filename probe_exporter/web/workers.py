"""The other processes that serve beside this one, as one of them sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Workers(Protocol):
    """What a worker may ask about the others."""

    async def snapshots(self) -> Sequence[bytes]:
        """`snapshots.snapshot` of each other worker, and `snapshots.settled` of those that have ended."""

    def problem(self) -> str:
        """One sentence if a worker has died and was not replaced; nothing if all is well."""


class Alone:
    """There are no others."""

    async def snapshots(self) -> Sequence[bytes]:
        """None."""
        return ()

    def problem(self) -> str:
        """None."""
        return ""
