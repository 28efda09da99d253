"""`Prober`: the declaration in a prober's file, which makes it available to modules by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from probe_exporter.prober.failure import OwnReason, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.settings.block import Settings

S = TypeVar("S", bound=Settings)


def _same_settings(settings: Any, hostname: str) -> Any:
    """Ignore the request parameter ``hostname``: the default of `Prober.with_hostname`."""
    return settings


@dataclass(frozen=True, slots=True)
class Prober(Generic[S]):
    """The declaration that makes a file a prober: ``prober = Prober("redis", RedisSettings, probe_redis)``.

    Args:
        name: the value of a module's ``prober``, and the key of its block of settings.
        settings: the model of that block.
        probe: probes the target; returns on success, raises `ProbeFailed` otherwise.
        description: one line for lists; the first line of `probe`'s docstring by default.
        with_hostname: returns the settings for a request with the parameter ``hostname``; by default the same settings.
            Raises ValueError, with a sentence for the client, if the parameter conflicts with the settings.
        reasons: the reasons for failure of this prober alone.

    Raises:
        ValueError: a reason of the prober's own does not begin with the prober's name.
    """

    name: str
    settings: type[S]
    probe: Callable[[Probe, S], Awaitable[None]]
    description: str = ""
    with_hostname: Callable[[S, str], S] = field(default=_same_settings)
    reasons: tuple[OwnReason, ...] = ()

    @property
    def summary(self) -> str:
        """One line for lists."""
        return self.description or (self.probe.__doc__ or "").split("\n")[0]

    def __post_init__(self) -> None:
        known = {reason.value for reason in Reason}
        for reason in self.reasons:
            if not reason.value.startswith(f"{self.name}_") or reason.value in known:
                raise ValueError(f"prober {self.name}: its own reasons begin with {self.name}_, unlike {reason.value}")
