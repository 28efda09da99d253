"""The examples of docs/service-discovery.md work: the exporter loads them, promtool accepts the scrape configuration.

Its tables have the keys and the limits of the code.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from probe_exporter.config import loading
from probe_exporter.config.discovery import DiscoverySettings, TargetsOfFile
from probe_exporter.discovery.dns import MAX_RECORDS, MAX_SECONDS, MIN_SECONDS
from probe_exporter.discovery.files import MAX_FILE_BYTES, FileOfTargets
from probe_exporter.discovery.groups import MAX_BODY_BYTES, MAX_TARGETS
from probe_exporter.discovery.sources import FAILURE_SECONDS
from probe_exporter.plugins.loader import load_probers
from tests.exporters import peer

PAGE = (Path(__file__).parents[2] / "docs" / "service-discovery.md").read_text(encoding="utf-8")
CONFIG, SCRAPE, TARGETS, HTTPS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", [CONFIG, HTTPS], ids=["sources", "https"])
def test_documented_sources_load(text: str, tmp_path: Path) -> None:
    (tmp_path / "blackbox.yml").write_text(text)
    assert loading.load([tmp_path / "blackbox.yml"], load_probers([]), strict=True).discovery


def test_documented_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "sites.yml").write_text(TARGETS)
    (tmp_path / "blackbox.yml").write_text(CONFIG.replace("sites.yml", f"{tmp_path}/sites.yml"))
    config = loading.load([tmp_path / "blackbox.yml"], load_probers([]))
    assert b"shop.example.org" in FileOfTargets("sites", config.discovery["sites"], config.modules).read()


@pytest.mark.slow
def test_documented_scrape_configuration_is_accepted_by_promtool(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(SCRAPE)
    command = [peer("promtool"), "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "http_sd_configs" in yaml.safe_load(SCRAPE)["scrape_configs"][0]


def test_documented_keys_are_those_of_the_models() -> None:
    tables = [set(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", part, re.MULTILINE)) for part in PAGE.split("\n## ")]
    keys = [{key for row in table for key in re.findall(r"`(\w+)`", row)} for table in tables]
    assert {*TargetsOfFile.model_fields} in keys
    assert {*DiscoverySettings.model_fields} in keys


def test_documented_limits_are_those_of_the_code() -> None:
    for limit in (
        f"| targets of a source | {MAX_TARGETS:,} |",
        f"| a file | {MAX_FILE_BYTES >> 20} MiB |",
        f"| a response | {MAX_BODY_BYTES >> 20} MiB |",
        f"| records of a DNS answer | {MAX_RECORDS:,} |",
        f"at least {MIN_SECONDS:g} s and at most an hour",
        f"A failure is kept for {FAILURE_SECONDS:g} s",
    ):
        assert limit in PAGE
    assert MAX_SECONDS == 3600
