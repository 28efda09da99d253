"""Drive a headless Chromium for tests of pages: size, colours, script on or off, axe-core, messages of the console."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Self

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

AXE = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # Chromium's sandbox does not run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
    # One process shows all pages. Otherwise each page of a test would start another one, at a quarter of a second.
    "--renderer-process-limit=1",
    "--disable-site-isolation-trials",
    "--disable-features="
    + ",".join(("BackForwardCache", "ProactivelySwapBrowsingInstance", "SpareRendererForSitePerProcess")),
)

WIDE, NARROW = 1280, 390
"""Widths of screens in CSS pixels."""


@dataclass(frozen=True, slots=True)
class Browser:
    """A Chromium with one window."""

    driver: webdriver.Chrome

    @classmethod
    @contextmanager
    def start(cls, program: str, driver: str) -> Iterator[Self]:
        """Start a Chromium and its driver; end both at the end of the block."""
        options = webdriver.ChromeOptions()
        options.binary_location = program
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for argument in ARGUMENTS:
            options.add_argument(argument)
        running = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield cls(running)
        finally:
            running.quit()

    def reset(self) -> None:
        """Leave the last page, and set what a test may have changed."""
        self.driver.get("about:blank")
        self.script(True)
        self.size(WIDE)
        self.colours("light")
        self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # selenium does not annotate it

    def script(self, on: bool) -> None:
        """Turn the scripts of pages on or off. The tests' own scripts run in any case."""
        self._command("Emulation.setScriptExecutionDisabled", value=not on)

    def size(self, width: int) -> None:
        """Set the width of the screen in CSS pixels."""
        self._command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width <= NARROW
        )

    def colours(self, scheme: str) -> None:
        """Prefer `light` or `dark` colours."""
        self._command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        """Load a page."""
        self.driver.get(url)

    def run(self, code: str, *arguments: object) -> Any:
        """Run the body of a function in the page, and return its result."""
        return self.driver.execute_script(code, *arguments)

    def one(self, selector: str) -> WebElement:
        """Return the first element of a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str = "main") -> str:
        """Return the visible text of the first element of a CSS selector."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def messages(self) -> list[str]:
        """Return warnings and errors of the console since the last call, such as refused styles and scripts."""
        entries: list[Mapping[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # as above
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def overflow(self) -> list[str]:
        """Return the elements that make the page wider than the screen."""
        found: list[str] = self.run(
            """
            const wide = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= wide) return [];
            return [...document.body.querySelectorAll("*")]
              .filter((one) => one.getBoundingClientRect().right > wide + 1)
              .map((one) => one.outerHTML.slice(0, 120));
            """
        )
        return found

    def violations_in_light_and_dark(self) -> list[str]:
        """Check the page, which is in light colours, with axe-core; then check in dark colours what depends on them."""
        found = self.violations()
        self.colours("dark")
        return found + self.violations("color-contrast")

    def violations(self, *rules: str) -> list[str]:
        """Check the page with axe-core, all its rules or some; return a line for each violation."""
        if not self.run("return 'axe' in window"):
            self.run(AXE)
        result: list[Mapping[str, Any]] = self.driver.execute_async_script(
            "const [rules, done] = arguments;"
            "const options = {resultTypes: ['violations'], iframes: false, preload: false};"
            "if (rules.length) options.runOnly = rules;"
            "axe.run(document, options).then((found) => done(found.violations));",
            rules,
        )
        return [
            f"{rule['id']}: {node['html'][:200]}: {node.get('failureSummary', '')}"
            for rule in result
            for node in rule["nodes"]
        ]

    def _command(self, name: str, **parameters: object) -> None:
        self.driver.execute_cdp_cmd(name, parameters)
