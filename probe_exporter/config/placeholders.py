"""Parameters that a module lets requests set: their declarations, and the ``${param:name}`` in its text where they go.

A value goes into text that has been read already. So it can become nothing but a part of that text, whatever it
holds, and it is not looked at for further placeholders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import ValidationInfo, field_validator

from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Text
from probe_exporter.settings.regexps import Regexp

MARK = "${param:"
"""What every placeholder begins with."""

RESERVED = frozenset({"target", "module", "debug", "hostname", "prober", "timeout"})
"""Names that requests use, or may come to use, for the exporter itself."""

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
"""What relabeling can set as ``__param_<name>``: the name of a label."""

_PLACEHOLDER = re.compile(r"\$?\$\{param:([^{}]*)\}")


class Parameter(Settings):
    """One entry of a module's ``params``.

    Args:
        pattern: a value has to match it from end to end.
        max_length: characters that a value may have.
        default: the value for requests that give none; without it they have to.
    """

    pattern: Regexp
    max_length: Annotated[int, Ge(1), Le(65536)] = 1024
    default: Text | None = None

    @field_validator("default")
    @classmethod
    def _default_is_legal(cls, default: str | None, info: ValidationInfo) -> str | None:
        if default is not None and info.data.keys() >= {"pattern", "max_length"}:
            objection = cls(**info.data).objection(default)
            if objection:
                raise ValueError(f"the default {objection}")
        return default

    def objection(self, value: str) -> str:
        """Why a value is not legal, as the rest of a sentence about it; empty if it is."""
        if len(value) > self.max_length:
            return f"is longer than {self.max_length} characters"
        return "" if self.pattern.matches_all(value) else f"does not match {self.pattern}"


@dataclass(frozen=True, slots=True)
class Template:
    """A string of a module with placeholders in it.

    Attributes:
        source: the string as written.
        parts: its text and the names of its placeholders by turns, beginning and ending with text.
        of_text: what the filled string stands for, where the setting is not text.
    """

    source: str = field(repr=False)  # it may be a secret
    parts: tuple[str, ...] = field(repr=False)
    of_text: Callable[[str], Any] = str

    @property
    def names(self) -> frozenset[str]:
        """The parameters that it wants."""
        return frozenset(self.parts[1::2])

    def fill(self, values: Mapping[str, str]) -> Any:
        """The string with values in its places, or what it stands for."""
        parts = [values.get(part, "") if index % 2 else part for index, part in enumerate(self.parts)]
        return self.of_text("".join(parts))


def parse(text: str, literally: Callable[[str], str], of_text: Callable[[str], Any] = str) -> Template:
    """Find the placeholders of a string; ``$${param:name}`` stands for the text ``${param:name}``.

    Args:
        literally: what becomes of the text around them.
        of_text: the template's.
    """
    parts, begin = [""], 0
    for found in _PLACEHOLDER.finditer(text):
        parts[-1] += literally(text[begin : found.start()])
        begin = found.end()
        if found[0].startswith("$$"):
            parts[-1] += found[0][1:]
        else:
            parts += [found[1], ""]
    parts[-1] += literally(text[begin:])
    return Template(literally(text), tuple(parts), of_text)


def fill(plain: Any, values: Mapping[str, str] | None) -> Any:
    """A plain value with every template in it filled, or, without values, as it was written."""
    if isinstance(plain, Template):
        return plain.source if values is None else plain.fill(values)
    if isinstance(plain, Mapping):
        return {key: fill(item, values) for key, item in plain.items()}
    if isinstance(plain, list | tuple):
        return [fill(item, values) for item in plain]
    return plain


def written(name: str) -> str:
    """The placeholder of a parameter."""
    return f"{MARK}{name}}}"
