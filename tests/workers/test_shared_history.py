"""Test the history that several workers have in their memories, with a supervisor that answers as it should or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from probe_exporter.history.memory import Query
from probe_exporter.history.record import HistoryDocument, HistoryEntry
from probe_exporter.runner import Result
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.workers import shared_history
from probe_exporter.workers.shared_history import SharedHistory
from probe_exporter.workers.worker import SupervisorClient, SupervisorTimeout


def entry(id: int, started: float, target: str = "t", reason: str = "") -> HistoryEntry:
    return HistoryEntry(id, "m", target, started, 0.5, 9.5, reason, "", "")


class Stored:
    """A history with given entries."""

    def __init__(self, *entries: HistoryEntry) -> None:
        self.entries = entries

    def add(self, result: Result) -> None:
        raise NotImplementedError

    async def select(self, query: Query) -> list[HistoryEntry]:
        return query.select(self.entries)

    async def get(self, id: int) -> tuple[HistoryEntry, HistoryDocument] | None:
        return next(((one, HistoryDocument({"a": 1}, f"debug {id}")) for one in self.entries if one.id == id), None)

    async def recreate(self) -> object:
        return self.entries

    def close(self) -> None:
        pass


def workers(monkeypatch: pytest.MonkeyPatch, *stored: Stored) -> list[SharedHistory]:
    """Return the histories of workers that ask each other as through a supervisor."""
    clients = [SupervisorClient(Telemetry(), len(stored)) for _ in stored]
    made = [SharedHistory(one, client) for one, client in zip(stored, clients, strict=True)]

    def asking(own: int) -> Callable[[str, str], Any]:
        async def ask(what: str, text: str) -> Sequence[str]:
            return [await client.history(text) for index, client in enumerate(clients) if index != own]

        return ask

    for index, client in enumerate(clients):
        client.index = index
        monkeypatch.setattr(client, "ask_others", asking(index))
    return made


async def test_entries_of_all_workers_are_listed_by_the_time_they_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    for history in workers(monkeypatch, Stored(entry(1, 3.0), entry(0, 1.0)), Stored(entry(0, 2.0))):
        assert [(one.id, one.started) for one in await history.select(Query())] == [(2, 3.0), (1, 2.0), (0, 1.0)]
        assert [one.id for one in await history.select(Query(limit=2))] == [2, 1]


async def test_filters_apply_in_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored(entry(1, 3.0, "a"), entry(0, 1.0, "b\udcff", "x")), Stored(entry(0, 2.0, "b\udcff"))
    for history in workers(monkeypatch, *stored):
        assert [one.id for one in await history.select(Query(target="b\udcff"))] == [1, 0]
        assert [one.id for one in await history.select(Query(success=False, since=0.5))] == [0]


async def test_entry_of_another_worker_is_found_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    for history in workers(monkeypatch, Stored(entry(7, 1.0, "a")), Stored(entry(7, 2.0, "b"))):
        found = [await history.get(id) for id in (14, 15, 16, -1)]
        assert found[0] == (entry(14, 1.0, "a"), HistoryDocument({"a": 1}, "debug 7"))
        assert found[1] == (entry(15, 2.0, "b"), HistoryDocument({"a": 1}, "debug 7"))
        assert found[2:] == [None, None]


async def test_own_results_are_shown_if_the_supervisor_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = workers(monkeypatch, Stored(entry(0, 1.0)), Stored(entry(0, 2.0)))

    async def late(what: str, text: str) -> Sequence[str]:
        raise SupervisorTimeout("late")

    monkeypatch.setattr(first._supervisor, "ask_others", late)
    assert [one.id for one in await first.select(Query())] == [0]
    assert await first.get(1) is None


async def test_answer_is_limited_in_entries_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_history, "MAX_ENTRIES", 3)
    _, other = workers(monkeypatch, Stored(), Stored(*[entry(number, 9.0 - number) for number in range(9)]))
    assert len(json.loads(await other.answer('{"select": {"limit": 100}}'))) == 3
    monkeypatch.setattr(shared_history, "MAX_BYTES", 0)
    assert len(json.loads(await other.answer('{"select": {"limit": 100}}'))) == 1


async def test_worker_creates_its_own_results_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Stored(entry(1, 1.0))
    [first, _] = workers(monkeypatch, own, Stored())
    assert await first.recreate() is own.entries
