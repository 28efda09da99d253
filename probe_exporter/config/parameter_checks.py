"""Check the parameters of modules: placeholders name declared parameters and are in the block of a prober.

A module without ``params`` has no placeholders: ``${param:name}`` is plain text there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from probe_exporter.config.document import Document
from probe_exporter.config.nodes import KeyPath
from probe_exporter.config.placeholders import MARK, NAME, RESERVED, fill, written
from probe_exporter.config.problems import Problem
from probe_exporter.settings.fields import nearest


def checked(document: Document, probers: Collection[str]) -> Any:
    """Return the value of a document with its templates filled with defaults, for validation.

    A parameter without a default is filled with its own placeholder. Errors and warnings about parameters are added to
    the document.
    """
    modules = document.value.get("modules") if isinstance(document.value, Mapping) else None
    if not isinstance(modules, Mapping):
        return fill(document.value, None)
    templates = _by_module({path: template.names for path, template in document.templates.items()})
    keys = _by_module({path: None for path in document.places if path and MARK in str(path[-1])})
    filled = {}
    for name, module in modules.items():
        declared = module.get("params") if isinstance(module, Mapping) else None
        uses = templates.get(name, {})
        if isinstance(declared, Mapping):
            document.problems += _misnamed(document, name, declared)
            document.problems += _misplaced(document, uses, declared, probers)
            document.problems += [
                document.problem(path, "a parameter can't be a part of a key") for path in keys.get(name, ())
            ]
            document.warnings += _unused(document, name, uses, declared)
            filled[name] = fill(module, {key: _stand_in(key, parameter) for key, parameter in declared.items()})
        else:
            document.warnings += _left_alone(document, uses)
            filled[name] = fill(module, None) if uses else module
    others = {key: fill(value, None) for key, value in document.value.items() if key != "modules"}
    return {**others, "modules": filled}


Uses = Mapping[KeyPath, frozenset[str]]
"""The parameters in the templates of a module, by path."""

T = TypeVar("T")


def _by_module(found: Mapping[KeyPath, T]) -> dict[str | int, dict[KeyPath, T]]:
    """Group paths by module."""
    modules: dict[str | int, dict[KeyPath, T]] = {}
    for path, what in found.items():
        if len(path) > 1 and path[0] == "modules":
            modules.setdefault(path[1], {})[path] = what
    return modules


def _stand_in(name: str, parameter: Any) -> str:
    default = parameter.get("default") if isinstance(parameter, Mapping) else None
    return default if isinstance(default, str) else written(name)


def _left_alone(document: Document, uses: Uses) -> Iterator[Problem]:
    for path, names in uses.items():
        if names:
            yield document.problem(path, f"{written(min(names))} is plain text, as the module has no `params`")


def _misnamed(document: Document, module: str, declared: Mapping[str, Any]) -> Iterator[Problem]:
    for name in declared:
        path = ("modules", module, "params", name)
        if name in RESERVED:
            yield document.problem(path, f"`{name}` is a reserved name: requests use it for the exporter itself")
        elif not NAME.fullmatch(name):
            message = f"{name!r} is no name of a parameter: use letters, digits and _, beginning with a letter or _"
            yield document.problem(path, message)


def _misplaced(
    document: Document, uses: Uses, declared: Mapping[str, Any], probers: Collection[str]
) -> Iterator[Problem]:
    for path, names in uses.items():
        if path[2] not in probers:
            document.invalid_paths.add(path)
            yield document.problem(path, "a parameter can only be used in the block of a prober")
            continue
        for name in sorted(names - declared.keys()):
            document.invalid_paths.add(path)
            hint = nearest(name, list(declared))
            yield document.problem(path, f"{written(name)} is not declared in the module's `params`{hint}")


def _unused(document: Document, module: str, uses: Uses, declared: Mapping[str, Any]) -> Iterator[Problem]:
    used = frozenset[str]().union(*uses.values())
    for name in declared:
        if name not in used:
            yield document.problem(
                ("modules", module, "params", name),
                f"the parameter has no effect: the module does not use {written(name)}",
            )
