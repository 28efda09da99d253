"""Test the pages of an exporter process, as a browser without script sees them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest

from tests import exporters
from tests.asking import ask
from tests.exporters import Response, Server
from tests.web.test_routes import BROWSER, CONFIG, PLUGINS, probe

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7*7 }}"


class Page(HTMLParser):
    """What a page has: the text of each element by id, its links, and its forms' fields."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fields: dict[str, str] = {}
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "href" in given:
            self.links.append(given["href"])
        if tag in ("input", "select") and "name" in given:
            self.fields[given["name"]] = given.get("value", "")
        if tag not in ("meta", "link", "input", "img", "path", "br", "hr", "option"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module", params=["memory", "file"])
def exporter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("pages")
    (directory / "blackbox.yml").write_text(CONFIG)
    flags = ["--history.path=kept"] if request.param == "file" else []
    with exporters.ours(directory, f"--modules.dir={PLUGINS}", "--history.limit=500", *flags) as running:
        yield running


def browse(exporter: Server, path: str, status: int = 200) -> Page:
    answer: Response = ask(exporter.port, path, headers=BROWSER)
    assert (answer.status, answer.headers["content-type"]) == (status, "text/html; charset=utf-8"), answer.text
    page = Page(answer.text)
    assert page.open == [], "every element is closed"
    return page


# --- the status page -----------------------------------------------------------------------------------------


def test_status_page_has_verdict_reason_sentence_and_message_of_a_failure(exporter: Server) -> None:
    unique = f"fail {time.monotonic_ns()}"
    probe(exporter, unique)
    text = browse(exporter, f"/?target={quote(unique)}").text
    assert f"Failure {unique} http_2xx" in text
    assert "target_invalid The target does not have the syntax that the prober expects. as the target wished" in text
    assert "failing for at least 0 s since before 20" in text
    assert "1 of the last 1 probes failed" in text


def test_status_page_has_the_meaning_of_a_probers_own_reason(exporter: Server) -> None:
    probe(exporter, "tire")
    assert "actor_tired The actor has no more strength. no more" in browse(exporter, "/?target=tire").text


def test_status_page_filters_by_the_url_and_shows_the_filters(exporter: Server) -> None:
    name = f"n{time.monotonic_ns()}"
    for target, module in ((f"{name} a", "http_2xx"), (f"fail {name} b", "http_2xx"), (f"{name} c", "named")):
        probe(exporter, target, module)

    def shown(query: str) -> set[str]:
        page = browse(exporter, f"/?target={name.upper()}&{query}")
        assert page.fields["target"] in ("", name.upper()), "the form has the filter"
        states = page.text.partition("Recent probes")[0]
        return {word for word in "abc" if f"{name} {word} " in states}

    assert shown("") == {"a", "b", "c"}
    assert shown("module=named") == {"c"}
    assert shown("result=failure") == {"b"}
    assert shown("result=success&module=http_2xx") == {"a"}
    assert shown("reason=target_invalid") == {"b"}
    assert shown("result=nonsense&unknown=1") == {"a", "b", "c"}
    assert "No target matches these filters." in browse(exporter, f"/?target={name}&reason=nonsense").text


def test_status_page_tells_about_the_exporter(exporter: Server) -> None:
    text = browse(exporter, "/").text
    for part in ("Health: pass up ", "1 worker", "event loop at most", "blackbox.yml", "probe-exporter 0"):
        assert part in text


def test_status_page_escapes_every_field(exporter: Server) -> None:
    probe(exporter, f"fail {HOSTILE}", "<b>&")
    for path in ("/", f"/?target={quote(HOSTILE)}&module={quote('<b>&')}&reason={quote(HOSTILE)}"):
        html = ask(exporter.port, path, headers=BROWSER).text
        assert "<img src=x" not in html
        assert "<b>" not in html
    assert f"fail {HOSTILE}" in browse(exporter, f"/?target={quote(HOSTILE)}").text


def test_status_page_is_short_though_targets_are_long(exporter: Server) -> None:
    for number in range(30):
        probe(exporter, f"fail {number} {'x' * 30_000}")
    assert len(ask(exporter.port, "/", headers=BROWSER).body) < 300_000
