"""Recognise the format of a page by its Content-Type, request formats by Accept, free a page."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator

import pytest

from probe_exporter.exposition import formats
from probe_exporter.scrape.page import MAX_LABEL_NAMES, MAX_LABEL_NAMES_OF_PAGE, Hashes, Page
from probe_exporter.scrape.reading import FORMATS, accept, announced, free
from tests.cost import short_turns

ANNOUNCED = {
    "text/plain": "text",
    "text/plain; version=0.0.4; charset=utf-8": "text",
    "Text/Plain;version=1.0.0": "text",
    "application/openmetrics-text; version=1.0.0; charset=utf-8": "openmetrics",
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited": "protobuf",
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=text": None,
    "application/vnd.google.protobuf": None,
    "text/html; charset=utf-8": None,
    "application/json": None,
    "": None,
    ";": None,
    "text/plain" + " ;" * 5_000_000: None,
}


@pytest.mark.parametrize("content_type", ANNOUNCED)
def test_content_type_announces_a_format_or_none(content_type: str) -> None:
    found = announced(content_type)
    assert (found.name if found else None) == ANNOUNCED[content_type]


@pytest.mark.parametrize("name", FORMATS)
def test_accept_header_requests_each_format_that_the_exporter_offers(name: str) -> None:
    """The format is requested alone, and before the others."""
    for names in ([name], [name, *[other for other in FORMATS if other != name]]):
        found = announced(formats.negotiate(accept(names)).content_type)
        assert found is not None
        assert found.name == name


class WatchedPage(Page):
    def __init__(self) -> None:
        super().__init__(1_000_000)
        self.freed = asyncio.Event()

    def take_apart(self) -> Iterator[object]:
        yield from super().take_apart()
        self.freed.set()


@pytest.mark.slow
async def test_page_is_freed_in_short_turns() -> None:
    page = WatchedPage()
    family = page.begin("a")
    for number in range(200_000):
        page.take(family, "a", (("l", str(number)),), 1.0)
    with short_turns():
        free(page)
        await page.freed.wait()
    assert page.families == []
    assert list(page.take_apart()) == []


def test_names_of_labels_are_kept_up_to_a_number() -> None:
    page = Page(1_000_000)
    labels = tuple((f"l{number}", "1") for number in range(MAX_LABEL_NAMES - 1))
    for number in range(2 * MAX_LABEL_NAMES_OF_PAGE // MAX_LABEL_NAMES):
        family = page.begin(f"a{number}", "histogram")
        for bucket in ("1", "2"):
            page.take(family, family.name, (*labels, ("le", bucket)), 1.0, "le")
    names = [len(family.labels) for family in page.families]
    assert set(names) == {MAX_LABEL_NAMES - 1, 0}
    assert 0 <= sum(names) - MAX_LABEL_NAMES_OF_PAGE < MAX_LABEL_NAMES


def test_garbage_collector_ignores_the_names_of_labels() -> None:
    page = Page(1000)
    family = page.begin("a")
    page.take(family, "a", (("l", "1"),), 1.0)
    page.take(family, "a", (("l", "1"), ("m", "1")), 1.0)
    assert [*family.labels] == ["l", "m"]
    assert gc.is_tracked(family.labels) is (sys.version_info >= (3, 14)), "Python 3.14 knows all dictionaries"


def test_hash_is_new_once() -> None:
    hashes = Hashes()
    values = [hash(str(number)) for number in range(10_000)]
    assert all(hashes.add(value) for value in values)
    assert not any(hashes.add(value) for value in values)
