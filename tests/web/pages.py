"""What the tests of HTML pages share: an exporter at two prefixes, requests as a browser, and a parser of pages."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from tests import exporters
from tests.exporters import Response, Server
from tests.http_client import ask
from tests.web.test_routes import BROWSER, PLUGINS

PAGE = "text/html; charset=utf-8"
HOSTILE = "<script>alert('x')</script>\"&"


def exporter_at_root_and_prefix(config: str) -> object:
    """Return a fixture: an exporter with a configuration, and its route prefix; once ``/``, once a longer one."""

    @pytest.fixture(scope="module", params=["/", "/some/where/"], ids=["root", "prefix"])
    def exporter(
        request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[tuple[Server, str]]:
        directory = tmp_path_factory.mktemp("pages")
        (directory / "blackbox.yml").write_text(config)
        prefix: str = request.param
        with exporters.ours(directory, f"--modules.dir={PLUGINS}", f"--web.route-prefix={prefix}") as running:
            yield running, prefix

    return exporter


def get(exporter: tuple[Server, str], path: str, **headers: str) -> Response:
    server, prefix = exporter
    return ask(server.port, prefix + path, headers=headers or BROWSER)


class Page(HTMLParser):
    """Collects the elements of a page that tests look at."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.texts: list[tuple[str, str]] = []  # of links and the first text in each
        self._link = ""
        self.ids: list[str] = []
        self.scripts: list[str | None] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a":
            self._link = given["href"] or ""
            self.links.append(self._link)
        if tag == "script":
            self.scripts.append(given.get("src"))
        if "id" in given:
            self.ids.append(given["id"] or "")
        assert "style" not in given, "the Content-Security-Policy forbids inline styles"
        assert not [name for name in given if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._link:
            self.texts.append((self._link, data))
            self._link = ""


def page(answer: Response, status: int = 200) -> Page:
    assert (answer.status, answer.headers["content-type"]) == (status, PAGE)
    found = Page(answer.text)
    assert len(found.ids) == len(set(found.ids)), "an id is used twice"
    assert found.scripts == [src for src in found.scripts if src and "static/app.js" in src]
    return found
