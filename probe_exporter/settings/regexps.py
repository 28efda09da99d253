"""Regular expressions in settings: compile them with RE2 at load, match bytes as Go does."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import re2  # type: ignore[import-untyped]  # it has neither stubs nor annotations

from probe_exporter.settings import go_regexps
from probe_exporter.settings.fields import SCALAR_TYPES, Scalar, Written, encode

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_ROOMY = re2.Options()  # Go compiles patterns that need more than RE2's default limit of 8 MiB
_ROOMY.log_errors = False
_ROOMY.max_mem = 64 << 20


MAX_REMEMBERED_BYTES = 1024
"""Size of data that one regular expression remembers: a search in so little takes ten times as long as a comparison."""

Spans = Sequence[tuple[int, int]]
"""The positions of a match and of its groups, each a start and an end; -1 for a group that did not match."""


class Match(Protocol):
    """A match of `Regexp.search`. Groups are bytes of the searched data, or None for a group that did not match."""

    def group(self, group: int | str = 0, /) -> bytes | None: ...
    def groups(self) -> tuple[bytes | None, ...]: ...
    def span(self, group: int = 0, /) -> tuple[int, int]: ...


class Regexp(Scalar):
    """A regular expression in Go's dialect (RE2), compiled at load; matching is unanchored, on bytes."""

    __slots__ = ("_compiled", "_last", "text")
    written = Written("regular expression")
    schema: ClassVar[dict[str, Any]] = {"type": SCALAR_TYPES, "description": "A regular expression (RE2)."}

    def __init__(self, text: str) -> None:
        """
        Raises:
            ValueError: `text` is no regular expression of this dialect.
        """
        self.text = text
        self._compiled = _compile(text)
        self._last: tuple[Any, bytes, Spans | None] = None, b"", None  # what `_find` returned last, of short data

    def search(self, data: bytes) -> Match | None:
        """Return the first match anywhere in `data`. As in Go, a byte that is not UTF-8 counts as U+FFFD."""
        received, mended, spans = self._find(data)
        if spans is None:
            return None
        found = _Found(self._compiled, mended, spans)
        return found if mended is received else _MendedMatch(found, received, mended)

    def matches(self, data: bytes) -> bool:
        """Return whether there is a match anywhere in `data`, as `search` finds it."""
        return self._find(data)[2] is not None

    def _find(self, data: bytes) -> tuple[bytes, bytes, Spans | None]:
        """Return `data`, the same with U+FFFD for each byte that is not UTF-8, and the first match in that, if any.

        The result for short data is remembered until other data come: most servers repeat a header's value, a greeting
        or an answer, and many a short body.
        """
        last = self._last
        if data == last[0]:
            return last
        mended = replace_invalid(data)
        spans = self._compiled._regexp.Match(_ANYWHERE, mended, 0, len(mended))  # noqa: SLF001  # below `search`
        found = data, mended, None if spans[0][0] < 0 else spans
        if len(mended) <= MAX_REMEMBERED_BYTES:
            self._last = found  # one assignment: another thread may read it meanwhile
        return found

    def find_all(self, data: bytes) -> Iterator[Match]:
        """Yield all matches in `data`. Bytes that are not UTF-8 are U+FFFD in the matches, too."""
        found: Iterator[Match] = self._compiled.finditer(replace_invalid(data))
        return found

    def matches_all(self, text: str) -> bool:
        """Return whether the expression matches the whole of `text`."""
        return self._compiled.fullmatch(text.encode("utf-8", _REPLACEMENT)) is not None

    @property
    def names(self) -> dict[str, int]:
        """The named groups and their numbers."""
        return dict(self._compiled.groupindex)

    @property
    def groups(self) -> int:
        """The number of groups, with and without names."""
        return int(self._compiled.groups)

    def __reduce__(self) -> tuple[type[Regexp], tuple[str]]:
        """Pickle the text alone, for helper processes."""
        return type(self), (self.text,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regexp) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Regexp({self.text!r})"


