"""Parameters of modules: their declarations, and the placeholders ``${param:name}`` for values from requests.

A value is put into text that has been parsed already. So it only ever becomes a part of that text, and placeholders in
it are not replaced.
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
"""The beginning of every placeholder."""

RESERVED = frozenset({"target", "module", "debug", "hostname", "prober", "timeout"})
"""Names of parameters of the exporter itself, now or in future."""

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
"""A label name, so that relabeling can set ``__param_<name>``."""

_PLACEHOLDER = re.compile(r"\$?\$\{param:([^{}]*)\}")


class Parameter(Settings):
    """One entry of a module's ``params``.

    Args:
        pattern: a value must match it as a whole.
        max_length: the maximum number of characters of a value.
        default: the value for requests that have none; without a default, requests must have a value.
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
        """Return why a value is illegal, as the predicate of a sentence; empty if it is legal."""
        if len(value) > self.max_length:
            return f"is longer than {self.max_length} characters"
        return "" if self.pattern.matches_all(value) else f"does not match {self.pattern}"


@dataclass(frozen=True, slots=True)
class ParameterTemplate:
    """A string with placeholders.

    Attributes:
        source: the string as written.
        parts: text and names of placeholders in turn; the first and the last part are text.
        of_text: converts the filled string to the type of the setting.
    """

    source: str = field(repr=False)  # it may be a secret
    parts: tuple[str, ...] = field(repr=False)
    of_text: Callable[[str], Any] = str

    @property
    def names(self) -> frozenset[str]:
        """The names of its parameters."""
        return frozenset(self.parts[1::2])

    def fill(self, values: Mapping[str, str]) -> Any:
        """Return the string with values in place of the placeholders, converted to the type of the setting."""
        parts = [values.get(part, "") if index % 2 else part for index, part in enumerate(self.parts)]
        return self.of_text("".join(parts))


def parse(text: str, literally: Callable[[str], str], of_text: Callable[[str], Any] = str) -> ParameterTemplate:
    """Find the placeholders of a string; ``$${param:name}`` stands for the text ``${param:name}``.

    Args:
        literally: converts the text between placeholders.
        of_text: as in `ParameterTemplate`.
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
    return ParameterTemplate(literally(text), tuple(parts), of_text)


def fill(plain: Any, values: Mapping[str, str] | None) -> Any:
    """Fill all templates in a plain value. If `values` is None, replace them with their source."""
    if isinstance(plain, ParameterTemplate):
        return plain.source if values is None else plain.fill(values)
    if isinstance(plain, Mapping):
        return {key: fill(item, values) for key, item in plain.items()}
    if isinstance(plain, list | tuple):
        return [fill(item, values) for item in plain]
    return plain


def written(name: str) -> str:
    """Return the placeholder of a parameter."""
    return f"{MARK}{name}}}"
