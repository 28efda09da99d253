"""Check a module's parameters: each placeholder names a declared one and stands where it may.

Only a module with ``params`` has placeholders. In any other, ``${param:name}`` is plain text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from probe_exporter.config.document import Document
from probe_exporter.config.nodes import Path
from probe_exporter.config.placeholders import MARK, NAME, RESERVED, fill, written
from probe_exporter.config.problems import Problem
from probe_exporter.settings.fields import nearest


def checked(document: Document, probers: Collection[str]) -> Any:
    """The value of a document with its templates filled, to be validated: with defaults, or with what stands for them.

    A parameter without a default is filled with its own placeholder. The document's problems and warnings grow by
    what is wrong with parameters.
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
                document.problem(path, "a parameter can't go into a key") for path in keys.get(name, ())
            ]
            document.warnings += _unused(document, name, uses, declared)
            filled[name] = fill(module, {key: _stand_in(key, parameter) for key, parameter in declared.items()})
        else:
            document.warnings += _left_alone(document, uses)
            filled[name] = fill(module, None) if uses else module
    others = {key: fill(value, None) for key, value in document.value.items() if key != "modules"}
    return {**others, "modules": filled}


Uses = Mapping[Path, frozenset[str]]
"""The parameters that the templates of a module want, by their places."""

T = TypeVar("T")


def _by_module(found: Mapping[Path, T]) -> dict[str | int, dict[Path, T]]:
    """What stands in modules, by their names."""
    modules: dict[str | int, dict[Path, T]] = {}
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
            yield document.problem(path, f"{written(min(names))} is plain text here: the module has no `params`")


def _misnamed(document: Document, module: str, declared: Mapping[str, Any]) -> Iterator[Problem]:
    for name in declared:
        path = ("modules", module, "params", name)
        if name in RESERVED:
            yield document.problem(path, f"`{name}` has a meaning of its own in requests")
        elif not NAME.fullmatch(name):
            message = f"{name!r} can't be the name of a parameter: letters, digits and _, and no digit first"
            yield document.problem(path, message)


def _misplaced(
    document: Document, uses: Uses, declared: Mapping[str, Any], probers: Collection[str]
) -> Iterator[Problem]:
    for path, names in uses.items():
        if path[2] not in probers:
            document.unfit.add(path)
            yield document.problem(path, "parameters go into the block of a prober only")
            continue
        for name in sorted(names - declared.keys()):
            document.unfit.add(path)
            hint = nearest(name, list(declared))
            yield document.problem(path, f"{written(name)} is not declared in the module's `params`{hint}")


def _unused(document: Document, module: str, uses: Uses, declared: Mapping[str, Any]) -> Iterator[Problem]:
    used = frozenset[str]().union(*uses.values())
    for name in declared:
        if name not in used:
            yield document.problem(("modules", module, "params", name), f"nothing in the module says {written(name)}")
