"""One history of several worker processes: each keeps its own results in memory, and asks the others for theirs.

* An id of a worker becomes ``id * workers + index`` for clients, so that ids are unique and name their worker.
* Questions go through the supervisor, as text: ``{"select": …}`` with the fields of a `Query`, or ``{"get": id}``.
* A worker that does not answer in time is left out. The results of a worker that exits are lost.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from probe_exporter.history.memory import History, Query
from probe_exporter.history.record import HistoryDocument, HistoryEntry
from probe_exporter.runner import Result
from probe_exporter.workers.worker import HISTORY, SupervisorClient, SupervisorTimeout

MAX_ENTRIES = 2000
MAX_BYTES = 1 << 20
"""Entries of one worker in an answer, and bytes of their targets and messages: the event loop parses all answers."""


class SharedHistory:
    """The `History` of a worker: its own results, and those of the other workers."""

    def __init__(self, own: History, supervisor: SupervisorClient) -> None:
        """
        Args:
            own: the results of this worker.
            supervisor: the other workers.
        """
        self._own = own
        self._supervisor = supervisor
        supervisor.history = self.answer

    def add(self, result: Result) -> None:
        self._own.add(result)

    async def recreate(self) -> object:
        return await self._own.recreate()

    def close(self) -> None:
        self._own.close()

    async def select(self, query: Query) -> list[HistoryEntry]:
        """Return the entries of all workers that match a query, newest first: those that finished last."""
        texts, entries = await asyncio.gather(self._ask({"select": asdict(query)}), self._select(query))
        return await asyncio.to_thread(_merged, query, entries, texts)

    async def get(self, id: int) -> tuple[HistoryEntry, HistoryDocument] | None:
        if id % self._supervisor.number == self._supervisor.index:
            return await self._get(id)
        texts = await self._ask({"get": id})
        answers = await asyncio.to_thread(lambda: [json.loads(text) for text in texts])
        return next(((HistoryEntry(*row), HistoryDocument(*document)) for row, document in filter(None, answers)), None)

    async def answer(self, text: str) -> str:
        """Answer a question of another worker, as JSON."""
        match json.loads(text):
            case {"select": fields}:
                query = Query(**fields)
                limits = min(query.limit, MAX_ENTRIES), min(query.max_bytes, MAX_BYTES)
                entries = await self._select(replace(query, limit=limits[0], max_bytes=limits[1]))
                return await asyncio.to_thread(json.dumps, entries)
            case {"get": int(id)} if id % self._supervisor.number == self._supervisor.index:
                return await asyncio.to_thread(json.dumps, await self._get(id))
        return "null"

    async def _ask(self, question: dict[str, Any]) -> Sequence[str]:
        """Return the answers of the other workers; none if the supervisor does not answer."""
        try:
            return await self._supervisor.ask_others(HISTORY, json.dumps(question))
        except SupervisorTimeout:
            return ()

    async def _select(self, query: Query) -> list[HistoryEntry]:
        """Return this worker's entries, with ids for clients."""
        number, index = self._supervisor.number, self._supervisor.index
        return [entry._replace(id=entry.id * number + index) for entry in await self._own.select(query)]

    async def _get(self, id: int) -> tuple[HistoryEntry, HistoryDocument] | None:
        """Return an entry of this worker.

        Args:
            id: the id for clients.
        """
        found = await self._own.get(id // self._supervisor.number)
        return None if found is None else (found[0]._replace(id=id), found[1])


def _merged(query: Query, entries: Sequence[HistoryEntry], texts: Sequence[str]) -> list[HistoryEntry]:
    """Return the entries of this worker and of the others' answers, newest first, within the limits of the query."""
    all = [*entries, *(HistoryEntry(*row) for text in texts for row in json.loads(text) or ())]
    all.sort(key=lambda entry: entry.started + entry.duration, reverse=True)
    return query.select(all)
