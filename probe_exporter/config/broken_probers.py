"""Start without probers that fail to load; drop the modules that use them and log a warning for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ConfigDict

from probe_exporter.config.module import Config, ConfigError
from probe_exporter.config.problems import Place, Problem
from probe_exporter.plugins.loader import BrokenProber
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.settings.block import Settings


class _AnySettings(Settings):
    model_config = ConfigDict(extra="allow")


async def _refuse(probe: Probe, settings: Settings) -> None:
    raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "the prober is broken")


def replacements(broken: Iterable[BrokenProber]) -> dict[str, Prober[Any]]:
    """Make a prober for each name that a broken one may have. It accepts any settings."""
    return {name: Prober(name, _AnySettings, _refuse) for one in broken for name in one.names}


def without_broken(
    config: Config, probers: Mapping[str, Prober[Any]], broken: Iterable[BrokenProber], *, strict: bool = False
) -> Config:
    """Return a config that was read with `replacements`, without the modules that use them.

    Args:
        probers: the probers without `replacements`.
        strict: as for `loading.load`.

    Raises:
        ConfigError: if strict.
    """
    causes = {name: one.where for one in broken for name in one.names}
    told = [
        Problem(Place(one.where), "", f"broken, and ignored: {one.why.removeprefix(one.where).lstrip(': ')}")
        for one in broken
    ]
    lost = set()
    for name, module in config.modules.checked.items():
        if module.prober.probe is _refuse:
            cause = causes[module.prober.name]
            told.append(Problem(module.place, f"modules.{name}", f"left out: its prober is broken, see {cause}"))
            lost.add(name)
    if told and strict:
        raise ConfigError(sorted(told))
    return replace(
        config,
        modules=config.modules.without(lost),
        warnings=tuple(sorted({*told, *config.warnings})),
        probers=probers,
        probers_not_loaded=len({one.where for one in broken}),
    )
