"""Test the pages of probes: which client gets one, what is on it, and that text stays as it is."""

from __future__ import annotations

import json
from html import escape
from urllib.parse import quote, urlencode

import pytest

from probe_exporter.history.record import HistoryEntry
from probe_exporter.report.report import of_entry
from probe_exporter.report.snippets import EXPORTER
from probe_exporter.web.listening import Place
from probe_exporter.web.probe_page import _view, exporter_url
from probe_exporter.web.request import WebRequest
from tests.exporters import Response, Server
from tests.waiting import wait_until
from tests.web.pages import HOSTILE, Page, exporter_at_root_and_prefix, get, page
from tests.web.test_routes import PLAIN, PLUGINS

CONFIG = """
modules:
  http_2xx: {prober: actor}
  named: {prober: actor, actor: {host: configured.example}}
  retried: {prober: actor, attempts: {max: 2, only: [target_invalid]}}
  secret: {prober: actor, actor: {password: hunter2}}
  free: {prober: actor, params: {host: {pattern: ".*"}}, actor: {host: "${param:host}"}}
  "<script>alert('x')</script>\\"&": {prober: actor, description: "<script>alert('x')</script>\\"&"}
"""


exporter = exporter_at_root_and_prefix(CONFIG)


def probe(exporter: tuple[Server, str], target: str, module: str = "http_2xx", **more: str) -> Response:
    return get(exporter, f"probe?{urlencode({'module': module, 'target': target, 'debug': 'true', **more})}")


def result_link(found: Page) -> str:
    """Return the link of a page to its own result."""
    return next(link for link, text in found.texts if text == "Link to this result")


