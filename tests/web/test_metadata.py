"""Test /metadata: build, configuration, modules, probers and metrics."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from datetime import datetime
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from probe_exporter.version import VERSION
from tests import exporters
from tests.exporters import Server
from tests.http_client import ask
from tests.web.test_routes import PLUGINS, own_metric

CONFIG = """
modules:
  http_2xx:
    prober: actor
    description: Does what it is told.
  free:
    prober: http
    params: {path: {pattern: "[a-z/]+", max_length: 40}, host: {pattern: ".*", default: a.example}}
    http: {headers: {Host: "${param:host}", X-Path: "${param:path}"}}
"""


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("metadata")
    (directory / "blackbox.yml").write_text(CONFIG)
    with exporters.ours(directory, f"--modules.dir={PLUGINS}") as running:
        yield running


def metadata(exporter: Server) -> dict[str, Any]:
    answer = ask(exporter.port, "/metadata")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = json.loads(answer.text)
    return found


def named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [found] = [entry for entry in entries if entry["name"] == name]
    return found


def test_metadata_describes_the_build(exporter: Server) -> None:
    found = metadata(exporter)
    assert (found["name"], found["version"]) == ("probe-exporter", VERSION)
    assert found["revision"]
    assert found["python"] == {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
    }
    assert found["libraries"]["aiohttp"] == packages.version("aiohttp")
    process = own_metric(exporter, "process_start_time_seconds")
    assert process <= datetime.fromisoformat(found["started"]).timestamp() <= time.time()


def test_metadata_describes_the_configuration(exporter: Server) -> None:
    config = metadata(exporter)["config"]
    assert config["files"] == ["blackbox.yml"]
    data = CONFIG.encode()
    assert config["sha256"] == hashlib.sha256(f"blackbox.yml\0{len(data)}\0".encode() + data).hexdigest()
    assert config["last_error"] == ""
    stamp = own_metric(exporter, "blackbox_exporter_config_last_reload_success_timestamp_seconds")
    assert abs(datetime.fromisoformat(config["loaded"]).timestamp() - stamp) < 1


def test_metadata_lists_modules_with_their_parameters(exporter: Server) -> None:
    modules = metadata(exporter)["modules"]
    assert [module["name"] for module in modules] == ["free", "http_2xx"]
    assert named(modules, "http_2xx") == {
        "name": "http_2xx",
        "prober": "actor",
        "description": "Does what it is told.",
        "source": "blackbox.yml",
        "parameters": [],
        "series": {"plain": 5, "tls": None, "failed": 6},
    }
    assert named(modules, "free")["parameters"] == [
        {"name": "path", "pattern": "[a-z/]+", "max_length": 40, "default": None},
        {"name": "host", "pattern": ".*", "max_length": 1024, "default": "a.example"},
    ]


def test_metadata_lists_probers_with_their_metrics(exporter: Server) -> None:
    found = metadata(exporter)
    assert {"http", "tcp", "dns", "icmp", "unix", "grpc", "actor"} <= {prober["name"] for prober in found["probers"]}
    actor = named(found["probers"], "actor")
    assert actor["source"] == str(PLUGINS / "actor.py")
    assert actor["description"].startswith("Do what the target says")
    assert [(metric["name"], metric["type"], metric["help"], metric["labels"]) for metric in actor["metrics"]] == [
        ("probe_actor_seen_info", "gauge", "What the prober was given.", ["target", "host"]),
        ("probe_actor_words", "gauge", "How many words the target has.", []),
    ]
    assert named(found["metrics"], "probe_failure_info")["labels"] == ["reason", "phase"]
    http = named(found["probers"], "http")
    assert named(http["metrics"], "probe_http_duration_seconds")["labels"] == ["phase"]


def test_metadata_settings_schema_validates_a_probers_settings(exporter: Server) -> None:
    schema = named(metadata(exporter)["probers"], "http")["settings"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"valid_status_codes": [200], "fail_if_ssl": True}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"valid_status_coeds": [200]}, schema)


def test_metadata_shows_a_rejected_reload_until_the_next_good_one(exporter: Server, tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text(CONFIG)
    with exporters.ours(tmp_path, f"--modules.dir={PLUGINS}") as changed:
        before = metadata(changed)
        (tmp_path / "blackbox.yml").write_text("modules: {a: {prober: nothing}}\n")
        assert ask(changed.port, "/-/reload", method="POST").status == 500
        refused = metadata(changed)
        assert "unknown prober `nothing`" in refused["config"].pop("last_error")
        assert before["config"].pop("last_error") == ""
        assert refused == before
        (tmp_path / "blackbox.yml").write_text("modules: {a: {prober: actor}}\n")
        assert ask(changed.port, "/-/reload", method="POST").status == 200
        after = metadata(changed)
        assert [module["name"] for module in after["modules"]] == ["a"]
        assert after["config"]["sha256"] != before["config"]["sha256"]
        assert after["config"]["last_error"] == ""
        assert after["config"]["loaded"] > before["config"]["loaded"]
        assert after["started"] == before["started"]


def test_bytes_that_are_not_utf_8_are_escaped(tmp_path: Path) -> None:
    """They may be in a file's name, and in the configuration by ``!!binary``."""
    (tmp_path / "modules").mkdir()
    file = tmp_path / "modules" / os.fsdecode(b"\xff.yml")
    file.write_text("modules: {a: {prober: tcp, description: !!binary /w==}}\n")
    with exporters.ours(tmp_path, "--config.file=modules") as exporter:
        found = metadata(exporter)
        assert found["config"]["files"] == ["modules/\udcff.yml"]
        assert found["modules"][0]["description"] == "\udcff"
        file.write_text("modules: {a: {prober: nothing}}\n")
        assert ask(exporter.port, "/-/reload", method="POST").status == 500
        checks = json.loads(ask(exporter.port, "/health").text)["checks"]
        assert "modules/\udcff.yml:1:" in checks["configuration"]["message"]


def test_metadata_contains_no_secret(tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: actor, actor: {password: hunter2}}}\n")
    with exporters.ours(tmp_path, f"--modules.dir={PLUGINS}") as exporter:
        assert "hunter2" not in ask(exporter.port, "/metadata").text
