"""The types of settings: each reads its own text, prints it back, and describes itself to editors.

They are ordinary annotations for a field of `Settings`; whatever can be compiled is compiled here, at load.
"""

from __future__ import annotations

import codecs
import difflib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, Self

import re2  # type: ignore[import-untyped]  # it has neither stubs nor annotations
from annotated_types import Ge, Le
from pydantic import (
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from probe_exporter.quantities import format_duration, format_size, parse_duration, parse_size

MASK = "<secret>"
SCALAR_TYPES = ["string", "number", "boolean", "null"]
"""What JSON Schema calls the plain scalars of YAML: any of them may stand where a string is expected."""


@dataclass(frozen=True, slots=True)
class Written:
    """How a field type is written in a configuration file; `document` reads it so.

    Args:
        noun: what it is called in an error message, as in "expected a duration".
        example: one that works, where the name alone does not tell.
        numbers: a bare number is handed over as one, so that the type can refuse it; otherwise as its text.
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
    """A scalar may stand in the place of a block; a validator beside this makes the block of it."""

    noun: str


def nearest(name: str, known: Sequence[str]) -> str:
    """``; did you mean `x`?`` with the known name that `name` is closest to, or nothing."""
    by_lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean `{by_lower[close[0]]}`?" if close else ""


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
"""A path, relative to the working directory, opened when a probe needs it and not before."""

Port = Annotated[int, Ge(1), Le(65535)]
"""A TCP or UDP port."""


def encode(text: str) -> bytes:
    """The bytes that `text` stood for in the configuration."""
    return text.encode("utf-8", "surrogateescape")


# --- durations and sizes ---------------------------------------------------------------------------------------

_DURATION_PATTERN = r"^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$"
_SIZE_PATTERN = r"^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)[KMGTPE]?i?B)+$"


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
"""Seconds as a float, written in Go's syntax (``1.5s``, ``1m30s``)."""


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
"""Bytes as an int, written with units in powers of 1024 (``10MB``, ``1MB512KB``)."""


# --- secrets -----------------------------------------------------------------------------------------------


class Scalar:
    """What field types share that are made from one string and printed as one string."""

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


class Secret(Scalar):
    """A string that shows itself to nobody: ``str()``, ``repr()`` and what is printed say ``<secret>``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The string itself; call it where it is sent, and nowhere else."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return MASK if self._text else ""

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"


_CREDENTIAL = re.compile(r"auth|cookie|credential|passw|secret|session|signature|token|api-?_?key", re.IGNORECASE)


def is_credential(name: str) -> bool:
    """Whether the name of a header, a form's field or the like says that its value is nobody else's business."""
    return _CREDENTIAL.search(name) is not None


def _mask_credentials(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _mask(value) if is_credential(name) else value for name, value in values.items()}


def _mask(value: Any) -> Any:
    return MASK if isinstance(value, str) else [MASK for _ in value]


Named = Annotated[dict[Text, Text], PlainSerializer(_mask_credentials)]
"""Values by name, such as headers; those of names like ``Authorization`` are masked where they are shown."""

NamedLists = Annotated[dict[Text, tuple[Text, ...]], PlainSerializer(_mask_credentials)]
"""The same with several values for a name."""


# --- regular expressions -----------------------------------------------------------------------------------

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_ROOMY = re2.Options()  # what Go compiles may need more than the 8 MiB that RE2 allows a pattern
_ROOMY.log_errors = False
_ROOMY.max_mem = 64 << 20


class Match(Protocol):
    """A match of `Regexp.search`: groups are bytes of the searched data, None where a group took no part."""

    def group(self, group: int | str = 0, /) -> bytes | None: ...
    def groups(self) -> tuple[bytes | None, ...]: ...
    def span(self, group: int = 0, /) -> tuple[int, int]: ...


class Regexp(Scalar):
    """A regular expression in Go's dialect (RE2), compiled at load; matching is unanchored, on bytes."""

    __slots__ = ("_compiled", "text")
    written = Written("regular expression")
    schema: ClassVar[dict[str, Any]] = {"type": SCALAR_TYPES, "description": "A regular expression (RE2)."}

    def __init__(self, text: str) -> None:
        """
        Raises:
            ValueError: not a regular expression of this dialect.
        """
        self.text = text
        self._compiled = _compile(text)

    def search(self, data: bytes) -> Match | None:
        """The first match anywhere in `data`; a byte that is not UTF-8 counts as U+FFFD, as in Go."""
        if not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError:
                return _search_mended(self._compiled, data)
        found: Match | None = self._compiled.search(data)
        return found

    def find_all(self, data: bytes) -> Iterator[Match]:
        """All matches in `data`, one after another; what is not UTF-8 is U+FFFD here in the matches too."""
        found: Iterator[Match] = self._compiled.finditer(data.decode("utf-8", "replace").encode())
        return found

    def matches_all(self, text: str) -> bool:
        """Whether this matches `text` from its beginning to its end."""
        return self._compiled.fullmatch(text.encode("utf-8", _REPLACEMENT)) is not None

    @property
    def names(self) -> dict[str, int]:
        """The named groups and their numbers."""
        return dict(self._compiled.groupindex)

    @property
    def groups(self) -> int:
        """How many groups there are, with and without names."""
        return int(self._compiled.groups)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regexp) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Regexp({self.text!r})"


