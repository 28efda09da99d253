"""Rate limit of the web server: the block `rate_limit` of the web config file, and its bucket of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, PlainValidator

from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Written
from probe_exporter.settings.quantities import format_duration, parse_duration


def _interval(value: object) -> float:
    """Parse Go's durations, and bare numbers, which are nanoseconds in Go."""
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) / 1e9
    raise ValueError("expected a duration such as 1.5s")


Interval = Annotated[
    float,
    Written("duration", "1.5s", numbers=True),
    PlainValidator(_interval, json_schema_input_type=str),
    PlainSerializer(format_duration, return_type=str),
]


class RateLimit(Settings):
    """``rate_limit``: a bucket of tokens for all clients together, one a request."""

    interval: Interval = 0.0
    burst: Annotated[int, BeforeValidator(int)] = 0

    def cautions(self) -> Iterator[tuple[str, str]]:
        """Yield a warning about a bucket that never holds a token."""
        if self.interval > 0 and self.burst <= 0:
            yield "burst", "an `interval` without a `burst` refuses every request"


class TokenBucket:
    """A rate limit: tokens come back at a steady rate, up to a maximum. Each worker has its share, at least one."""

    def __init__(self, limit: RateLimit, workers: int, now: float) -> None:
        self.limit = limit
        self._interval = limit.interval * workers
        self._most = math.ceil(limit.burst / workers)
        self._tokens = float(self._most)
        self._since = now

    def take(self, now: float) -> bool:
        """Take a token, and return whether there was one."""
        if self._interval <= 0:
            return True
        self._tokens = min(self._most, self._tokens + (now - self._since) / self._interval)
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
