"""What the tests of all response readers share: the outcome of a response, and ways to cut it into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from probe_exporter.prober.failure import Reason


@dataclass(frozen=True)
class ParsedResponse:
    """The outcome of a response."""

    status: int = 0
    length: int = 0
    body: bytes = b""
    failure: Reason | str | None = None
    version: str = ""


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
