"""Test the page of a probe with several runs in a real Chromium: runs side by side, senders, a revoked certificate."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from selenium.webdriver.common.by import By

from tests import exporters
from tests.browser.chromium import NARROW, WIDE, Browser
from tests.targets.several import DENIED, GOOD, REFUSING, REVOKED, stage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return the URL of the page of a probe with each module."""
    directory = tmp_path_factory.mktemp("runs_page")
    with stage(directory) as made:
        (directory / "blackbox.yml").write_text(made.config)
        with exporters.ours(directory) as running:
            root = f"http://127.0.0.1:{running.port}/probe?"
            targets = {"every": made.every, "again": made.again}
            yield {
                module: root + urlencode({"module": module, "target": target, "debug": "true"})
                for module, target in targets.items()
            }


def texts(browser: Browser, selector: str) -> list[str]:
    """Return the visible text of each element, with blanks in place of line ends."""
    found: list[str] = browser.run(
        "return [...document.querySelectorAll(arguments[0])]"
        ".map((one) => one.innerText.trim().split(/\\s+/).join(' '))",
        selector,
    )
    return found


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_runs_stand_side_by_side_with_the_deciding_one_marked(
    browser: Browser, pages: dict[str, str], width: int
) -> None:
    browser.size(width)
    browser.open(pages["every"])
    rows = texts(browser, "table.runs tbody tr")
    assert [row.split()[0] for row in rows] == [GOOD, REFUSING, REVOKED, DENIED]
    assert ["decides" in row for row in rows] == [True, False, False, False]
    assert ["Success" in row for row in rows] == [True, False, True, False]
    assert "connect_refused" in rows[1]
    assert "target_denied" in rows[3]
    assert ["revoked" in row for row in rows] == [False, False, True, False]
    assert "processing" in " ".join([rows[0], *texts(browser, "table.runs thead")])


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_waterfall_has_a_group_for_each_run_on_one_scale(browser: Browser, pages: dict[str, str], width: int) -> None:
    browser.size(width)
    browser.open(pages["every"])
    heads = texts(browser, ".waterfall tr.run")
    assert [head.split()[0] for head in heads] == [GOOD, REFUSING, REVOKED, DENIED]
    groups: list[list[str]] = browser.run(
        "return [...document.querySelectorAll('.waterfall tbody')].map((group) =>"
        " [...group.querySelectorAll('tr:not(.run) th')].map((one) => one.innerText.trim().split(/\\s/)[0]))"
    )
    assert groups[1] == groups[3] == ["resolve", "connect"]
    assert groups[0][:4] == groups[2][:4] == ["resolve", "connect", "tls", "processing"]
    lefts: list[list[float]] = browser.run(
        "return [...document.querySelectorAll('.waterfall tbody')].map((group) =>"
        " [...group.querySelectorAll('.bar')].map((one) => one.getBoundingClientRect().left))"
    )
    assert all(left == sorted(left) for left in lefts)
    assert lefts[1][0] >= lefts[0][0], "the second run begins after the lookup of the first"


def test_attempts_are_groups_too(browser: Browser, pages: dict[str, str]) -> None:
    browser.open(pages["again"])
    heads = texts(browser, ".waterfall tr.run th")
    assert [head.split(" ✗ ")[0] for head in heads] == [
        "attempt 1 Failure dialogue_closed",
        "attempt 2 Failure dialogue_closed",
        "attempt 3 decides Failure dialogue_closed",
    ]


def test_certificates_name_their_sender_and_a_revoked_one_is_marked(browser: Browser, pages: dict[str, str]) -> None:
    browser.open(pages["every"])
    panels = texts(browser, ".panel:has(.chain) > p")
    assert len(panels) == 2
    assert panels[0].startswith("Verified.")
    assert f"Sent by {GOOD} " in panels[0]
    assert panels[1].startswith("Verified, but revoked.")
    assert f"Sent by {REVOKED} " in panels[1]
    assert "revoked, 59 days left" in browser.text(".chain li.bad")
    assert "it is in the revocation list (CRL)" in browser.text(".chain li.bad")
    notice = browser.driver.find_element(By.PARTIAL_LINK_TEXT, f"sent by {REVOKED}, is revoked.")
    assert browser.run("return document.querySelector(arguments[0].hash).innerText", notice) == "Certificates"


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("module", ["every", "again"])
def test_page_with_runs_fits_and_is_accessible(
    browser: Browser, pages: dict[str, str], module: str, width: int
) -> None:
    browser.size(width)
    browser.open(pages[module])
    assert browser.overflow() == []
    assert browser.violations_in_light_and_dark() == []
    assert browser.messages() == []


def test_entry_of_the_history_shows_the_same_runs(browser: Browser, pages: dict[str, str]) -> None:
    browser.open(pages["every"])
    shown = texts(browser, "table.runs tbody tr"), texts(browser, ".waterfall tr.run"), texts(browser, ".panel .chain")
    link = browser.driver.find_element(By.LINK_TEXT, "Link to this result").get_attribute("href")
    assert link
    browser.open(link)
    kept = texts(browser, "table.runs tbody tr"), texts(browser, ".waterfall tr.run"), texts(browser, ".panel .chain")
    assert kept == shown
