"""``/form``: the form for one probe, with a field for each parameter that the chosen modules declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probe_exporter.config.module import Config, Module
from probe_exporter.config.placeholders import Parameter
from probe_exporter.config.reloading import Configuration
from probe_exporter.settings.secrets import MASK
from probe_exporter.web.answers import Answer, Refused
from probe_exporter.web.html.rendering import MAX_LISTED_MODULES, Renderer
from probe_exporter.web.module_selection import modules_named
from probe_exporter.web.parameters import decode_query
from probe_exporter.web.probing import DEFAULT_MODULE
from probe_exporter.web.request import WebRequest


@dataclass(frozen=True, slots=True)
class Field:
    """The field of a parameter.

    Args:
        pattern: for the `pattern` attribute of HTML; empty if JavaScript has no equal expression.
        modules: the modules that declare the parameter.
    """

    name: str
    value: str
    required: bool
    max_length: int
    pattern: str
    written: str
    modules: tuple[str, ...]


class FormPage:
    """The handler of `/form`."""

    def __init__(self, configuration: Configuration, renderer: Renderer) -> None:
        self._configuration = configuration
        self._renderer = renderer

    async def form(self, request: WebRequest, query: str) -> Answer:
        """Return the form; `module`, `target` and the modules' own parameters fill its fields."""
        values = await self._renderer.in_thread(_values, self._configuration.current, decode_query(query))
        return await self._renderer.page(request, "form.html", values)


def _values(config: Config, given: Mapping[str, str]) -> Mapping[str, object]:
    asked = given.get("module", "").replace(" ", "") if given.get("module") not in config.modules else given["module"]
    chosen: Sequence[Module] = ()
    problem = ""
    try:
        if asked or DEFAULT_MODULE in config.modules:
            chosen = modules_named(config, asked or DEFAULT_MODULE)
    except Refused as refused:
        problem = refused.line
    return {
        "asked": asked or ",".join(module.name for module in chosen),
        "given": given,
        "chosen": chosen,
        "problem": problem,
        "fields": fields(chosen, given),
        "modules": sorted(config.modules)[:MAX_LISTED_MODULES],
        "number": len(config.modules),
    }


def fields(modules: Sequence[Module], given: Mapping[str, str]) -> list[Field]:
    """Return a field for each parameter of the modules.

    A parameter of several modules has one field: it is required if one of them requires it, and has the pattern of the
    first one. The exporter checks all of them. A parameter whose default is a secret has no field: it would be empty,
    and replace the default.

    Args:
        given: the parameters of the request, which replace the defaults.
    """
    declared: dict[str, list[tuple[str, Parameter]]] = {}
    for module in modules:
        for name, parameter in module.parameters.items():
            if MASK not in (module.shown_default(name) or ""):
                declared.setdefault(name, []).append((module.name, parameter))
    return [_field(name, users, given.get(name)) for name, users in declared.items()]


def _field(name: str, users: Sequence[tuple[str, Parameter]], given: str | None) -> Field:
    first = users[0][1]
    defaults = [parameter.default for _, parameter in users]
    return Field(
        name=name,
        value=given if given is not None else next(filter(None, defaults), ""),
        required=None in defaults,
        max_length=min(parameter.max_length for _, parameter in users),
        pattern=html_pattern(first.pattern.text),
        written=first.pattern.text,
        modules=tuple(module for module, _ in users),
    )


# --- patterns ------------------------------------------------------------------------------------------------

_SAME_ESCAPES = frozenset("dDwWsSnrtfv\\.+*?()|[]{}^$/-")
"""Escapes that mean the same in RE2 and in JavaScript. `\\b` and others are left to the exporter."""

_RESERVED_IN_CLASS = frozenset("(){}/|")
"""Characters that JavaScript wants to be escaped in a class (the flag `v`), and RE2 does not."""


def html_pattern(text: str) -> str:
    """Return a regular expression of RE2 for the `pattern` attribute of HTML, which takes those of JavaScript.

    Both match the whole value. The result is empty for what JavaScript may lack or read in another way: flags, named
    groups, classes by name. The exporter checks the value in any case.
    """
    parts: list[str] = []
    place = 0
    while place < len(text):
        if text[place] == "[":
            length, translated = _class(text[place:])
        else:
            length, translated = _atom(text[place:])
        if not translated:
            return ""
        parts.append(translated)
        place += length
    return "".join(parts)


def _atom(text: str) -> tuple[int, str]:
    """Translate the first character or escape outside a class: return its length and the translation, or none."""
    if text[0] == "\\":
        return (2, text[:2]) if text[1:2] in _SAME_ESCAPES and len(text) > 1 else (0, "")
    if text.startswith("(?") and not text.startswith("(?:"):
        return 0, ""
    return 1, text[0]


def _class(text: str) -> tuple[int, str]:
    """Translate a class at the beginning of a text: return its length and the translation, or none."""
    parts = ["[^"] if text.startswith("[^") else ["["]
    place = start = len(parts[0])
    while place < len(text):
        character = text[place]
        if character == "]" and place > start:
            return place + 1, "".join([*parts, "]"])
        if character == "\\":
            if text[place + 1 : place + 2] not in _SAME_ESCAPES or place + 1 >= len(text):
                return 0, ""
            parts.append(text[place : place + 2])
            place += 2
            continue
        if character in "[]" or text.startswith(("&&", "--", "~~", "!!", "##", "@@"), place):
            return 0, ""
        literal = character == "-" and (place == start or text[place + 1 : place + 2] == "]")
        parts.append(f"\\{character}" if literal or character in _RESERVED_IN_CLASS else character)
        place += 1
    return 0, ""
