"""Check that the defaults of a prober's settings have the types of their fields.

pydantic does not validate defaults here: they are values as Python has them, and validation is for values as YAML has
them (a default of `Duration` is 1.5, and a configuration has 1.5s). So the types are compared.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from probe_exporter.settings.block import Settings

_NUMBERS = {float: (float, int), complex: (complex, float, int)}
"""Types whose fields accept values of other types, too (PEP 484)."""


def wrong_default(settings: type[Settings]) -> str:
    """Return what is wrong with the first default that does not have the type of its field; empty if all have."""
    for block in _blocks(settings, set()):
        for name, field in block.model_fields.items():
            if field.is_required():
                continue
            value = field.get_default(call_default_factory=True, validated_data={})
            if not _fits(value, field.annotation):
                wanted = _name(field.annotation)
                return (
                    f"{_place(block, name)}the default of `{name}` in {block.__name__} is of type "
                    f"{type(value).__name__}, and the field of type {wanted}: change one of them"
                )
    return ""


def _blocks(settings: type[Settings], seen: set[type[Settings]]) -> Iterator[type[Settings]]:
    """Yield a block and all blocks in it, each once."""
    if settings in seen:
        return
    seen.add(settings)
    yield settings
    for field in settings.model_fields.values():
        for kind in _mentioned(field.annotation):
            if isinstance(kind, type) and issubclass(kind, Settings):
                yield from _blocks(kind, seen)


def _mentioned(annotation: Any) -> Iterator[Any]:
    """Yield a type and the types in it: of ``tuple[Step, ...]`` also ``Step``."""
    yield annotation
    for inner in get_args(annotation):
        yield from _mentioned(inner)


def _fits(value: object, annotation: Any) -> bool:
    """Return whether a value has a type. Types that are not known here fit everything."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _fits(value, arguments[0])
    if origin is Literal:
        return value in arguments
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and _items_fit(value, arguments)
    if isinstance(origin, type):
        return isinstance(value, origin) and _entries_fit(value, arguments)
    if annotation is None:
        return value is None
    return annotation is Any or not isinstance(annotation, type) or _is_a(value, annotation)


def _items_fit(items: tuple[object, ...], kinds: tuple[Any, ...]) -> bool:
    if kinds[1:] == (...,):
        return all(_fits(item, kinds[0]) for item in items)
    return len(items) == len(kinds) and all(_fits(*pair) for pair in zip(items, kinds, strict=True))


def _entries_fit(value: object, kinds: tuple[Any, ...]) -> bool:
    """Return whether the keys and values of a mapping fit; anything else does."""
    if not isinstance(value, Mapping) or len(kinds) != 2:
        return True
    return all(_fits(key, kinds[0]) and _fits(one, kinds[1]) for key, one in value.items())


def _is_a(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind in (bool, object)
    try:
        return isinstance(value, _NUMBERS.get(kind, kind))
    except TypeError:  # a Protocol, for example
        return True


def _name(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _name(get_args(annotation)[0])
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")


def _place(block: type[Settings], name: str) -> str:
    """Return the line that declares a field, as the start of a sentence; empty if the source is not at hand."""
    owner = next((kind for kind in block.__mro__ if name in inspect.get_annotations(kind)), block)
    try:
        lines, first = inspect.getsourcelines(owner)
    except (OSError, TypeError):
        return ""
    declaring = [number for number, line in enumerate(lines, first) if line.partition(":")[0].strip() == name]
    return f"line {declaring[0]}: " if declaring else ""
