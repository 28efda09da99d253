"""Check a response against a module's settings; each check raises `ProbeFailed` for the first setting it violates."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http.response import Response
from probe_exporter.settings.cel import Cel
from probe_exporter.settings.fields import shorten
from probe_exporter.settings.regexps import Regexp
from probe_exporter.values import documents, pool

MAX_INLINE_BYTES = 64 * 1024
"""Bytes of a body or of header values that are searched on the event loop; a thread searches larger ones."""

MAX_INLINE_COMMAS = 500
"""Commas, and so about elements, of a JSON body that a CEL macro handles on the event loop."""

MAX_SHOWN_CHARACTERS = 200
"""Characters of a value in an error message."""

MAX_DATE_CHARACTERS = 256
"""Characters of a date; more can't be one, unless of spaces."""


class HeaderMatcher(Protocol):
    """A header and the regular expression for its values."""

    @property
    def header(self) -> str: ...
    @property
    def regexp(self) -> Regexp: ...
    @property
    def allow_missing(self) -> bool: ...


def status_code(status: int, valid: Sequence[int]) -> None:
    """Check the status code.

    Args:
        valid: the codes allowed; empty for 200 to 299.
    """
    if status not in valid if valid else not 200 <= status < 300:
        expected = ", ".join(map(str, valid)) or "200 to 299"
        reason = Reason.PROXY_REFUSED if status == 407 else Reason.HTTP_STATUS  # 407 is a proxy's: RFC 9110, 15.5.8
        raise ProbeFailed(reason, f"the status code is {status}, expected {expected}")


def version(version: str, valid: Sequence[str]) -> None:
    """Check the HTTP version.

    Args:
        valid: the versions allowed, as ``HTTP/1.1``; empty for any.
    """
    if valid and version not in valid:
        raise ProbeFailed(Reason.HTTP_VERSION, f"the version is {version}, expected {', '.join(valid)}")


async def headers(response: Response, forbidden: Sequence[HeaderMatcher], demanded: Sequence[HeaderMatcher]) -> None:
    """Check the headers, in a thread if the values are long.

    Args:
        forbidden: no value of the header may match.
        demanded: at least one value of the header must match.
    """
    if are_short(response, (*forbidden, *demanded)):
        short_headers(response, forbidden, demanded)
    else:
        await asyncio.to_thread(short_headers, response, forbidden, demanded)


def are_short(response: Response, matchers: Iterable[HeaderMatcher]) -> bool:
    """Return whether `short_headers` may check the values of the headers on the event loop."""
    size = 0
    for matcher in matchers:
        for value in response.get_all(matcher.header.lower()):
            size += len(value)
    return size <= MAX_INLINE_BYTES


def short_headers(response: Response, forbidden: Iterable[HeaderMatcher], demanded: Iterable[HeaderMatcher]) -> None:
    """Check the headers as `headers` does, if they `are_short`."""
    for matcher in forbidden:
        if any(map(matcher.regexp.matches, _values(response, matcher))):
            raise _mismatch(matcher, "matches")
    for matcher in demanded:
        values = _values(response, matcher)
        if values and not any(map(matcher.regexp.matches, values)):
            raise _mismatch(matcher, "does not match")


def _values(response: Response, matcher: HeaderMatcher) -> list[bytes]:
    """Return the header's values; raise `ProbeFailed` if it is missing and may not be."""
    values = response.get_all(matcher.header.lower())
    if not values and not matcher.allow_missing:
        raise ProbeFailed(Reason.HTTP_HEADER_MISMATCH, f"the response has no header {matcher.header}")
    return [value.encode("utf-8", "surrogateescape") for value in values]


def _mismatch(matcher: HeaderMatcher, what: str) -> ProbeFailed:
    return ProbeFailed(
        Reason.HTTP_HEADER_MISMATCH, f"header {matcher.header} {what} the regular expression {matcher.regexp}"
    )


