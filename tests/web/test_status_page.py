"""Test the pages of an exporter process, as a browser without script sees them."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from urllib.parse import quote

import pytest

from tests.exporters import Response, Server
from tests.http_client import ask
from tests.web.conftest import ExporterSetup
from tests.web.test_routes import BROWSER, CONFIG, PLUGINS, probe

MORE = """
  free: {prober: actor, params: {host: {pattern: "[a-z]+", default: a}}, actor: {host: "${param:host}"}}
  strict: {prober: actor, params: {tenant: {pattern: "[a-z-]{1,9}"}}, actor: {host: "${param:tenant}"}}
"""
HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7*7 }}"


class Page(HTMLParser):
    """What a page has: the text of each element by id, its links, and its forms' fields."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fields: dict[str, str] = {}
        self.patterns: dict[str, str] = {}
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
        if "pattern" in given:
            self.patterns[given["name"]] = given["pattern"]
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


@pytest.fixture(scope="module")
def exporter_setup() -> ExporterSetup:
    return ExporterSetup(CONFIG + MORE, (f"--modules.dir={PLUGINS}", "--history.limit=500"))


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
    assert re.search(r"failing for at least \d+ \w+ since before 20", text)
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


# --- the form ------------------------------------------------------------------------------------------------


def test_form_has_the_fields_of_the_parameters_of_all_chosen_modules(exporter: Server) -> None:
    page = browse(exporter, "/form?module=free,strict&target=a%20b&host=zz")
    assert page.fields == {
        "module": "free,strict",
        "target": "a b",
        "hostname": "",
        "debug": "true",
        "host": "zz",
        "tenant": "",
    }
    assert page.patterns == {"tenant": r"[a-z\-]{1,9}", "host": "[a-z]+"}
    assert "tenant (required) matches [a-z-]{1,9} , for strict" in page.text
    assert "host matches [a-z]+ , for free" in page.text


def test_form_names_the_nearest_module(exporter: Server) -> None:
    text = browse(exporter, "/form?module=http_2x").text
    assert 'Unknown module "http_2x"; did you mean `http_2xx`?' in text


def test_form_leads_to_the_probe(exporter: Server) -> None:
    html = ask(exporter.port, "/form", headers=BROWSER).text
    assert '<form action="probe" method="get"' in html
    assert browse(exporter, "/form").fields["module"] == "http_2xx"


def test_form_escapes_every_field(exporter: Server) -> None:
    value = quote(HOSTILE)
    html = ask(exporter.port, f"/form?module=free&target={value}&host={value}&hostname={value}", headers=BROWSER).text
    assert "<img src=x" not in html
    assert "<img src=x" not in ask(exporter.port, f"/form?module={value}", headers=BROWSER).text


# --- pages of machine forms ----------------------------------------------------------------------------------

BOTH = ["/config", "/config?module=named", "/metadata", "/health", "/history", "/openapi.json", "/logs?target=x"]


@pytest.mark.parametrize("path", BOTH)
def test_machine_form_is_for_all_who_do_not_prefer_html(exporter: Server, path: str) -> None:
    probe(exporter, "x")
    plain = ask(exporter.port, path)
    for accept in ("*/*", "text/plain", "application/json", "application/json, text/html;q=0.5"):
        same = ask(exporter.port, path, headers={"Accept": accept})
        assert same.headers["content-type"] == plain.headers["content-type"]
        assert (same.body == plain.body) or path == "/history"
    assert "html" not in plain.headers["content-type"]
    assert "vary" not in plain.headers


@pytest.mark.parametrize("path", BOTH)
def test_page_of_a_machine_form_links_back(exporter: Server, path: str) -> None:
    probe(exporter, "x")
    page = browse(exporter, path)
    assert "./" in page.links
    assert not [link for link in page.links if link.startswith(("/", "http"))]


def test_config_page_has_a_section_for_each_module_and_no_secrets(exporter: Server) -> None:
    page = browse(exporter, "/config")
    assert "password: <secret>" in page.text
    assert "hunter2" not in page.text
    assert "form?module=named" in page.links
    one = browse(exporter, "/config?module=named")
    assert "host: configured.example" in one.text
    assert "password: <secret>" not in one.text
    browse(exporter, "/config?module=no_such", 404)


def test_metadata_page_has_modules_with_parameters_and_metrics_with_help(exporter: Server) -> None:
    text = browse(exporter, "/metadata").text
    assert "strict actor tenant" in text
    assert "probe_actor_words gauge How many words the target has." in text


def test_health_page_has_each_check(exporter: Server) -> None:
    assert "Health: pass" in browse(exporter, "/health").text
    assert "web configuration pass" in browse(exporter, "/health").text


def test_history_page_filters_and_shows_the_filters(exporter: Server) -> None:
    name = f"n{time.monotonic_ns()}"
    probe(exporter, f"fail {name}")
    probe(exporter, name)
    page = browse(exporter, f"/history?target={name}&result=success&limit=7")
    assert f"Success {name} http_2xx" in page.text
    assert f"fail {name}" not in page.text
    assert (page.fields["target"], page.fields["limit"]) == (name, "7")
    assert "No probe matches." in browse(exporter, f"/history?target={name}&result=failure").text
    assert "The limit parameter is a whole number" in browse(exporter, "/history?limit=0", 400).text


def test_log_page_has_the_debug_document(exporter: Server) -> None:
    name = f"n{time.monotonic_ns()}"
    probe(exporter, f"{HOSTILE} {name}")
    path = f"/logs?target={quote(f'{HOSTILE} {name}')}"
    html = ask(exporter.port, path, headers=BROWSER).text
    assert "<img src=x" not in html
    assert "Metrics that would have been returned: # HELP" in Page(html).text


def test_api_page_lists_every_path(exporter: Server) -> None:
    text = browse(exporter, "/openapi.json").text
    for path in json.loads(ask(exporter.port, "/openapi.json").text)["paths"]:
        assert path in text
