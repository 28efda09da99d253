"""Select the modules that a request names, and fill in its parameters; what does not fit is refused with 400."""

from __future__ import annotations

from collections.abc import Mapping

from probe_exporter.config.module import Config, Module
from probe_exporter.web.answers import Refused

MOST_MODULES = 16
"""Modules of one request. Its probes share one scrape timeout and one answer, and a request is to stay one in size:
without a limit, a short one could ask for thousands of probes."""


class UnknownModule(Refused):
    """The request names a module that the configuration does not have."""

    def __init__(self, name: str) -> None:
        super().__init__(400, f'Unknown module "{name}"')
        self.name = name


def named(config: Config, asked: str) -> list[Module]:
    """The modules that ``module=`` names: the one of exactly this name, or several with commas between them.

    What is named twice counts once, and an empty name, as relabeling leaves it behind, not at all.

    Raises:
        Refused: one of them is unknown, or they are too many.
    """
    module = config.modules.get(asked)
    if module is not None:
        return [module]
    names = [name for name in dict.fromkeys(asked.split(",")) if name] or [asked]
    if len(names) > MOST_MODULES:
        raise Refused(400, f"A request may name {MOST_MODULES} modules, and this one names {len(names)}")
    for name in names:
        if name not in config.modules:
            raise UnknownModule(name)
    return [config.modules[name] for name in names]


def prepared(module: Module, parameters: Mapping[str, str]) -> Module:
    """Return the module for one request.

    Raises:
        Refused: with 400: the parameters are not legal, or conflict with what the module says.
    """
    try:
        return module.prepared(parameters)
    except ValueError as conflict:
        raise Refused(400, str(conflict)) from conflict