# --- who gets a page -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["*/*", "text/plain", ""])
@pytest.mark.parametrize("target", ["x", "fail"])
def test_other_clients_get_the_debug_document_as_text(exporter: tuple[Server, str], accept: str, target: str) -> None:
    answer = get(exporter, f"probe?module=named&target={target}&debug=true", Accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (200, PLAIN)
    assert answer.text.startswith("Logs for the probe:\n")
    assert "\n\n\nMetrics that would have been returned:\n# HELP probe_actor" in answer.text
    assert answer.text.endswith("\n\n\nModule configuration:\nprober: actor\nactor:\n  host: configured.example\n")


def test_browser_without_debug_gets_metrics(exporter: tuple[Server, str]) -> None:
    answer = get(exporter, "probe?module=named&target=x")
    assert answer.headers["content-type"].startswith("text/plain; version=")


def test_browser_gets_the_steps_of_a_success_though_the_log_has_none(exporter: tuple[Server, str]) -> None:
    answer = probe(exporter, "x y")
    found = page(answer)
    assert "The probe succeeded in" in found.text
    assert "Acting" in found.text
    assert "Acting" not in get(exporter, "probe?module=http_2xx&target=x&debug=true", Accept="*/*").text


def test_runs_of_a_probe_stand_side_by_side(exporter: tuple[Server, str]) -> None:
    found = page(probe(exporter, "fail", "retried"))
    assert found.ids.count("runs-1") == 1
    assert found.text.count("as the target wished") >= 3, "in the verdict and in both runs"
    assert "decides" in found.text
    plain = page(probe(exporter, "fail"))
    assert "runs-1" not in plain.ids
    link = result_link(found)
    held = json.loads(get(exporter, link[link.index("history?") :], Accept="application/json").text)
    assert [(run["attempt"], run["reason"], run["decides"]) for run in held["runs"]] == [
        (1, "target_invalid", False),
        (2, "target_invalid", True),
    ]
    text = get(exporter, "probe?module=retried&target=fail&debug=true", Accept="*/*").text
    assert text.count('msg="Run failed"') == 2
    assert " attempt=1 " in text
    assert " attempt=2 " in text


def test_failure_has_reason_message_and_advice(exporter: tuple[Server, str]) -> None:
    found = page(probe(exporter, "fail"))
    assert "The probe failed in phase acting after" in found.text
    assert "as the target wished" in found.text
    assert "What to check:" in found.text
    assert "reasons#target_invalid" in found.links


def test_reason_of_the_prober_itself_is_explained(exporter: tuple[Server, str]) -> None:
    found = page(probe(exporter, "tire"))
    assert "The actor has no more strength." in found.text
    assert "reasons#actor_tired" in found.links


def test_page_has_each_part(exporter: tuple[Server, str]) -> None:
    found = page(probe(exporter, "x", "named"))
    for part in ("Waterfall", "Log", "Metrics", "Settings of the module", "To copy"):
        assert part in found.text
    assert "host: configured.example" in found.text
    assert 'probe_actor_seen_info{target="x", host="configured.example"}' in found.text
    assert "Defined at blackbox.yml:4:3" in found.text


# --- several ---------------------------------------------------------------------------------------------------


def test_each_module_of_a_request_has_its_section(exporter: tuple[Server, str]) -> None:
    found = page(probe(exporter, "fail", "http_2xx,named"))
    assert "2 probes of fail" in found.text
    assert {"module-1", "module-2", "metrics-1", "metrics-2"} <= {*found.ids}
    assert "Module named" in found.text


def test_two_targets_are_told_on_the_page(exporter: tuple[Server, str]) -> None:
    found = page(get(exporter, "probe?module=named&target=x&target=y&debug=true"))
    assert "The query has several target parameters: only the first is used." in found.text


def test_unknown_module_names_the_nearest_and_all(exporter: tuple[Server, str]) -> None:
    found = page(probe(exporter, "a b", "nahmed"), 400)
    assert "The configuration has no module nahmed" in found.text
    assert "Did you mean named?" in found.text.replace("\n", "")
    assert found.links.count("probe?module=named&target=a+b&debug=true") == 2
    assert f"probe?{urlencode({'module': HOSTILE, 'target': 'a b', 'debug': 'true'})}" in found.links
    text = get(exporter, "probe?module=nahmed&target=x", Accept="*/*")
    assert text.text == 'Unknown module "nahmed"; did you mean `named`? /config lists all modules\n'


# --- links and copies ------------------------------------------------------------------------------------------


def test_links_of_the_page_lead_to_pages(exporter: tuple[Server, str]) -> None:
    wait_until(lambda: any(link.startswith("history?id=") for link in page(probe(exporter, "x", "named")).links))
    found = page(probe(exporter, "x", "named"))
    for link in dict.fromkeys(found.links):
        if not link.startswith("#"):
            assert get(exporter, link.removeprefix("./").partition("#")[0]).status == 200, link
        else:
            assert link[1:] in found.ids


def test_entry_of_the_history_is_the_same_page(exporter: tuple[Server, str]) -> None:
    asked = page(probe(exporter, "fail entry", "named"))
    link = result_link(asked)
    kept = page(get(exporter, link))
    assert kept.text.partition("times are those")[0] == asked.text.partition("times are those")[0]
    entry = json.loads(get(exporter, link, Accept="*/*").text)
    assert (entry["target"], entry["reason"], entry["phases"][0]["failed"]) == ("fail entry", "target_invalid", True)


def test_page_links_earlier_results_of_the_target_and_the_newest(exporter: tuple[Server, str]) -> None:
    first = result_link(page(probe(exporter, "again", "named")))
    second = result_link(page(probe(exporter, "again", "named")))
    probe(exporter, "again", "http_2xx")
    third = page(probe(exporter, "again", "named"))
    assert [link for link in third.links if link in (first, second)] == [first, second]
    assert "newest result" not in third.text
    old = page(get(exporter, first))
    assert second not in old.links
    assert result_link(third) in old.links
    assert "newest result" in old.text


def entry(id: int, *, failed: bool = False, target: str = "t", module: str = "m") -> HistoryEntry:
    return HistoryEntry(id, module, target, 1000.0 + id, 0.5, 1.0, "http_status" if failed else "", "", "")


DETAILS = {
    "prober": "actor",
    "parameters": {},
    "events": [],
    "phases": [],
    "runs": [],
    "tls": [],
    "families": [],
    "settings": {},
}


def test_page_finds_its_number_earlier_results_and_last_success() -> None:
    """Entries of other targets and modules do not count."""
    newest = [
        entry(9, target="other"),
        entry(8),
        *[entry(id, failed=True) for id in (7, 6, 5)],
        entry(4, module="n"),
        *[entry(id) for id in (3, 2)],
    ]
    view = _view(of_entry(entry(6, failed=True)._replace(id=-1), DETAILS, None), newest)
    assert view.report.id == 6
    assert [one.id for one in view.earlier] == [5, 3, 2]
    assert view.last_success == newest[6]
    assert view.newer == newest[1]
    alone = _view(of_entry(entry(1), DETAILS, None), newest)
    assert (alone.earlier, alone.last_success, alone.newer) == ((), None, newest[1])
    assert _view(of_entry(entry(8), DETAILS, None), newest).newer is None


@pytest.mark.parametrize(("id", "status"), [("99999999", 404), ("x", 400), ("", 400)])
def test_entry_that_is_not_held_is_an_error_page(exporter: tuple[Server, str], id: str, status: int) -> None:
    page(get(exporter, f"history?id={id}"), status)


def test_parameters_are_in_the_texts_to_copy(exporter: tuple[Server, str]) -> None:
    server, prefix = exporter
    found = page(probe(exporter, "x", "free", host="a b"))
    url = f"http://127.0.0.1:{server.port}{prefix}probe?module=free&host=a+b&debug=true&target=x"
    assert f"curl -sS '{url}'" in found.text
    assert f"probe-exporter run --modules.dir={PLUGINS} --param 'host=a b' free x" in found.text
    assert f"metrics_path: {prefix}probe" in found.text
    assert "      host:\n        - a b\n" in found.text


def test_secrets_are_masked(exporter: tuple[Server, str]) -> None:
    answer = probe(exporter, "http://me:s3cr3tpassword@host/ hunter2", "secret")
    found = page(answer)
    assert "s3cr3tpassword" not in answer.text
    assert "password: <secret>" in found.text
    assert "A password or a secret is masked in these texts" in found.text
    assert not [link for link in found.links if link.startswith("probe?") and "me%3A" in link]


@pytest.mark.parametrize("target", [HOSTILE, "fail " + HOSTILE, "\udcff\x1b[31m\u202e", "x" * 4000])
def test_hostile_texts_are_escaped(exporter: tuple[Server, str], target: str) -> None:
    query = f"module={quote(HOSTILE)}&target={quote(target, errors='surrogateescape')}&debug=true"
    answer = get(exporter, f"probe?{query}")
    found = page(answer)
    assert HOSTILE not in answer.text
    assert escape(HOSTILE.partition('"')[0], quote=False)[:8] in answer.text
    assert "<script>alert('x')</script>" in found.text


# --- the exporter's URL ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "place", "url"),
    [
        ("probes.example:9115", Place("/", "/"), "http://probes.example:9115/"),
        ("[::1]:9115", Place("/a/", "/a/"), "http://[::1]:9115/a/"),
        ("<script>", Place("/a/", "/a/"), EXPORTER.rstrip("/") + "/a/"),
        ("x'; rm -rf /", Place("/", "/"), EXPORTER),
        ("inside:9115", Place("/", "https://outside.example/probes"), "https://outside.example/probes/"),
    ],
)
def test_url_in_texts_to_copy_is_the_external_one_or_the_client_s(host: str, place: Place, url: str) -> None:
    assert exporter_url(WebRequest("GET", "/", {"Host": host}), place) == url
