"""The parameters that modules declare: every placeholder is for a declared one, and stands where it may.

Only a module with ``params`` has placeholders. In any other, ``${param:name}`` is the text that it always was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from probe_exporter.document import Document, Problem
from probe_exporter.fields import nearest
from probe_exporter.nodes import Path
from probe_exporter.placeholders import MARK, NAME, RESERVED, fill, written


def checked(document: Document, probers: Collection[str]) -> Any:
    """The value of a document with its templates filled, to be validated: with defaults, or with what stands for them.

    A parameter without a default is filled with its own placeholder. The document's problems and warnings grow by
    what is wrong with parameters.
    """
    modules = document.value.get("modules") if isinstance(document.value, Mapping) else None
    if not isinstance(modules, Mapping):
        return fill(document.value, None)
    filled = {}
    for name, module in modules.items():
        declared = module.get("params") if isinstance(module, Mapping) else None
        path = ("modules", name)
        if not isinstance(declared, Mapping):
            document.warnings += _left_alone(document, path)
            filled[name] = fill(module, None)
            continue
        document.problems += _problems(document, path, declared, probers)
        document.warnings += _unused(document, path, declared)
        filled[name] = fill(module, {key: _stand_in(key, parameter) for key, parameter in declared.items()})
    others = {key: fill(value, None) for key, value in document.value.items()}
    return {**others, "modules": filled}


def _stand_in(name: str, parameter: Any) -> str:
    default = parameter.get("default") if isinstance(parameter, Mapping) else None
    return default if isinstance(default, str) else written(name)


def _within(document: Document, module: Path) -> Iterator[tuple[Path, frozenset[str]]]:
    """The templates of a module, by their places, and the parameters that they want."""
    for path, template in document.templates.items():
        if path[:2] == module:
            yield path, template.names


def _left_alone(document: Document, module: Path) -> Iterator[Problem]:
    for path, names in _within(document, module):
        if names:
            yield document.problem(path, f"{written(min(names))} is plain text here: the module has no `params`")


def _problems(
    document: Document, module: Path, declared: Mapping[str, Any], probers: Collection[str]
) -> Iterator[Problem]:
    for name in declared:
        if name in RESERVED:
            yield document.problem((*module, "params", name), f"`{name}` has a meaning of its own in requests")
        elif not NAME.fullmatch(name):
            message = f"{name!r} can't be the name of a parameter: letters, digits and _, and no digit first"
            yield document.problem((*module, "params", name), message)
    for path, names in _within(document, module):
        if path[2] not in probers:
            document.unfit.add(path)
            yield document.problem(path, "parameters go into the block of a prober only")
            continue
        for name in sorted(names - declared.keys()):
            document.unfit.add(path)
            hint = nearest(name, list(declared))
            yield document.problem(path, f"{written(name)} is not declared in the module's `params`{hint}")
    for path in document.places:
        if path[:2] == module and isinstance(path[-1], str) and MARK in path[-1]:
            yield document.problem(path, "a parameter can't go into a key")


def _unused(document: Document, module: Path, declared: Mapping[str, Any]) -> Iterator[Problem]:
    used = frozenset[str]().union(*[names for _, names in _within(document, module)])
    for name in declared:
        if name not in used:
            yield document.problem((*module, "params", name), f"nothing in the module says {written(name)}")
