"""Test /logs and /history of an exporter process, with the history in memory and in a file."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from jsonschema import Draft202012Validator

from probe_exporter.web.history import MAX_LISTED_BYTES
from tests import exporters
from tests.exporters import Server
from tests.http_client import ask
from tests.waiting import wait_until
from tests.web.conftest import ExporterSetup
from tests.web.test_routes import CONFIG, PLAIN, PLUGINS

FLAGS = (f"--modules.dir={PLUGINS}", "--history.limit=500")


@pytest.fixture(scope="module")
def exporter_setup() -> ExporterSetup:
    return ExporterSetup(CONFIG, FLAGS)


@pytest.fixture
def name() -> str:
    """Return a unique word for targets."""
    return f"n{time.monotonic_ns()}"


def probe(exporter: Server, target: str, module: str = "http_2xx") -> None:
    answer = ask(exporter.port, f"/probe?module={module}&target={quote(target)}")
    assert answer.status == 200, answer.text


def history(exporter: Server, **filters: str) -> list[dict[str, Any]]:
    answer = ask(exporter.port, f"/history?{urlencode(filters)}")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer.text
    found: list[dict[str, Any]] = json.loads(answer.text)["probes"]
    return found


def test_history_entry_has_request_and_result(exporter: Server, name: str) -> None:
    before, began = time.time(), time.monotonic()
    probe(exporter, f"fail {name}", "brief")
    waited = time.monotonic() - began
    (entry,) = history(exporter, target=f"fail {name}")
    assert before - 1 < entry.pop("started") < time.time()
    assert 0 < entry.pop("duration_seconds") < waited
    assert isinstance(entry.pop("id"), int)
    assert entry == {
        "module": "brief",
        "target": f"fail {name}",
        "result": "failure",
        "reason": "target_invalid",
        "phase": "acting",
        "message": "as the target wished",
        "timeout_seconds": 0.2,
    }


def test_history_entry_of_a_success_has_no_reason(exporter: Server, name: str) -> None:
    probe(exporter, name)
    (entry,) = history(exporter, target=name)
    assert (entry["result"], entry["reason"], entry["phase"], entry["message"]) == ("success", None, None, None)


def test_history_filters_combine_and_the_newest_entry_is_first(exporter: Server, name: str) -> None:
    for target, module in (
        (name, "http_2xx"),
        (f"fail {name}", "http_2xx"),
        (name, "brief"),
        (f"break {name}", "brief"),
    ):
        probe(exporter, target, module)

    def found(**filters: str) -> list[str]:
        return [
            f"{e['target'].split(' ')[0]} {e['module']}" for e in history(exporter, **filters) if name in e["target"]
        ]

    assert found() == ["break brief", f"{name} brief", "fail http_2xx", f"{name} http_2xx"]
    assert found(target=name) == [f"{name} brief", f"{name} http_2xx"]
    assert found(module="brief") == ["break brief", f"{name} brief"]
    assert found(result="failure") == ["break brief", "fail http_2xx"]
    assert found(result="success", module="brief") == [f"{name} brief"]
    assert found(reason="internal_error") == ["break brief"]
    assert found(limit="1") == ["break brief"]
    assert found(module="of another configuration") == []
    assert found(module="", target="", result="", reason="", since="", limit="") == found()


@pytest.mark.slow
def test_history_answer_is_limited_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    number, size = MAX_LISTED_BYTES // 50_000, 60_000
    with exporters.ours(tmp_path, f"--modules.dir={PLUGINS}", "--history.limit=500") as exporter:
        for one in range(number):
            probe(exporter, f"{one} " + size * "x")
        found = history(exporter, limit="1000")
    targets = [entry["target"] for entry in found]
    assert targets[0].startswith(f"{number - 1} "), "the newest are listed"
    assert MAX_LISTED_BYTES - 2 * size < sum(map(len, targets)) < MAX_LISTED_BYTES + 2 * size


def test_history_filters_by_a_probers_own_reason(exporter: Server, name: str) -> None:
    """Fields that the prober adds to its failure do not replace the result's own."""
    probe(exporter, f"tire {name}")
    (entry,) = history(exporter, target=f"tire {name}", reason="actor_tired")
    assert (entry["phase"], entry["message"]) == ("acting", "no more")
    verdict = json.loads(ask(exporter.port, f"/history?id={entry['id']}").text)["events"][-1]["fields"]
    assert verdict.pop("duration_seconds") == entry["duration_seconds"]
    assert verdict == {"reason": "actor_tired", "phase": "acting", "err": "no more"}


