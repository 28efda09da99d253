"""The bucket of tokens of the rate limit."""

from __future__ import annotations

import pytest

from probe_exporter.web.rate_limit import RateLimit, TokenBucket


@pytest.mark.parametrize(("burst", "workers", "at_once"), [(10, 1, 10), (10, 4, 3), (1, 4, 1), (0, 4, 0)])
def test_rate_limit_gives_each_worker_its_share(burst: int, workers: int, at_once: int) -> None:
    bucket = TokenBucket(RateLimit(interval="1s", burst=burst), workers, 100.0)
    assert [bucket.take(100.0) for _ in range(at_once + 1)] == [True] * at_once + [False]
    if burst:
        assert not bucket.take(100.0 + 0.9 * workers)
        assert bucket.take(100.0 + 1.1 * workers)


def test_rate_limit_without_an_interval_never_refuses() -> None:
    bucket = TokenBucket(RateLimit(burst=0), 1, 0.0)
    assert all(bucket.take(0.0) for _ in range(1000))
