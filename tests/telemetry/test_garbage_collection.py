"""Full garbage collections run while few objects are alive, and at the latest after a minute."""

from __future__ import annotations

import gc

import pytest

from probe_exporter.telemetry.garbage_collection import MAX_BUSY, MAX_GROWTH, MAX_WAIT_SECONDS, MIN_PENDING, Collector


class SimulatedCollector:
    """A collector with a clock and numbers that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.busy = 0
        self.pending = 0
        self.collections = 0
        monkeypatch.setattr(gc, "get_count", lambda: (0, 0, self.pending))
        monkeypatch.setattr(gc, "collect", self._collect)
        self.collector = Collector(lambda: self.busy, lambda: self.now)

    def _collect(self) -> None:
        self.collections += 1
        self.pending = 0

    def collects(self) -> bool:
        before = self.collections
        self.collector.collect_if_due()
        return self.collections > before


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> SimulatedCollector:
    return SimulatedCollector(monkeypatch)


@pytest.mark.parametrize(
    ("pending", "busy", "collects"),
    [
        (MIN_PENDING - 1, 0, False),
        (MIN_PENDING, 0, True),
        (MIN_PENDING, MAX_BUSY, True),
        (MIN_PENDING, MAX_BUSY + 1, False),
    ],
)
def test_collection_runs_if_it_is_due_and_few_objects_are_alive(
    watched: SimulatedCollector, pending: int, busy: int, collects: bool
) -> None:
    watched.pending, watched.busy = pending - 1, busy
    watched.collector.collect_if_due()
    watched.pending = pending
    assert watched.collects() is collects


def test_collection_waits_while_many_objects_are_being_made(watched: SimulatedCollector) -> None:
    """A thread that reads a large file makes millions, and a full collection would hold the event loop for seconds."""
    for pending in range(MIN_PENDING, 10 * MIN_PENDING, MAX_GROWTH + 1):
        watched.pending = pending
        assert not watched.collects()
    assert watched.collects(), "the file has been read"


def test_collection_that_is_due_waits_at_most_a_minute(watched: SimulatedCollector) -> None:
    watched.pending, watched.busy = MIN_PENDING, 10_000
    assert not watched.collects()
    watched.now += MAX_WAIT_SECONDS + 1
    assert watched.collects()
    watched.pending = MIN_PENDING
    assert not watched.collects()


def test_python_starts_no_full_collections_meanwhile() -> None:
    before = gc.get_threshold()
    with Collector(lambda: 0).instead_of_python():
        assert gc.get_threshold()[:2] == before[:2]
        assert gc.get_threshold()[2] > 10**9
    assert gc.get_threshold() == before
