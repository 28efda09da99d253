"""Tests of the documentation as a site: its navigation, its search, and that it loads nothing from another host."""

from __future__ import annotations

import fnmatch
import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe_exporter.prober.failure import Reason
from tests.browser.chromium import NARROW, WIDE, Browser
from tests.programs import find
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]


def test_each_page_is_in_the_navigation_once() -> None:
    """Each one is a page of the checkout, and no page of the documentation can only be found by search."""
    named = re.findall(r": (\S+\.md)$", NAVIGATION, re.MULTILINE)
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob("benchmarks/*.md")]
    names = {path.relative_to(ROOT).as_posix() for path in pages} - {"README.md"}
    assert Counter(named) == Counter({"index.md": 1, **dict.fromkeys(names, 1)})


def test_troubleshooting_has_a_symptom_for_each_reason() -> None:
    page = (ROOT / "docs" / "how-to" / "troubleshoot.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| (`[^|]+) \|", page, re.MULTILINE)
    patterns = {name.replace("…", "*") for row in rows for name in re.findall(r"`([a-z0-9_…]+)`", row)}
    reasons = {reason.value for reason in Reason}
    assert {reason for reason in reasons if not any(fnmatch.fnmatch(reason, one) for one in patterns)} == set()
    assert {one for one in patterns if not fnmatch.filter(reasons, one)} == set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site. zensical checks each link and anchor between pages."""
    directory = tmp_path_factory.mktemp("build")
    done = subprocess.run([sys.executable, "docs/site.py", str(directory)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "site"


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Serve the site, as any web server would, and return its URL."""
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Write no log."""


@pytest.mark.slow
def test_site_is_built_without_broken_links(site: Path) -> None:
    assert (site / "index.html").exists()


@pytest.mark.slow
def test_site_loads_nothing_from_another_host(site: Path) -> None:
    """Only links that a reader clicks lead elsewhere."""
    loaded = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^\s"'>]+""")
    for page in site.rglob("*.html"):
        assert loaded.findall(page.read_text(encoding="utf-8")) == [], page.name


@pytest.mark.slow
def test_search_index_has_each_page_and_reason(site: Path) -> None:
    index = (site / "search.json").read_text(encoding="utf-8")
    places = {item["location"] for item in json.loads(index)["items"]}
    assert {"docs/tutorial.html", "docs/reference/reasons.html#connect_refused"} <= places
    built = {page.relative_to(site).as_posix() for page in site.glob("docs/**/*.html")}
    assert built <= {place.partition("#")[0] for place in places}


OPEN_SEARCH = "document.querySelector('.md-search__button').click()"
SEARCH_HAS_FOCUS = "return Boolean(document.activeElement?.shadowRoot?.querySelector('input'))"
HITS = """
const within = (one) => one.shadowRoot ? [...one.shadowRoot.querySelectorAll("a")] : [];
return [...document.querySelectorAll("*")].flatMap(within).map((link) => link.href);
"""
LOADED = "return performance.getEntriesByType('resource').map((one) => one.name)"


@pytest.mark.slow
def test_search_finds_a_reason_and_asks_no_other_host(address: str) -> None:
    with Browser.start(find("chromium"), find("chromedriver")) as browser:
        browser.size(WIDE)
        browser.open(f"{address}docs/quick-start.html")
        browser.run(OPEN_SEARCH)
        wait_until(lambda: browser.run(SEARCH_HAS_FOCUS))
        browser.driver.switch_to.active_element.send_keys("connect_refused")
        wait_until(lambda: any(re.search(r"reasons\.html.*#connect_refused$", link) for link in browser.run(HITS)))
        loaded = browser.run(LOADED)
        assert f"{address}search.json" in loaded
        assert [url for url in loaded if not url.startswith(address)] == []


@pytest.mark.slow
def test_pages_are_no_wider_than_a_phone(address: str) -> None:
    """Wide tables and blocks of code scroll by themselves."""
    with Browser.start(find("chromium"), find("chromedriver")) as browser:
        browser.size(NARROW)
        for page in ("index.html", "docs/metrics.html", "docs/reference/configuration.html", "docs/how-to/probe.html"):
            browser.open(address + page)
            assert browser.run("return document.documentElement.scrollWidth") <= NARROW, page
