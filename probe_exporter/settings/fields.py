"""Field types of settings: text, paths, ports, durations and sizes, with validation and JSON Schema."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from annotated_types import Ge, Le
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from probe_exporter.settings.quantities import format_duration, format_size, parse_duration, parse_size

SCALAR_TYPES = ["string", "number", "boolean", "null"]
"""JSON Schema types of YAML scalars. YAML permits each of them in the place of a string."""


@dataclass(frozen=True, slots=True)
class Written:
    """The syntax of a field type in configuration files, for `document`, which reads them.

    Args:
        noun: the type's name in error messages, as in "expected a duration".
        example: a legal value, for types whose name does not explain their syntax.
        numbers: pass an unquoted number to the type as a number, so that the type can refuse it; otherwise as text.
    """

    noun: str
    example: str = ""
    numbers: bool = False

    @property
    def expected(self) -> str:
        return f"a {self.noun} such as {self.example}" if self.example else f"a {self.noun}"

    @property
    def plural(self) -> str:
        return f"{self.noun}s"


@dataclass(frozen=True, slots=True)
class Shorthand:
    """Permits a scalar in the place of a block; a validator in the same annotation converts it to the block."""

    noun: str


MAX_SHOWN_CHARACTERS = 300
"""Of a name or a message in a table; a target may have 64 KiB."""


def shorten(text: str, limit: int = MAX_SHOWN_CHARACTERS) -> str:
    """Return the first `limit` characters of a text, with an ellipsis for the rest, if there is one."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ``; did you mean `x`?`` with the known name that is most similar to `name`, or an empty string."""
    similar = most_similar(name, known)
    return f"; did you mean `{similar}`?" if similar else ""


def most_similar(name: str, known: Sequence[str]) -> str:
    """Return the known name that is most similar to `name`; empty if none is similar."""
    by_lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else ""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a string")
    return value


Text = Annotated[
    str,
    Written("string"),
    PlainValidator(_text, json_schema_input_type=str),
    WithJsonSchema({"type": SCALAR_TYPES}),
]
"""A string. Bytes that are not UTF-8 (``!!binary``) are kept as surrogate escapes; see `encode`."""

FilePath = Annotated[
    str,
    Written("path"),
    PlainValidator(_text, json_schema_input_type=str),
    WithJsonSchema({"type": SCALAR_TYPES, "description": "A path, relative to the working directory."}),
]
"""A path, relative to the working directory. The file is opened by a probe, not at load."""

Port = Annotated[int, Ge(1), Le(65535)]
"""A TCP or UDP port."""


def encode(text: str) -> bytes:
    """Return the bytes that `text` has in the configuration file."""
    return text.encode("utf-8", "surrogateescape")


# --- durations and sizes ---------------------------------------------------------------------------------------

_DURATION_PATTERN = r"^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$"
_SIZE_PATTERN = r"^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)[KMGTPE]?i?B)+$"


def positive(seconds: float) -> float:
    """Return a duration in seconds; raise ValueError if it is not above 0."""
    if seconds <= 0:
        raise ValueError("expected more than 0")
    return seconds


def _duration(value: object) -> float:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a duration such as 1.5s")
    raise ValueError(f"a duration needs a unit, as in {value}s")


Duration = Annotated[
    float,
    Written("duration", "1.5s", numbers=True),
    PlainValidator(_duration, json_schema_input_type=str),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": _DURATION_PATTERN,
            "description": "A duration with units: ns, us, ms, s, m, h; as in 1.5s or 1m30s.",
        }
    ),
]
"""Seconds as a float, in Go's syntax (``1.5s``, ``1m30s``)."""


def _size(value: object) -> int:
    if isinstance(value, str):
        return parse_size(value)
    raise ValueError("expected a size such as 10MB")


Size = Annotated[
    int,
    Written("size", "10MB"),
    PlainValidator(_size, json_schema_input_type=str),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": _SIZE_PATTERN}, {"const": 0}],
            "description": "A size in powers of 1024: B, KB, MB, GB, TB, PB, EB; 0 means no limit.",
        }
    ),
]
"""Bytes as an int, in units of powers of 1024 (``10MB``, ``1MB512KB``)."""


class Scalar:
    """Base class of field types that are parsed from one string and printed as one string."""

    __slots__ = ()
    written: ClassVar[Written] = Written("string")
    schema: ClassVar[dict[str, Any]] = {"type": SCALAR_TYPES}

    def __init__(self, text: str) -> None:
        raise NotImplementedError

    @classmethod
    def _parse(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        return cls(_text(value))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(cls.schema)