def _compile(text: str) -> Any:
    if _any_byte(text):
        raise ValueError(r"RE2 as Go has it knows no \C (a single byte)")
    try:
        compiled = _compile_re2(text)
    except UnicodeEncodeError:
        raise ValueError("not a regular expression (RE2): not UTF-8") from None
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace")
        raise ValueError(f"not a regular expression (RE2): {reason}") from None
    if not all(name.isascii() for name in compiled.groupindex):
        raise ValueError("not a regular expression (RE2 as Go has it): the name of a group must be ASCII")
    return compiled


def _compile_re2(pattern: str) -> Any:
    try:
        return re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        if b"too large" not in error.args[0]:
            raise
        return re2.compile(pattern, _ROOMY)


def _any_byte(text: str) -> bool:
    r"""Whether an unescaped ``\C`` stands in `text`, outside of ``\Q…\E``: RE2 has it, Go refuses it."""
    at = text.find("\\")
    while 0 <= at < len(text) - 1:
        if text[at + 1] == "C":
            return True
        after = text.find("\\E", at + 2) if text[at + 1] == "Q" else at
        at = text.find("\\", after + 2) if after >= 0 else -1
    return False


def _search_mended(compiled: Any, data: bytes) -> Match | None:
    """Search `data` as Go reads it: each byte that is not UTF-8 is one U+FFFD; the match is of `data`."""
    text = data.decode("utf-8", "surrogateescape")
    mended = text.encode("utf-8", _REPLACEMENT)
    found = compiled.search(mended)
    return None if found is None else _MendedMatch(found, text, mended)


def _replace_surrogates(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "\N{REPLACEMENT CHARACTER}".encode() * (error.end - error.start), error.end


_REPLACEMENT = "probe-exporter-replacement"
codecs.register_error(_REPLACEMENT, _replace_surrogates)


class _MendedMatch:
    """A match in mended data, told in terms of the data as it was received."""

    __slots__ = ("_found", "_mended", "_text")

    def __init__(self, found: Any, text: str, mended: bytes) -> None:
        self._found = found
        self._text = text
        self._mended = mended

    def _offset(self, mended: int) -> int:
        """Where a position in the mended data lies in the data."""
        return len(encode(self._text[: len(self._mended[:mended].decode("utf-8", "ignore"))]))

    def span(self, group: int = 0, /) -> tuple[int, int]:
        start, end = self._found.span(group)
        return (start, end) if start < 0 else (self._offset(start), self._offset(end))

    def group(self, group: int | str = 0, /) -> bytes | None:
        start, end = self.span(self._found.re.groupindex[group] if isinstance(group, str) else group)
        return None if start < 0 else encode(self._text)[start:end]

    def groups(self) -> tuple[bytes | None, ...]:
        return tuple(self.group(number) for number in range(1, self._found.re.groups + 1))


class LateRegexp(Scalar):
    """A regular expression that may turn out to be none: that is a warning at load and a failure when it is used.

    `error` says why it can't be used, and is empty otherwise.
    """

    __slots__ = ("error", "regexp", "text")
    written = Regexp.written
    schema = Regexp.schema

    def __init__(self, text: str) -> None:
        self.text = text
        self.error = ""
        self.regexp: Regexp | None = None
        try:
            self.regexp = Regexp(text)
        except ValueError as error:
            self.error = str(error)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LateRegexp) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"LateRegexp({self.text!r})"


