"""Which metrics a prober can set: those that its code refers to, in its own file and in whatever it calls.

Nothing is run. From the prober's function on, each global name that the code of a function mentions is looked up:
a `Metric` is found, a function, a class or a table of them is looked into.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from probe_exporter.metrics import Metric
from probe_exporter.prober import Prober


def declared(module: ModuleType) -> list[Metric]:
    """The metrics that a module declares or imports, by name."""
    return _by_name(value for value in vars(module).values() if isinstance(value, Metric))


def measured(prober: Prober[Any]) -> list[Metric]:
    """The metrics that a prober can set, by name; what every probe has is not among them."""
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
    """Each name once, in order."""
    found = {metric.name: metric for metric in metrics}
    return [found[name] for name in sorted(found)]


def _mentioned(value: object, ours: _Ours) -> Iterator[object]:
    """What a function, a class, a table or an object of ours refers to."""
    if isinstance(value, FunctionType):
        if value.__module__ in ours:
            yield from _globals_of(value.__code__, value.__globals__, ours)
            yield from (cell.cell_contents for cell in value.__closure__ or ())
    elif isinstance(value, type):
        if value.__module__ in ours:
            yield from vars(value).values()
            yield from value.__bases__
    elif isinstance(value, property):
        yield value.fget
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    else:
        yield type(value)


def _globals_of(code: CodeType, scope: Mapping[str, Any], ours: _Ours) -> Iterator[object]:
    """The globals that some code mentions; of a module of ours, the attributes that it may mean."""
    for name in code.co_names:
        value = scope.get(name)
        if isinstance(value, ModuleType):
            if value.__name__ in ours:
                yield from (vars(value)[other] for other in code.co_names if other in vars(value))
        elif value is not None:
            yield value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_of(constant, scope, ours)


class _Ours:
    """The modules whose code is looked into: the exporter's, files of probers, and the package of the prober."""

    def __init__(self, prober: Prober[Any]) -> None:
        self._package = prober.probe.__module__.partition(".")[0]

    def __contains__(self, module: str | None) -> bool:
        return (module or "").startswith("probe_exporter") or (module or "").partition(".")[0] == self._package