@pytest.mark.parametrize(
    "ago", [str, lambda t: f"{t:.3f}", lambda t: f"{datetime.fromtimestamp(t, UTC):%Y-%m-%dT%H:%M:%SZ}"]
)
def test_history_since_accepts_unix_seconds_and_rfc3339(exporter: Server, name: str, ago: Any) -> None:
    probe(exporter, name)
    assert len(history(exporter, target=name, since=ago(int(time.time()) - 1000))) == 1
    assert history(exporter, target=name, since=ago(int(time.time()) + 1000)) == []


@pytest.mark.parametrize(("since", "found"), [("1h", 1), ("1h30m", 1), ("0", 1), ("1ns", 0)])
def test_history_since_accepts_an_age(exporter: Server, name: str, since: str, found: int) -> None:
    probe(exporter, name)
    assert len(history(exporter, target=name, since=since)) == found


@pytest.mark.parametrize("since", ["2026-01-01T00:00:00+02:00", "2026-01-01t00:00:00.5z", "2026-01-01 00:00:00-01:00"])
def test_history_since_accepts_a_zone_with_an_unescaped_plus(exporter: Server, name: str, since: str) -> None:
    probe(exporter, name)
    answer = ask(exporter.port, f"/history?target={name}&since={since.replace(' ', '%20')}")
    assert len(json.loads(answer.text)["probes"]) == 1


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("result=good", "result"),
        ("reason=no_such", "reason"),
        ("reason=http_tired", "reason"),
        ("since=yesterday", "since"),
        ("since=-5m", "since"),
        ("since=2026-13-01T00:00:00Z", "since"),
        ("since=2026-01-01", "since"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=1e2", "limit"),
        ("modul=x", "modul"),
        ("id=", "id"),
        ("id=x", "id"),
        ("id=-1", "id"),
        ("id=1&module=x", "id"),
    ],
)
def test_history_rejects_an_invalid_filter_by_name(exporter: Server, query: str, word: str) -> None:
    answer = ask(exporter.port, f"/history?{query}")
    assert (answer.status, answer.headers["content-type"]) == (400, PLAIN)
    assert answer.text.count("\n") == 1
    assert word in answer.text


