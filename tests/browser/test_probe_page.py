"""Test the page of a probe in a real Chromium: certificates and waterfall of real peers, search, copies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from selenium.webdriver.common.by import By

from tests import exporters
from tests.browser.chromium import NARROW, WIDE, Browser
from tests.browser.conftest import PLUGINS
from tests.targets import Pki
from tests.targets.answers import Answer, PortDependent
from tests.targets.site import Site, Tls
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

CONFIG = """
modules:
  http_2xx: {{prober: http, http: {{tls_config: {{ca_file: "{ca}"}}, preferred_ip_protocol: ip4}}}}
  tcp_connect: {{prober: tcp}}
"""


def redirect(fill: object) -> bytes:
    """Return a redirect to the page over TLS, with a long path."""
    assert callable(fill)
    head = f"HTTP/1.1 302 Found\r\nLocation: https://localhost:{{tls_port}}/{'long' * 50}\r\n"
    return str(fill(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n")).encode()


@pytest.fixture(scope="module")
def peer(pki: Pki) -> Iterator[Site]:
    """Run a web site with a redirect, whose certificate lacks its intermediate, in a thread of its own."""
    site = Site({"/": Answer((PortDependent(redirect),))}, tls=Tls("no_intermediate"), pki=pki.directory)
    loop, ready, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with site:
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(300)
    yield site
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def page(peer: Site, pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of the page of a probe that fails at the second hop."""
    directory = tmp_path_factory.mktemp("probe_page")
    (directory / "blackbox.yml").write_text(CONFIG.format(ca=pki.directory / "root.pem"))
    with exporters.ours(directory, f"--modules.dir={PLUGINS}") as running:
        query = {"module": "http_2xx", "target": f"http://localhost:{peer['port']}/", "debug": "true"}
        yield f"http://127.0.0.1:{running.port}/probe?{urlencode(query)}"


def rows(browser: Browser, selector: str) -> list[str]:
    """Return the first line of each visible row of a table."""
    found: list[str] = browser.run(
        "return [...document.querySelectorAll(arguments[0])].filter((one) => one.offsetParent)"
        ".map((one) => one.innerText.trim().split(/\\s/)[0])",
        selector,
    )
    return found


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_failure_shows_reason_waterfall_and_certificate(browser: Browser, page: str, width: int, script: bool) -> None:
    browser.script(script)
    browser.size(width)
    browser.open(page)
    text = browser.text()
    assert "certificate_unknown_authority" in text
    assert "What to check: Most often the server does not send its intermediate certificate" in text
    assert rows(browser, ".waterfall tbody tr") == ["resolve", "connect", "processing", "connect", "tls"]
    assert "Its issuer (CN=intermediate) was not sent, and is not among the trusted authorities." in text
    assert browser.overflow() == []
    assert browser.messages() == []


def test_verdict_and_advice_are_on_the_first_screen_of_a_phone(browser: Browser, page: str) -> None:
    browser.size(NARROW)
    browser.open(page)
    assert browser.run("return document.querySelector('.advice').getBoundingClientRect().top") < 700


def test_bars_of_the_waterfall_follow_each_other(browser: Browser, page: str) -> None:
    browser.open(page)
    places: list[list[float]] = browser.run(
        "return [...document.querySelectorAll('.waterfall .bar')]"
        ".map((one) => { const box = one.getBoundingClientRect(); return [box.left, box.width]; })"
    )
    assert [left for left, _ in places] == sorted(left for left, _ in places)
    assert all(width >= 2 for _, width in places)
    failed = browser.run("return getComputedStyle(document.querySelector('.failed .bar')).fill")
    assert failed != browser.run("return getComputedStyle(document.querySelector('tr:not(.failed) .bar')).fill")


def test_chain_and_several_modules_pass_the_accessibility_checks(browser: Browser, page: str) -> None:
    for url in (page, page.replace("module=http_2xx", "module=http_2xx,tcp_connect")):
        browser.colours("light")
        browser.open(url)
        assert browser.violations_in_light_and_dark() == []


def test_search_finds_metrics_by_name_label_and_help(browser: Browser, page: str) -> None:
    browser.open(page)
    assert len(rows(browser, "#metrics-1 tr")) > 20
    search = browser.one("#search-metrics-1")
    search.send_keys("unknown_authority verify")
    assert rows(browser, "#metrics-1 tr") == ['probe_ssl_verify_error_info{error="unknown_authority"}']
    search.clear()
    search.send_keys("redirects received")
    assert rows(browser, "#metrics-1 tr") == ["probe_http_redirects"]


def test_search_boxes_and_copy_buttons_need_script(browser: Browser, page: str) -> None:
    browser.script(False)
    browser.open(page)
    assert len(rows(browser, "#metrics-1 tr")) > 20
    assert not browser.one("#search-metrics-1").is_displayed()
    assert "curl -sS 'http://127.0.0.1:" in browser.text()
    assert browser.run("return document.querySelectorAll('.copy button').length") == 0


def test_button_copies_the_text_beside_it(browser: Browser, page: str) -> None:
    browser.open(page)
    copied: str = browser.run(
        """
        let text = null;
        navigator.clipboard.writeText = (given) => { text = given; return Promise.resolve(); };
        const shown = document.querySelector('pre[aria-label="probe-exporter command"]');
        shown.parentElement.querySelector("button").click();
        return text;
        """
    )
    assert copied.startswith("probe-exporter run --modules.dir=")
    assert " http_2xx http://localhost:" in copied


def test_sections_of_the_page_are_linked(browser: Browser, page: str) -> None:
    browser.open(page)
    targets: list[str] = browser.run("return [...document.querySelectorAll('.jump a')].map((one) => one.hash)")
    assert [browser.one(target).text for target in targets] == [
        "Waterfall", "Certificates", "Log", "Metrics", "Settings of the module", "To copy"
    ]  # fmt: skip


def test_link_to_the_result_shows_the_same_later(browser: Browser, page: str) -> None:
    browser.open(page)
    link = browser.driver.find_element(By.LINK_TEXT, "Link to this result").get_attribute("href")
    log = browser.text("#log-1")
    assert link
    browser.open(link)
    assert browser.text("#log-1") == log
    assert "certificate_unknown_authority" in browser.text("main")


def test_earlier_results_are_links_with_names(browser: Browser, page: str) -> None:
    browser.open(page)
    browser.open(page)
    latest = "return [...document.querySelectorAll('.earlier a')].at(-1)"
    assert browser.run(f"{latest}.ariaLabel").startswith("Failure at ")
    browser.run(f"{latest}.click()")
    wait_until(lambda: "/history?id=" in browser.driver.current_url)
    assert "newest result" in browser.text()
