"""List the metrics that a prober can set, by a search of its code. The code is not run.

The search begins with the prober's function. It looks up each global name that the code of a function mentions: a
`Metric` is listed; a function, a class or a table of them is searched in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.metrics import Metric


def declared(module: ModuleType) -> list[Metric]:
    """Return the metrics that a Python module declares or imports, sorted by name."""
    return _by_name(value for value in vars(module).values() if isinstance(value, Metric))


def measured(prober: Prober[Any]) -> list[Metric]:
    """Return the metrics that a prober can set, sorted by name, without those that the runner sets for every probe."""
    found: list[Metric] = []
    seen: set[int] = set()
    waiting: list[object] = [prober.probe]
    ours = _Ours(prober)
    while waiting:
        value = waiting.pop()
        if isinstance(value, Metric):
            found.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            waiting += _mentioned(value, ours)
    return _by_name(found)


def _by_name(metrics: Iterable[Metric]) -> list[Metric]:
    """Return each name once, in order."""
    found = {metric.name: metric for metric in metrics}
    return [found[name] for name in sorted(found)]


_AROUND: dict[type, str] = {
    property: "fget",
    staticmethod: "__func__",
    classmethod: "__func__",
    MethodType: "__func__",
    partial: "func",
    type(lru_cache(int)): "__wrapped__",
}
"""Types that wrap a function, and the attribute that has it."""


def _mentioned(value: object, ours: _Ours) -> Iterator[object]:
    """Yield the objects that a function, a class, a table or an object refers to."""
    if isinstance(value, FunctionType):
        if value.__module__ in ours:
            yield from _globals_of(value.__code__, value.__globals__, ours)
            yield from _enclosed(value)
    elif isinstance(value, type):
        if value.__module__ in ours:
            yield from vars(value).values()
            yield from value.__bases__
    elif isinstance(value, tuple(_AROUND)):
        yield from (getattr(value, name) for kind, name in _AROUND.items() if isinstance(value, kind))
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    else:
        yield type(value)


def _enclosed(function: FunctionType) -> Iterator[object]:
    """Yield the variables of enclosing functions that a function uses, if they have a value."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            yield cell.cell_contents


def _globals_of(code: CodeType, scope: Mapping[str, Any], ours: _Ours) -> Iterator[object]:
    """Yield the globals that code mentions, and the attributes of our modules that it may mean."""
    for name in code.co_names:
        value = scope.get(name)
        if isinstance(value, ModuleType):
            if value.__name__ in ours:
                names = {*dir(value)}  # more than vars(): the plugin API imports a name when it is first used
                yield from (getattr(value, other) for other in code.co_names if other in names)
        elif value is not None:
            yield value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_of(constant, scope, ours)


class _Ours:
    """The Python modules to search: the exporter's, files of probers, and the package of the prober."""

    def __init__(self, prober: Prober[Any]) -> None:
        named = (prober.probe, prober.settings)  # the module of a `partial` is functools; that of settings is right
        self._packages = {_package(one.__module__) for one in named}

    def __contains__(self, module: str | None) -> bool:
        return (module or "").startswith("probe_exporter") or _package(module) in self._packages


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]
