"""Test every page in a real Chromium: with and without script, under a prefix, with hostile names in every field."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from selenium.webdriver.common.keys import Keys

from tests import exporters
from tests.browser.chromium import NARROW, Browser
from tests.browser.conftest import HOSTILE, HOSTILE_MODULE, probe
from tests.exporters import Server
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

PAGES = {
    "status": "",
    "filtered": "?" + urlencode({"target": HOSTILE, "module": HOSTILE_MODULE, "reason": HOSTILE}),
    "form": "form?" + urlencode({"module": "http_2xx,strict", "target": HOSTILE, "tenant": HOSTILE}),
    "form of an unknown module": "form?" + urlencode({"module": HOSTILE}),
    "probe": "probe?" + urlencode({"module": HOSTILE_MODULE, "target": f"fail {HOSTILE}{'t' * 300}", "debug": "true"}),
    "unknown module": "probe?" + urlencode({"module": HOSTILE, "target": "x"}),
    "history": "history",
    "history entry": "history?id=1",
    "log": "logs?id=1",
    "modules": "modules",
    "module": f"modules/{quote(HOSTILE_MODULE, safe='')}",
    "reasons": "reasons",
    "config": "config",
    "metadata": "metadata",
    "health": "health",
    "api": "openapi.json",
    "not found": f"no/such/{quote(HOSTILE, safe='')}",
}
"""The path of each page below the prefix."""

ERRORS = {"unknown module": 400, "not found": 404}
"""Pages with another status than 200, which Chromium reports in its console."""


def problems(browser: Browser, name: str) -> list[str]:
    """Return what the console reports, without lines about an expected status and about the icon of plain text."""
    expected = f"status of {ERRORS.get(name, 0)} "
    return [message for message in browser.messages() if expected not in message and "/favicon.ico " not in message]


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
@pytest.mark.parametrize("name", PAGES)
def test_page_runs_no_hostile_script_and_fits_a_narrow_screen(
    browser: Browser, site: str, name: str, script: bool
) -> None:
    browser.script(script)
    browser.size(NARROW)
    browser.open(site + PAGES[name])
    assert browser.one("h1").text
    assert browser.driver.title.endswith("probe-exporter"), "no script of a target has run"
    assert browser.overflow() == []
    assert problems(browser, name) == []
    assert browser.run("return getComputedStyle(document.body).margin") == "0px", "the style sheet is loaded"


@pytest.mark.parametrize("name", PAGES)
def test_page_has_labels_and_contrast_in_light_and_dark(browser: Browser, site: str, name: str) -> None:
    browser.open(site + PAGES[name])
    assert browser.violations_in_light_and_dark() == []


# --- what people do ------------------------------------------------------------------------------------------


def test_links_of_the_navigation_lead_to_pages_under_the_prefix(browser: Browser, site: str) -> None:
    browser.open(site)
    found = browser.run("return [...document.querySelectorAll('.top a')].map((one) => one.href)")
    assert len(found) > 8
    for link in found:
        assert link.startswith(site)
        browser.open(link)
        assert problems(browser, "") == []


def test_form_leads_to_the_page_of_the_probe_without_script(browser: Browser, site: str) -> None:
    browser.script(False)
    browser.open(f"{site}form?module=http_2xx")
    browser.one("#target").send_keys("fail by hand", Keys.ENTER)
    wait_until(lambda: "fail by hand" in browser.text("h1"))
    assert "target_invalid" in browser.text()


def test_form_fetches_the_fields_of_a_module_and_checks_their_patterns(browser: Browser, site: str) -> None:
    browser.open(f"{site}form?module=http_2xx")
    module = browser.one("#module")
    module.clear()
    module.send_keys("strict", Keys.TAB)
    wait_until(lambda: "tenant (required)" in browser.text())
    browser.one("#target").send_keys("x")
    tenant = browser.one("input[name=tenant]")
    tenant.send_keys("NOT LEGAL", Keys.ENTER)
    assert browser.run("return document.querySelector('input[name=tenant]').validity.patternMismatch")
    assert browser.driver.current_url.startswith(f"{site}form")
    tenant.clear()
    tenant.send_keys("legal-one", Keys.ENTER)
    wait_until(lambda: browser.driver.current_url.startswith(f"{site}probe"))
    wait_until(lambda: "Success" in browser.text())
    assert problems(browser, "") == []


def come_back(browser: Browser) -> bool:
    """Do what a tab does when it is shown again: the page refreshes at once, not after some seconds."""
    browser.run("document.dispatchEvent(new Event('visibilitychange'))")
    return True


def test_status_page_shows_a_new_failure_without_reload(browser: Browser, site: str, server: Server) -> None:
    browser.open(f"{site}?target=live")
    assert "No target matches" in browser.text("#targets")
    browser.run("document.body.dataset.same = 'yes'")
    probe(server, "http_2xx", "fail live")
    wait_until(lambda: "fail live" in browser.text("#targets"))
    assert browser.run("return document.body.dataset.same") == "yes", "the page was not loaded again"
    assert browser.text("[data-live-state]") == "live"


def test_status_page_says_that_it_is_not_live_without_script(browser: Browser, site: str) -> None:
    browser.script(False)
    browser.open(site)
    assert browser.text("[data-live-state]") == "not refreshed by itself"


def test_search_hides_other_rows(browser: Browser, site: str) -> None:
    browser.open(f"{site}reasons")
    browser.one("input[data-search]").send_keys("icmp packet")
    assert "icmp_packet_too_big" in browser.text("#reasons")
    assert "connect_refused" not in browser.text("#reasons")


def test_keyboard_reaches_the_content_first(browser: Browser, site: str) -> None:
    browser.open(site)
    browser.one("body").send_keys(Keys.TAB, Keys.ENTER)
    assert browser.run("return document.activeElement.id") == "content"


def test_status_page_pauses_while_the_keyboard_is_in_the_list(browser: Browser, site: str, server: Server) -> None:
    browser.open(f"{site}?target=pause")
    probe(server, "http_2xx", "pause one")
    wait_until(lambda: come_back(browser) and "pause one" in browser.text("#targets"))
    browser.run("document.querySelector('#targets a').focus()")
    probe(server, "http_2xx", "fail pause two")
    wait_until(lambda: come_back(browser) and browser.text("[data-live-state]") == "paused while you are in the list")
    assert "pause two" not in browser.text("#targets")
    assert browser.run("return document.activeElement.textContent") == "pause one"
    browser.run("document.activeElement.blur()")
    wait_until(lambda: come_back(browser) and "pause two" in browser.text("#targets"))


def test_status_page_says_that_the_exporter_does_not_answer(browser: Browser, tmp_path: Path) -> None:
    with exporters.ours(tmp_path) as own:
        browser.open(f"http://127.0.0.1:{own.port}/")
        assert browser.text("[data-live-state]") == "live"
    wait_until(lambda: come_back(browser) and browser.text("[data-live-state]").startswith("not live: "))
    assert browser.run("return document.querySelector('[data-live-state]').classList.contains('stale')")
