"""Fixtures of the tests in a browser: one headless Chromium for the run, and exporters with hostile names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests import exporters
from tests.browser.chromium import Browser
from tests.exporters import Server
from tests.http_client import ask
from tests.programs import find

PLUGINS = Path(__file__).parents[1] / "own_probers"

HOSTILE = "\"'><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>${{7*7}}"
"""Text that would change the title of the page if it were not escaped."""

MODULES = f"""
modules:
  http_2xx: {{prober: actor}}
  secret: {{prober: actor, actor: {{password: hunter2}}, description: "{HOSTILE.replace('"', chr(92) + '"')}"}}
  strict: {{prober: actor, params: {{tenant: {{pattern: "[a-z-]{{3,9}}"}}}}, actor: {{host: "${{param:tenant}}"}}}}
  "{HOSTILE.replace('"', chr(92) + '"')}{"m" * 200}": {{prober: actor}}
"""

HOSTILE_MODULE = f"{HOSTILE}{'m' * 200}"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Return the browser of this process. Tests get it as `browser`."""
    with Browser.start(find("chromium"), find("chromedriver")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """Return the browser with script, in light colours, on a wide screen."""
    chromium.reset()
    return chromium


PREFIX = "/some/where/"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run an exporter under a route prefix."""
    directory = tmp_path_factory.mktemp("browser")
    (directory / "blackbox.yml").write_text(MODULES)
    flags = [f"--modules.dir={PLUGINS}", f"--web.route-prefix={PREFIX}", "--history.path=kept"]
    with exporters.ours(directory, *flags) as running:
        yield running


def probe(server: Server, module: str, target: str) -> None:
    """Probe a target, as Prometheus does."""
    answer = ask(server.port, f"{PREFIX}probe?{urlencode({'module': module, 'target': target})}")
    assert answer.status == 200, answer.text


@pytest.fixture(scope="session")
def site(server: Server) -> str:
    """Return the URL of an exporter whose history has hostile targets and modules."""
    for target in (f"fail {HOSTILE}", f"tire {HOSTILE} {'x' * 5000}", "www.example.org"):
        for module in ("http_2xx", HOSTILE_MODULE):
            probe(server, module, target)
    return f"http://127.0.0.1:{server.port}{PREFIX}"