# --- CEL ---------------------------------------------------------------------------------------------------


_CEL_CODE = re.compile(r"^[A-Z_]+: ")
_CEL_END = "Syntax error: mismatched input '<EOF>'"


@functools.cache
def _cel_compiler() -> Callable[[str], Any]:
    """The compiler for expressions over ``body``."""
    # Imported here: it is large, and few configurations use it.
    from cel_expr_python import cel  # type: ignore[import-untyped]  # noqa: PLC0415  # see above

    environment = cel.NewEnv(variables={"body": cel.Type.DYN})
    compiler: Callable[[str], Any] = environment.compile
    return compiler


LONGEST_COPIED = 4000
"""Elements of the longest list in a body for expressions that copy lists: time grows with the square, to 0.3 s here."""

_COPYING = re.compile(r"\.\s*(map|filter)\s*\(")


def _longest(value: object) -> int:
    """The length of the longest list or object within a value as the json module reads it."""
    if not isinstance(value, list | dict):
        return 0
    items = value.values() if isinstance(value, dict) else value
    return max(len(value), *map(_longest, items), 0)


class Cel(Scalar):
    """A CEL expression over the variable ``body``, compiled and type-checked at load."""

    __slots__ = ("_compiled", "_copies", "text")
    written = Written("CEL expression")
    schema: ClassVar[dict[str, Any]] = {"type": SCALAR_TYPES, "description": "A CEL expression over `body`."}

    def __init__(self, text: str) -> None:
        """
        Raises:
            ValueError: a syntax error, an unknown name, or types that cannot work.
        """
        self.text = text
        self._copies = _COPYING.search(text) is not None
        try:
            self._compiled = _cel_compiler()(text)
        except RuntimeError as error:
            raise ValueError(f"not a CEL expression over `body`: {_cel_reason(str(error))}") from None

    def evaluate(self, body: object) -> object:
        """The value of the expression for `body`, a value as the json module reads it.

        Raises:
            ValueError: the evaluation failed, as for a key that is not there, or would take too long.
        """
        try:
            if self._copies and _longest(body) > LONGEST_COPIED:
                raise ValueError(f"map() and filter() take lists of at most {LONGEST_COPIED} elements")
            result = self._compiled.eval(data={"body": body})
            value: object = result.value()
        except RecursionError:
            raise ValueError("the body is nested too deep") from None
        except RuntimeError as error:  # the library's own limit: 10,000 rounds of all comprehensions together
            raise ValueError(_cel_reason(str(error).removeprefix("INTERNAL: "))) from None
        if str(result.type()) in ("ERROR", "UNKNOWN"):
            raise ValueError(_cel_reason(str(value)))
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cel) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Cel({self.text!r})"


def _cel_reason(message: str) -> str:
    """The sentence in a message of the CEL library, without its source excerpt, codes and token lists."""
    line = message.split("\n", 1)[0].split(" [INVALID_ARGUMENT]", 1)[0]
    line = _CEL_CODE.sub("", line).removeprefix("ERROR: <input>:1:")
    line = line.split(" (in container", 1)[0].split(" expecting {", 1)[0]
    column, separator, rest = line.partition(": ")
    if separator and column.isdigit():
        return f"{rest.replace(_CEL_END, 'the expression ends too early')} (at character {column})"
    return line
