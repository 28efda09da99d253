"""A real Prometheus scrapes our exporter with the configuration in examples/ and stores the expected series.

The test only changes the targets, the exporter's address and the intervals of the example and of its rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import exporters
from tests.exporters import ROOT, Server, peer
from tests.targets import Pki, Site, Tls, raw, redirect, reply, silence

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
RULES = ROOT / "deploy" / "mixin" / "rules.yml"
FAILED = "ProbeFailed|CertificateNotTrusted"
"""Each failing target of this file has one of these alerts."""
ARRIVES_WITHIN = 240.0  # seconds; only ends a test that would wait for ever
LOOKS_EVERY = 0.2
PHASES = {"resolve", "connect", "tls", "processing", "transfer"}

KINDS: dict[str, tuple[int, str]] = {
    "http://127.0.0.1:{port}/up": (30, ""),
    "http://[::1]:{port}/moved": (5, ""),
    "http://127.0.0.1:{port}/sick": (5, "http_status"),
    "http://127.0.0.1:{dead}/": (3, "connect_refused"),
    "http://127.0.0.1:{port}/hangs": (3, "timeout_response"),
    "http://127.0.0.1:{port}/nonsense": (2, "http_protocol_error"),
    "https://127.0.0.1:{tls_port}/up": (2, "certificate_unknown_authority"),
}
"""Fifty targets by URL: their number, and the reason for which their probes fail, or ""."""

PAGES = {
    "/up": reply(200, b"ok"),
    "/moved": redirect(302, "/up"),
    "/sick": reply(503, b"no"),
    "/hangs": silence(),
    "/nonsense": raw(b"nonsense\r\n\r\n"),
}


def rendered(targets: list[str], port: int) -> dict[str, Any]:
    """Return the example with these targets, the exporter's port and a short interval."""
    text = (EXAMPLES / "prometheus.yml").read_text().replace("127.0.0.1:9115", f"127.0.0.1:{port}")
    config: dict[str, Any] = yaml.safe_load(text)
    config["global"] = {"scrape_interval": "5s", "scrape_timeout": "5s", "evaluation_interval": "1s"}
    config["rule_files"] = ["rules.yml"]
    web, mixed, _ = config["scrape_configs"]
    web["static_configs"] = [{"targets": targets}]
    mixed["static_configs"][0]["targets"] = [targets[0]]
    mixed["static_configs"][1]["targets"] = [targets[-1]]
    return config


@contextlib.asynccontextmanager
async def fifty_targets(pki: Path) -> AsyncIterator[dict[str, str]]:
    """Start a site for each target; yield the reason of its failure by the target's URL."""
    async with contextlib.AsyncExitStack() as stack:
        reasons = {}
        for url, (number, reason) in KINDS.items():
            for _ in range(number):
                site = await stack.enter_async_context(Site(PAGES, Tls(), pki))
                reasons[site.fill(url)] = reason
        yield reasons


