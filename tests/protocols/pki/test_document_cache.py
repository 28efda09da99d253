"""`DocumentCache`: what is kept, for how long, and within which limits."""

from __future__ import annotations

import time

import pytest

from probe_exporter.protocols.pki.document_cache import ENTRY_BYTES, MAX_KEPT_SECONDS, DocumentCache

FAR = 4e9
"""A next update in the year 2096."""


def test_kept_documents_are_limited_in_bytes() -> None:
    documents = DocumentCache[str](1000, 10 * ENTRY_BYTES)
    for number in range(10):
        documents.keep(number, "large", FAR, 2 * ENTRY_BYTES)
    assert documents.bytes <= 10 * ENTRY_BYTES
    assert [number for number in range(10) if documents.kept(number)] == [7, 8, 9]
    documents.keep("too large", "", FAR, 10 * ENTRY_BYTES)
    assert documents.kept("too large") is None
    assert documents.kept(9) == "large"


def test_kept_documents_are_limited_in_number() -> None:
    documents = DocumentCache[str](3, 1 << 20)
    for number in range(3):
        documents.keep(number, "small", FAR, 0)
    assert documents.kept(0)
    documents.keep(3, "small", FAR, 0)
    assert [number for number in range(4) if documents.kept(number)] == [0, 2, 3], "1 was used least recently"
    documents.forget()
    assert (len(documents), documents.bytes) == (0, 0)


@pytest.mark.parametrize("next_update", [None, 0.0, 1000.0])
def test_document_without_a_next_update_in_the_future_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, next_update: float | None
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    documents = DocumentCache[str](3, 1 << 20)
    documents.keep(1, "document", next_update, 0)
    assert documents.kept(1) is None


@pytest.mark.parametrize(("next_update", "end"), [(1060.0, 1060.0), (FAR, 1000.0 + MAX_KEPT_SECONDS)])
def test_document_is_kept_until_its_next_update_and_at_most_a_day(
    monkeypatch: pytest.MonkeyPatch, next_update: float, end: float
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    documents = DocumentCache[str](3, 1 << 20)
    documents.keep(1, "document", next_update, 0)
    now = end - 0.1
    assert documents.kept(1) == "document"
    now = end
    assert documents.kept(1) is None
    assert documents.bytes == 0


def test_newer_document_takes_the_place_of_an_older_one() -> None:
    documents = DocumentCache[str](3, 1 << 20)
    documents.keep(1, "older", time.time() + 1000, 100)
    documents.keep(1, "newer", time.time() + 1000, 50)
    assert documents.kept(1) == "newer"
    assert documents.bytes == ENTRY_BYTES + 50
