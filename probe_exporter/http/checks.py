"""What a module demands of a response: each check raises at the first demand that is not met."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from probe_exporter.fields import Cel, Regexp
from probe_exporter.http.response import Response
from probe_exporter.prober import ProbeFailed, Reason

OFF_THE_LOOP = 1024 * 1024
"""Bodies from this size on are searched in a thread: RE2 lets others run meanwhile."""


class HeaderMatcher(Protocol):
    """A header, and what it is matched with."""

    @property
    def header(self) -> str: ...
    @property
    def regexp(self) -> Regexp: ...
    @property
    def allow_missing(self) -> bool: ...


def status_code(status: int, valid: Sequence[int]) -> None:
    """
    Args:
        valid: the codes allowed; none for all of 200 to 299.
    """
    if status not in valid if valid else not 200 <= status < 300:
        expected = ", ".join(map(str, valid)) or "200 to 299"
        raise ProbeFailed(Reason.HTTP_STATUS, f"the status code is {status}, expected {expected}")


def version(version: str, valid: Sequence[str]) -> None:
    """
    Args:
        valid: the versions allowed, as ``HTTP/1.1``; none for any.
    """
    if valid and version not in valid:
        raise ProbeFailed(Reason.HTTP_VERSION, f"the version is {version}, expected {', '.join(valid)}")


def headers(response: Response, forbidden: Iterable[HeaderMatcher], demanded: Iterable[HeaderMatcher]) -> None:
    """
    Args:
        forbidden: no value of the header may match.
        demanded: some value of the header must match.
    """
    for matcher in forbidden:
        if any(matcher.regexp.search(value) for value in _values(response, matcher)):
            raise _mismatch(matcher, "matches")
    for matcher in demanded:
        values = _values(response, matcher)
        if values and not any(matcher.regexp.search(value) for value in values):
            raise _mismatch(matcher, "does not match")


def _values(response: Response, matcher: HeaderMatcher) -> list[bytes]:
    """The header's values; none if it is missing and may be."""
    values = response.get_all(matcher.header.lower())
    if not values and not matcher.allow_missing:
        raise ProbeFailed(Reason.HTTP_HEADER_MISMATCH, f"the response has no header {matcher.header}")
    return [value.encode("utf-8", "surrogateescape") for value in values]


def _mismatch(matcher: HeaderMatcher, what: str) -> ProbeFailed:
    return ProbeFailed(
        Reason.HTTP_HEADER_MISMATCH, f"header {matcher.header} {what} the regular expression {matcher.regexp}"
    )


async def body(text: bytes, forbidden: Sequence[Regexp], demanded: Sequence[Regexp]) -> None:
    """
    Args:
        forbidden: none of these may match.
        demanded: all of these must match.
    """
    if len(text) < OFF_THE_LOOP:
        _search(text, forbidden, demanded)
    else:
        await asyncio.to_thread(_search, text, forbidden, demanded)


def _search(text: bytes, forbidden: Sequence[Regexp], demanded: Sequence[Regexp]) -> None:
    for regexp in forbidden:
        if regexp.search(text):
            raise ProbeFailed(Reason.HTTP_BODY_MISMATCH, f"the body matches the regular expression {regexp}")
    for regexp in demanded:
        if not regexp.search(text):
            raise ProbeFailed(Reason.HTTP_BODY_MISMATCH, f"the body does not match the regular expression {regexp}")


def json_body(text: bytes, forbidden: Cel | None, demanded: Cel | None) -> None:
    """
    Args:
        forbidden: may not be true of the body.
        demanded: must be true of it.
    """
    try:
        # All of JSON's numbers are doubles to the original, and so to the expressions written for it.
        document = json.loads(text, parse_int=float)
    except (ValueError, RecursionError):
        raise ProbeFailed(Reason.HTTP_BODY_MISMATCH, "the body is not JSON") from None
    for expression, wanted in ((forbidden, False), (demanded, True)):
        if expression is None:
            continue
        try:
            value = expression.evaluate(document)
        except ValueError as error:
            raise ProbeFailed(Reason.HTTP_BODY_MISMATCH, f"the CEL expression {expression} failed: {error}") from None
        if value is not wanted:
            raise ProbeFailed(
                Reason.HTTP_BODY_MISMATCH,
                f"the CEL expression {expression} gives {value!r}"
                if not isinstance(value, bool)
                else f"the body {'does not fit' if wanted else 'fits'} the CEL expression {expression}",
            )


_DATES = (
    (
        re.compile(r"[a-z]{3}, \d\d [a-z]{3} \d{4} \d\d?:\d\d:\d\d GMT", re.IGNORECASE),
        "%a, %d %b %Y %H:%M:%S GMT",
    ),
    (
        re.compile(r"[a-z]{6,9}, \d\d-[a-z]{3}-\d\d \d\d?:\d\d:\d\d [A-Z]{3,4}", re.IGNORECASE),
        "%A, %d-%b-%y %H:%M:%S",
    ),
    (re.compile(r"[a-z]{3} [a-z]{3} [ \d]?\d \d\d?:\d\d:\d\d \d{4}", re.IGNORECASE), "%a %b %d %H:%M:%S %Y"),
)
"""The three forms of RFC 9110, section 5.6.7, each as a shape (strptime takes more than it should) and a format."""


@lru_cache(maxsize=1024)
def parse_date(value: str) -> float | None:
    """A date of HTTP in Unix seconds; None if it is none."""
    for shape, form in _DATES:
        if not shape.fullmatch(value):
            continue
        text = value.rpartition(" ")[0] if form.startswith("%A") else value
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            return None
    return None
