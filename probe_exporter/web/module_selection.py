"""Find the modules that a request names, and fill in its parameters; refuse it with 400 if they do not fit."""

from __future__ import annotations

from collections.abc import Mapping

from probe_exporter.config.module import Config, Module
from probe_exporter.settings.fields import most_similar, nearest, shorten
from probe_exporter.web.answers import Refused

MAX_MODULES = 16
"""Modules in one request. Without a limit, one short request could start thousands of probes."""

MAX_SHOWN_CHARACTERS = 100
"""Of a name that the request made up: the response and the log show no more."""

MAX_COMPARED_MODULES = 200
"""`nearest` takes about 20 µs for each name, and a client may send unknown names as often as it likes."""


class UnknownModule(Refused):
    """The request names a module that is not in the configuration.

    Attributes:
        name: the module's name, shortened.
    """

    def __init__(self, name: str, config: Config) -> None:
        self.name = shorten(name, MAX_SHOWN_CHARACTERS)
        question = nearest(name, _comparable(name, config)) or "."
        super().__init__(400, f'Unknown module "{self.name}"{question} /config lists all modules')


def similar_module(name: str, config: Config) -> str:
    """Return the most similar module name; empty if none is similar."""
    return most_similar(name, _comparable(name, config))


def _comparable(name: str, config: Config) -> list[str]:
    """Return the names of modules that may be similar to a name, up to `MAX_COMPARED_MODULES`."""
    found = [
        other for other in config.modules if abs(len(other) - len(name)) < 4 and {*other[:1], *other[-1:]} & {*name}
    ]
    return found[:MAX_COMPARED_MODULES]


def modules_named(config: Config, asked: str) -> list[Module]:
    """Return the modules that ``module=`` names: the one with exactly this name, or several separated by commas.

    A repeated name counts once. An empty name, which relabeling can leave behind, is skipped.

    Raises:
        Refused: one of them is unknown, or there are too many.
    """
    return [config.modules[name] for name in _names(config, asked)]


def modules_made(config: Config, asked: str) -> list[Module] | None:
    """Return what `modules_named` returns; None if one of the modules was not made yet.

    Raises:
        Refused: as `modules_named`.
    """
    module = config.modules.made(asked)
    if module is not None:
        return [module]
    found = [config.modules.made(name) for name in _names(config, asked)]
    modules = [module for module in found if module is not None]
    return modules if len(modules) == len(found) else None


def _names(config: Config, asked: str) -> list[str]:
    if asked in config.modules:
        return [asked]
    names = [name for name in dict.fromkeys(asked.split(",")) if name] or [asked]
    if len(names) > MAX_MODULES:
        raise Refused(400, f"A request may name {MAX_MODULES} modules, and this one names {len(names)}")
    for name in names:
        if name not in config.modules:
            raise UnknownModule(name, config)
    return names


def with_parameters(module: Module, parameters: Mapping[str, str]) -> Module:
    """Return the module with a request's parameters filled in.

    Raises:
        Refused: with 400: a parameter is invalid, or conflicts with the module's settings.
    """
    try:
        return module.prepared(parameters)
    except ValueError as conflict:
        raise Refused(400, str(conflict)) from conflict
