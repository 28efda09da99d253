"""The other processes that serve beside this one, as one of them sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol


class ReloadRefused(Exception):
    """A worker has refused the configuration; says why, as the worker did."""


class SupervisorTimeout(Exception):
    """The supervisor of the workers has not answered in time."""


class Workers(Protocol):
    """What a worker may ask about the others."""

    async def snapshots(self) -> Sequence[bytes]:
        """`snapshots.snapshot` of each worker, its own first, and `snapshots.settled` of those that have ended.

        Nothing if there are no others.

        Raises:
            SupervisorTimeout: the others can't be asked.
        """

    async def reload(self, own: Callable[[], Awaitable[None]]) -> None:
        """Have all read the configuration again; `own` does it in this process.

        Raises:
            ReloadRefused, REFUSALS: it was refused.
            SupervisorTimeout: the others can't be asked.
        """

    def problem(self) -> str:
        """One sentence if a worker has died and was not replaced; nothing if all is well."""


class Alone:
    """There are no others."""

    async def snapshots(self) -> Sequence[bytes]:
        """None."""
        return ()

    async def reload(self, own: Callable[[], Awaitable[None]]) -> None:
        """That of this process is all."""
        await own()

    def problem(self) -> str:
        """None."""
        return ""