@pytest.mark.parametrize("number", ["99999999", "-2", str(1 << 63), "9" * 400])
def test_history_and_logs_answer_404_for_unknown_ids(exporter: Server, number: str) -> None:
    for path in (f"/history?id={number}", f"/logs?id={number}"):
        assert ask(exporter.port, path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_history_allows_only_reading(exporter: Server, method: str) -> None:
    assert ask(exporter.port, "/history", method=method).status == 405


def test_history_by_id_has_settings_events_and_metrics(exporter: Server, name: str) -> None:
    probe(exporter, f"count {name}", "secret")
    (entry,) = history(exporter, target=f"count {name}")
    full = json.loads(ask(exporter.port, f"/history?id={entry['id']}").text)
    assert {key: full[key] for key in entry} == entry
    assert full["prober"] == "actor"
    assert full["settings"] == {"prober": "actor", "actor": {"password": "<secret>"}}
    messages = {event["message"]: event for event in full["events"]}
    assert messages["Acting"]["fields"] == {"script": "count"}
    assert messages["Acting"]["level"] == "DEBUG"
    assert messages["Acting"]["source"].startswith("actor.py:")
    families = {family["name"]: family for family in full["families"]}
    assert families["probe_success"]["samples"] == [{"name": "probe_success", "labels": {}, "value": 1}]
    assert families["probe_actor_counted"]["samples"][0]["name"] == "probe_actor_counted_total"
    assert {"labels": {"le": "+Inf"}, "name": "probe_actor_spread_bucket", "value": 1} in families[
        "probe_actor_spread"
    ]["samples"]


def test_history_answers_match_the_openapi_document(exporter: Server, name: str) -> None:
    probe(exporter, f"fail {name}")
    document = json.loads(ask(exporter.port, "/openapi.json").text)
    said = document["paths"]["/history"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    check = Draft202012Validator(said)
    found = history(exporter)
    check.validate({"probes": found})
    check.validate(json.loads(ask(exporter.port, f"/history?id={found[0]['id']}").text))
    assert not check.is_valid({"probes": [{**found[0], "surprise": 1}]})


def test_logs_shows_the_newest_probe_of_a_target(exporter: Server, name: str) -> None:
    for module in ("http_2xx", "brief"):
        probe(exporter, f"fail {name}", module)
    where = f"/logs?target={quote(f'fail {name}')}"
    assert "module=brief" in ask(exporter.port, where).text
    assert "module=http_2xx" in ask(exporter.port, f"{where}&module=http_2xx").text
    assert ask(exporter.port, f"{where}&module=named").status == 404


def test_landing_page_links_to_logs_and_history(exporter: Server, name: str) -> None:
    probe(exporter, f"fail {name}")
    (entry,) = history(exporter, target=f"fail {name}")
    page = ask(exporter.port, "/").text
    for path in (f"logs?id={entry['id']}", f"history?id={entry['id']}", "history"):
        assert f'href="{path}"' in page
        assert ask(exporter.port, f"/{path}").status == 200
    assert 'title="as the target wished"><a href="reasons#target_invalid">target_invalid' in page


# --- a history file and its processes ------------------------------------------------------------------------


def kept(directory: Path) -> list[str]:
    with exporters.ours(directory, *FLAGS, "--history.path=kept") as again:
        return [entry["target"] for entry in history(again)]


def test_history_file_survives_a_restart(tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    with exporters.ours(tmp_path, *FLAGS, "--history.path=kept") as exporter:
        for number in range(5):
            probe(exporter, f"t{number}")
    assert kept(tmp_path) == ["t4", "t3", "t2", "t1", "t0"], "a result from just before the end is missing"


def test_history_file_survives_a_kill(tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    with exporters.ours(tmp_path, *FLAGS, "--history.path=kept") as exporter:
        for number in range(5):
            probe(exporter, f"t{number}")
        wait_until(lambda: len(history(exporter)) == 5)
        exporter.process.kill()
        exporter.process.wait(60)
    assert kept(tmp_path) == ["t4", "t3", "t2", "t1", "t0"]


def test_history_file_is_shared_by_two_exporters(tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    flags = (*FLAGS, "--history.path=kept")
    with exporters.ours(tmp_path, *flags) as one, exporters.ours(tmp_path, *flags) as other:
        probe(one, "by one")
        history(one)
        probe(other, "by the other")
        for exporter in (other, one):
            assert [entry["target"] for entry in history(exporter)] == ["by the other", "by one"]
            assert ask(exporter.port, "/logs?target=by+one").status == 200


def test_start_fails_if_the_history_file_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    (tmp_path / "kept").write_text("notes " * 1000)
    with pytest.raises(RuntimeError, match=r"code 1(?s:.*)kept can't be used as a history: file is not a database"):
        exporters.ours(tmp_path, *FLAGS, "--history.path=kept").__enter__()
    assert (tmp_path / "kept").read_text() == "notes " * 1000


def test_landing_page_of_a_locked_history_has_no_table(tmp_path: Path) -> None:
    """Another program that keeps the file locked once made the page a 503 after 6 s."""
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    with exporters.ours(tmp_path, *FLAGS, "--history.path=kept") as exporter:
        probe(exporter, "before")
        assert "<td>" in ask(exporter.port, "/").text
        with contextlib.closing(sqlite3.connect(tmp_path / "kept", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            probe(exporter, "meanwhile")
            answer = ask(exporter.port, "/")
            assert (answer.status, "<td>" in answer.text) == (200, False)
            assert "The history can't be read now." in answer.text
            assert "<form" in answer.text
            other.execute("ROLLBACK")
        wait_until(lambda: "<td>" in ask(exporter.port, "/").text)


def test_history_file_damaged_in_use_fails_no_probe(tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    with exporters.ours(tmp_path, *FLAGS, "--history.path=kept") as exporter:
        probe(exporter, "before")
        assert len(history(exporter)) == 1
        for file in tmp_path.glob("kept*"):
            file.write_bytes(b"garbage " * 10_000)
        for number in range(3):
            probe(exporter, f"t{number}")
        answer = ask(exporter.port, "/history")
        assert answer.status in (200, 503)
        if answer.status == 503:
            assert answer.text.startswith("The history can't be read: ")
            assert answer.text.count("\n") == 1
        lost = [line for line in ask(exporter.port, "/metrics").text.splitlines() if "history_lost_total{" in line]
        assert 'probe_exporter_history_lost_total{cause="write_failed"} 0' not in lost
        wait_until(lambda: exporter.log.read_text().count("The history can't be written") == 1)