async def body(text: bytes, forbidden: Sequence[Regexp], demanded: Sequence[Regexp]) -> None:
    """Check the body, in a thread if it is long.

    Args:
        forbidden: none of these may match.
        demanded: all of these must match.
    """
    if len(text) <= MAX_INLINE_BYTES:
        short_body(text, forbidden, demanded)
    else:
        await asyncio.to_thread(short_body, text, forbidden, demanded)


def short_body(text: bytes, forbidden: Sequence[Regexp], demanded: Sequence[Regexp]) -> None:
    """Check a body of `MAX_INLINE_BYTES` at most, as `body` does."""
    for regexp in forbidden:
        if regexp.matches(text):
            raise ProbeFailed(Reason.HTTP_BODY_MISMATCH, f"the body matches the regular expression {regexp}")
    for regexp in demanded:
        if not regexp.matches(text):
            raise ProbeFailed(Reason.HTTP_BODY_MISMATCH, f"the body does not match the regular expression {regexp}")


async def json_body(text: bytes, forbidden: Cel | None, demanded: Cel | None) -> None:
    """Check the body as JSON.

    A helper process evaluates what could take long: large bodies, and expressions that look at many elements.

    Args:
        forbidden: may not be true of the body.
        demanded: must be true of the body.
    """
    macros = any(expression.has_macro for expression in (forbidden, demanded) if expression is not None)
    if len(text) <= MAX_INLINE_BYTES and not (macros and text.count(b",") > MAX_INLINE_COMMAS):
        violation = evaluate_cel(text, forbidden, demanded)
    else:
        try:
            violation = await pool.run(evaluate_cel, [text], forbidden, demanded)
        except pool.HelperFailed as failed:
            violation = f"the CEL expression can't be evaluated: {failed}"
    if violation:
        raise ProbeFailed(Reason.HTTP_BODY_MISMATCH, violation)


def evaluate_cel(text: bytes, forbidden: Cel | None, demanded: Cel | None) -> str:
    """Return how a body violates the expressions; empty if it does not."""
    try:
        # All of JSON's numbers are doubles to the original, and so to the expressions written for it.
        document = documents.parse(text, doubles=True)
    except ValueError as error:
        return str(error)
    for expression, wanted in ((forbidden, False), (demanded, True)):
        if expression is None:
            continue
        try:
            value = expression.evaluate(document)
        except ValueError as error:
            return f"the CEL expression {expression} failed: {error}"
        if not isinstance(value, bool):
            return (
                f"the CEL expression {expression} returns no boolean but {shorten(repr(value), MAX_SHOWN_CHARACTERS)}"
            )
        if value is not wanted:
            return f"the body {'does not match' if wanted else 'matches'} the CEL expression {expression}"
    return ""


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY = "(?:mon|tue|wed|thu|fri|sat|sun)"
_WHOLE_DAY = "(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:[.,][0-9]+)?"
_DATES = tuple(
    re.compile(form.replace(" ", " +"), re.IGNORECASE)
    for form in (
        f"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} (?-i:GMT)",
        f"{_WHOLE_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} (?-i:[A-Z]{{3,4}})",
        f"{_DAY} {_MONTH} (?P<day>[0-9]{{1,2}}) {_TIME} (?P<year>[0-9]{{4}})",
    )
)
"""The three forms of RFC 9110, section 5.6.7. As in the original, extra spaces, any case, a wrong weekday and fractions
(which are dropped) are accepted, and in the second form any zone (which is taken as UTC)."""


def parse_date(value: str) -> float | None:
    """Return an HTTP date in Unix seconds; None if `value` is not a date."""
    return _parse_date(value) if value and len(value) <= MAX_DATE_CHARACTERS else None


@lru_cache(maxsize=1024)
def _parse_date(value: str) -> float | None:
    date = next(filter(None, (form.fullmatch(value.strip(" \t")) for form in _DATES)), None)
    if date is None:
        return None
    year, month = int(date["year"]), _MONTHS.index(date["month"].lower()) + 1
    if len(date["year"]) == 2:
        year += 1900 if year >= 69 else 2000
    day, hour, minute, second = (int(date[part]) for part in ("day", "hour", "minute", "second"))
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        return None