@dataclass(frozen=True)
class Database:
    """The content of Prometheus after it has scraped every target."""

    reasons: dict[str, str]
    series: list[tuple[dict[str, str], float]]
    types: dict[str, str]
    rules: set[str]

    def select(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Return the series with a name and these labels."""
        wanted = {"__name__": name, **labels}.items()
        return [(found, value) for found, value in self.series if wanted <= found.items()]

    def by_instance(self, name: str) -> dict[str, float]:
        """Return the values of the job `web` by target, for a name with one series per target."""
        selected = self.select(name, job="web")
        values = {labels["instance"]: value for labels, value in selected}
        assert len(values) == len(selected), f"{name} has several series for one target"
        return values


async def ask(prometheus: Server, path: str, **parameters: str) -> Any:
    """Return the data of a response of Prometheus's HTTP API."""
    response = await prometheus.get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
    assert response.status == 200, response.text
    return json.loads(response.text)["data"]


async def wait_for_value(prometheus: Server, expression: str, value: float) -> None:
    """Wait until a query returns this value."""
    found = None
    for _ in range(round(ARRIVES_WITHIN / LOOKS_EVERY)):
        found = await value_of(prometheus, expression)
        if found == value:
            return
        await asyncio.sleep(LOOKS_EVERY)
    pytest.fail(f"{expression} is {found}, not {value}, after {ARRIVES_WITHIN} s")


async def value_of(prometheus: Server, expression: str) -> float | None:
    """Return the value of a query; None without a result, or while Prometheus is starting."""
    if (await prometheus.get("/-/ready")).status != 200:
        return None
    result = (await ask(prometheus, "query", query=expression))["result"]
    return float(result[0]["value"][1]) if result else None


async def collect(directory: Path) -> Database:
    """Run targets, exporter and Prometheus, and return the content of Prometheus."""
    pki = directory / "pki"
    pki.mkdir()
    Pki(pki)
    async with fifty_targets(pki) as reasons:
        failing = [target for target, reason in reasons.items() if reason]
        with exporters.ours(directory) as exporter:  # without a configuration, it has the shipped modules
            config = directory / "prometheus.yml"
            config.write_text(yaml.safe_dump(rendered(list(reasons), exporter.port)))
            (directory / "rules.yml").write_text(re.sub(" interval: 1m", " interval: 1s", RULES.read_text()))
            with exporters.prometheus(directory, f"--config.file={config.name}") as prometheus:
                await wait_for_value(prometheus, 'count(probe_success{job="web"})', len(reasons))
                await wait_for_value(prometheus, 'sum(probe_success{job="web"})', len(reasons) - len(failing))
                await wait_for_value(prometheus, "probe_exporter_build_info", 1)
                await wait_for_value(prometheus, f'count(ALERTS{{alertname=~"{FAILED}",job="web"}})', len(failing))
                data = await ask(prometheus, "query", query='{__name__=~".+"}')
                metadata = await ask(prometheus, "metadata")
                groups = await evaluated(prometheus)
    return Database(
        reasons,
        [(found["metric"], float(found["value"][1])) for found in data["result"]],
        {name: entries[0]["type"] for name, entries in metadata.items()},
        {rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "ok"},
    )


async def evaluated(prometheus: Server) -> list[dict[str, Any]]:
    """Return the groups of rules after each rule was evaluated."""
    for _ in range(round(ARRIVES_WITHIN / LOOKS_EVERY)):
        groups: list[dict[str, Any]] = (await ask(prometheus, "rules"))["groups"]
        if all(rule["health"] != "unknown" for group in groups for rule in group["rules"]):
            return groups
        await asyncio.sleep(LOOKS_EVERY)
    pytest.fail(f"some rules are not evaluated after {ARRIVES_WITHIN} s")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """Return the result of one run for all tests of this file."""
    peer("prometheus")
    return asyncio.run(collect(tmp_path_factory.mktemp("prometheus")))


def test_target_is_the_instance_label(database: Database) -> None:
    """Fifty targets give fifty series, and none has a label of the exporter."""
    selected = database.select("probe_success", job="web")
    assert len(database.reasons) == len(selected) == 50
    assert {labels["instance"] for labels, _ in selected} == set(database.reasons)
    assert all(labels.keys() == {"__name__", "job", "instance"} for labels, _ in selected)


def test_probe_success_is_0_for_failing_targets_and_up_is_1(database: Database) -> None:
    """The scrape itself succeeds for a target that is down, too."""
    assert database.by_instance("probe_success") == {
        target: float(not reason) for target, reason in database.reasons.items()
    }
    assert database.by_instance("up") == dict.fromkeys(database.reasons, 1.0)


def test_failing_target_has_one_reason(database: Database) -> None:
    """A target that is up has no reason."""
    found = {labels["instance"]: labels["reason"] for labels, _ in database.select("probe_failure_info", job="web")}
    assert found == {target: reason for target, reason in database.reasons.items() if reason}


def test_http_phases_and_status_codes_are_stored(database: Database) -> None:
    """Each target has five phases, and its status code or 0."""
    durations = database.select("probe_http_duration_seconds", job="web")
    assert Counter(labels["phase"] for labels, _ in durations) == dict.fromkeys(PHASES, 50)
    codes = Counter(database.by_instance("probe_http_status_code").values())
    assert codes == {200.0: 35, 503.0: 5, 0.0: 10}
    assert sum(database.by_instance("probe_http_redirects").values()) == 5


def test_untrusted_certificate_is_reported(database: Database) -> None:
    """The expiry and the verification errors of an untrusted certificate are stored."""
    strangers = {target for target, reason in database.reasons.items() if "certificate" in reason}
    assert set(database.by_instance("probe_ssl_earliest_cert_expiry")) == strangers
    assert set(database.by_instance("probe_ssl_verify_error_info")) == strangers


def test_probe_timeout_is_the_scrape_timeout_minus_the_offset(database: Database) -> None:
    """The exporter reads the timeout from the header that Prometheus sends."""
    assert set(database.by_instance("probe_timeout_seconds").values()) == {4.5}


def test_module_can_be_set_for_each_target(database: Database) -> None:
    """In the second form of the example, each target has its own module, which becomes a label."""
    modules = {labels["module"] for labels, _ in database.select("probe_success", job="mixed")}
    assert modules == {"http_2xx", "http_post_2xx"}


def test_probe_metrics_are_gauges(database: Database) -> None:
    """Prometheus read the TYPE of each metric: all probe metrics are gauges."""
    kinds = {name: kind for name, kind in database.types.items() if re.match("probe_(?!exporter_)", name)}
    assert len(kinds) > 15
    assert set(kinds.values()) == {"gauge"}


def test_exporter_metrics_are_stored(database: Database) -> None:
    """The exporter's own metrics have the names that alerts and dashboards use."""
    [(_, loaded)] = database.select("blackbox_exporter_config_last_reload_successful", job="probe-exporter")
    [(build, one)] = database.select("blackbox_exporter_build_info", job="probe-exporter")
    assert (loaded, one) == (1.0, 1.0)
    assert {"version", "revision"} <= build.keys()


def test_rules_are_evaluated(database: Database) -> None:
    """Prometheus evaluates every rule that the example loads, and one alert is pending for each target that is down."""
    text = yaml.safe_load(RULES.read_text())
    rules = {rule.get("alert") or rule["record"] for group in text["groups"] for rule in group["rules"]}
    assert database.rules == rules
    pending = [found for name in FAILED.split("|") for found in database.select("ALERTS", alertname=name, job="web")]
    assert {labels["instance"] for labels, _ in pending} == {k for k, v in database.reasons.items() if v}


def test_promtool_accepts_the_example() -> None:
    """The unchanged example is valid."""
    command = [peer("promtool"), "check", "config", "--lint=all", str(EXAMPLES / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
