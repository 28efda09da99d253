"""What the tests of all response readers share: the outcome of a response, and ways to cut it into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import pytest

from probe_exporter.prober.failure import ProbeFailed, Reason


@dataclass(frozen=True)
class ParsedResponse:
    """The outcome of a response."""

    status: int = 0
    length: int = 0
    body: bytes = b""
    failure: Reason | str | None = None
    version: str = ""


class BodyReader(Protocol):
    """What the readers of HTTP/1 and HTTP/2 have in common."""

    status: int
    version: str
    head_complete: bool
    complete: bool

    @property
    def content_length(self) -> int:
        """The length that the head announces, or -1."""

    def feed(self, data: bytes) -> None:
        """Take bytes of the connection; none at its end."""

    def take_body(self) -> bytes:
        """Return the content that has arrived."""


def read_pieces(reader: BodyReader, pieces: Iterable[bytes], more: str, *, end: bool) -> ParsedResponse:
    """Feed pieces to a reader, then the end of the connection if `end` is set; take the body after each.

    Args:
        more: the failure if the response is not complete then.
    """
    body = []
    failure: Reason | str | None = None
    try:
        for piece in pieces:
            reader.feed(piece)
            while taken := reader.take_body():
                body.append(taken)
        if end and not reader.complete:
            reader.feed(b"")
        body.append(reader.take_body())
        if not reader.complete:
            failure = more
    except ProbeFailed as failed:
        failure = failed.reason
    if not reader.head_complete:
        return ParsedResponse(failure=failure)
    return ParsedResponse(reader.status, reader.content_length, b"".join(body), failure, reader.version)


def cut(data: bytes, *places: int) -> list[bytes]:
    """Cut `data` at some places."""
    edges = [0, *sorted(places), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


def every_way(data: bytes) -> Iterable[list[bytes]]:
    """Yield `data` whole, byte by byte, and cut in two at every place, or at some hundreds of places if it is long."""
    yield [data]
    yield cut(data, *range(len(data)))
    yield from (cut(data, place) for place in range(1, len(data), 1 + len(data) // 500))


def dripped(data: bytes, step: int) -> list[bytes]:
    """Cut `data` into pieces of `step` bytes."""
    return [data[start : start + step] for start in range(0, len(data), step)]


def table(cases: Mapping[str, Any]) -> list[Any]:
    """Return the cases as named parameters."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), id=name) for name, case in cases.items()]