def _compile(text: str) -> Any:
    try:
        compiled = _compile_re2(text)
    except UnicodeEncodeError:
        raise ValueError("not a regular expression (RE2): not UTF-8") from None
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace")
        raise ValueError(f"not a regular expression (RE2): {reason}") from None
    if not all(name.isascii() for name in compiled.groupindex):
        raise ValueError("not a regular expression (RE2 as Go has it): the name of a group must be ASCII")
    try:
        go_regexps.check(text)
    except ValueError as refusal:
        raise ValueError(f"not a regular expression (RE2 as Go has it): {refusal}") from None
    return compiled


def _compile_re2(pattern: str) -> Any:
    try:
        return re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        if b"too large" not in error.args[0]:
            raise
        return re2.compile(pattern, _ROOMY)


PORTION_BYTES = 256 * 1024
"""Bytes that `replace_invalid` handles at a time: a thread must not hold the interpreter's lock for long."""


def replace_invalid(data: bytes) -> bytes:
    """Return `data` with U+FFFD for each byte that is not UTF-8, as Go reads it; `data` itself if there is none."""
    if len(data) <= PORTION_BYTES:
        if data.isascii():
            return data
        changed = data.decode("utf-8", "surrogateescape").encode("utf-8", _REPLACEMENT)
        return data if changed == data else changed
    portions = range(0, len(data), PORTION_BYTES)
    if all(data[start : start + PORTION_BYTES].isascii() for start in portions):
        return data
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    mended, valid = io.BytesIO(), True
    for start in portions:
        end = start + PORTION_BYTES
        text = decoder.decode(data[start:end], final=end >= len(data))
        try:
            mended.write(text.encode())
        except UnicodeEncodeError:
            valid = False
            mended.write(text.encode("utf-8", _REPLACEMENT))
    return data if valid else mended.getvalue()


class _Found:
    """A match in data without changes. The library's takes four times as long to make, in most dialogues and checks."""

    __slots__ = ("_compiled", "_data", "spans")

    def __init__(self, compiled: Any, data: bytes, spans: Spans) -> None:
        self._compiled = compiled
        self._data = data
        self.spans = spans

    def number(self, group: int | str) -> int:
        """Return the number of a group, which may have a name."""
        return int(self._compiled.groupindex[group]) if isinstance(group, str) else group

    def span(self, group: int = 0, /) -> tuple[int, int]:
        return self.spans[group]

    def group(self, group: int | str = 0, /) -> bytes | None:
        start, end = self.spans[self.number(group)]
        return None if start < 0 else self._data[start:end]

    def groups(self) -> tuple[bytes | None, ...]:
        return tuple([self.group(number) for number in range(1, len(self.spans))])


_ANYWHERE = re2._Anchor.UNANCHORED  # noqa: SLF001  # as the library's own `search`


_REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}".encode()


def _replace_surrogates(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _REPLACEMENT_CHARACTER * (error.end - error.start), error.end


_REPLACEMENT = "probe-exporter-replacement"
codecs.register_error(_REPLACEMENT, _replace_surrogates)


class _MendedMatch:
    """A match in data with U+FFFD in it; positions and groups refer to the data as it was received."""

    __slots__ = ("_data", "_found", "_mended")

    def __init__(self, found: _Found, data: bytes, mended: bytes) -> None:
        self._found = found
        self._data = data
        self._mended = mended

    def _offset(self, mended: int) -> int:
        """Convert a position in the changed data to one in the received data."""
        if not mended:  # many matches begin there
            return 0
        text = self._data.decode("utf-8", "surrogateescape")
        return len(encode(text[: len(self._mended[:mended].decode("utf-8", "ignore"))]))

    def span(self, group: int = 0, /) -> tuple[int, int]:
        start, end = self._found.span(group)
        return (start, end) if start < 0 else (self._offset(start), self._offset(end))

    def group(self, group: int | str = 0, /) -> bytes | None:
        start, end = self.span(self._found.number(group))
        return None if start < 0 else self._data[start:end]

    def groups(self) -> tuple[bytes | None, ...]:
        return tuple([self.group(number) for number in range(1, len(self._found.spans))])


class LateRegexp(Scalar):
    """A regular expression whose errors are warnings at load; a probe that uses it then fails.

    Attributes:
        error: why the expression can't be used; empty if it can.
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
